"""Tables of any common kind, row by row: where they come from, how they are read, what every such builder is told."""
