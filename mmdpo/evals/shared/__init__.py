"""What several benchmarks share: file forms, word lists, readers of answers, questions made from annotations."""
