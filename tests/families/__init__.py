"""The family test matrix: every check on every tiny family, and the page that is made of the outcomes."""
