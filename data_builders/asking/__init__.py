"""Builders that ask models: prompts, where answers come from, claims, records of scored answers."""
