"""Held-out preferences as benchmarks: rated candidates scored by a model, and where its training data came from."""
