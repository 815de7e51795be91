"""What happens around the optimizer step: screening, micro-batches, reference numbers, guards, checkpoints."""
