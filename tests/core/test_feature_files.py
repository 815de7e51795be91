"""Features on disk and in memory: every ingredient counts, nothing damaged is read, limits are kept."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPooling

from mmdpo import feature_caching, fingerprints
from mmdpo.checked_tensors import to_bytes
from mmdpo.feature_caching import ingredients
from mmdpo.features.cache import TOUCH, CachedFeatures, FeatureCache
from mmdpo.features.files import FeatureFiles, Packed, UnknownPart, pack, unpack
from mmdpo.models.load import Lora
from mmdpo.policy import LoadedModel, prepare
from tiny import FAMILIES

MB = 2**20
CPU = torch.device("cpu")


def tree(seed: int, size: int = 256) -> dict[str, Any]:
    """Features of [size, 32] float32: size / 8 KiB."""
    return {"groups": torch.randn(size, 32, generator=torch.Generator().manual_seed(seed)), "layers": None}


def filled(folder: Path, count: int, limit: int = MB) -> FeatureFiles:
    files = FeatureFiles(folder, limit)
    for n in range(count):
        files.write("model", f"{n:032x}", pack(tree(n)))
    return files


def paths(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*/*.safetensors"))


# --- packing --------------------------------------------------------------------------------------------------------


def test_any_nesting_comes_back_as_it_was(tmp_path: Path) -> None:
    output = BaseModelOutputWithPooling(
        last_hidden_state=torch.zeros(0), hidden_states=(torch.ones(2, 3, dtype=torch.bfloat16), torch.arange(4.0))
    )
    nested = {
        "groups": [torch.randn(3, 2)[1:], torch.tensor([True, False])],
        "layers": (None, 2, "two", 0.5),
        "output": (BaseModelOutput, tuple),
        "calls": [(4, output)],
    }
    files = FeatureFiles(tmp_path, MB)
    files.write("model", "ab" * 16, pack(nested))
    packed = files.read("model", "ab" * 16)
    assert packed is not None
    found = unpack(packed, "cpu")
    assert found["layers"] == nested["layers"] and found["output"] == nested["output"]
    for ours, theirs in zip(found["groups"], nested["groups"], strict=True):
        assert torch.equal(ours, theirs) and ours.dtype == theirs.dtype
    rows, restored = found["calls"][0]
    assert rows == 4 and type(restored) is BaseModelOutputWithPooling and list(restored) == list(output)
    assert torch.equal(restored.hidden_states[0], output.hidden_states[0])
    assert restored.hidden_states[0].dtype == torch.bfloat16


def test_a_view_takes_the_room_of_its_own_part() -> None:
    whole = torch.randn(100, 32)
    packed = pack(whole[:2])
    assert packed.bytes == packed.tensors["0"].untyped_storage().nbytes() == 2 * 32 * 4


def test_a_file_cannot_name_any_class() -> None:
    for name in ("os:system", "builtins:eval", "transformers.utils.generic:ExplicitEnum", "transformers.nothing:X"):
        with pytest.raises((UnknownPart, ModuleNotFoundError)):
            unpack(Packed({"class": name}, {}), "cpu")


def test_what_cannot_be_kept_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    cache = FeatureCache(MB)
    for n in range(2):
        odd = {"groups": torch.ones(1), "common": {"what": {1, 2}}}
        assert cache.put("model", str(n), odd, CPU) is odd
    assert len(cache) == 0
    assert [record.getMessage() for record in caplog.records] == [
        "features are not kept: the encoder's output holds a set"
    ]


# --- files ----------------------------------------------------------------------------------------------------------


def damaged_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


def damaged_value(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [damaged_header, damaged_value, emptied])
def test_a_damaged_file_is_removed_and_its_item_computed_again(
    damage: Callable[[Path], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = filled(tmp_path, 2)
    damage(paths(tmp_path)[0])
    assert files.read("model", f"{0:032x}") is None
    assert "damaged" in caplog.text and len(paths(tmp_path)) == 1
    files.write("model", f"{0:032x}", pack(tree(0)))
    assert files.read("model", f"{0:032x}") is not None


def test_a_change_of_any_byte_is_a_miss(tmp_path: Path) -> None:
    """In a value, the structure, a tensor's number, precision or shape, and the rest of the header."""
    small = {"groups": [torch.tensor([1.5, -2.0]), torch.arange(3)], "layers": (1, "two")}
    files = FeatureFiles(tmp_path, MB)
    files.write("model", "ab" * 16, pack(small))
    (path,) = paths(tmp_path)
    data, found = path.read_bytes(), []
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        if (packed := files.read("model", "ab" * 16)) is not None:
            found.append(unpack(packed, "cpu"))
    assert len(found) < 3
    for same in found:
        assert same["layers"] == small["layers"] and all(map(torch.equal, same["groups"], small["groups"]))


@pytest.mark.parametrize(("precision", "other"), [(b"float32", b"floaX32"), (b"float32", b"float16"), (b"F32", b"I32")])
def test_another_precision_in_the_header_is_a_miss(precision: bytes, other: bytes, tmp_path: Path) -> None:
    cache = FeatureCache(MB, filled(tmp_path, 1))
    (path,) = paths(tmp_path)
    assert precision in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(precision, other))
    assert cache.get("model", f"{0:032x}", CPU) is None
    assert cache.misses == 1 and not path.exists()


