"""A tiny world of sounds, and a tiny Whisper-backed language model that hallucinates in it."""
