"""How much faster yes/no questions are when they share their image: three ways to answer them, side by side.

A LLaVA of the real shape (336 pixels, 576 image tokens, CLIP tower, Llama) but small and untrained answers six
questions about each of some images of noise: off the logits over one prefix an image, off the logits with a row for
each question, by one generated token in batches, and by one generated token at a time. All ask the same model the same
prompts. The comparison with the model's own logits that precedes a reading is made before the clock starts.

    python examples/yes_no_speed.py
"""

from __future__ import annotations

import argparse
import io
import os
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from mmdpo.evaluation import encoder_of
from mmdpo.generate import GenerationSettings, generate
from mmdpo.playground.model import CHAT_TEMPLATE
from mmdpo.playground.text import LANGUAGE
from mmdpo.playground.tokenizer import build_tokenizer
from mmdpo.records import Media, Record, user_message
from mmdpo.shared_prompts import batches_by_media
from mmdpo.yes_no import YesNoReader

OBJECTS = ("star", "boat", "tree", "house", "sun", "lake")
PATCH = 14


def build(pixels: int, width: int, layers: int) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """An untrained LLaVA for images of so many pixels a side, and its processor."""
    tokens = (pixels // PATCH) ** 2
    tokenizer = build_tokenizer(LANGUAGE.vocabulary(), "image")
    tokenizer.model_max_length = tokens + 512
    size = {"size": {"shortest_edge": pixels}, "crop_size": {"height": pixels, "width": pixels}}
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(**size),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
    shape: dict[str, int] = {"hidden_size": width, "intermediate_size": 3 * width, "num_attention_heads": width // 64}
    scale = width**-0.5  # the usual 0.02 suits widths of thousands; here all answers would be alike
    config = LlavaConfig(
        text_config=LlamaConfig(
            **shape,
            vocab_size=len(tokenizer),
            num_hidden_layers=layers,
            max_position_embeddings=tokens + 512,
            initializer_range=scale,
        ),
        vision_config=CLIPVisionConfig(
            **shape, num_hidden_layers=layers, image_size=pixels, patch_size=PATCH, initializer_range=scale
        ),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=tokens,
    )
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config).eval()
    model.generation_config.update(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    return model, processor


def questions(images: int, pixels: int) -> list[Record]:
    """Six questions about each image."""
    asked = []
    for number in range(images):
        noise = np.random.default_rng(number).integers(0, 256, (pixels, pixels, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(noise).save(buffer, "PNG")
        media = {"images": (Media(data=buffer.getvalue()),)}
        for thing in OBJECTS:
            message = user_message(f"Is there a {thing} in the image?", images=1)
            asked.append(Record(f"{number}/{thing}", (message,), (), media))
    return asked


def read(reader: YesNoReader, asked: Sequence[Record], batch: int) -> list[float]:
    """P(yes) of every question, off the logits."""
    places = batches_by_media(asked, batch)
    found = {
        n: choice.p_yes for one in places for n, choice in zip(one, reader.read([asked[n] for n in one]), strict=True)
    }
    return [found[n] for n in range(len(asked))]


def main() -> None:
    """Times all ways and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=6)
    parser.add_argument("--pixels", type=int, default=336)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--batch", type=int, default=12, help="questions at a time")
    parser.add_argument("--repeats", type=int, default=3, help="the fastest counts")
    chosen = parser.parse_args()
    model, processor = build(chosen.pixels, chosen.width, chosen.layers)
    model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    encoder = encoder_of(model, processor, None)
    asked = questions(chosen.images, chosen.pixels)

    shared, alone = YesNoReader(model, encoder), YesNoReader(model, encoder, share=False)
    difference = max(
        abs(one - other)
        for one, other in zip(read(shared, asked, chosen.batch), read(alone, asked, chosen.batch), strict=True)
    )

    def written(batch: int) -> None:
        generate(model, encoder, asked, GenerationSettings(max_new_tokens=1, batch_size=batch))

    ways: dict[str, Callable[[], object]] = {
        "logits, one prefix an image": lambda: read(shared, asked, chosen.batch),
        "logits, a row each": lambda: read(alone, asked, chosen.batch),
        f"generated, {chosen.batch} at a time": lambda: written(chosen.batch),
        "generated, one at a time": lambda: written(1),
        "(encoding the prompts alone)": lambda: [encoder.prompt(record) for record in asked],
    }
    seconds = {name: min(_timed(way) for _ in range(chosen.repeats)) for name, way in ways.items()}
    slowest = seconds["generated, one at a time"]
    print(f"{len(asked)} questions about {chosen.images} images of {(chosen.pixels // PATCH) ** 2} tokens")
    for name, taken in seconds.items():
        print(f"{name:28} {1000 * taken / len(asked):8.1f} ms a question  {slowest / taken:6.2f} times one at a time")
    print(f"P(yes) of the first two ways differs by {difference:.1e} at most; {shared.alone or 'prefixes were shared'}")
    print(f"{torch.get_num_threads()} threads of {os.cpu_count()} cores, {model.device}")


def _timed(way: Callable[[], object]) -> float:
    start = time.perf_counter()
    way()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
