"""Whisper features: as many tokens as the clip is long, what the encoder gives, and nothing of the padding."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel

from composed.languages import WHISPER, clip
from mmdpo.errors import ConfigError, DataError
from mmdpo.media.audio import Audio
from mmdpo.modalities.encoders import concatenate
from mmdpo.modalities.whisper import WhisperFeatures

SHORT = WhisperFeatures(config=WHISPER, stack=4)
"""Windows of one second."""
REAL = WhisperFeatures(config={**WHISPER, "max_source_positions": 1500}, stack=4)
"""The published geometry: windows of 30 seconds."""


@pytest.mark.parametrize(
    ("seconds", "frames"),
    [(0.1, [5]), (29.99, [1500]), (30, [1500]), (30.01, [1500, 1]), (95, [1500, 1500, 1500, 250])],
)
@torch.no_grad()
def test_tokens_follow_the_real_length(seconds: float, frames: list[int]) -> None:
    """One frame for every 20 ms begun; the last window holds what is left of the clip."""
    item = clip(seconds)
    inputs = REAL.prepare(item)
    assert inputs["input_features"].shape == (1, len(frames), 80, 3000)
    assert inputs["lengths"].tolist() == [frames]

    (features,) = REAL.build()(**inputs)

    assert features.shape == (math.ceil(sum(frames) / 4), 4 * 16)
    assert REAL.tokens(item) == len(features)
    assert features.isfinite().all()


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("samples", [1, 7, 441, 16_000, 16_001, 44_099, 44_100, 70_003])
@torch.no_grad()
def test_the_declared_count_is_what_the_encoder_gives_at_every_rate(rate: int, samples: int) -> None:
    item = Audio(clip(1, samples).samples, rate)
    assert len(item.samples) == samples
    inputs = SHORT.prepare(item)

    (features,) = SHORT.build()(**inputs)

    assert len(features) == SHORT.tokens(item)
    resampled = math.ceil(samples * 16_000 / rate)
    windows = [min(16_000, resampled - start) for start in range(0, resampled, 16_000)]
    assert inputs["lengths"].tolist() == [[math.ceil(window / 320) for window in windows]]


@torch.no_grad()
def test_features_are_those_of_the_published_pipeline_without_its_padding() -> None:
    """Oracle: the feature extractor and the encoder as Whisper uses them, on 30 seconds padded with silence."""
    item = clip(7.3)
    extractor = WhisperFeatureExtractor(feature_size=80)
    mels = extractor(item.samples, sampling_rate=16_000, return_tensors="pt").input_features
    tower = REAL.build()
    frames = tower.encoder(mels).last_hidden_state[0]

    (features,) = tower(**REAL.prepare(item))

    whole = 7.3 * 50
    assert features.shape == (92, 64)  # 365 frames, three of the last group are zeros
    torch.testing.assert_close(features.reshape(-1, 16)[: round(whole)], frames[: round(whole)])
    assert torch.equal(features.reshape(-1, 16)[round(whole) :], torch.zeros(3, 16))


@torch.no_grad()
def test_a_clip_is_the_same_in_any_company() -> None:
    items = [clip(0.3, seed=1), clip(3.2, seed=2), clip(1.0, seed=3)]
    tower = SHORT.build()
    prepared = [SHORT.prepare(item) for item in items]
    batch = {name: concatenate([entry[name] for entry in prepared]) for name in SHORT.inputs}
    assert batch["input_features"].shape == (3, 4, 80, 100)

    together = tower(**batch)

    for entry, found in zip(prepared, together, strict=True):
        torch.testing.assert_close(found, tower(**entry)[0])


def test_windows_of_a_batch_that_are_padding_are_not_encoded() -> None:
    seen = []
    tower = SHORT.build()
    tower.encoder.register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
    prepared = [SHORT.prepare(item) for item in (clip(0.3), clip(3.2))]
    tower(**{name: concatenate([entry[name] for entry in prepared]) for name in SHORT.inputs})
    assert seen == [1 + 4]


def test_resampling_keeps_what_is_heard() -> None:
    """A tone at 1 kHz: the same mel frames from 44.1 kHz as from 16 kHz."""

    def tone(rate: int) -> Audio:
        return Audio(np.sin(2 * np.pi * 1000 * np.arange(rate) / rate).astype(np.float32), rate)

    found = SHORT.prepare(tone(44_100))["input_features"]
    direct = SHORT.prepare(tone(16_000))["input_features"]
    inner = slice(5, -5)  # the edges of the window see the filter's own
    assert (found - direct)[..., 10:30, inner].abs().max() < 0.02
    assert direct.std() > 0.3


def test_silence_is_heard_as_such() -> None:
    item = Audio(np.zeros(8_000, np.float32), 16_000)
    (features,) = SHORT.build()(**SHORT.prepare(item))
    assert features.shape == (7, 64)
    assert features.isfinite().all()


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros(0, np.float32), r"shape \(0,\)"),
        (np.zeros((2, 100), np.float32), r"shape \(2, 100\)"),
        (np.array([0.1, np.nan, 0.2], np.float32), "not finite"),
        (np.array([0.1, np.inf], np.float32), "not finite"),
    ],
)
def test_clips_that_cannot_be_heard_are_refused(samples: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        SHORT.prepare(Audio(samples, 16_000))


def test_a_pretrained_whisper_gives_its_sizes_and_its_weights(tmp_path: Path) -> None:
    config = WhisperConfig(
        **WHISPER, vocab_size=64, pad_token_id=0, decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=8
    )
    whisper = WhisperModel(config).eval()
    whisper.save_pretrained(tmp_path)

    encoder = WhisperFeatures(path=str(tmp_path), stack=2)

    assert encoder.width == 32
    assert encoder.window == 16_000
    loaded = encoder.load()
    for name, value in whisper.encoder.state_dict().items():
        assert torch.equal(loaded.encoder.state_dict()[name], value)
    # what is kept in a saved model needs no path
    assert replace(encoder, path=None).width == 32
    fresh = replace(encoder, path=None).load()
    assert not torch.equal(fresh.encoder.conv1.weight, whisper.encoder.conv1.weight)


def test_sizes_must_be_known() -> None:
    with pytest.raises(ConfigError, match="neither config nor path"):
        WhisperFeatures()
    with pytest.raises(ConfigError, match="stack is 0"):
        WhisperFeatures(config=WHISPER, stack=0)
