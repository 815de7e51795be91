"""Made-up preference data of exact lengths: the same for every arm of a comparison."""

from __future__ import annotations

import io
import random
from dataclasses import dataclass
from typing import Any

from PIL import Image

from mmdpo.bench.models import WORDS
from mmdpo.bench.shapes import Shape
from mmdpo.encoding.example import Encoder
from mmdpo.errors import ConfigError
from mmdpo.records import Candidate, Media, Record, user_message


@dataclass(frozen=True)
class Sizes:
    """How much of what a measured batch holds.

    Args:
        batch: Records, each with an image of its own.
        candidates: Answers to a record; two are a pair.
        answer: Tokens of every answer, its end token among them.
    """

    batch: int
    candidates: int
    answer: int


def make_records(shape: Shape, sizes: Sizes, encoder: Encoder, seed: int = 0) -> list[Record]:
    """Records whose prompts have ``shape.prefix`` tokens and whose answers have ``sizes.answer`` each.

    Equal lengths are what suits padded rows best: nobody computes padding.

    Raises:
        ConfigError: Template and image alone take more than the prefix.
    """
    draws = random.Random(seed)
    pictures = [_noise(shape.pixels, draws) for _ in range(sizes.batch)]
    least = len(encoder.prompt(_record("probe", _words(1, draws), [], pictures[0])).input_ids)
    words = shape.prefix - least + 1
    if words < 1:
        raise ConfigError(
            f"the image and the template take {least - 1} tokens, the prefix is to have {shape.prefix}",
            why="No question would have room.",
            fix="Use a shape with a longer prefix.",
        )
    return [
        _record(
            f"record-{number}",
            _words(words, draws),
            [_words(sizes.answer - 1, draws) for _ in range(sizes.candidates)],
            picture,
        )
        for number, picture in enumerate(pictures)
    ]


def trl_rows(records: list[Record]) -> Any:
    """The same pairs as ``trl.DPOTrainer`` takes them."""
    from datasets import Dataset, Features, List, Value
    from datasets import Image as ImageFeature

    message = List({"role": Value("string"), "content": Value("string")})
    features = Features(
        {"prompt": message, "chosen": message, "rejected": message, "images": List(ImageFeature(decode=True))}
    )
    rows = [
        {
            "prompt": [{"role": "user", "content": record.prompt[0]["content"][-1]["text"]}],
            "chosen": [{"role": "assistant", "content": record.candidates[0].text}],
            "rejected": [{"role": "assistant", "content": record.candidates[1].text}],
            "images": [{"bytes": item.data} for _, item in record.media_items()],
        }
        for record in records
    ]
    return Dataset.from_list(rows, features=features)


def _record(name: str, question: str, answers: list[str], picture: bytes) -> Record:
    ranked = tuple(Candidate(text, score=float(len(answers) - place)) for place, text in enumerate(answers))
    media = {"images": (Media(data=picture),)}
    return Record(name, (user_message(question, images=1),), ranked, media, higher_is_better=True)


def _words(count: int, draws: random.Random) -> str:
    return " ".join(draws.choices(WORDS, k=count))


def _noise(pixels: tuple[int, int], draws: random.Random) -> bytes:
    """A PNG file of coarse noise."""
    small = Image.frombytes("RGB", (8, 8), draws.randbytes(8 * 8 * 3))
    buffer = io.BytesIO()
    small.resize(pixels, Image.Resampling.BILINEAR).save(buffer, "PNG")
    return buffer.getvalue()
