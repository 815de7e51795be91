"""What the cached reference's folder gives is what was put there: no damage, race or other loss changes a number."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mmdpo.errors import ConfigError, DataError
from mmdpo.jsonfiles import read_json
from mmdpo.training import reference_store
from mmdpo.training.reference_store import ReferenceStore

TOLD = {"weights": "abc", "format": "2"}
MASK = torch.tensor([[True, True, False], [True, True, True]])


def identity(first: int, count: int = 2) -> Tensor:
    """Digests of rows that differ in all four."""
    return torch.arange(4 * first, 4 * (first + count)).view(count, 4)


def values(first: int, *names: str) -> dict[str, Tensor]:
    numbers = torch.arange(6.0).view(2, 3) + first + 0.25
    return {name: torch.where(MASK, numbers + n, 0.0) for n, name in enumerate(("logp", *names))}


def kept(folder: Path, first: int, *names: str) -> Path:
    """The file of two more rows."""
    before = set(folder.glob("part-*"))
    store = ReferenceStore(folder, TOLD, ("logp", *names))
    store.add(identity(first), MASK, values(first, *names), range(2))
    store.flush()
    (new,) = set(folder.glob("part-*")) - before
    return new


def read(folder: Path, first: int, *names: str) -> Mapping[str, Tensor]:
    return ReferenceStore(folder, TOLD, ("logp", *names)).rows(identity(first), MASK)


def test_a_change_of_any_byte_is_told(tmp_path: Path) -> None:
    """In a value, a row's digests, a length, a tensor's name, precision or shape, and the rest of the header."""
    path = kept(tmp_path, 0, "entropy")
    data, expected = path.read_bytes(), values(0, "entropy")
    harmless = []
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        try:
            found = read(tmp_path, 0, "entropy")
        except DataError as error:
            assert path.name in str(error)
            assert "Remove this file" in error.fix
        else:
            harmless.append(place)
            assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert len(harmless) < 3


def test_a_shortened_file_is_told(tmp_path: Path) -> None:
    path = kept(tmp_path, 0)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(DataError, match="cannot be read"):
        read(tmp_path, 0)


def test_a_loss_that_reads_less_keeps_what_the_folder_promises(tmp_path: Path) -> None:
    """One loss, then another with fewer statistics and new records, then the first with all of them."""
    kept(tmp_path, 0, "entropy", "sum_squared_probability")
    fewer = ReferenceStore(tmp_path, TOLD, ("logp", "entropy"))
    assert fewer.statistics == ("entropy", "logp", "sum_squared_probability")
    assert fewer.missing(identity(0, 4)) == [2, 3]
    fewer.add(identity(2), MASK, values(2, "entropy", "sum_squared_probability"), range(2))
    fewer.flush()
    for first in (0, 2):
        found = read(tmp_path, first, "sum_squared_probability")
        expected = values(first, "entropy", "sum_squared_probability")
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_loss_that_reads_more_is_refused(tmp_path: Path) -> None:
    kept(tmp_path, 0, "entropy")
    with pytest.raises(ConfigError, match="has no logit"):
        ReferenceStore(tmp_path, TOLD, ("logp", "logit"))


def test_runs_that_fill_one_folder_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one writes between the first one's look at the folder and its own file."""
    first, second = (ReferenceStore(tmp_path, TOLD) for _ in range(2))
    write = reference_store.to_bytes
    for store, number in ((first, 0), (second, 2)):
        store.add(identity(number), MASK, values(number), range(2))

    def interrupted(*arguments: object) -> bytes:
        monkeypatch.setattr(reference_store, "to_bytes", write)
        second.flush()
        return write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(reference_store, "to_bytes", interrupted)
    first.flush()
    both = ReferenceStore(tmp_path, TOLD)
    assert len(both) == 4
    for number in (0, 2):
        assert torch.equal(both.rows(identity(number), MASK)["logp"], values(number)["logp"])


def test_two_runs_that_make_the_folder_agree_on_what_it_is_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither saw the other's ingredients when it looked: the later one is refused, and overwrites nothing."""
    other = {**TOLD, "weights": "other"}
    look, looks = Path.is_file, []

    def late(path: Path) -> bool:
        found = look(path)
        if path.name == reference_store.INGREDIENTS_FILE and not looks:
            looks.append(path)
            ReferenceStore(tmp_path, TOLD)
        return found

    monkeypatch.setattr(Path, "is_file", late)
    with pytest.raises(ConfigError, match=r"weights \(abc then, other now\)"):
        ReferenceStore(tmp_path, other)
    assert looks and read_json(tmp_path / reference_store.INGREDIENTS_FILE)["ingredients"] == TOLD


def test_a_copied_file_does_no_harm(tmp_path: Path) -> None:
    path = kept(tmp_path, 0)
    (tmp_path / f"{path.stem}-copy.safetensors").write_bytes(path.read_bytes())
    kept(tmp_path, 2)
    for first in (0, 2):
        assert torch.equal(read(tmp_path, first)["logp"], values(first)["logp"])


def test_a_file_of_another_reference_is_not_read(tmp_path: Path) -> None:
    """Copied from another folder, or left where somebody removed the ingredients that refused it."""
    path = kept(tmp_path, 0)
    (tmp_path / reference_store.INGREDIENTS_FILE).unlink()
    with pytest.raises(DataError, match=f"{path.name}.* made with other ingredients"):
        ReferenceStore(tmp_path, {**TOLD, "weights": "other"})
    path.unlink()
    assert len(ReferenceStore(tmp_path, {**TOLD, "weights": "other"})) == 0
