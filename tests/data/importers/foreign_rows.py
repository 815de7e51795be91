"""One example of each format as its own project writes it, and what a record of it must say."""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image


def png(shade: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3), (shade, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def wav() -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.linspace(-0.5, 0.5, 800, dtype=np.float32), 8000, format="WAV")
    return buffer.getvalue()


def write_media(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(("cat.png", "a.png", "puppy.png", "kitten.png")):
        (folder / name).write_bytes(png(10 * number))
    (folder / "1.wav").write_bytes(wav())
    (folder / "v.gif").write_bytes(png(99))
    return folder


DATA_URI = "data:image/png;base64," + base64.b64encode(png()).decode()


@dataclass(frozen=True)
class Example:
    """Rows of a format.

    Args:
        format: Its name.
        row: One row.
        prompt: The turns of the record as (role, parts), where a part is a text or the type of a medium in <>.
        answers: The candidates' texts, better ones first.
        media: Paths by field; None for an item that is embedded.
        given: Further fields of the candidates, one dictionary each.
        higher_is_better: Direction of ranks or scores.
        columns: What `meta.columns` keeps.
        parquet: Whether the rows come as Parquet.
    """

    format: str
    row: dict[str, Any]
    prompt: list[tuple[str, list[str]]]
    answers: list[str]
    media: Mapping[str, list[str | None]] = field(default_factory=dict)
    given: tuple[dict[str, Any], ...] = ()
    higher_is_better: bool | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    parquet: bool = False


ASKED = [("user", ["<image>", "What is this?"])]
PAIR = ["A kitten.", "A puppy."]
ONE = {"images": ["cat.png"]}


def turn(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


KITTEN = turn("assistant", "A kitten.")
QUESTION = turn("user", "<image>What is this?")
TYPED = turn("user", [{"type": "image"}, {"type": "text", "text": "What is this?"}])


def typed_answer(text: str) -> list[dict[str, Any]]:
    return [turn("assistant", [{"type": "text", "text": text}])]


def ratings(value: str) -> dict[str, Any]:
    return {"Helpfulness": {"Rating": value, "Rationale": "why"}, "Visual Faithfulness": {"Rating": "3"}}


EXAMPLES = [
    Example(
        "llamafactory_sharegpt",
        {
            "conversations": [{"from": "human", "value": "<image>What is this?"}],
            "chosen": {"from": "gpt", "value": "A kitten."},
            "rejected": {"from": "gpt", "value": "A puppy."},
            "images": ["cat.png"],
        },
        ASKED,
        PAIR,
        ONE,
    ),
    Example(
        "llamafactory_sharegpt",
        {
            "conversations": [
                {"from": "system", "value": "Be brief."},
                {"from": "human", "value": "<audio>What do you hear?"},
                {"from": "gpt", "value": "A sound."},
                {"from": "human", "value": "Which?"},
            ],
            "chosen": {"from": "gpt", "value": "A kitten."},
            "rejected": {"from": "gpt", "value": "A puppy."},
            "audios": ["1.wav"],
        },
        [
            ("system", ["Be brief."]),
            ("user", ["<audio>", "What do you hear?"]),
            ("assistant", ["A sound."]),
            ("user", ["Which?"]),
        ],
        PAIR,
        {"audios": ["1.wav"]},
    ),
    Example(
        "llamafactory_sharegpt",
        {"messages": [QUESTION, KITTEN], "images": ["cat.png"], "kto_tag": False},
        ASKED,
        ["A kitten."],
        ONE,
        ({"label": False},),
    ),
    Example(
        "llamafactory_alpaca",
        {"instruction": "What is", "input": "a kitten?", "chosen": "A cat.", "rejected": "A dog.", "history": []},
        [("user", ["What is\na kitten?"])],
        ["A cat.", "A dog."],
    ),
    Example(
        "llamafactory_alpaca",
        {
            "system": "Be brief.",
            "instruction": "And<image>?",
            "history": [["Who?", "I."]],
            "output": "A cat.",
            "kto_tag": True,
            "images": ["cat.png"],
        },
        [("system", ["Be brief."]), ("user", ["Who?"]), ("assistant", ["I."]), ("user", ["And", "<image>", "?"])],
        ["A cat."],
        ONE,
        ({"label": True},),
    ),
    Example(
        "llamafactory_v1",
        {
            f"{side}_messages": [
                {
                    "role": "user",
                    "content": [{"type": "image_url", "value": "cat.png"}, {"type": "text", "value": "What is this?"}],
                    "loss_weight": 0.0,
                },
                {"role": "assistant", "content": [{"type": "text", "value": text}], "loss_weight": 1.0},
            ]
            for side, text in (("chosen", "A kitten."), ("rejected", "A puppy."))
        },
        ASKED,
        PAIR,
        ONE,
    ),
    Example(
        "ms_swift",
        {"messages": [QUESTION, KITTEN], "images": ["cat.png"], "rejected_response": "A puppy.", "margin": 2.5},
        ASKED,
        PAIR,
        ONE,
        columns={"margin": 2.5},
    ),
    Example(
        "ms_swift",
        {
            "messages": [QUESTION, KITTEN],
            "image": "cat.png",
            "rejected_messages": [QUESTION, turn("assistant", "A puppy.")],
            "rejected_images": ["cat.png"],
        },
        ASKED,
        PAIR,
        ONE,
    ),
    Example(
        "ms_swift",
        {
            "messages": [turn("user", "<audio>Transcribe."), turn("assistant", "hello")],
            "audios": ["1.wav"],
            "rejected_response": [turn("assistant", "yellow")],
        },
        [("user", ["<audio>", "Transcribe."])],
        ["hello", "yellow"],
        {"audios": ["1.wav"]},
    ),
    Example(
        "ms_swift",
        {"messages": [QUESTION, KITTEN], "images": [DATA_URI], "label": False},
        ASKED,
        ["A kitten."],
        {"images": [None]},
        ({"label": False},),
    ),
    Example(
        "ms_swift",
        {
            "query": "<image>What is this?",
            "response": "A kitten.",
            "rejected_response": "A puppy.",
            "images": ["cat.png"],
            "history": [["Hello", "Hi"]],
            "system": "Be brief.",
        },
        [("system", ["Be brief."]), ("user", ["Hello"]), ("assistant", ["Hi"]), *ASKED],
        PAIR,
        ONE,
    ),
    Example(
        "llava",
        {
            "id": "one",
            "image": "cat.png",
            "conversations": [
                {"from": "human", "value": "<image>What is this?"},
                {"from": "gpt", "value": "A kitten."},
            ],
            "rejected_conversations": [
                {"from": "human", "value": "<image>What is this?"},
                {"from": "gpt", "value": "A puppy."},
            ],
        },
        ASKED,
        PAIR,
        ONE,
    ),
    Example(
        "trl",
        {
            "images": [{"bytes": png(), "path": "cat.png"}],
            "prompt": [TYPED],
            "chosen": typed_answer("A kitten."),
            "rejected": typed_answer("A puppy."),
        },
        ASKED,
        PAIR,
        {"images": [None]},
        parquet=True,
    ),
    Example(
        "trl",
        {
            "image": "cat.png",
            "prompt": [turn("system", "Be brief."), turn("user", "What is <image>?")],
            "chosen": [KITTEN],
            "rejected": [turn("assistant", "A puppy.")],
        },
        [("system", ["Be brief."]), ("user", ["<image>", "What is <image>?"])],
        PAIR,
        ONE,
    ),
    Example(
        "trl",
        {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."},
        [("user", ["The sky is"])],
        [" blue.", " green."],
    ),
    Example(
        "trl_implicit",
        {
            "images": ["cat.png"],
            "chosen": [TYPED, *typed_answer("A kitten.")],
            "rejected": [TYPED, *typed_answer("No.")],
        },
        ASKED,
        ["A kitten.", "No."],
        ONE,
    ),
    Example(
        "trl_unpaired",
        {"images": ["cat.png"], "prompt": [TYPED], "completion": [KITTEN], "label": True},
        ASKED,
        ["A kitten."],
        ONE,
        ({"label": True},),
    ),
    Example(
        "rlaif_v",
        {
            "image": {"bytes": png(), "path": "cat.png"},
            "question": "What is this?",
            "chosen": "A kitten.",
            "rejected": "A puppy.",
            "origin_dataset": "COCO",
            "origin_split": "train",
            "idx": 0,
            "image_path": "cat.png",
            "logps": "[1, 2, 3, 4, 5, 6]",
        },
        ASKED,
        PAIR,
        {"images": [None]},
        columns={
            "origin_dataset": "COCO",
            "origin_split": "train",
            "idx": 0,
            "image_path": "cat.png",
            "logps": "[1, 2, 3, 4, 5, 6]",
        },
        parquet=True,
    ),
    Example(
        "mmpr",
        {"image": "cat.png", "question": "What is this?", "chosen": "A kitten.", "rejected": "A puppy."},
        ASKED,
        PAIR,
        ONE,
    ),
    Example(
        "mm_rlhf",
        {
            "image": "cat.png",
            "prompt": "What is this?",
            "chosen": "A kitten.",
            "rejected": "A puppy.",
            "ls_factor": 1.0,
            "reference_chosen_logp": -12.3,
            "reference_rejected_logp": -15.0,
        },
        ASKED,
        PAIR,
        ONE,
        columns={"ls_factor": 1.0, "reference_chosen_logp": -12.3, "reference_rejected_logp": -15.0},
    ),
    Example(
        "mm_rlhf",
        {"video": "v.gif", "prompt": "What is this?", "chosen": "A kitten.", "rejected": "A puppy."},
        [("user", ["<video>", "What is this?"])],
        PAIR,
        {"videos": ["v.gif"]},
    ),
    Example(
        "vl_rlhf",
        {"image": "cat.png", "prompt": "What is this?", "chosen": "A kitten.", "rejected": "A puppy."},
        ASKED,
        PAIR,
        ONE,
    ),
    Example(
        "mdpo",
        {
            "img_path": "cat.png",
            "prompt": "A chat. USER: <image>\nWhat is this? ASSISTANT:",
            "chosen": "A kitten.",
            "rejected": "A puppy.",
        },
        ASKED,
        PAIR,
        ONE,
    ),
    Example(
        "vlfeedback",
        {
            "prompt": "What is this?",
            "img_path": "cat.png",
            "completions": {
                "annotations": [ratings("1"), ratings("N/A"), ratings("5")],
                "response": ["A puppy.", "A cow.", "A kitten."],
                "model": ["m1", "m2", "m3"],
            },
        },
        ASKED,
        PAIR,
        ONE,
        ({"score": 4.0, "source": "m3"}, {"score": 2.0, "source": "m1"}),
        higher_is_better=True,
    ),
    Example(
        "align_anything",
        {
            "image": {"bytes": png(), "path": None},
            "question": "What is this?",
            "response_1": "A puppy.",
            "response_2": "A kitten.",
            "overall_response": 2,
        },
        ASKED,
        PAIR,
        {"images": [None]},
        parquet=True,
    ),
    Example(
        "align_anything",
        {
            "prompt": "What is this?",
            "audio_path": {"array": [0.0, 0.5, -0.5], "sampling_rate": 8000},
            "response_1": "A kitten.",
            "response_2": "A puppy.",
            "overall_response": 1,
        },
        [("user", ["<audio>", "What is this?"])],
        PAIR,
        {"audios": [None]},
        parquet=True,
    ),
    Example(
        "axolotl",
        {
            "messages": [turn("user", "What is <image>?")],
            "chosen": KITTEN,
            "rejected": turn("assistant", "A puppy."),
        },
        [("user", ["What is <image>?"])],
        PAIR,
    ),
    Example(
        "nectar",
        {
            "prompt": "\n\nHuman: Who?\n\nAssistant: I.\n\nHuman: And what?\n\nAssistant: ",
            "answers": [
                {"answer": "A cow.", "rank": 3.0, "model": "m3"},
                {"answer": "A puppy.", "rank": 2.0, "model": "m2"},
                {"answer": "A kitten.", "rank": 1.0, "model": "m1"},
            ],
        },
        [("user", ["Who?"]), ("assistant", ["I."]), ("user", ["And what?"])],
        ["A kitten.", "A puppy.", "A cow."],
        {},
        ({"rank": 1, "source": "m1"}, {"rank": 2, "source": "m2"}, {"rank": 3, "source": "m3"}),
        higher_is_better=False,
    ),
    Example(
        "nemo_rl",
        {
            "context": [turn("user", "What?")],
            "completions": [
                {"rank": 1, "completion": [turn("assistant", "A puppy.")]},
                {"rank": 0, "completion": [KITTEN]},
            ],
            "task_name": "x",
        },
        [("user", ["What?"])],
        PAIR,
        {},
        ({"rank": 0}, {"rank": 1}),
        higher_is_better=False,
        columns={"task_name": "x"},
    ),
    Example(
        "verl",
        {
            "prompt": [QUESTION],
            "images": [{"bytes": png(), "path": None}],
            "reward_model": {"style": "rule", "ground_truth": "kitten"},
        },
        ASKED,
        [],
        {"images": [None]},
        columns={"reward_model": {"style": "rule", "ground_truth": "kitten"}},
        parquet=True,
    ),
    Example(
        "easyr1",
        {"problem": "<image>What is this?", "images": [{"bytes": png(), "path": None}], "answer": "kitten"},
        ASKED,
        [],
        {"images": [None]},
        columns={"answer": "kitten"},
        parquet=True,
    ),
]
