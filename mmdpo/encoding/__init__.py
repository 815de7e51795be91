"""From a record to model inputs: the chat template, token ids, encoder inputs, and the views that are asked for."""
