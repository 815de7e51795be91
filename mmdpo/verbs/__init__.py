"""The command's verbs, and how they read arguments and print results."""
