"""What a feature cache saves and needs: optimizer steps of two random models, without one, from memory and from disk.

    python examples/feature_cache.py

The first model has a small tower in front of its language model, as LLaVA-1.5 has; the second a large one, as
Qwen2.5-VL has with large images. Both have 256 image tokens. Takes a minute on a CPU.
"""

from __future__ import annotations

import io
import random
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from transformers import CLIPImageProcessor, CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration
from transformers.utils import logging as transformers_logging

from mmdpo.collate import Collator
from mmdpo.encoding.example import Encoder
from mmdpo.feature_caching import cached_as
from mmdpo.features.cache import FeatureCache
from mmdpo.features.files import FeatureFiles
from mmdpo.forward.step_cost import language_passes
from mmdpo.models.load import Lora
from mmdpo.playground.model import build_processor
from mmdpo.policy import LoadedModel, prepare
from mmdpo.records import Candidate, Media, Record, user_message
from mmdpo.reference import make_reference
from mmdpo.runs.feature_choice import measure
from mmdpo.scoring import score
from mmdpo.views import View

PIXELS, PATCH = 224, 14
SHAPES = {"small tower": (128, 3), "large tower": (384, 8)}
"""Width and layers of the tower; the language model has four layers of width 512."""
RECORDS, BATCH, REPEATS, WORDS = 4, 2, 3, 60


def records(vocabulary: list[str]) -> list[Record]:
    """Pairs about images of noise, with answers of random words."""
    chance, noise = random.Random(0), np.random.default_rng(0)
    made = []
    for n in range(RECORDS):
        buffer = io.BytesIO()
        Image.fromarray(noise.integers(0, 256, (PIXELS, PIXELS, 3), dtype=np.uint8)).save(buffer, "PNG")
        answers = tuple(Candidate(" ".join(chance.choices(vocabulary, k=WORDS))) for _ in range(2))
        media = {"images": (Media(data=buffer.getvalue()),)}
        made.append(Record(f"record-{n}", (user_message("What is there?", images=1),), answers, media))
    return made


def policy(width: int, layers: int) -> LoadedModel:
    """A random LLaVA with a fresh adapter on its language model."""
    processor = build_processor()
    size = {"height": PIXELS, "width": PIXELS}
    processor.image_processor = CLIPImageProcessor(size={"shortest_edge": PIXELS}, crop_size=size)
    processor.patch_size = PATCH
    tokenizer = processor.tokenizer
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=512,
        intermediate_size=1376,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=8,
        **ids,
    )
    vision = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        image_size=PIXELS,
        patch_size=PATCH,
    )
    token, count = tokenizer.convert_tokens_to_ids("<image>"), (PIXELS // PATCH) ** 2
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=text, image_token_id=token, image_seq_length=count)
    )
    model.generation_config.update(**ids)
    return prepare(model, processor, trainable="llm", lora=Lora(r=8, alpha=16))


def steps(loaded: LoadedModel, batches: list[dict[str, Any]]) -> Callable[[FeatureCache | None], float]:
    """A function that gives the processor seconds of one step: policy forward and backward, and a live reference."""
    reference = make_reference(loaded)
    store = loaded.inner.mmdpo_scoring.features

    def run(cache: FeatureCache | None) -> float:
        store.cached = None if cache is None else cached_as(cache, loaded.model, loaded.processor, "all")
        start = time.process_time()
        for batch in batches:
            store.clear()
            reference.score(loaded.model, batch)
            (-score(loaded.model, batch).sum()).backward()
            loaded.model.zero_grad(set_to_none=True)
        return (time.process_time() - start) / len(batches)

    return run


def main() -> None:
    """Measures and prints."""
    warnings.simplefilter("ignore")
    transformers_logging.set_verbosity_error()
    torch.set_num_threads(1)
    table = Table("", "off", "memory", "disk", "saved", "foreseen", "MB an image", box=None, header_style="bold")
    for name, shape in SHAPES.items():
        table.add_row(name, *row(policy(*shape)).values())
    Console().print(table)


def row(loaded: LoadedModel) -> Mapping[str, str]:
    """What was measured of one model."""
    words = [word for word in loaded.processor.tokenizer.get_vocab() if word.isalpha()]
    data = records(sorted(words))
    collator = Collator(Encoder(loaded.processor, loaded.facts, loaded.eos_ids), [View(0), View(1)])
    passes = language_passes(whole=False, checkpointing=False, reference=True, two_pass=False)
    found = measure(loaded.model, collator, data, list(range(len(data))), passes=passes, epochs=2)
    assert found is not None
    batches = [collator([(n, data[n]) for n in range(at, at + BATCH)]) for at in range(0, len(data), BATCH)]
    run, seconds = steps(loaded, batches), {"off": [], "memory": [], "disk": []}  # type: ignore[var-annotated]
    with tempfile.TemporaryDirectory() as folder:
        files = FeatureFiles(Path(folder), 2**30)
        memory = FeatureCache(2**30, files)
        run(memory)
        for _ in range(REPEATS):
            seconds["off"].append(run(None))
            seconds["memory"].append(run(memory))
            seconds["disk"].append(run(FeatureCache(2**30, files)))
    medians = {where: statistics.median(values) for where, values in seconds.items()}
    return {
        **{where: f"{value:.3f} s" for where, value in medians.items()},
        "saved": f"{1 - medians['memory'] / medians['off']:.1%}",
        "foreseen": f"{found.cost.encoder_share:.1%}",
        "bytes": f"{found.bytes_each / 1e6:.3g}",
    }


if __name__ == "__main__":
    main()
