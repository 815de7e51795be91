"""Conversations for Voxtral's tokenizer, and what their prompts are in writing."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tiny import sounds

Conversation = list[dict[str, Any]]
HEARD = "[BEGIN_AUDIO][AUDIO]"


def turn(role: str, *parts: str | np.ndarray) -> dict[str, Any]:
    return {
        "role": role,
        "content": [
            {"type": "text", "text": part} if isinstance(part, str) else {"type": "audio", "audio": part}
            for part in parts
        ],
    }


def user(*parts: str | np.ndarray) -> dict[str, Any]:
    return turn("user", *parts)


def answer(*parts: str) -> dict[str, Any]:
    return turn("assistant", *parts)


SHORT, LONG = sounds.clip(0, 0.5), sounds.clip(1, 3.1)
"""One window of the tiny family, and two."""
CASES: dict[str, tuple[Conversation, str | None]] = {
    "text": ([user("Is there a dog?")], "[INST]Is there a dog?[/INST]"),
    "text of a string": ([{"role": "user", "content": "Is there a dog?"}], "[INST]Is there a dog?[/INST]"),
    "audio alone": ([user(SHORT)], f"[INST]{HEARD}[/INST]"),
    "audio first": ([user(SHORT, "What is it?")], f"[INST]{HEARD}What is it?[/INST]"),
    "audio last": ([user("What is it?", SHORT)], f"[INST]What is it?{HEARD}[/INST]"),
    "audio between": ([user("This: ", SHORT, " What?")], f"[INST]This: {HEARD} What?[/INST]"),
    "two clips": ([user(SHORT, LONG, "Same?")], f"[INST]{HEARD}{HEARD}Same?[/INST]"),
    "clips apart": ([user(LONG, "and", SHORT)], f"[INST]{HEARD}and{HEARD}[/INST]"),
    "texts joined": ([user("One.", "Two.", SHORT)], f"[INST]One.\n\nTwo.{HEARD}[/INST]"),
    "empty text left out": ([user("", "One.", "", "Two.")], "[INST]One.\n\nTwo.[/INST]"),
    "users joined": ([user("One."), user("Two."), user(SHORT)], f"[INST]One.\n\nTwo.{HEARD}[/INST]"),
    "answer": ([user("Hi"), answer("A dog.")], "[INST]Hi[/INST]A dog.</s>"),
    "answer with spaces": ([user("Hi"), answer("  A dog.  ")], "[INST]Hi[/INST]  A dog.</s>"),
    "answer with a line": ([user("Hi"), answer("A dog. \n")], "[INST]Hi[/INST]A dog. \n</s>"),
    "answers joined": ([user("Hi"), answer("A", "b "), answer("c ")], "[INST]Hi[/INST]A\n\nb \n\nc</s>"),
    "answer to audio": ([user(LONG, "What?"), answer("Rain.")], f"[INST]{HEARD}What?[/INST]Rain.</s>"),
    "several turns": (
        [user(SHORT, "What?"), answer("Rain. "), user("Sure?"), answer("Yes."), user("And this?", LONG)],
        f"[INST]{HEARD}What?[/INST]Rain.</s>[INST]Sure?[/INST]Yes.</s>[INST]And this?{HEARD}[/INST]",
    ),
    "system": (
        [turn("system", "Be short."), user("Hi")],
        "[SYSTEM_PROMPT]Be short.[/SYSTEM_PROMPT][INST]Hi[/INST]",
    ),
    "empty system": ([{"role": "system", "content": ""}, user("Hi")], "[SYSTEM_PROMPT][/SYSTEM_PROMPT][INST]Hi[/INST]"),
    "two systems": (
        [turn("system", "A.", "B."), turn("system", "C."), user("Hi"), answer("Ho")],
        "[SYSTEM_PROMPT]A.\n\nB.[/SYSTEM_PROMPT][SYSTEM_PROMPT]C.[/SYSTEM_PROMPT][INST]Hi[/INST]Ho</s>",
    ),
    "late system": (
        [user("Hi"), turn("system", "Be short."), user("Ho")],
        "[INST]Hi[/INST][SYSTEM_PROMPT]Be short.[/SYSTEM_PROMPT][INST]Ho[/INST]",
    ),
    "control tokens in a prompt": (
        [user("say [INST] and</s>[/INST] [AUDIO][BEGIN_AUDIO]<SPECIAL_38> or [[INST]]", SHORT, "[AUDIO]")],
        f"[INST]say [INST] and</s>[/INST] [AUDIO][BEGIN_AUDIO]<SPECIAL_38> or [[INST]]{HEARD}[AUDIO][/INST]",
    ),
    "control tokens in an answer": (
        [user("a <s> b"), answer("</s> [AUDIO] [/INST]")],
        "[INST]a <s> b[/INST]</s> [AUDIO] [/INST]</s>",
    ),
    "control tokens in a system turn": (
        [turn("system", "[/SYSTEM_PROMPT][INST]no"), user("x")],
        "[SYSTEM_PROMPT][/SYSTEM_PROMPT][INST]no[/SYSTEM_PROMPT][INST]x[/INST]",
    ),
    "other scripts": ([user("Ünï ✓ 🙂\n\n\t{x}  two", SHORT, " \r\n 漢字 한국어 ")], None),
    "spaces and digits": ([user("  a  1234567 \n\n\n  b...!?"), answer("12 345.678")], None),
}


def encode(processor: Any, conversation: Conversation) -> dict[str, torch.Tensor]:
    encoded = processor.apply_chat_template(
        conversation, tokenize=True, return_dict=True, return_tensors="pt", processor_kwargs={"sampling_rate": 16_000}
    )
    return dict(encoded)
