"""Measurements of speed and memory, beside other toolkits: what ``mmdpo bench`` does."""