def test_a_whole_file_of_something_unknown_is_a_miss(tmp_path: Path) -> None:
    """A class that is not there any more, or that no file of ours would name."""
    files = filled(tmp_path, 1)
    (path,) = paths(tmp_path)
    for structure in ({"class": "os:system"}, {"tensor": "7", "dtype": "float32"}, {"tensor": "0", "dtype": "floaX32"}):
        path.write_bytes(to_bytes({"0": torch.ones(2)}, {"structure": json.dumps(structure)}))
        assert FeatureCache(MB, files).get("model", f"{0:032x}", CPU) is None


def test_files_longest_unused_make_room(tmp_path: Path) -> None:
    """Twenty items of 32 KiB and a limit of twelve: what was read is kept, what is older goes."""
    limit = 12 * 33 * 1024
    files = filled(tmp_path, 8, limit)
    for n, path in enumerate(paths(tmp_path)):
        os.utime(path, (1000 + n, 1000 + n))
    assert files.read("model", f"{0:032x}") is not None  # used now
    for n in range(8, 16):
        files.write("model", f"{n:032x}", pack(tree(n)))
    left = {int(path.stem, 16) for path in paths(tmp_path)}
    assert sum(path.stat().st_size for path in paths(tmp_path)) <= limit
    assert {0, 13, 14, 15} <= left and not {1, 2, 3} & left


