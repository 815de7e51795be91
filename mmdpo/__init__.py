"""Align vision-language and audio-language models with human preferences."""
