"""The committed table and page are those that the matrix makes, and nothing is left out of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from families.page import COLUMNS, PAGE, make_table, page_of, read
from families.specs import EVERY, FAILING, SPECS
from mmdpo.extensions.discovery import listing

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_is_made_of_the_table() -> None:
    assert (ROOT / PAGE).read_text(encoding="utf-8") == page_of(read(ROOT))


def test_the_table_has_every_family_and_every_check() -> None:
    families = read(ROOT)["families"]
    assert list(families) == list(EVERY)
    for family, entry in families.items():
        assert list(entry["checks"]) == list(COLUMNS), family
        assert all(cell["ok"] is True or cell["reason"] for cell in entry["checks"].values()), family


def test_what_does_not_apply_is_what_the_families_cannot() -> None:
    for family, entry in read(ROOT)["families"].items():
        spec = SPECS[family]
        cannot = {
            "video": not spec.video,
            "mixed": spec.needs_media,
            "several": spec.single,
            "checkpointing": not spec.checkpoints,
        }
        absent = {name for name, cell in entry["checks"].items() if cell["ok"] is None}
        assert absent == {name for name, value in cannot.items() if value}, family


def test_what_fails_is_what_is_known_to_fail() -> None:
    found = {
        (name, family): cell["reason"]
        for family, entry in read(ROOT)["families"].items()
        for name, cell in entry["checks"].items()
        if cell["ok"] is False
    }
    assert found == FAILING


def test_a_run_with_holes_is_not_written() -> None:
    outcomes = {(name, family): {"ok": True} for name in COLUMNS for family in EVERY}
    assert make_table(outcomes)["families"][EVERY[0]]["checks"]["text"] == {"ok": True}
    del outcomes["text", EVERY[0]]
    with pytest.raises(ValueError, match=f"text of {EVERY[0]}"):
        make_table(outcomes)


def test_a_failure_is_shown_with_its_reason() -> None:
    outcomes = {(name, family): {"ok": True} for name in COLUMNS for family in EVERY}
    outcomes["saved", EVERY[0]] = {"ok": False, "reason": "its file is empty"}
    page = page_of(make_table(outcomes))
    assert f"* `{EVERY[0]}`, saved: its file is empty" in page
    assert page.count("**fails**") == 2  # the cell, and the legend


def test_the_command_lists_what_the_table_has() -> None:
    rows = {row["family"]: row for row in listing("families")}
    assert list(rows) == list(EVERY)
    for family, entry in read(ROOT)["families"].items():
        failed = [name for name, cell in entry["checks"].items() if cell["ok"] is False]
        assert rows[family]["takes"] == ", ".join(entry["takes"])
        assert all(name in rows[family]["checks"] for name in failed)
        assert ("fails" in rows[family]["checks"]) is bool(failed)
