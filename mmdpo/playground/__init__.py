"""A tiny world, and a tiny real LLaVA that hallucinates in it for the reason that large ones do."""
