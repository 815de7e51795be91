"""For those who extend the toolkit: what there is, what a new modality must keep, files to start from."""
