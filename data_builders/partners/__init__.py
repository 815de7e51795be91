"""Partners of records: what they show, how similar that is, and which go together."""
