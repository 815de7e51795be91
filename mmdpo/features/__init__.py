"""Media are encoded once: within a step, and from step to step in memory and on disk."""
