"""What the core is compared with: the model's own logits on one unpadded row at a time, and records to try.

Nothing of `mmdpo.branches`, `mmdpo.collate`, `mmdpo.features` or `mmdpo.scoring` is used on the oracle's side; answer
ids are taken from the batch (`test_encoding.py` says what they must be).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import soundfile
import torch
from PIL import Image, ImageSequence
from torch import Tensor

from mmdpo.collate import Batch, Collator
from mmdpo.encoding.example import Encoder
from mmdpo.models.families import facts_of
from mmdpo.policy import encode_once
from mmdpo.records import Candidate, Media, Message, Record
from mmdpo.views import View
from tiny import Tiny
from tiny.sounds import clip

RATE, FRAME_RATE = 16_000, 4
"""Samples a second of the sounds here, and frames a second of the films."""
WITHOUT_CHAT = ("paligemma", "paligemma2")
"""Families without a chat template: their processors take the images and one text with an `<image>` for each."""
PER_TOKEN = {"attention_mask", "token_type_ids", "mm_token_type_ids"}
"""Inputs with a value for each token of the row, beside the ids."""
ANSWER_TYPE = {(name, "token_type_ids"): 1 for name in WITHOUT_CHAT}
"""Token types of answers that are not 0: what PaliGemma's processor gives to a `suffix`."""
Side = Literal["right", "left"]
Layout = Literal["shared", "plain"]


def picture(seed: int, width: int = 24, height: int = 24) -> Media:
    """An embedded PNG of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return Media(data=buffer.getvalue())


def sound(seed: int, seconds: float = 0.6) -> Media:
    """An embedded WAV file of 16-bit samples at 16 kHz."""
    buffer = io.BytesIO()
    soundfile.write(buffer, clip(seed, seconds), RATE, format="WAV", subtype="PCM_16")
    return Media(data=buffer.getvalue())


def opened(media: Media, variant: str = "clean") -> Image.Image:
    """The decoded image, or what its blank variant must be."""
    assert media.data is not None
    image = Image.open(io.BytesIO(media.data)).convert("RGB")
    return image if variant == "clean" else Image.new("RGB", image.size, (127, 127, 127))


def heard(media: Media, variant: str = "clean") -> np.ndarray:
    """[samples] of the decoded sound, or the silence that its blank variant must be."""
    assert media.data is not None
    samples, rate = soundfile.read(io.BytesIO(media.data), dtype="float32")
    assert rate == RATE and samples.ndim == 1
    return samples if variant == "clean" else np.zeros_like(samples)


def film(seed: int, frames: int = 4, width: int = 24, height: int = 24) -> Media:
    """An embedded animated PNG of noise, four frames a second."""
    pictures = [opened(picture(1000 * seed + n, width, height)) for n in range(frames)]
    buffer = io.BytesIO()
    pictures[0].save(buffer, "PNG", save_all=True, append_images=pictures[1:], duration=1000 // FRAME_RATE)
    return Media(data=buffer.getvalue())


def watched(media: Media, variant: str = "clean") -> np.ndarray:
    """[frames, height, width, 3] of all frames, or the grey that its blank variant must be."""
    assert media.data is not None
    frames = np.stack([np.array(f.convert("RGB")) for f in ImageSequence.Iterator(Image.open(io.BytesIO(media.data)))])
    return frames if variant == "clean" else np.full_like(frames, 127)


DECODED: dict[str, Callable[[Media, str], Any]] = {"image": opened, "audio": heard, "video": watched}
"""How an item of each modality is decoded, for the oracle's side."""


def record(name: str, question: str, answers: Sequence[str], *items: Media, kind: str = "image") -> Record:
    """A record with one user turn: the images (or clips, or videos), then the question."""
    parts: list[Any] = [*({"type": kind} for _ in items), {"type": "text", "text": question}]
    return Record(
        id=name,
        prompt=({"role": "user", "content": parts},),
        candidates=tuple(Candidate(answer) for answer in answers),
        media={f"{kind}s": items} if items else {},
    )


def varied_records() -> list[Record]:
    """K 1 to 4, 0 to 2 images of several sizes, one image in two records, answers of different lengths."""
    first, wide, tall = picture(1), picture(2, 40, 20), picture(3, 18, 37)
    return [
        record("four", "What is here?", ["A cat on a mat.", "No.", "Two dogs in the park with a ball", "A car"], first),
        record("text", "Say something long please, now!", ["There is a red bird on the table."]),
        record("two", "Compare the two pictures.", ["same same", "Different images, I think.", "Yes"], wide, tall),
        record("again", "Is there a dog?", ["Yes, there is.", "No"], first),
    ]


