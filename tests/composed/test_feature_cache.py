"""Features of composed models across steps: encoders of several modalities give lists, one of them without weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from composed.languages import composed
from composed.test_training import RECORDS, events
from core.test_feature_cache import GB, assert_same, step
from mmdpo.collate import Collator
from mmdpo.encoding.example import Encoder
from mmdpo.feature_caching import cached_as
from mmdpo.features.cache import FeatureCache
from mmdpo.features.files import FeatureFiles
from mmdpo.models.load import Trainable
from mmdpo.policy import prepare
from mmdpo.views import View

__all__ = ["events"]


@pytest.mark.parametrize("trainable", ["llm", "llm+projector"])
def test_bit_equal_and_the_encoder_rests(trainable: Trainable, tmp_path: Path) -> None:
    model, processor = composed()
    policy = prepare(model, processor, trainable=trainable, lora=None)
    batch = Collator(Encoder(processor, policy.facts, policy.eos_ids), [View(0), View(1)])(list(enumerate(RECORDS)))
    calls: list[int] = []
    model.model.encoders["audio"].encoder.register_forward_hook(lambda *_: calls.append(1))
    plain = step(model, batch)
    store = model.mmdpo_scoring.features
    for _ in range(2):  # filled, then read from disk by another process
        cache = FeatureCache(GB, FeatureFiles(tmp_path, GB))
        store.cached = cached_as(cache, model, processor, store.frozen)
        assert_same(step(model, batch), plain)
        done = len(calls)
        assert_same(step(model, batch), plain)
        assert len(calls) == done
    assert done <= 3 and cache.misses == 0
