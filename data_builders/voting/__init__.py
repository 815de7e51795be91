"""Votes: columns, single judgements, what they say together, strengths of what was voted on."""
