"""A model answers benchmarks: loaded from a folder, asked, its answers kept and scored."""