def test_what_memory_gives_is_in_use_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ten items two are read all the time, from memory: they are the last to make room."""
    clock = [1000.0]
    monkeypatch.setattr("mmdpo.features.cache.time.monotonic", lambda: clock[0])
    cache = FeatureCache(MB, FeatureFiles(tmp_path, 10 * 33 * 1024))
    for n in range(10):
        cache.put("model", f"{n:032x}", tree(n), CPU)
    for n, path in enumerate(paths(tmp_path)):
        os.utime(path, (1000 + n, 1000 + n))
    for n in (0, 1):
        assert cache.get("model", f"{n:032x}", CPU) is not None
    for n in range(10, 15):
        cache.put("model", f"{n:032x}", tree(n), CPU)
    left = {int(path.stem, 16) for path in paths(tmp_path)}
    assert {0, 1, 14} <= left and not {2, 3, 4} & left

    touched: list[str] = []
    monkeypatch.setattr(FeatureFiles, "touch", lambda files, fingerprint, key: touched.append(key))
    for later in (1, 1, TOUCH, 1):
        clock[0] += later
        cache.get("model", f"{0:032x}", CPU)
    assert len(touched) == 1, "a file's time is set at every use"


def test_a_limit_below_one_item_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for cache, name in ((FeatureCache(MB, FeatureFiles(tmp_path, 1000)), "disk_gb"), (FeatureCache(1000), "memory_gb")):
        caplog.clear()
        for n in range(3):
            cache.put("model", f"{n:032x}", tree(n), CPU)
        assert not paths(tmp_path)
        (told,) = [record.getMessage() for record in caplog.records]
        assert f"features.{name} allows {1000}" in told and "not kept" in told


def test_another_models_features_count_too_and_other_files_do_not(tmp_path: Path) -> None:
    limit = 6 * 33 * 1024
    (tmp_path / "notes.txt").write_text("mine")
    old = FeatureFiles(tmp_path, limit)
    for n in range(5):
        old.write("older", f"{n:032x}", pack(tree(n)))
    for path in paths(tmp_path):
        os.utime(path, (1000, 1000))
    filled(tmp_path, 5, limit)
    assert len(list((tmp_path / "model").glob("*/*"))) == 5
    assert len(paths(tmp_path)) <= 6 and (tmp_path / "notes.txt").read_text() == "mine"


def test_two_processes_write_the_same_once(tmp_path: Path) -> None:
    first, second = FeatureFiles(tmp_path, MB), FeatureFiles(tmp_path, MB)
    first.write("model", "ab" * 16, pack(tree(0)))
    (path,) = paths(tmp_path)
    written = path.stat().st_mtime_ns, path.read_bytes()
    second.write("model", "ab" * 16, pack(tree(0)))
    assert (path.stat().st_mtime_ns, path.read_bytes()) == written
    assert second.read("model", "ab" * 16) is not None


def test_unfinished_files_are_not_read_and_old_ones_go(tmp_path: Path) -> None:
    files = filled(tmp_path, 1)
    folder = paths(tmp_path)[0].parent
    for name, age in ((".killed.1.tmp", 9000), (".busy.2.tmp", 0)):
        (folder / name).write_bytes(b"half")
        os.utime(folder / name, (time.time() - age,) * 2)
    files.write("model", f"{1:032x}", pack(tree(1)))
    FeatureFiles(tmp_path, MB).write("model", f"{2:032x}", pack(tree(2)))
    assert [path.name for path in tmp_path.glob("*/*/.*")] == [".busy.2.tmp"]


def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "model").write_text("a file where a folder should be")
    cache = FeatureCache(MB, FeatureFiles(tmp_path, MB))
    for n in range(3):
        cache.put("model", f"{n:032x}", tree(n), CPU)
    assert len(cache) == 3
    assert len([record for record in caplog.records if "not kept on disk" in record.getMessage()]) == 1


def test_memory_keeps_what_was_used_last() -> None:
    cache = FeatureCache(3 * 32 * 1024)
    for n in range(3):
        cache.put("model", str(n), tree(n), CPU)
    assert cache.get("model", "0", CPU) is not None
    cache.put("model", "3", tree(3), CPU)
    assert cache.get("model", "1", CPU) is None
    assert torch.equal(cache.get("model", "0", CPU)["groups"], tree(0)["groups"])
    cache.put("model", "large", tree(4, 2000), CPU)  # larger than all there is: the others stay
    assert len(cache) == 3 and cache.used == 3 * 32 * 1024


# --- ingredients ----------------------------------------------------------------------------------------------------


def loaded(trainable: Any = "llm", **options: Any) -> LoadedModel:
    tiny = FAMILIES["llava"](**options)
    return prepare(tiny.model, tiny.processor, trainable=trainable, lora=Lora(r=2, alpha=4))


def changed_tower(policy: LoadedModel) -> None:
    weight = next(value for name, value in policy.inner.named_parameters() if "vision_tower" in name)
    with torch.no_grad():
        weight.view(-1)[3] += 1e-6


def changed_projector(policy: LoadedModel) -> None:
    with torch.no_grad():
        policy.inner.model.multi_modal_projector.linear_2.bias[0] += 1e-3


def changed_layer(policy: LoadedModel) -> None:
    policy.inner.config.vision_feature_layer = -1


def changed_pixels(policy: LoadedModel) -> None:
    policy.processor.image_processor.image_mean = [0.1, 0.2, 0.3]


def changed_precision(policy: LoadedModel) -> None:
    policy.inner.to(torch.bfloat16)


def changed_attention(policy: LoadedModel) -> None:
    policy.inner.config.vision_config._attn_implementation = "eager"


@pytest.mark.parametrize(
    ("names", "change"),
    [
        ({"weights"}, changed_tower),
        ({"weights"}, changed_projector),
        ({"config"}, changed_layer),
        ({"processor"}, changed_pixels),
        ({"weights", "numerics"}, changed_precision),
        ({"numerics"}, changed_attention),
    ],
)
def test_every_ingredient_counts(names: set[str], change: Callable[[LoadedModel], None]) -> None:
    policy = loaded()
    before = ingredients(policy.model, policy.processor, "all")
    assert before == ingredients(loaded().model, loaded().processor, "all")
    change(policy)
    after = ingredients(policy.model, policy.processor, "all")
    assert {name for name in before if before[name] != after[name]} == names


@pytest.mark.parametrize("name", ["versions", "code", "format"])
def test_circumstances_count(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = loaded()
    before = ingredients(policy.model, policy.processor, "all")
    if name == "versions":
        monkeypatch.setattr(fingerprints, "version", lambda package: "0.0")
    elif name == "format":
        monkeypatch.setattr(feature_caching, "FORMAT", 99)
    else:
        policy.inner.model.vision_tower.extra = _Own()
    after = ingredients(policy.model, policy.processor, "all")
    assert {key for key in before if before[key] != after[key]} == {name}


class _Own(torch.nn.Module):
    """A module whose code is in no library."""


def test_the_language_model_and_an_adapter_in_it_do_not_count() -> None:
    """So that evaluations before and after training share their features."""
    policy = loaded()
    plain = FAMILIES["llava"]()
    before = ingredients(plain.model, plain.processor, "all")
    with torch.no_grad():
        for name, parameter in policy.inner.named_parameters():
            if "language_model" in name:
                parameter.add_(0.1)
    assert ingredients(policy.model, policy.processor, "all") == before


def test_an_adapter_in_the_encoder_counts_while_it_is_on() -> None:
    policy = loaded("all")
    plain = FAMILIES["llava"]()
    base = ingredients(plain.model, plain.processor, "all")
    on = ingredients(policy.model, policy.processor, "all")
    assert on["weights"] != base["weights"] and on["adapter"] != "none"
    with policy.model.disable_adapter():
        off = ingredients(policy.model, policy.processor, "all")
    assert off["weights"] == base["weights"] and off["adapter"] == "none"


def test_the_projector_counts_only_where_its_output_is_kept() -> None:
    policy = loaded()
    before = ingredients(policy.model, policy.processor, "tower")
    changed_projector(policy)
    assert ingredients(policy.model, policy.processor, "tower") == before


def test_modality_content_and_matrix_precision_are_of_each_item() -> None:
    cached = CachedFeatures(FeatureCache(MB), "model", "all")
    value: Tensor = torch.ones(2)
    cached.put("image", "key", value, CPU)
    assert cached.get("image", "key", CPU) is not None
    assert cached.get("video", "key", CPU) is None
    assert cached.get("image", "other", CPU) is None
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert cached.get("image", "key", CPU) is None
    finally:
        torch.set_float32_matmul_precision(before)
