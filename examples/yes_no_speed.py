"""How fast yes/no questions are answered, 18 to a photo as POPE asks them, on one and the same model.

A LLaVA of the real shape (336 pixels, 576 image tokens, CLIP tower, Llama), small and untrained, answers questions
about photos: written with transformers alone, one question at a time and in batches of several sizes; written as
`mmdpo eval` does; and off the logits, as `mmdpo eval --answer-by logits` does. All see the same prompts, and their
answers are compared.

    python examples/yes_no_speed.py --out runs/speed.json
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFilter
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from mmdpo.encoding import Encoder
from mmdpo.evaluation import encoder_of
from mmdpo.generate import GenerationSettings, generate
from mmdpo.jsonfiles import write_json
from mmdpo.playground.model import CHAT_TEMPLATE
from mmdpo.playground.text import LANGUAGE
from mmdpo.playground.tokenizer import build_tokenizer
from mmdpo.records import Media, Record, user_message
from mmdpo.yes_no import YesNoReader, spellings

OBJECTS = ("star", "boat", "tree", "house", "sun", "lake")
COLOURS = ("red", "yellow", "blue")
PATCH = 14
Ways = dict[str, Callable[[], list[str]]]
"""From names to functions that give an answer to every question."""
ONE, LOGITS = "transformers, one at a time", "mmdpo, off the logits"


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


def draw_photos(folder: Path, count: int) -> list[Path]:
    """Blurred shapes of random colours, 640 x 480, as JPEG files of a photo's size."""
    paths = []
    for number in range(count):
        draws = random.Random(number)
        photo = Image.new("RGB", (640, 480))
        pen = ImageDraw.Draw(photo)
        for _ in range(400):
            x, y, size = draws.randrange(-50, 640), draws.randrange(-50, 480), draws.randrange(10, 150)
            pen.ellipse((x, y, x + size, y + draws.randrange(10, 150)), fill=tuple(draws.randbytes(3)))
        paths.append(folder / f"{number}.jpg")
        photo.filter(ImageFilter.GaussianBlur(1)).save(paths[-1], quality=90)
    return paths


def questions(photos: Sequence[Path]) -> list[Record]:
    """Eighteen questions about each photo."""
    return [
        Record(
            f"{photo.name}/{colour}/{thing}",
            (user_message(f"Is there a {colour} {thing} in the image?", images=1),),
            (),
            {"images": (Media(path=photo.name),)},
        )
        for photo in photos
        for thing in OBJECTS
        for colour in COLOURS
    ]


class Alone:
    """Questions answered with transformers alone: every photo is opened and encoded for every question."""

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
        """What is written."""
        written = []
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


def ways_of(
    alone: Alone, encoder: Encoder, reader: YesNoReader, asked: Sequence[Record], batches: Sequence[int]
) -> Ways:
    """Every way to answer the questions, by name."""

    def written(batch: int) -> list[str]:
        settings = GenerationSettings(max_new_tokens=alone.tokens, batch_size=batch)
        return [own[0].text for own in generate(alone.model, encoder, asked, settings)]

    def read() -> list[str]:
        found: dict[int, str] = {}
        for places in reader.batches(asked, 16):
            choices = reader.read([asked[n] for n in places])
            found |= {n: choice.text for n, choice in zip(places, choices, strict=True)}
        return [found[n] for n in range(len(asked))]

    ways: Ways = {ONE: lambda: alone.answers(asked, 1)}
    ways |= {f"transformers, {size} at a time": partial(alone.answers, asked, size) for size in batches}
    ways |= {f"mmdpo, written {size} at a time": partial(written, size) for size in batches[-2:]}
    return ways | ({LOGITS: read} if alone.tokens == 1 else {})


def measured(
    ways: Mapping[str, Callable[[], list[str]]], repeats: int
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Seconds of every way, by turns, and its answers."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    answers: dict[str, list[str]] = {}
    for _ in range(repeats):
        for name, way in ways.items():
            start = time.perf_counter()
            answers[name] = [text.lower() for text in way()]
            seconds[name].append(time.perf_counter() - start)
    return seconds, answers


def report(seconds: Mapping[str, Sequence[float]], answers: Mapping[str, Sequence[str]]) -> dict[str, Any]:
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


def main() -> None:
    """Times all ways, prints a table and writes it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, help="folder of JPEG files; default: some are drawn")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--pixels", type=int, default=336)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=1, help="length of the written answers")
    parser.add_argument("--batches", type=int, nargs="+", default=[4, 8, 16, 32])
    parser.add_argument("--repeats", type=int, default=3, help="by turns; the median counts")
    parser.add_argument("--out", type=Path, help="JSON file for the numbers")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.photos or Path(temporary)
        photos = sorted(folder.glob("*.jpg"))[: chosen.images] if chosen.photos else draw_photos(folder, chosen.images)
        asked = questions(photos)
        model, processor = build(chosen.pixels, chosen.width, chosen.layers)
        alone = Alone(model.to("cuda" if torch.cuda.is_available() else "cpu"), processor, folder, chosen.tokens)
        encoder = encoder_of(model, processor, folder)
        words = spellings(encoder, asked[0])
        alone.split(asked[:: max(1, len(asked) // 12)], (words.yes[0], words.no[0]))
        reader = YesNoReader(model, encoder)
        ways = ways_of(alone, encoder, reader, asked, chosen.batches)
        measured(ways, 1)
        seconds, answers = measured(ways, chosen.repeats)
    found = report(seconds, answers)
    where = f"{torch.get_num_threads()} threads of {os.cpu_count()} CPU cores" if model.device.type == "cpu" else "GPU"
    shape = {"image_tokens": (chosen.pixels // PATCH) ** 2, "width": chosen.width, "layers": chosen.layers}
    print(f"{found['questions']} questions about {len(photos)} photos, {shape['image_tokens']} image tokens, {where}")
    print(f"{'':32} ms a question  times one  times best batch  other answers")
    for name, row in found["ways"].items():
        print(
            f"{name:32} {row['ms_per_question']:13.1f} {row['times_one_at_a_time']:10.1f} "
            f"{row['times_best_batch']:17.1f} {row['other_answers']:14}"
        )
    print(f"{found['says_yes']} of {found['questions']} answers are yes; {reader.alone or 'prefixes were shared'}")
    if chosen.out:
        chosen.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(chosen.out, {**found, "seconds": seconds, "shape": shape, "where": where})


if __name__ == "__main__":
    main()
