"""Voxtral's published tokenizer (``tekken.json``) as a fast tokenizer with a chat template, and clips as samples.

Published checkpoints hold no chat template. transformers 5.23 hands the whole of tokenisation to the package
``mistral-common``, which takes clips as encoded files alone, refuses a conversation that ends with an answer, and
cannot split control tokens that stand in a text. The vocabulary is the same file either way: ``MistralConverter`` of
transformers reads it, and what is left is the template and the number of placeholders.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from tokenizers import normalizers
from transformers import AutoFeatureExtractor, ProcessorMixin, TokenizersBackend, VoxtralProcessor
from transformers.integrations.mistral.tokenizer import MistralConverter
from transformers.utils import cached_file

from mmdpo.errors import ModelError

VOCABULARY = "tekken.json"
VERSIONS = ("v7", "v11", "v13")
"""Versions of the format whose prompts are those of :data:`TEMPLATE`; v15 joins texts otherwise and writes settings."""
AUDIO_TOKEN = "[AUDIO]"
TOKEN_FRAMES = 8
"""Spectrum frames that one placeholder stands for: 100 frames a second are 12.5 tokens (``frame_rate`` of the file)."""
APART = "\ufdd0"
"""Goes into control tokens that stand in a text and is dropped before the text is cut into words: a code point that
Unicode keeps free of characters for ever (section 23.7, noncharacters)."""

_REFUSED = (
    "{% set heard = namespace(system=false, audio=false) %}"
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{% set heard.system = true %}"
    "{% elif message['content'] is not string %}"
    "{% for part in message['content'] %}{% if part['type'] == 'audio' %}{% set heard.audio = true %}{% endif %}"
    "{% endfor %}"
    "{% endif %}"
    "{% endfor %}"
    "{% if heard.system and heard.audio %}"
    "{{ raise_exception('Voxtral takes no system turn together with audio') }}"
    "{% endif %}"
)
_TURN_TEXT = (
    "{% for part in parts %}"
    "{% if part['type'] == 'audio' %}"
    "{% set turn.text = turn.text ~ '[BEGIN_AUDIO][AUDIO]' %}{% set turn.after_text = false %}"
    "{% elif part['type'] == 'text' %}"
    "{% if part['text'] %}"
    "{% set turn.text = turn.text ~ ('\n\n' if turn.after_text else '') ~ part['text'] %}"
    "{% set turn.after_text = true %}"
    "{% endif %}"
    "{% else %}{{ raise_exception('Voxtral takes text and audio, not ' ~ part['type']) }}"
    "{% endif %}"
    "{% endfor %}"
)
TEMPLATE = (
    _REFUSED + "{{ bos_token }}"
    "{% set turn = namespace(text='', after_text=false) %}"
    "{% for message in messages %}"
    "{% set content = message['content'] %}"
    "{% set parts = [{'type': 'text', 'text': content}] if content is string else content %}"
    + _TURN_TEXT
    + "{% if loop.last or loop.nextitem['role'] != message['role'] or message['role'] == 'system' %}"
    "{% if message['role'] == 'system' %}{{ '[SYSTEM_PROMPT]' ~ turn.text ~ '[/SYSTEM_PROMPT]' }}"
    "{% elif message['role'] == 'user' %}{{ '[INST]' ~ turn.text ~ '[/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ turn.text.rstrip(' ') ~ eos_token }}"
    "{% else %}{{ raise_exception('The roles are system, user and assistant, not ' ~ message['role']) }}"
    "{% endif %}"
    "{% set turn.text = '' %}{% set turn.after_text = false %}"
    "{% endif %}"
    "{% endfor %}"
)
"""What ``mistral-common`` 1.13 writes for the versions in :data:`VERSIONS`: texts that follow each other, in a turn or
in turns of one role, are joined by an empty line; answers lose the spaces at their end; there is no generation prompt.
Source: ``normalize.py`` (``_aggregate_content_chunks_impl``) and ``instruct.py`` (``InstructTokenizerV7``) there."""


class TekkenTokenizer(TokenizersBackend):
    """The vocabulary of a ``tekken.json`` file, in whose conversations text is always text.

    A control token in a text is told apart inside the text and not cut out of it, because ``mistral-common`` splits
    the text into words as a whole: `` [`` of `` [INST]`` is one token.
    """

    @classmethod
    def from_file(cls, file: str | Path) -> TekkenTokenizer:
        """Reads a ``tekken.json`` file.

        Raises:
            ModelError: Its prompts are not those of :data:`TEMPLATE`.
        """
        version = json.loads(Path(file).read_text(encoding="utf-8")).get("config", {}).get("version")
        if version not in VERSIONS:
            raise ModelError(
                f"Voxtral's tokenizer {str(file)!r} has version {version!r}, not {', '.join(VERSIONS)}",
                why="Its prompts are written otherwise, and the model would be trained on prompts that it never gets.",
                fix="Use a Voxtral checkpoint whose tekken.json has one of these versions.",
            )
        tokenizer = cls(
            tokenizer_object=MistralConverter(str(file)).converted(),
            vocab_file=str(file),
            bos_token="<s>",
            eos_token="</s>",
            pad_token="<pad>",
            unk_token="<unk>",
            padding_side="left",
            chat_template=TEMPLATE,
        )
        tokenizer.backend_tokenizer.normalizer = normalizers.Replace(APART, "")
        return tokenizer

    @cached_property
    def _control(self) -> re.Pattern[str]:
        return re.compile("|".join(re.escape(token) for token in self.added_tokens_encoder))

    def as_text(self, conversation: Any) -> Any:
        """The conversation, with control tokens in its texts marked so that they are read as text."""
        if isinstance(conversation, str):
            return self._control.sub(lambda found: found[0][0] + APART + found[0][1:], conversation)
        if isinstance(conversation, Mapping):
            texts = ("content", "text")
            return {key: self.as_text(value) if key in texts else value for key, value in conversation.items()}
        return [self.as_text(part) for part in conversation]

    def apply_chat_template(self, conversation: Any, *args: Any, tokenize: bool = True, **kwargs: Any) -> Any:
        """As of any tokenizer, with or without ``sanitize_control_tokens``."""
        kwargs.pop("sanitize_control_tokens", None)
        if tokenize:
            conversation = self.as_text(conversation)
        return super().apply_chat_template(conversation, *args, tokenize=tokenize, **kwargs)


class TekkenVoxtralProcessor(VoxtralProcessor):
    """Voxtral's processor with a chat template that takes decoded clips.

    Args:
        feature_extractor: Whisper's; its ``chunk_length`` is the window that clips are padded to, published 30 s.
        tokenizer: Of the checkpoint.
    """

    text_kwargs: ClassVar[dict[str, Any]] = {"padding": True, "return_tensors": "pt"}

    def __init__(self, feature_extractor: Any, tokenizer: TekkenTokenizer) -> None:
        super().__init__(feature_extractor, tokenizer)
        if self.audio_token != AUDIO_TOKEN:
            raise ModelError(
                f"id {self.audio_token_id} of Voxtral's tokenizer is {self.audio_token!r}, not {AUDIO_TOKEN}",
                why="VoxtralProcessor of transformers puts clips in the place of this id.",
                fix="Use the tekken.json of the checkpoint.",
            )
        self.chat_template = tokenizer.chat_template
        self.audio_kwargs = VoxtralProcessor.audio_kwargs | {
            "pad_to_multiple_of": feature_extractor.n_samples,
            "max_source_positions": feature_extractor.nb_max_frames,
        }

    __call__ = ProcessorMixin.__call__

    def apply_chat_template(self, conversation: Any, *args: Any, tokenize: bool = False, **kwargs: Any) -> Any:
        """As of other processors: clips under ``audio`` as samples at the extractor's rate, text always as text."""
        kwargs.pop("sanitize_control_tokens", None)
        if tokenize:
            conversation = self.tokenizer.as_text(conversation)
        return ProcessorMixin.apply_chat_template(self, conversation, *args, tokenize=tokenize, **kwargs)

    def _process_audio(self, audio: Any, **kwargs: Any) -> tuple[dict[str, Any], list[str]]:
        """Features of all windows, [windows, bins, frames], and the placeholders of each clip."""
        frames = kwargs.pop("max_source_positions")
        clips = [self._retrieve_input_features([clip], frames, **kwargs) for clip in audio]
        placeholders = [AUDIO_TOKEN * (len(windows) * frames // TOKEN_FRAMES) for windows in clips]
        return {"input_features": torch.cat(clips)}, placeholders

    def save_pretrained(self, save_directory: str | Path, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Writes the files that published checkpoints have: every tool that reads those reads these."""
        self.feature_extractor.save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)
        self.tokenizer.save_pretrained(save_directory, push_to_hub=push_to_hub, save_format="mistral", **kwargs)


def voxtral_processor(path: str) -> TekkenVoxtralProcessor:
    """The processor of a published Voxtral checkpoint, or of one that was saved; ``mistral-common`` is not needed.

    Args:
        path: Folder or hub name.

    Raises:
        OSError: A file is missing.
        ModelError: The tokenizer is of another kind.
    """
    extractor = AutoFeatureExtractor.from_pretrained(path, trust_remote_code=False)
    return TekkenVoxtralProcessor(extractor, TekkenTokenizer.from_file(cached_file(path, VOCABULARY)))
