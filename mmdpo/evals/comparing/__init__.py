"""Two models on the same images: paired differences, p-values, verdicts, what was kept and lost."""
