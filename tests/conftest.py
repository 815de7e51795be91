"""Settings and fixtures of the whole suite: offline, one thread, the same numbers every time."""

import os

# Read when the libraries are imported, so before the imports below (and in every process that a test starts).
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import gc
import random
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image

if TYPE_CHECKING:
    from tiny import Tiny

# Tiny models lose more to starting threads than they win, and sums in one order are the same on every machine.
torch.set_num_threads(1)

IMAGE_SIZES = ((24, 24), (40, 20), (18, 37), (64, 48))
"""(width, height): square, wide, tall, and larger than every tiny model's input."""


def pytest_collection_finish() -> None:
    """Keep what is imported by now out of later collections: Trainer collects after every run, 0.3 s each time."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Let libraries that count their objects at the end find them collected."""
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """Start every test from the same random state, whichever tests ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    yield


@pytest.fixture
def images() -> list[Image.Image]:
    """Four small RGB images of noise, all of different sizes."""
    generator = np.random.default_rng(0)
    return [
        Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8)) for width, height in IMAGE_SIZES
    ]


@pytest.fixture
def tiny_llava() -> "Tiny":
    """A fresh tiny LLaVA-1.5: tests may change it."""
    from tiny import FAMILIES  # seconds of imports that tests without a model do not pay

    return FAMILIES["llava"]()
