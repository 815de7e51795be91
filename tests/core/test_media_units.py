"""Which encoder inputs belong to which item: worked cases of every way in which processors stack them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from mmdpo.encoding.media_units import MediaUnit, media_units
from mmdpo.modalities.audio import AudioModality
from mmdpo.modalities.image import ImageModality

PICTURES = [Image.new("RGB", (8, 8)), Image.new("RGB", (4, 6)), Image.new("RGB", (2, 2))]


def places(*runs: int) -> Tensor:
    """Placeholder runs of these lengths, a text token between them."""
    return torch.tensor([inside for run in runs for inside in [True] * run + [False]])


def split(inputs: dict[str, Tensor], items: int, placeholders: Tensor, **options: Any) -> list[MediaUnit]:
    processor = options.pop("processor", SimpleNamespace(_get_num_multimodal_tokens=lambda **_: None))
    options.setdefault("tokens_needed", False)
    return media_units(ImageModality(), inputs, PICTURES[:items], placeholders, processor, **options)


def told(tokens: list[int], rows: list[int]) -> Any:
    """A processor that counts."""
    answer = SimpleNamespace(num_image_tokens=tokens, num_image_patches=rows)
    return SimpleNamespace(_get_num_multimodal_tokens=lambda image_sizes: answer)


def test_one_row_an_item() -> None:
    pixels = torch.arange(2.0)[:, None, None, None].expand(2, 3, 2, 2)
    units = split({"pixel_values": pixels}, 2, places(5, 7))
    assert [(unit.items, unit.rows, unit.tokens) for unit in units] == [(1, 1, 5), (1, 1, 7)]
    assert [float(unit.inputs["pixel_values"].max()) for unit in units] == [0.0, 1.0]


def test_patches_by_their_grid() -> None:
    grid = torch.tensor([[1, 2, 2], [1, 2, 4]])
    units = split({"pixel_values": torch.arange(12.0)[:, None], "image_grid_thw": grid}, 2, places(1, 2))
    assert [unit.inputs["pixel_values"][:, 0].tolist() for unit in units] == [[0, 1, 2, 3], [4, 5, 6, 7, 8, 9, 10, 11]]
    assert [unit.inputs["image_grid_thw"].tolist() for unit in units] == [[[1, 2, 2]], [[1, 2, 4]]]


def test_tiles_by_the_processors_count() -> None:
    tiles = torch.arange(4.0)[:, None].expand(4, 3)
    units = split({"pixel_values": tiles}, 2, places(3, 3, 3, 3), processor=told([9, 3], [3, 1]))
    assert [unit.inputs["pixel_values"][:, 0].tolist() for unit in units] == [[0, 1, 2], [3]]
    assert [(unit.rows, unit.tokens) for unit in units] == [(3, 9), (1, 3)]


def test_a_count_that_does_not_fit_is_not_used() -> None:
    tiles = torch.arange(4.0)[:, None].expand(4, 3)
    (unit,) = split({"pixel_values": tiles}, 2, places(3, 3, 3), processor=told([9, 9], [3, 3]))
    assert (unit.items, unit.rows, unit.tokens) == (2, 4, 9)


def test_tiles_along_the_second_dimension() -> None:
    tiles = torch.arange(4.0)[None, :, None, None, None].expand(1, 4, 3, 2, 2)
    masks = torch.ones(1, 4, 2, 2)
    inputs = {"pixel_values": tiles, "pixel_attention_mask": masks}
    units = split(inputs, 2, places(2, 2, 2, 2), processor=told([2, 6], [1, 3]))
    assert [unit.inputs["pixel_values"][0, :, 0, 0, 0].tolist() for unit in units] == [[0], [1, 2, 3]]
    assert [tuple(unit.inputs["pixel_attention_mask"].shape) for unit in units] == [(1, 1, 2, 2), (1, 3, 2, 2)]


def test_what_cannot_be_told_apart_stays_together() -> None:
    """LLaVA-OneVision treats the images of a prompt by their number, which is one entry for all of them."""
    inputs = {"pixel_values": torch.zeros(2, 1, 3, 2, 2), "batch_num_images": torch.tensor([2])}
    (unit,) = split(inputs, 2, places(4, 4))
    assert (unit.items, unit.tokens) == (2, 8)


def test_without_the_tokens_of_each_a_flat_encoder_gets_them_together() -> None:
    rows = torch.zeros(2, 4, 6)
    adjacent = places(5)
    assert len(split({"pixel_values": rows}, 2, adjacent)) == 2
    (unit,) = split({"pixel_values": rows}, 2, adjacent, tokens_needed=True)
    assert (unit.items, unit.tokens) == (2, 5)


def test_items_that_must_stay_together_do() -> None:
    (unit,) = split({"pixel_values": torch.zeros(2, 4, 6)}, 2, places(5, 7), together=True)
    assert (unit.items, unit.rows, unit.tokens) == (2, 2, 12)


def test_padding_to_a_neighbour_makes_no_other_item() -> None:
    tiles = torch.rand(1, 2, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    padded = torch.cat([tiles, torch.zeros(1, 1, 3, 2, 2)], 1)
    (alone,) = split({"pixel_values": tiles}, 1, places(4))
    (beside,) = split({"pixel_values": padded}, 1, places(4))
    (other,) = split({"pixel_values": padded + 1}, 1, places(4))
    assert alone.key == beside.key != other.key


def test_frames_that_a_mask_hides_make_no_other_clip() -> None:
    generator = torch.Generator().manual_seed(0)
    frames, noise = torch.rand(1, 4, 6, generator=generator), torch.rand(1, 4, 3, generator=generator)

    def key(features: Tensor, length: int) -> str:
        mask = (torch.arange(features.shape[-1]) < length).long()[None]
        inputs = {"input_features": features, "feature_attention_mask": mask}
        (unit,) = media_units(AudioModality(), inputs, [object()], places(2), SimpleNamespace(), tokens_needed=True)
        return unit.key

    assert key(frames, 6) == key(torch.cat([frames, noise], -1), 6)
    assert key(frames, 6) != key(frames, 5)


def test_no_placeholder_gives_no_count() -> None:
    (unit,) = split({"pixel_values": torch.zeros(1, 3, 2, 2)}, 1, torch.zeros(4, dtype=torch.bool))
    assert unit.tokens is None


def composed(values: Tensor, length: int, placeholders: Tensor, declared: list[int]) -> list[MediaUnit]:
    """Units of a composed model's items, whose encoder says how many tokens each becomes."""
    encoder = SimpleNamespace(tokens=lambda item: item)
    inputs = {"values": values, "lengths": torch.full((len(values),), length)}
    return media_units(
        AudioModality(),
        inputs,
        declared,
        placeholders,
        SimpleNamespace(encoders={"audio": encoder}),
        tokens_needed=False,
    )


def test_an_encoder_of_our_own_says_how_many_tokens_adjacent_items_have() -> None:
    units = composed(torch.ones(2, 4, 3), 4, places(7), [3, 4])
    assert [unit.tokens for unit in units] == [3, 4]


def test_padding_of_a_composed_models_item_makes_no_other_item() -> None:
    values = torch.rand(1, 3, 2, generator=torch.Generator().manual_seed(0)) + 0.1
    padded = torch.nn.functional.pad(values, (0, 0, 0, 5))
    (alone,) = composed(values, 3, places(3), [3])
    (beside,) = composed(padded, 3, places(3), [3])
    (longer,) = composed(padded, 8, places(8), [8])
    assert alone.key == beside.key != longer.key
