"""CLIP towers in front of a language model: what they give is what the libraries' own forward gives."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoModelForMultimodalLM, AutoProcessor, CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

from composed.languages import encode, language_model
from mmdpo.errors import ConfigError
from mmdpo.modalities.clip import ClipPatches, OpenClipPatches
from mmdpo.modalities.encoders import MediaEncoder
from mmdpo.models.composed import compose

TOWER = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 24,
    "patch_size": 8,
}


@pytest.fixture(autouse=True)
def tiny_open_clip(tmp_path: Path) -> Iterator[None]:
    """`open_clip` knows its architectures by name; one more, small enough for a test."""
    config = {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 24, "layers": 3, "width": 16, "head_width": 8, "patch_size": 8},
        "text_cfg": {"context_length": 8, "vocab_size": 32, "width": 8, "heads": 2, "layers": 1},
    }
    (tmp_path / "tiny-clip.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "tiny-clip.json")
    yield
    del open_clip.factory._MODEL_CONFIGS["tiny-clip"]


@torch.no_grad()
def test_patch_tokens_of_transformers(images: list[Image.Image], tmp_path: Path) -> None:
    clip = CLIPVisionModel(CLIPVisionConfig(**TOWER)).eval()
    clip.save_pretrained(tmp_path)
    prepared = CLIPImageProcessor(
        size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24}, image_mean=[0.5] * 3
    )
    prepared.save_pretrained(tmp_path)
    encoder = ClipPatches(path=str(tmp_path))
    assert encoder.width == 16

    found = encoder.load()(**encoder.prepare(images[1]))

    pixels = prepared(images=images[1], return_tensors="pt")["pixel_values"]
    hidden = clip(pixels, output_hidden_states=True).hidden_states[-2]
    assert len(found[0]) == encoder.tokens(images[1]) == 9
    torch.testing.assert_close(found[0], hidden[0, 1:])
    # without the folder: the settings are kept, the weights are not
    kept = replace(encoder, path=None)
    assert torch.equal(kept.prepare(images[1])["pixel_values"], pixels)


@pytest.mark.parametrize("layer", [-2, -1])
@torch.no_grad()
def test_patch_tokens_of_open_clip(images: list[Image.Image], tmp_path: Path, layer: int) -> None:
    clip, _, transform = open_clip.create_model_and_transforms("tiny-clip")
    clip.eval()
    save_file(clip.state_dict(), tmp_path / "clip.safetensors")
    encoder = OpenClipPatches(model="tiny-clip", path=str(tmp_path / "clip.safetensors"), layer=layer)

    found = encoder.load()(**encoder.prepare(images[2]))

    pixels = transform(images[2])[None]
    assert torch.equal(encoder.prepare(images[2])["pixel_values"], pixels)
    layers = []
    for block in clip.visual.transformer.resblocks:
        block.register_forward_hook(lambda module, args, output: layers.append(output))
    clip.encode_image(pixels)
    assert len(found[0]) == encoder.tokens(images[2]) == 9
    torch.testing.assert_close(found[0], layers[layer].reshape(10, 16)[1:])


@pytest.mark.parametrize(
    "encoder", [ClipPatches(config=TOWER), {"kind": "open_clip", "model": "tiny-clip"}], ids=["clip", "open_clip"]
)
@torch.no_grad()
def test_a_clip_enhanced_language_model(
    encoder: MediaEncoder | dict[str, str], images: list[Image.Image], tmp_path: Path
) -> None:
    llm, tokenizer = language_model()
    model, processor = compose(llm, {"image": encoder}, tokenizer=tokenizer)
    parts = [{"type": "image", "image": image} for image in images[:2]]
    conversation = [{"role": "user", "content": [*parts, {"type": "text", "text": "Which?"}]}]
    inputs = encode(processor, conversation)
    assert (inputs["input_ids"] == processor.image_token_id).sum() == 18
    model.save_pretrained(tmp_path / "out")
    processor.save_pretrained(tmp_path / "out")

    loaded = AutoModelForMultimodalLM.from_pretrained(tmp_path / "out")
    found = encode(AutoProcessor.from_pretrained(tmp_path / "out"), conversation)

    assert torch.equal(loaded(**found).logits, model(**inputs).logits)
    swapped = [{"role": "user", "content": [*parts[::-1], {"type": "text", "text": "Which?"}]}]
    assert (model(**encode(processor, swapped)).logits - model(**inputs).logits).abs().max() > 1e-3


def test_towers_that_cannot_be_used() -> None:
    with pytest.raises(ConfigError, match="neither config nor path"):
        ClipPatches()
    with pytest.raises(ConfigError, match="'RN50' gives no patch tokens"):
        OpenClipPatches(model="RN50")
    with pytest.raises(ConfigError, match="open_clip does not know it"):
        OpenClipPatches(model="ViT-Z")
    with pytest.raises(ConfigError, match="Only safetensors files are read"):
        OpenClipPatches(model="tiny-clip", path="weights.pt")
