"""The spool gives back what it took, whole groups in one part, however little memory it may use."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_builders.tables import spool as spool_module
from data_builders.tables.spool import Spool

Item = tuple[str, int]


def spool(path: Path, limit: int) -> Spool[Item]:
    return Spool(path, list, lambda values: (values[0], values[1]), limit=limit)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.lists(st.tuples(st.text("ab\n\udc80é", max_size=2), st.integers())), st.integers(1, 8))
def test_nothing_is_lost_and_groups_stay_whole(tmp_path: Path, items: list[Item], limit: int):
    kept = spool(tmp_path / "s.jsonl", limit)
    kept.extend(items[:3])
    kept.extend(items[3:])
    assert kept.n == len(items) and list(kept) == items
    parts = list(kept.parts(lambda item: item[0]))
    assert sorted(item for part in parts for item in part) == sorted(items)
    for part in parts:
        for key in {key for key, _ in part}:  # the whole group, in its order
            assert [item for item in part if item[0] == key] == [item for item in items if item[0] == key]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("limit", [2, 100])
def test_what_an_interrupted_build_left_is_not_taken_for_its_own(tmp_path: Path, limit: int):
    path = tmp_path / "s.jsonl"
    stopped = spool(path, 1)
    stopped.extend([("old", 1), ("old", 2), ("old", 3)])
    next(stopped.parts(lambda item: item[0]))
    stopped = spool(tmp_path / "s.jsonl", 1)
    stopped.extend([("old", 1), ("old", 2), ("old", 3)])
    (tmp_path / "s.jsonl.0").write_text('["old", 9]\n')
    fresh = spool(path, limit)
    fresh.extend([("new", 1), ("new", 2), ("new", 3)])
    assert list(fresh) == [("new", 1), ("new", 2), ("new", 3)]
    assert sorted(item for part in fresh.parts(lambda item: item[0]) for item in part) == [
        ("new", n) for n in (1, 2, 3)
    ]


def test_long_items_go_to_disk_before_there_are_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(spool_module, "LARGEST", 100_000)
    items = [(f"{number:03d} " + "x" * 1000, number) for number in range(1000)]
    kept = spool(tmp_path / "s.jsonl", 10**6)
    kept.extend(items)
    assert (tmp_path / "s.jsonl").stat().st_size > 800_000, "a tenth of them stays in memory"
    parts = list(kept.parts(lambda item: item[0]))
    assert len(parts) == 11 and max(map(len, parts)) < 200, "some 1,007,000 characters of JSON"
    assert sorted(item for part in parts for item in part) == items
