"""Warnings that come from between the libraries below us, and that no code of ours can avoid."""

import pytest

BELOW_US = (
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning",
)  # peft 0.21 asks transformers 5.23 for it


def pytest_configure(config: pytest.Config) -> None:
    for line in BELOW_US:
        config.addinivalue_line("filterwarnings", line)
