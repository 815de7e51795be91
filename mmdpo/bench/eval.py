"""``mmdpo bench eval``: eighteen yes/no questions a photo on one and the same model, answered in several ways.

Written with transformers alone, one question at a time and in batches of several sizes; written as ``mmdpo eval`` does;
and read off the logits, as ``mmdpo eval --answer-by logits`` does. All see the same prompts, and their answers are
compared.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from mmdpo.answering.loading import encoder_of
from mmdpo.answering.yes_no import YesNoReader, spellings
from mmdpo.bench.machine import checked_device, machine
from mmdpo.bench.yes_no_data import HEAD, PATCH, QUESTION, ROOM, draw_photos, questions, speaking_model
from mmdpo.encoding.example import Encoder
from mmdpo.errors import ConfigError
from mmdpo.generate import GenerationSettings, generate
from mmdpo.records import Record

Ways = dict[str, Callable[[], list[str]]]
"""From names to functions that give an answer to every question."""
ONE, LOGITS = "transformers, one at a time", "mmdpo, off the logits"


@dataclass(frozen=True)
class EvalPlan:
    """What to measure.

    Args:
        photos: Folder of JPEG files; None to draw some.
        images: How many.
        pixels: A side of the model's images.
        width: Of tower and language model.
        layers: Of each.
        tokens: Length of written answers.
        batches: Sizes that transformers alone is tried with.
        repeats: Turns; the median counts.
        device: ``"cpu"`` or ``"cuda"``.
    """

    photos: Path | None = None
    images: int = 4
    pixels: int = 336
    width: int = 256
    layers: int = 6
    tokens: int = 1
    batches: Sequence[int] = (4, 8, 16, 32)
    repeats: int = 3
    device: str = "cpu"


class Alone:
    """Questions answered with transformers alone: every photo is opened and encoded for every question.

    Args:
        model: Hugging Face model.
        processor: Its processor.
        folder: Of the photos.
        tokens: Length of the answers.
    """

    def __init__(self, model: Any, processor: Any, folder: Path, tokens: int) -> None:
        self.model, self.processor, self.folder, self.tokens = model, processor, folder, tokens

    def inputs(self, asked: Sequence[Record]) -> Any:
        """What the model takes, padded on the left."""
        conversations = []
        for record in asked:
            name = record.media["images"][0].path
            with Image.open(self.folder / str(name)) as photo:
                part = {"type": "image", "image": photo.convert("RGB")}
            conversations.append([{"role": "user", "content": [part, record.prompt[0]["content"][-1]]}])
        options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
        encoded = self.processor.apply_chat_template(conversations, **options, processor_kwargs={"padding": True})
        return encoded.to(self.model.device)

    @torch.no_grad()
    def answers(self, asked: Sequence[Record], batch: int) -> list[str]:
        """What is written, so many questions at a time."""
        written: list[str] = []
        for start in range(0, len(asked), batch):
            inputs = self.inputs(asked[start : start + batch])
            ids = self.model.generate(**inputs, max_new_tokens=self.tokens, do_sample=False)
            written += self.processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return [text.strip() for text in written]

    @torch.no_grad()
    def split(self, asked: Sequence[Record], words: Sequence[int]) -> None:
        """Gives the head's rows of two words a direction in which the questions differ, so that both are said.

        An untrained model would say one and the same token to all of them.
        """
        hidden = self.model.model(**self.inputs(asked)).last_hidden_state[:, -1]
        centre = hidden.mean(0)
        widest = torch.linalg.svd(hidden - centre, full_matrices=False)[2][0]
        direction = widest - centre * (widest @ centre) / (centre @ centre)
        scale = 20 / (hidden @ direction).std()  # of the logits; those of all other words are about 1
        for word, sign in zip(words, (1, -1), strict=True):
            self.model.lm_head.weight[word] = sign * scale * direction


class Ours:
    """Questions answered as ``mmdpo eval`` does: every call begins with an encoder that has opened no photo yet.

    What a run does once for a model, and not for a question, was done before: the comparison of the first answers with
    the model's own.

    Args:
        model: Hugging Face model.
        processor: Its processor.
        folder: Of the photos.
        tokens: Length of the answers.
        asked: The questions, for the comparison.

    Attributes:
        check_seconds: What the comparison took before answers are read off the logits.
    """

    def __init__(self, model: Any, processor: Any, folder: Path, tokens: int, asked: Sequence[Record]) -> None:
        self.model, self.processor, self.folder, self.tokens = model, processor, folder, tokens
        self.reader = YesNoReader(model, self.encoder())
        start = time.perf_counter()
        self.reader.batches(asked, 16)
        self.check_seconds = time.perf_counter() - start

    def encoder(self) -> Encoder:
        """One that has opened nothing yet."""
        return encoder_of(self.model, self.processor, self.folder)

    def written(self, asked: Sequence[Record], batch: int) -> list[str]:
        """What is written, so many questions at a time."""
        settings = GenerationSettings(max_new_tokens=self.tokens, batch_size=batch)
        return [own[0].text for own in generate(self.model, self.encoder(), asked, settings)]

    def read(self, asked: Sequence[Record]) -> list[str]:
        """Yes and no off the logits."""
        self.reader.encoder = self.encoder()
        found: dict[int, str] = {}
        for places in self.reader.batches(asked, 16):
            choices = self.reader.read([asked[n] for n in places])
            found |= {n: choice.text for n, choice in zip(places, choices, strict=True)}
        return [found[n] for n in range(len(asked))]


def run(plan: EvalPlan) -> dict[str, Any]:
    """Answers the questions in every way.

    Returns:
        ``machine``, ``shape``, ``questions``, ``says_yes``, ``not_shared`` (why prefixes were not, or empty),
        ``check_seconds`` (once for a model, in no turn's time), ``seconds`` of every turn, and ``ways``: for each,
        ``ms_per_question``, ``times_one_at_a_time``, ``times_best_batch`` (of transformers alone), and
        ``other_answers``, those that differ from one question at a time.

    Raises:
        ConfigError: A size is none that can be measured, or the folder of photos has no JPEG file.
    """
    check(plan)
    with tempfile.TemporaryDirectory() as temporary:
        folder = plan.photos or Path(temporary)
        photos = draw_photos(folder, plan.images) if plan.photos is None else _photos(plan)
        asked = questions(photos)
        model, processor = speaking_model(plan.pixels, plan.width, plan.layers)
        alone = Alone(model.to(plan.device), processor, folder, plan.tokens)
        words = spellings(encoder_of(model, processor, folder), asked[0])
        alone.split(asked[:: max(1, len(asked) // 12)], (words.yes[0], words.no[0]))
        ours = Ours(model, processor, folder, plan.tokens, asked)
        ways = ways_of(alone, ours, asked, plan.batches)
        measured(ways, 1)
        seconds, answers = measured(ways, plan.repeats)
    shape = {"image_tokens": (plan.pixels // PATCH) ** 2, "width": plan.width, "layers": plan.layers}
    threads = {"threads": torch.get_num_threads(), "repeats": plan.repeats, "photos": len(photos)}
    kind = {"kind": "eval", "machine": machine(plan.device), "shape": shape, "device": plan.device}
    once = {"not_shared": ours.reader.alone, "check_seconds": ours.check_seconds}
    return {**kind, **threads, **summary(seconds, answers), **once, "seconds": seconds}


def check(plan: EvalPlan) -> None:
    """Refuses what cannot be measured, before anything is built.

    Raises:
        ConfigError: Naming the option.
    """
    least = {"images": 1, "pixels": 2 * PATCH, "width": HEAD, "layers": 1, "tokens": 1, "repeats": 1}
    values = {name: getattr(plan, name) for name in least} | {"batches": min(plan.batches, default=0)}
    for name, value in values.items():
        if value < least.get(name, 1):
            raise ConfigError(
                f"--{name} {value} is too small",
                why="There would be nothing to measure.",
                fix=f"Use {least.get(name, 1)} or more.",
            )
    if plan.width % HEAD:
        raise ConfigError(
            f"--width {plan.width} is no multiple of {HEAD}",
            why=f"Attention has heads of {HEAD}.",
            fix=f"Use {HEAD * (plan.width // HEAD)} or {HEAD * (plan.width // HEAD + 1)}.",
        )
    if plan.tokens > ROOM - QUESTION:
        raise ConfigError(
            f"--tokens {plan.tokens} is too long",
            why=f"The model has {ROOM} positions after an image, and a question takes up to {QUESTION}.",
            fix=f"Use {ROOM - QUESTION} or less.",
        )
    checked_device(plan.device)


def _photos(plan: EvalPlan) -> list[Path]:
    assert plan.photos is not None
    found = sorted(plan.photos.glob("*.jpg"))[: plan.images]
    if not found:
        raise ConfigError(
            f"--photos {str(plan.photos)!r} holds no .jpg file",
            why="There is nothing to ask about.",
            fix="Give a folder of photos, or leave --photos out: some are drawn.",
        )
    return found


def ways_of(alone: Alone, ours: Ours, asked: Sequence[Record], batches: Sequence[int]) -> Ways:
    """Every way to answer the questions, by name."""
    ways: Ways = {ONE: lambda: alone.answers(asked, 1)}
    ways |= {f"transformers, {size} at a time": partial(alone.answers, asked, size) for size in batches}
    ways |= {f"mmdpo, written {size} at a time": partial(ours.written, asked, size) for size in batches[-2:]}
    return ways | ({LOGITS: lambda: ours.read(asked)} if ours.tokens == 1 else {})


def measured(
    ways: Mapping[str, Callable[[], list[str]]], repeats: int
) -> tuple[dict[str, list[float]], dict[str, list[str]]]:
    """Seconds of every way, by turns, and its answers."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    answers: dict[str, list[str]] = {}
    for _ in range(repeats):
        for name, way in ways.items():
            start = time.perf_counter()
            answers[name] = [text.lower() for text in way()]
            seconds[name].append(time.perf_counter() - start)
    return seconds, answers


def summary(seconds: Mapping[str, Sequence[float]], answers: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Medians, how much faster they are, and answers that are not those of one question at a time."""
    median = {name: statistics.median(values) for name, values in seconds.items()}
    batched = min((name for name in median if name.startswith("transformers") and name != ONE), key=median.__getitem__)
    count = len(answers[ONE])
    table = {
        name: {
            "ms_per_question": 1000 * taken / count,
            "questions_per_second": count / taken,
            "times_one_at_a_time": median[ONE] / taken,
            "times_best_batch": median[batched] / taken,
            "other_answers": sum(
                one.lower() != two.lower() for one, two in zip(answers[ONE], answers[name], strict=True)
            ),
        }
        for name, taken in median.items()
    }
    return {"questions": count, "says_yes": answers[ONE].count("yes"), "ways": table}
