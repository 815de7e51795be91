"""Voxtral's published tokenizer: its prompts, placeholders and files."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from jinja2 import TemplateError
from transformers import VoxtralProcessor, WhisperFeatureExtractor

from mmdpo.encoding.example import Encoder
from mmdpo.errors import MMDPOError, ModelError
from mmdpo.media import Media
from mmdpo.models.families import facts_of
from mmdpo.models.load import load_pretrained
from mmdpo.models.mistral_common import APART, TekkenVoxtralProcessor, voxtral_processor
from mmdpo.records import Candidate, Record
from tiny import FAMILIES, sounds, voxtral
from voxtral_conversations import CASES, LONG, SHORT, Conversation, encode, turn, user


@pytest.fixture
def processor() -> TekkenVoxtralProcessor:
    built: TekkenVoxtralProcessor = FAMILIES["voxtral"]().processor
    return built


# --- prompts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, (_, text) in CASES.items() if text is not None])
def test_prompts_are_written_as_published(processor: TekkenVoxtralProcessor, name: str) -> None:
    conversation, text = CASES[name]
    for render in (processor.apply_chat_template, processor.tokenizer.apply_chat_template):
        assert render(conversation, tokenize=False) == "<s>" + text
    assert processor.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True) == "<s>" + text


def test_a_processor_goes_to_other_processes(processor: TekkenVoxtralProcessor) -> None:
    conversation, _ = CASES["control tokens in a prompt"]
    inputs = encode(processor, conversation)
    again = encode(pickle.loads(pickle.dumps(processor)), conversation)
    assert all(torch.equal(inputs[key], again[key]) for key in inputs)


def test_text_is_never_a_control_token_and_is_cut_as_a_whole(processor: TekkenVoxtralProcessor) -> None:
    text = "say [INST] and</s>[/INST] [AUDIO][BEGIN_AUDIO]<SPECIAL_38> or [[INST]]"
    ids = encode(processor, [user(text, SHORT)])["input_ids"][0].tolist()
    inside = processor.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    assert ids == [1, 3, *inside, 25, *[24] * voxtral.WINDOW_TOKENS, 4]
    assert not set(inside) & set(range(len(voxtral.CONTROL)))
    assert processor.tokenizer.decode(inside) == text
    sanitized = processor.apply_chat_template(
        [user(text, SHORT)], tokenize=True, return_dict=True, sanitize_control_tokens=True
    )
    assert sanitized["input_ids"][0].tolist() == ids
    assert processor.tokenizer.apply_chat_template([user(text)], return_dict=False) == [1, 3, *inside, 4]


def test_the_mark_that_tells_control_tokens_apart_is_no_text(processor: TekkenVoxtralProcessor) -> None:
    marked = processor.tokenizer.as_text([user("[INST]", SHORT)])
    assert marked[0]["content"][0]["text"] == f"[{APART}INST]"
    assert marked[0]["content"][1]["audio"] is SHORT
    plain = processor.tokenizer.encode("[INST]", add_special_tokens=False, split_special_tokens=True)
    assert processor.tokenizer.encode(f"[{APART}INST]", add_special_tokens=False) == plain


@pytest.mark.parametrize(
    ("conversation", "reason"),
    [
        ([turn("system", "Be short."), user(SHORT)], "no system turn together with audio"),
        ([user(SHORT), {"role": "tool", "content": "4"}], "The roles are"),
        ([{"role": "user", "content": [{"type": "image", "image": None}]}], "not image"),
    ],
)
def test_what_the_format_has_no_place_for_is_refused(
    processor: TekkenVoxtralProcessor, conversation: Conversation, reason: str
) -> None:
    with pytest.raises(TemplateError, match=reason):
        processor.apply_chat_template(conversation, tokenize=False)


# --- clips ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seconds", "windows"), [(0.1, 1), (1.99, 1), (2, 1), (2.01, 2), (4, 2), (6.5, 4)])
def test_a_clip_takes_the_tokens_of_its_windows(
    processor: TekkenVoxtralProcessor, seconds: float, windows: int
) -> None:
    inputs = encode(processor, [user(sounds.clip(0, seconds), "What?")])
    assert (inputs["input_ids"] == 24).sum() == windows * voxtral.WINDOW_TOKENS
    assert inputs["input_features"].shape == (windows, voxtral.MEL_BINS, voxtral.WINDOW_FRAMES)


def test_the_encoder_gives_what_the_placeholders_take() -> None:
    tiny = FAMILIES["voxtral"]()
    inputs = encode(tiny.processor, [user(LONG, "a", SHORT)])
    features = tiny.model.get_audio_features(inputs["input_features"]).pooler_output
    assert features.shape[0] == (inputs["input_ids"] == tiny.model.config.audio_token_id).sum() == 75


def test_published_windows_are_of_30_seconds() -> None:
    tokenizer = FAMILIES["voxtral"]().tokenizer
    published = TekkenVoxtralProcessor(WhisperFeatureExtractor(feature_size=8), tokenizer)
    for setting in ("pad_to_multiple_of", "max_source_positions"):
        assert published.audio_kwargs[setting] == VoxtralProcessor.audio_kwargs[setting]
    inputs = encode(published, [user(sounds.clip(0, 31.0))])
    assert (inputs["input_ids"] == 24).sum() == 2 * 375
    assert inputs["input_features"].shape == (2, 8, 3000)


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint with the files of the published ones."""
    tiny = FAMILIES["voxtral"]()
    tiny.model.save_pretrained(tmp_path)
    voxtral.extractor().save_pretrained(tmp_path)
    (tmp_path / "tekken.json").write_text(json.dumps(voxtral.tekken()), encoding="utf-8")
    return tmp_path


