"""What is done to records before they are written, and what they share with evaluation sets."""
