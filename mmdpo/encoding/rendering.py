"""What the chat template makes of text: answers as the model would have to emit them, and nothing lost on the way.

Answer ids are what the model would have to emit after the prompt, ending in exactly one id that stops generation. Text
is text: no character of a prompt or candidate becomes a special id.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from jinja2 import TemplateError
from torch import Tensor

from mmdpo.encoding.token_marks import token_marks
from mmdpo.errors import DataError, ModelError
from mmdpo.models.chat_templates import with_media
from mmdpo.models.families import Facts
from mmdpo.records import Candidate, Record

Way = Literal["prefix", "context", "given"]
_QUESTION: dict[str, Any] = {"role": "user", "content": [{"type": "text", "text": "blue"}]}


@dataclass(frozen=True)
class EncodedAnswer:
    """An answer as the model would have to emit it.

    Args:
        ids: [L] token ids; the last one stops generation unless the candidate is unfinished.
        way: How they were found: the rendering's suffix, tokenised with the prompt's last characters as context, or
            given by the sampler.
        marks: [L] bool; whether a token spells a character of one of the candidate's spans. The token that stops
            generation is marked if a span reaches the end of the text.
        weights: [L] float32; on marked tokens the weight of their span, the largest where spans overlap; 1 elsewhere.
    """

    ids: Tensor
    way: Way
    marks: Tensor
    weights: Tensor


class Renderer:
    """The chat template of one model, from conversations to token ids.

    Args:
        processor: Hugging Face processor (or tokenizer) with a chat template.
        facts: Facts of the model.
        eos_ids: Ids that stop generation (``generation_config.eos_token_id``).
    """

    def __init__(self, processor: Any, facts: Facts, eos_ids: Sequence[int]) -> None:
        self.processor = processor
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self.facts = facts
        self.eos_ids = tuple(eos_ids)
        self._templates: dict[str, str] = {}
        if not self.eos_ids:
            raise ModelError(
                "the model's generation_config has no eos_token_id",
                why="An answer could not be told from its continuation, and generation would never stop.",
                fix="Set generation_config.eos_token_id to the id that ends an assistant turn.",
            )
        if self.template is None:
            raise ModelError(
                "the processor has no chat template",
                why="The prompt could not be rendered the way the model was trained.",
                fix="Set processor.chat_template, or save the model's processor with it.",
            )

    @property
    def template(self) -> str | None:
        """The processor's chat template, or the plain prompt of a family that has none."""
        own = getattr(self.processor, "chat_template", None)
        if own is None:
            return self.facts.family.template
        if own not in self._templates:
            self._templates[own] = self._for_parts(own)
        return self._templates[own]

    def _for_parts(self, template: str) -> str:
        """The template; around one that prints a list of parts as Python does (Granite-Speech's), what joins them."""
        try:
            text = self._rendered_by(template, [_QUESTION], True)
        except (TypeError, ValueError, KeyError, TemplateError):
            return template
        if "'text'" not in text:
            return template
        tokens = {kind: getattr(self.processor, f"{kind}_token", None) for kind in self.facts.media_token_ids}
        return with_media(template, {kind: str(token) for kind, token in tokens.items() if token})

    @cached_property
    def _control(self) -> re.Pattern[str]:
        """Any string that this tokenizer or processor would turn into a special id."""
        added = self.tokenizer.added_tokens_decoder.values()
        names = {token.content for token in added if token.special}
        names |= {str(getattr(self.processor, f"{kind}_token", "")) for kind in ("image", "video", "audio", "boi")}
        names |= set(self.tokenizer.all_special_tokens)
        return re.compile("|".join(re.escape(name) for name in sorted(names - {"", "None"}, key=len, reverse=True)))

    def control_tokens(self, text: str) -> list[str]:
        """Control tokens whose text occurs in ``text``."""
        return self._control.findall(text)

    def answer(self, record: Record, candidate: Candidate) -> EncodedAnswer:
        """Encodes one candidate as the model would have to emit it.

        Raises:
            DataError: The candidate has no token, some of its text would become a special id, or its spans or
                their weights cannot be.
        """
        way: Way = "given"
        ids = self._given(candidate)
        if ids is None:
            way, ids = self._rendered(record, candidate)
        ids = self._ended(ids, candidate.finished)
        self._check_answer(record, candidate, ids)
        return EncodedAnswer(torch.tensor(ids), way, *token_marks(self.tokenizer, record, candidate, ids))

    def check_rendering(self, record: Record) -> None:
        """Refuses a template that loses some of the prompt's text.

        Raises:
            ModelError: Naming the text: the model would be trained on answers to a question it never sees.
        """
        try:
            rendered = self._render_text([dict(message) for message in record.prompt], True)
        except TemplateError as error:
            raise ModelError(
                f"the chat template refuses the prompt of record {record.id!r}: {error}",
                why="The model was not trained on such a prompt.",
                fix="Rewrite the prompt, or leave the record out.",
            ) from error
        for message in record.prompt:
            for part in message["content"]:
                if part["type"] == "text" and part["text"].strip() not in rendered:
                    raise ModelError(
                        f"the chat template loses the text {part['text'][:60]!r} of record {record.id!r}",
                        why="The model would be trained on answers to a question it never sees.",
                        fix="Use the template that the model was trained with.",
                    )

    def text_length(self, record: Record) -> int | None:
        """Tokens of a prompt with each place of an item as the template writes it; None where text looks like one."""
        conversation: list[dict[str, Any]] = [
            {"role": m["role"], "content": [dict(part) for part in m["content"]]} for m in record.prompt
        ]
        if any(self.control_tokens(part.get("text", "")) for m in conversation for part in m["content"]):
            return None
        return len(self._render_ids(conversation, True, False))

    def _render_ids(self, conversation: list[dict[str, Any]], generation_prompt: bool, unsafe: bool) -> list[int]:
        """Token ids of a rendering, media placeholders not expanded."""
        ids = self.tokenizer.apply_chat_template(
            conversation,
            chat_template=self.template,
            add_generation_prompt=generation_prompt,
            tokenize=True,
            return_dict=False,
            **({"sanitize_control_tokens": True} if unsafe else {}),
        )
        return list(ids)

    def _rendered(self, record: Record, candidate: Candidate) -> tuple[Way, list[int]]:
        """What the template makes of an answer, white space after it dropped where it writes no end token."""
        if getattr(self.processor, "chat_template", None) is None:
            # no chat: the processor itself tokenises an answer (its ``suffix``) apart from the prompt
            return "context", self._text_ids(candidate.text)
        conversation: list[dict[str, Any]] = [
            {"role": m["role"], "content": [dict(part) for part in m["content"]]} for m in record.prompt
        ]
        full = [*conversation, self._answer_turn(candidate.text)]
        texts = [candidate.text, *(part.get("text", "") for m in conversation for part in m["content"])]
        unsafe = any(self.control_tokens(text) for text in texts)
        prompt_ids = self._render_ids(conversation, True, unsafe)
        full_ids = self._render_ids(full, False, unsafe)
        if full_ids[: len(prompt_ids)] == prompt_ids:
            way: Way = "prefix"
            ids = full_ids[len(prompt_ids) :]
        else:
            way, ids = "context", self._in_context(conversation, full, full_ids, candidate.text)
        return way, ids if any(token in self.eos_ids for token in ids) else self._stripped(ids)

    def _in_context(
        self, conversation: list[dict[str, Any]], full: list[dict[str, Any]], full_ids: list[int], text: str
    ) -> list[int]:
        """Answer ids when a token straddles the boundary or the template rewrites the prompt.

        The answer is tokenised after the last characters of the generation prompt, the longest context whose own tokens
        are kept. What the template writes between prompt and answer belongs to it (the end of an open thought); the end
        of turn is what the template writes after it.
        """
        rendered, full_rendered = self._render_text(conversation, True), self._render_text(full, False)
        written = full_rendered[len(rendered) :] if full_rendered.startswith(rendered) else ""
        if text.strip() and text.strip() in written:
            text = written.partition(text.strip())[0] + text.lstrip()
        tail = self._control.split(rendered)[-1]
        ids: list[int] = []
        for start in (*range(max(0, len(tail) - 8), len(tail)), None):
            context = "" if start is None else tail[start:]
            before = self._text_ids(context)
            both = self._text_ids(context + text)
            if both[: len(before)] == before:
                ids = both[len(before) :]
                break
        closing = next((token for token in reversed(full_ids) if token in self.eos_ids), None)
        return ids if closing is None else [*ids, closing]

    def _answer_turn(self, text: str) -> dict[str, Any]:
        content = text if self._answers_as_strings else [{"type": "text", "text": text}]
        return {"role": "assistant", "content": content}

    @cached_property
    def _answers_as_strings(self) -> bool:
        """Whether the template wants an answer as a string: GLM-4V's writes a list of parts as Python prints it."""
        lengths = {}
        for name, content in (("parts", [{"type": "text", "text": "red"}]), ("string", "red")):
            try:
                text = self._render_text([_QUESTION, {"role": "assistant", "content": content}], False)
            except (TypeError, ValueError, KeyError, TemplateError):
                continue
            if "red" in text:
                lengths[name] = len(text)
        return "string" in lengths and lengths["string"] < lengths.get("parts", math.inf)

    @cached_property
    def _end_of_turn(self) -> int:
        """What ends an answer where the template writes nothing: the stop id that begins the next turn, or EOS."""
        turns = [_QUESTION, self._answer_turn("red")]
        try:
            before, after = (self._render_ids(part, False, False) for part in (turns, [*turns, _QUESTION]))
        except (TypeError, ValueError, KeyError, TemplateError):  # a template for one question only
            return self.eos_ids[0]
        following = after[len(before)] if after[: len(before)] == before else None
        return following if following in self.eos_ids else self.eos_ids[0]

    def _render_text(self, conversation: list[dict[str, Any]], generation_prompt: bool) -> str:
        return self._rendered_by(self.template, conversation, generation_prompt)

    def _rendered_by(self, template: str | None, conversation: list[dict[str, Any]], generation_prompt: bool) -> str:
        return str(
            self.tokenizer.apply_chat_template(
                conversation, chat_template=template, add_generation_prompt=generation_prompt, tokenize=False
            )
        )

    def _text_ids(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)) if text else []

    def _given(self, candidate: Candidate) -> list[int] | None:
        """The sampler's ids, where they are this tokenizer's and spell the text: an edited text is what counts."""
        ids = candidate.token_ids
        if ids is None or not all(0 <= token < len(self.tokenizer) for token in ids):
            return None
        spelled = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        return list(ids) if "".join(spelled.split()) == "".join(candidate.text.split()) else None

    def _ended(self, ids: list[int], finished: bool) -> list[int]:
        """Cuts at the first id that stops generation; a finished answer keeps it, or gets one where there is none."""
        stop = next((at for at, token in enumerate(ids) if token in self.eos_ids), len(ids))
        closing = ids[stop] if stop < len(ids) else self._end_of_turn
        return [*ids[:stop], closing] if finished else ids[:stop]

    def _stripped(self, ids: list[int]) -> list[int]:
        """Drops trailing tokens that are white space only."""
        while ids and not self.tokenizer.decode(ids[-1:], skip_special_tokens=False).strip():
            ids = ids[:-1]
        return ids

    def _check_answer(self, record: Record, candidate: Candidate, ids: list[int]) -> None:
        content = ids[:-1] if candidate.finished else ids
        special = set(self.eos_ids) | set(self.facts.media_token_ids.values())
        has_control = any(token in special for token in content)
        if has_control or not content or not candidate.text.strip():
            raise DataError(
                f"candidate {candidate.text[:60]!r} of record {record.id!r} "
                + ("contains a control token" if has_control else "has no text of its own"),
                why="Its log-probability would not be that of the text.",
                fix="Correct the text or leave the candidate out.",
            )
