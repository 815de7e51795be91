"""Voxtral's prompts and features beside those of the package that published checkpoints are used with."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from transformers import VoxtralProcessor, WhisperFeatureExtractor

from mmdpo.models.mistral_common import VERSIONS, TekkenTokenizer, TekkenVoxtralProcessor
from tiny import sounds, voxtral
from voxtral_conversations import CASES, Conversation, encode, user

mistral_common = pytest.importorskip(
    "mistral_common", reason="mistral-common, the package that is compared with, is not installed"
)


def published(file: Path, extractor: WhisperFeatureExtractor, conversation: Conversation) -> dict[str, torch.Tensor]:
    """What transformers makes of a conversation with the package's own tokenizer: clips as files in base 64."""
    from transformers import MistralCommonBackend

    mode = "finetuning" if conversation[-1]["role"] == "assistant" else "test"
    processor = VoxtralProcessor(extractor, MistralCommonBackend.from_pretrained(file.parent, mode=mode))
    processor.audio_kwargs = VoxtralProcessor.audio_kwargs | {
        "pad_to_multiple_of": extractor.n_samples,
        "max_source_positions": extractor.nb_max_frames,
    }
    return dict(processor.apply_chat_template([as_files(message) for message in conversation]))


def as_files(message: dict[str, Any]) -> dict[str, Any]:
    if isinstance(message["content"], str):
        return message
    parts = []
    for part in message["content"]:
        if part["type"] == "audio":
            buffer = io.BytesIO()
            soundfile.write(buffer, part["audio"], voxtral.RATE, format="WAV", subtype="FLOAT")
            parts.append({"type": "audio", "base64": base64.b64encode(buffer.getvalue()).decode()})
        else:
            parts.append(part)
    return {**message, "content": parts}


def assert_same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours["input_ids"].tolist() == theirs["input_ids"].tolist()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("version", VERSIONS)
def test_ids_and_features_are_those_of_mistral_common(tmp_path: Path, version: str) -> None:
    file = tmp_path / "tekken.json"
    file.write_text(json.dumps(voxtral.tekken(version)), encoding="utf-8")
    ours = TekkenVoxtralProcessor(voxtral.extractor(), TekkenTokenizer.from_file(file))
    for conversation, _ in CASES.values():
        assert_same(encode(ours, conversation), published(file, voxtral.extractor(), conversation))


@pytest.fixture(scope="module")
def whole_vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The 130,072 merges that the package brings, behind Voxtral's control tokens."""
    contents = json.loads((Path(mistral_common.__file__).parent / "data" / "tekken_240911.json").read_text("utf-8"))
    small = voxtral.tekken()
    small["audio"]["chunk_length_s"] = 30.0
    small["audio"]["audio_encoding_config"]["num_mel_bins"] = 128
    contents = {
        "config": contents["config"] | {"version": "v11"},
        "vocab": contents["vocab"],
        "special_tokens": small["special_tokens"],
        "audio": small["audio"],
    }
    file = tmp_path_factory.mktemp("whole") / "tekken.json"
    file.write_text(json.dumps(contents), encoding="utf-8")
    yield file
    file.unlink()


@pytest.mark.slow
def test_the_same_with_the_published_merges_and_windows(whole_vocabulary: Path) -> None:
    extractor = WhisperFeatureExtractor(feature_size=128)
    ours = TekkenVoxtralProcessor(extractor, TekkenTokenizer.from_file(whole_vocabulary))
    for name in ("several turns", "control tokens in a prompt", "other scripts", "spaces and digits"):
        assert_same(encode(ours, CASES[name][0]), published(whole_vocabulary, extractor, CASES[name][0]))
    long = [user(sounds.clip(2, 65.0), "What?")]
    assert_same(encode(ours, long), published(whole_vocabulary, extractor, long))


@pytest.mark.slow
def test_text_of_every_kind_is_cut_as_by_mistral_common(whole_vocabulary: Path) -> None:
    from mistral_common.tokens.tokenizers.tekken import Tekkenizer

    theirs, ours = Tekkenizer.from_file(whole_vocabulary), TekkenTokenizer.from_file(whole_vocabulary)
    generator = np.random.default_rng(0)
    alphabets = [
        list("abcXYZ .,!?'\n\t  0123"),
        list("éßøœ ’“—мирПривет "),
        list("漢字かな한국어，。مرحباनमस्ते "),
        list("🙂🎉👩\u200d\ufeff\u00a0\u2028\u3000\r\n\x0b\x85"),
        ["[INST]", "</s>", "[", "]", "<SPECIAL_999>", "[AUDIO]"],
    ]
    texts = [
        "".join(str(generator.choice(alphabets[generator.integers(5)])) for _ in range(generator.integers(1, 40)))
        for _ in range(3000)
    ]
    texts += [file.read_text("utf-8") for file in sorted((Path(__file__).parents[1] / "docs").glob("*.md"))]
    for text in texts:
        expected = theirs.encode(text, bos=False, eos=False)
        assert ours.encode(text, add_special_tokens=False, split_special_tokens=True) == expected
        assert ours.encode(ours.as_text(text), add_special_tokens=False) == expected