def conversation(of: Record, variant: str = "clean") -> list[dict[str, Any]]:
    """The prompt as `processor.apply_chat_template` takes it, decoded media in their parts."""
    items = {kind: iter(of.media.get(f"{kind}s", ())) for kind in DECODED}

    def filled(message: Message) -> dict[str, Any]:
        parts = []
        for part in message["content"]:
            kind = part["type"]
            parts.append(
                dict(part) if kind == "text" else {"type": kind, kind: DECODED[kind](next(items[kind]), variant)}
            )
        return {"role": message["role"], "content": parts}

    return [filled(message) for message in of.prompt]


def video_options(messages: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What processors must be told of films whose frames are all given: when they were, and to drop none."""
    lengths = [len(part["video"]) for message in messages for part in message["content"] if part["type"] == "video"]
    metadata = [
        {"total_num_frames": n, "fps": FRAME_RATE, "duration": n / FRAME_RATE, "frames_indices": list(range(n))}
        for n in lengths
    ]
    return {"do_sample_frames": False, "video_metadata": metadata, "fps": FRAME_RATE} if lengths else {}


def generation_inputs(tiny: Tiny, of: Record, variant: str = "clean") -> dict[str, Tensor]:
    """What `generate` is given, pixels and spectra in the model's precision."""
    messages = conversation(of, variant)
    if tiny.name in WITHOUT_CHAT:
        parts = [part for message in messages for part in message["content"]]
        encoded = tiny.processor(
            images=[part["image"] for part in parts if part["type"] == "image"] or None,
            text="".join("<image>" if part["type"] == "image" else part["text"] for part in parts),
            return_tensors="pt",
        )
    else:
        encoded = tiny.processor.apply_chat_template(
            messages,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs=video_options(messages),
        )
    return {
        name: value.to(tiny.model.dtype) if value.is_floating_point() and "second" not in name else value
        for name, value in encoded.items()
        if name != "labels"
    }


def plain_row(tiny: Tiny, of: Record, answer: Tensor, variant: str = "clean") -> dict[str, Tensor]:
    """The prompt and one answer as the model's own forward takes them: attended to, and of text type."""
    row = generation_inputs(tiny, of, variant)
    prompt = row["input_ids"]
    for name in PER_TOKEN & row.keys():
        filler = 1 if name == "attention_mask" else ANSWER_TYPE.get((tiny.name, name), 0)
        row[name] = torch.cat([row[name], torch.full_like(answer[None], filler)], dim=1)
    if "cross_attention_mask" in row:  # [1, P, images, tiles]: an answer sees what the prompt's last token sees
        mask = row["cross_attention_mask"]
        row["cross_attention_mask"] = torch.cat([mask, mask[:, -1:].expand(-1, len(answer), -1, -1)], dim=1)
    row["input_ids"] = torch.cat([prompt, answer[None]], dim=1)
    return row


def row_logprobs(tiny: Tiny, of: Record, answer: Tensor, variant: str = "clean") -> Tensor:
    """[L] log-probabilities of one answer, from the model's full logits."""
    return last_logprobs(tiny, plain_row(tiny, of, answer, variant), answer)


def last_logprobs(tiny: Tiny, row: dict[str, Tensor], answer: Tensor) -> Tensor:
    """[L] log-probabilities of the answer that ends a plain row."""
    logits = tiny.model(**row).logits[0]
    predicting = logits[-len(answer) - 1 : -1]
    return predicting.log_softmax(-1).gather(1, answer[:, None])[:, 0]


@dataclass(frozen=True)
class Setup:
    """A tiny model made ready to score, and the collator that feeds it."""

    tiny: Tiny
    encoder: Encoder
    collator: Collator


def setup(
    tiny: Tiny,
    *,
    candidates: int = 4,
    variants: Sequence[str] = ("clean",),
    layout: Layout = "shared",
    side: Side = "right",
    records_per_row: int | Literal["fit"] = 1,
) -> Setup:
    """Installs the scoring for the parameters that train now, and makes a collator of the first candidates' views."""
    facts = facts_of(tiny.model)
    encode_once(tiny.model, facts)
    encoder = Encoder(tiny.processor, facts, tiny.stop_ids)
    views = [View(candidate, variant) for variant in variants for candidate in range(candidates)]
    return Setup(
        tiny, encoder, Collator(encoder, views, layout=layout, side=side, pad_id=0, records_per_row=records_per_row)
    )


def answers_of(batch: Batch) -> list[tuple[int, int, Tensor]]:
    """(record, media variant, answer ids) of every row."""
    return [
        (int(example), int(variant), targets[mask])
        for example, variant, targets, mask in zip(
            batch["example"], batch["media_index"], batch["targets"], batch["mask"], strict=True
        )
    ]


def oracle_logprobs(built: Setup, records: Sequence[Record], batch: Batch) -> list[Tensor]:
    """The oracle's log-probabilities of every row of a batch, [L] each."""
    return [
        row_logprobs(built.tiny, records[example], answer, built.collator.media_names[variant])
        for example, variant, answer in answers_of(batch)
    ]