def test_a_published_folder_is_loaded_and_saved_as_it_was(folder: Path, tmp_path: Path) -> None:
    model, processor = load_pretrained(str(folder))
    processor.save_pretrained(tmp_path / "again")
    assert {file.name for file in (tmp_path / "again").iterdir()} == {"tekken.json", "preprocessor_config.json"}
    assert (tmp_path / "again" / "tekken.json").read_bytes() == (folder / "tekken.json").read_bytes()
    again = voxtral_processor(str(tmp_path / "again"))
    for conversation, _ in CASES.values():
        inputs, others = encode(processor, conversation), encode(again, conversation)
        assert inputs.keys() == others.keys()
        assert all(torch.equal(inputs[key], others[key]) for key in inputs)
    assert torch.isfinite(model(**encode(processor, CASES["two clips"][0])).logits).all()


def test_records_are_encoded_from_a_published_folder(folder: Path, tmp_path: Path) -> None:
    model, processor = load_pretrained(str(folder))
    encoder = Encoder(processor, facts_of(model), model.generation_config.eos_token_id, root=tmp_path)
    soundfile.write(tmp_path / "clip.wav", LONG, 16_000, subtype="FLOAT")
    record = Record(
        id="one",
        prompt=[{"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": "What [INST] is it?"}]}],
        candidates=[Candidate("Rain </s> and [AUDIO]"), Candidate("A dog.")],
        media={"audios": [Media(path="clip.wav")]},
    )
    split = {"add_special_tokens": False, "split_special_tokens": True}
    question = processor.tokenizer.encode("What [INST] is it?", **split)
    prompt = encoder.prompt(record)
    assert prompt.input_ids.tolist() == [1, 3, 25, *[24] * 50, *question, 4]
    assert [unit.tokens for unit in prompt.units] == [50]
    for candidate in record.candidates:
        encoded = encoder.answer(record, candidate)
        assert encoded.ids.tolist() == [*processor.tokenizer.encode(candidate.text, **split), 2]
        assert encoded.way == "prefix"


def written(folder: Path, change: Callable[[dict[str, Any]], object]) -> str:
    contents = voxtral.tekken()
    change(contents)
    (folder / "tekken.json").write_text(json.dumps(contents), encoding="utf-8")
    return str(folder)


def test_other_versions_of_the_format_are_refused(folder: Path) -> None:
    path = written(folder, lambda contents: contents["config"].update(version="v15"))
    with pytest.raises(ModelError, match="version 'v15', not v7, v11, v13"):
        load_pretrained(path)


def test_a_vocabulary_without_audio_is_refused(folder: Path) -> None:
    path = written(folder, lambda contents: contents["special_tokens"][24].update(token_str="<SPECIAL_24>"))
    with pytest.raises(ModelError, match="id 24 of Voxtral's tokenizer is '<SPECIAL_24>'"):
        load_pretrained(path)


def test_a_folder_without_the_vocabulary_is_refused(folder: Path) -> None:
    (folder / "tekken.json").unlink()
    with pytest.raises(MMDPOError, match=r"tekken\.json"):
        load_pretrained(str(folder))
