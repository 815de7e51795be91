"""Loading by what a folder says of itself: thinkers of omni models, classes that no Auto mapping names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import Qwen2_5OmniConfig, Qwen2_5OmniForConditionalGeneration

from mmdpo.errors import ConfigError
from mmdpo.models.families import facts_of
from mmdpo.models.load import load_pretrained, part_of, require_parts
from mmdpo.policy import prepare
from tiny import FAMILIES


@pytest.mark.filterwarnings("ignore")  # the talker's default configuration names ids of the published vocabulary
def test_of_a_whole_omni_checkpoint_the_thinker_is_loaded(tmp_path: Path) -> None:
    tiny = FAMILIES["qwen2_5_omni"]()
    config = Qwen2_5OmniConfig(thinker_config=tiny.model.config.to_dict(), enable_audio_output=False)
    whole = Qwen2_5OmniForConditionalGeneration(config)
    whole.thinker.load_state_dict(tiny.model.state_dict())
    whole.save_pretrained(tmp_path)
    tiny.processor.save_pretrained(tmp_path)
    tiny.model.generation_config.save_pretrained(tmp_path)
    model, _ = load_pretrained(str(tmp_path))
    assert model.config.model_type == "qwen2_5_omni_thinker"
    assert model.generation_config.eos_token_id == tiny.stop_ids
    own, loaded = tiny.model.state_dict(), model.state_dict()
    assert own.keys() == loaded.keys() and all(torch.equal(own[name], loaded[name]) for name in own)


def test_a_class_that_no_mapping_names_is_loaded_by_its_own_name(tmp_path: Path) -> None:
    tiny = FAMILIES["audioflamingo3"]()
    tiny.model.save_pretrained(tmp_path)
    tiny.processor.save_pretrained(tmp_path)
    model, processor = load_pretrained(str(tmp_path))
    assert type(model) is type(tiny.model) and type(processor) is type(tiny.processor)


def test_a_part_that_is_not_known_is_refused_with_the_modules_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmdpo.models.families.PROJECTORS", ())
    tiny = FAMILIES["llava"]()
    with pytest.raises(ConfigError, match=r"projector of 'llava'(.|\n)*multi_modal_projector"):
        prepare(tiny.model, tiny.processor, trainable="llm+projector")


def test_a_nested_projector_is_told_from_its_tower() -> None:
    facts = facts_of(FAMILIES["qwen2_5_vl"]().model)
    assert part_of("model.visual.merger.mlp.0.weight", facts) == "projector"
    assert part_of("base_model.model.model.visual.merger.mlp.0.lora_A.default.weight", facts) == "projector"
    assert part_of("model.visual.blocks.0.mlp.up_proj.weight", facts) == "encoder"
    assert part_of("model.language_model.layers.0.mlp.up_proj.weight", facts) == "llm"
    require_parts(FAMILIES["qwen2_5_vl"]().model, facts, frozenset({"llm", "projector", "encoder"}))
