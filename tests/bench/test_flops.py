"""The formulas: against numbers worked by hand, and the ceilings that the page prints."""

import re
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mmdpo.bench import ceilings
from mmdpo.bench.data import Sizes
from mmdpo.bench.flops import (
    REFERENCES,
    Step,
    Weights,
    ceiling,
    computed_flops,
    needed_flops,
    token_cost,
    weights_of,
)
from mmdpo.bench.models import build_model, build_processor
from mmdpo.bench.shapes import SHAPES, Shape, get_shape, with_pixels
from mmdpo.errors import ConfigError

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "performance.md").read_text(encoding="utf-8")
LENGTHS = (40, 90, 150, 400)
PARAMETERS = {
    "llava-1.5-7b": 7_063_427_072,
    "llava-onevision-7b": 8_029_890_080,
    "qwen2.5-vl-3b": 3_754_622_976,
    "qwen2.5-vl-7b": 8_292_166_656,
}
TOY = Shape("llava", {}, {}, (56, 56), image_tokens=10, tower_tokens=20, prefix=100)
WEIGHTS = Weights(layers=900, head=100, tower=500, adapter=0, attention=0)


def test_the_page_has_the_ceilings_that_the_command_prints() -> None:
    rows = re.findall(r"^\| (\S+?),? [^|]*((?:\| [\d.]+ / [\d.]+ / [\d.]+ )+)\|$", PAGE, re.MULTILINE)
    told = {name.lower(): [cell.strip() for cell in cells.split("|")[1:]] for name, cells in rows}
    found = ceilings.run(list(told), LENGTHS, (2,))["ceilings"]
    assert len(told) == 5
    for name, cells in told.items():
        own = [row for row in found if row["shape"] == name]
        assert [" / ".join(f"{row[kind]:.2f}" for kind in REFERENCES) for row in own] == cells, name


def test_the_page_has_the_ceilings_of_eight_answers() -> None:
    told = re.search(r"reference computed on both sides: ([\d.]+) \(answers of 40\), ([\d.,() \n]+)\.\n", PAGE)
    assert told is not None
    numbers = re.findall(r"(\d+\.\d)", told[0])
    found = ceilings.run(["llava-1.5-7b"], LENGTHS, (8,))["ceilings"]
    assert [f"{row['fresh']:.1f}" for row in found] == numbers


def test_the_rule_of_tokens_by_hand() -> None:
    """Weights of 1000 a token. A pair after 100 tokens, answers of 25: 150 tokens shared, 250 in rows of their own."""
    step = Step(TOY, Sizes(1, 2, 25), checkpointing=False)
    assert token_cost(WEIGHTS, step, "shared", "fresh") == 3 * 150 * 1000 + 20 * 500
    assert token_cost(WEIGHTS, step, "shared", "cached") == 2 * 150 * 1000 + 20 * 500
    assert token_cost(WEIGHTS, step, "shared", "features") == 2 * 150 * 1000
    assert token_cost(WEIGHTS, step, "plain", "fresh") == 3 * 250 * 1000 + 20 * 500
    assert token_cost(WEIGHTS, step, "trl", "fresh") == 3 * 250 * 1000 + 2 * 2 * 20 * 500  # two rows, two models
    looked_up = ceiling(WEIGHTS, step, "shared", "cached", "shared", "fresh")
    assert looked_up == pytest.approx((3 * 150 * 1000 + 10_000) / (2 * 150 * 1000 + 10_000))
    again = Step(TOY, Sizes(1, 2, 25), checkpointing=True)
    assert token_cost(WEIGHTS, again, "shared", "fresh") == 4 * 150 * 1000 + 20 * 500
    assert token_cost(WEIGHTS, again, "trl", "fresh") == 4 * 250 * 1000 + 2 * 4 * 20 * 500  # its tower trains along


