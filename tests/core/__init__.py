"""Tests of the core, against an oracle that shares no code with it."""
