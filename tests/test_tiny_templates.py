"""Tokenizers and chat templates of the tiny families: their exact strings, and their traps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tiny import CORE, FAMILIES, assistant, encode, system, templates, user

every_family = pytest.mark.parametrize("name", CORE)

# --- the tokenizers -------------------------------------------------------------------------------------------------

SPECIAL = "<s></s><image><|im_start|><|im_end|><|vision_start|><|image_pad|><end_of_turn><end_of_utterance>"


@every_family
@pytest.mark.parametrize("text", ["There is a red bird.", "Ünï ✓ 🙂\n\n\t{x}  two spaces", SPECIAL])
def test_any_text_survives_and_splits_into_plain_ids(name: str, text: str) -> None:
    tokenizer = FAMILIES[name]().tokenizer
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
    assert tokenizer.decode(ids) == text
    assert not set(ids) & set(tokenizer.all_special_ids)


@every_family
def test_special_tokens_are_single_ids(name: str) -> None:
    tiny = FAMILIES[name]()
    assert len(tiny.tokenizer(SPECIAL, add_special_tokens=False).input_ids) < len(
        tiny.tokenizer(SPECIAL, add_special_tokens=False, split_special_tokens=True).input_ids
    )
    for token in tiny.tokenizer.convert_ids_to_tokens([*tiny.stop_ids, tiny.model.config.image_token_id]):
        assert len(tiny.tokenizer(token, add_special_tokens=False).input_ids) == 1
    assert len(tiny.tokenizer) <= tiny.model.get_input_embeddings().num_embeddings


def test_llama_tokenizer_marks_the_first_piece_only() -> None:
    """The space at the start of a text is invented, the one after a special token is not."""
    tokenizer = FAMILIES["llava"]().tokenizer
    assert tokenizer.tokenize("There is") == ["▁There", "▁is"]
    assert tokenizer.tokenize("<s>There is") == ["<s>", "The", "re", "▁is"]


# --- the templates --------------------------------------------------------------------------------------------------

BLANK = Image.new("RGB", (24, 24))
DIALOGUE = [
    user("What is this?", BLANK),
    assistant("A cat."),
    user("Sure?"),
    assistant("Yes. "),
    user("And this?", BLANK),
    assistant("A dog."),
]
VISION = "<|vision_start|><|image_pad|><|vision_end|>"
RENDERED = {
    "llava": (
        "USER: <image>\nWhat is this? ASSISTANT: A cat. USER: Sure? ASSISTANT: Yes.  USER: <image>\nAnd this? ",
        "ASSISTANT:",
        "ASSISTANT: A dog. ",
    ),
    "llava_next": (
        "[INST] <image>\nWhat is this? [/INST] A cat.</s> [INST] Sure? [/INST] Yes. </s> "
        "[INST] <image>\nAnd this? [/INST]",
        "",
        " A dog.</s> ",
    ),
    "qwen2_5_vl": (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\n{VISION}What is this?<|im_end|>\n<|im_start|>assistant\nA cat.<|im_end|>\n"
        "<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\nYes. <|im_end|>\n"
        f"<|im_start|>user\n{VISION}And this?<|im_end|>\n",
        "<|im_start|>assistant\n",
        "<|im_start|>assistant\nA dog.<|im_end|>\n",
    ),
    "qwen3_5": (
        f"<|im_start|>user\n{VISION}What is this?<|im_end|>\n<|im_start|>assistant\nA cat.<|im_end|>\n"
        "<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\nYes.<|im_end|>\n"
        f"<|im_start|>user\n{VISION}And this?<|im_end|>\n",
        "<|im_start|>assistant\n<think>\n\n</think>\n\n",
        "<|im_start|>assistant\n<think>\n\n</think>\n\nA dog.<|im_end|>\n",
    ),
    "gemma3": (
        "<bos><start_of_turn>user\n<start_of_image>What is this?<end_of_turn>\n"
        "<start_of_turn>model\nA cat.<end_of_turn>\n"
        "<start_of_turn>user\nSure?<end_of_turn>\n<start_of_turn>model\nYes.<end_of_turn>\n"
        "<start_of_turn>user\n<start_of_image>And this?<end_of_turn>\n",
        "<start_of_turn>model\n",
        "<start_of_turn>model\nA dog.<end_of_turn>\n",
    ),
    "idefics3": (
        "<|begin_of_text|>User:<image>What is this?<end_of_utterance>\nAssistant: A cat.<end_of_utterance>\n"
        "User: Sure?<end_of_utterance>\nAssistant: Yes. <end_of_utterance>\n"
        "User:<image>And this?<end_of_utterance>\n",
        "Assistant:",
        "Assistant: A dog.<end_of_utterance>\n",
    ),
}


@every_family
def test_three_turns_render_as_published(name: str) -> None:
    processor = FAMILIES[name]().processor
    shared, prompt_end, answer = RENDERED[name]
    assert processor.apply_chat_template(DIALOGUE[:-1]) == shared
    assert processor.apply_chat_template(DIALOGUE[:-1], add_generation_prompt=True) == shared + prompt_end
    assert processor.apply_chat_template(DIALOGUE) == shared + answer


@every_family
def test_prompt_has_exactly_one_token_in_front(name: str) -> None:
    """Templates that write the first token themselves and tokenizers that add it must not meet."""
    tiny = FAMILIES[name]()
    ids = encode(tiny, DIALOGUE[:-1])["input_ids"][0].tolist()
    bos = tiny.tokenizer.bos_token_id
    assert (ids[0] == bos and bos not in ids[1:]) if bos is not None else ids[0] not in tiny.stop_ids


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("llava", "Be brief. USER: Hello ASSISTANT:"),
        ("llava_next", "<<SYS>>\nBe brief.\n<</SYS>>\n\n[INST] Hello [/INST]"),
        (
            "qwen2_5_vl",
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            "qwen3_5",
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"
            "<|im_start|>assistant\n<think>\n\n</think>\n\n",
        ),
        ("gemma3", "<bos><start_of_turn>user\nBe brief.\n\nHello<end_of_turn>\n<start_of_turn>model\n"),
        (
            "idefics3",
            "<|begin_of_text|>System: Be brief.<end_of_utterance>\nUser: Hello<end_of_utterance>\nAssistant:",
        ),
    ],
)
def test_system_turn_renders_as_published(name: str, expected: str) -> None:
    processor = FAMILIES[name]().processor
    conversation = [system("Be brief."), user("Hello")]
    assert processor.apply_chat_template(conversation, add_generation_prompt=True) == expected


def test_llava_renders_plain_strings_as_nothing() -> None:
    processor = FAMILIES["llava"]().processor
    conversation = [{"role": "user", "content": "Hello"}]
    assert processor.apply_chat_template(conversation, add_generation_prompt=True) == "USER: ASSISTANT:"


def test_qwen3_5_open_thought_merges_across_the_boundary() -> None:
    """With the larger models' template the prompt's ids are no prefix of the rendering's ids, though its text is."""
    tiny = FAMILIES["qwen3_5"](thinking=True)
    prompt = tiny.processor.apply_chat_template(DIALOGUE[2:3], add_generation_prompt=True)
    rendering = tiny.processor.apply_chat_template(DIALOGUE[2:4])
    assert rendering.startswith(prompt) and prompt.endswith("<think>\n")
    prompt_ids, rendering_ids = (tiny.tokenizer(text).input_ids for text in (prompt, rendering))
    assert rendering_ids[: len(prompt_ids)] != prompt_ids