def test_operations_by_hand() -> None:
    """Two operations a weight and token; the head on 50 answer tokens, forward and backward; the tower once."""
    step = Step(TOY, Sizes(3, 2, 25), checkpointing=False)
    layers, head, tower = 2 * 150 * 900, 2 * 50 * 100, 2 * 20 * 500
    assert needed_flops(WEIGHTS, step, "cached") == 3 * (2 * layers + 2 * head + tower)
    assert needed_flops(WEIGHTS, step, "fresh") == 3 * (3 * layers + 3 * head + tower)
    assert computed_flops(WEIGHTS, step, "shared", "fresh", "cpu") == needed_flops(WEIGHTS, step, "fresh")
    rows = 2 * 250 * 900
    on_gpu = 3 * (3 * rows + 3 * head + 4 * tower)
    assert computed_flops(WEIGHTS, step, "trl", "fresh", "cuda") == on_gpu
    everywhere = 3 * 3 * 2 * 200 * 100  # and on the 200 tokens of the two prompts where there is no Triton
    assert computed_flops(WEIGHTS, step, "trl", "fresh", "cpu") == on_gpu + everywhere


def test_the_needed_operations_are_those_that_a_counter_sees() -> None:
    """The layers of one plain row; the counter takes attention for all pairs, whatever the mask."""
    shape = get_shape("tiny")
    processor = build_processor(shape)
    model = build_model(shape, processor.tokenizer)
    weights = weights_of(model, rank=0)
    ids = torch.zeros((1, 72), dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        model.model.language_model(input_ids=ids, use_cache=False)
    full_attention = 4 * weights.attention * 72 * 72
    assert counter.get_total_flops() == 2 * 72 * weights.layers + full_attention


@pytest.mark.parametrize("name", PARAMETERS)
def test_shapes_have_the_published_numbers_of_parameters(name: str) -> None:
    shape = get_shape(name)
    model = build_model(shape, build_processor(shape).tokenizer, device="meta", dtype=torch.bfloat16)
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", ["small-2k", "llava-1.5-7b", "llava-onevision-7b", "qwen2.5-vl-7b"])
def test_images_take_the_tokens_that_the_formulas_count(name: str) -> None:
    from mmdpo.bench.data import make_records
    from mmdpo.encoding.example import Encoder
    from mmdpo.models.families import facts_of

    shape = get_shape(name)
    processor = build_processor(shape)
    model = build_model(shape, processor.tokenizer, device="meta")
    facts = facts_of(model)
    encoder = Encoder(processor, facts, [processor.tokenizer.eos_token_id])
    records = make_records(shape, Sizes(2, 3, 17), encoder)
    for record in records:
        prompt = encoder.prompt(record)
        assert len(prompt.input_ids) == shape.prefix
        assert int((prompt.input_ids == facts.media_token_ids["image"]).sum()) == shape.image_tokens
        assert [len(encoder.answer(record, candidate).ids) for candidate in record.candidates] == [17] * 3
    pixels = encoder.prompt(records[0]).units[0].inputs["pixel_values"]
    patch = shape.vision["patch_size"]
    if shape.family == "qwen2_5_vl":
        assert len(pixels) == shape.tower_tokens
    else:  # views of an image, each with a class token in CLIP
        views = pixels.numel() // (3 * shape.vision["image_size"] ** 2)
        assert views * ((shape.vision["image_size"] // patch) ** 2 + (shape.family == "llava")) == shape.tower_tokens


def test_another_image_size() -> None:
    small = with_pixels(get_shape("small-2k"), 112)
    assert (small.image_tokens, small.tower_tokens, small.prefix) == (64, 65, 104)
    for name, side in (("small-2k", 100), ("qwen2.5-vl-7b", 112)):
        with pytest.raises(ConfigError, match="do not go with this shape"):
            with_pixels(get_shape(name), side)


def test_an_unknown_shape_is_told_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no shape 'llava-1\.5-8b'") as caught:
        get_shape("llava-1.5-8b")
    assert "llava-1.5-7b" in caught.value.fix
    assert set(PARAMETERS) < set(SHAPES)
