"""Chat templates for models of text: media parts become their placeholder tokens, and each turn one string."""

from __future__ import annotations

import json
from collections.abc import Mapping

GENERIC_TEMPLATE = (
    "{{ bos_token or '' }}"
    "{% for message in messages %}"
    "{{ message['role'] | capitalize ~ ': ' ~ message['content'] }}"
    "{{ eos_token if message['role'] == 'assistant' else '' }}{{ '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
"""For a language model without a template of its own: ``User: ...``, ``Assistant: ...`` closed by the end token."""

_MEDIA_AS_TEXT = (
    "{% set placeholders = PLACEHOLDERS %}"
    "{% set plain = namespace(messages=[]) %}"
    "{% for message in messages %}"
    "{% if message['content'] is iterable and message['content'] is not string %}"
    "{% set turn = namespace(text='') %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{% set turn.text = turn.text ~ part['text'] %}"
    "{% elif part['type'] in placeholders %}{% set turn.text = turn.text ~ placeholders[part['type']] %}"
    "{% else %}{{ raise_exception('the model takes no media of type ' ~ part['type']) }}"
    "{% endif %}"
    "{% endfor %}"
    "{% set plain.messages = plain.messages + [dict(message, content=turn.text)] %}"
    "{% else %}{% set plain.messages = plain.messages + [message] %}"
    "{% endif %}"
    "{% endfor %}"
    "{% set messages = plain.messages %}"
)
"""Goes before the template: it makes one string of each turn's parts, which every text template takes."""


def with_media(template: str | None, placeholders: Mapping[str, str]) -> str:
    """A chat template that renders content parts of each modality as their placeholder.

    Args:
        template: The language model's template for text; None for :data:`GENERIC_TEMPLATE`.
        placeholders: Placeholder token by modality.
    """
    table = json.dumps(dict(placeholders), ensure_ascii=False)
    return _MEDIA_AS_TEXT.replace("PLACEHOLDERS", table) + (GENERIC_TEMPLATE if template is None else template)