PUBLISHED = {  # ours, and the file of the published text that TRL ships
    "llava_next": (templates.LLAVA_NEXT_MISTRAL, "llava_next"),
    "qwen2_5_vl": (templates.QWEN2_5_VL, "qwen2_5_vl"),
    "qwen3_5": (templates.QWEN3_5, "qwen3_5_nothink"),
    "qwen3_5 thinking": (templates.QWEN3_5_THINKING, "qwen3_5_think"),
    "gemma3": (templates.GEMMA3, "gemma3"),
    "idefics3": (templates.IDEFICS3, "idefics3"),
}
THOUGHT = assistant("<think>\nA cat?\n</think>\n\nYes, a cat. ")
IMAGE_LAST = {"role": "user", "content": [*user("One ")["content"], *user(" two ", BLANK, BLANK)["content"]]}
CONVERSATIONS = {
    "prompt": DIALOGUE[:-1],
    "answered": DIALOGUE,
    "system": [system(" Be brief. "), *DIALOGUE],
    "text before images": [IMAGE_LAST, assistant(" spaced ")],
    "ends in an image": [{"role": "user", "content": IMAGE_LAST["content"][:2]}],
    "thought": [user("A cat? "), THOUGHT, user("Sure?"), THOUGHT],
    "no text": [user(""), assistant("")],
}


@pytest.mark.parametrize("conversation", CONVERSATIONS.values(), ids=CONVERSATIONS)
@pytest.mark.parametrize(("ours", "file"), PUBLISHED.values(), ids=PUBLISHED)
@pytest.mark.parametrize("generation_prompt", [False, True])
def test_templates_equal_the_published_text(
    ours: str, file: str, conversation: list[dict[str, Any]], generation_prompt: bool
) -> None:
    trl = pytest.importorskip("trl", reason="TRL ships the published texts")
    published = (Path(trl.__file__).parent / "chat_templates" / f"{file}.jinja").read_text(encoding="utf-8")
    tokenizer = FAMILIES["gemma3"]().tokenizer  # the only one whose template asks for a token, `<bos>`
    expected, actual = (
        tokenizer.apply_chat_template(
            conversation, chat_template=text, tokenize=False, add_generation_prompt=generation_prompt
        )
        for text in (published, ours)
    )
    assert actual == expected
