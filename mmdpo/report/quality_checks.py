"""What the quality gate found, as the quality page tells it: the checks in words, and what is behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import escape

from mmdpo.media import Media
from mmdpo.report.evaluated import number
from mmdpo.report.exhibits import Exhibit, Exhibits
from mmdpo.report.words import Word

_SHOWN = 6
_BADGES = {"fail": "worse", "warn": "worse", "pass": "better"}


def checks_in_words(checks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The checks by what a reader does with them.

    Returns:
        `summary` (one sentence), `standing_out` (what failed or warns, the worst first), `others` and `clean` (whether
        nothing stands out).
    """
    told = [{**check, "badge": _BADGES.get(str(check.get("verdict")), "mixed")} for check in checks]
    out = [check for check in told if check.get("verdict") in ("fail", "warn")]
    others = [check for check in told if check.get("verdict") not in ("fail", "warn")]
    failed = sum(check["verdict"] == "fail" for check in out)
    passed = sum(check.get("verdict") == "pass" for check in others)
    unknown = len(others) - passed
    parts = [f"{failed} fail" + ("s" if failed == 1 else "")] * bool(failed)
    parts += [f"{len(out) - failed} warn" + ("s" if len(out) - failed == 1 else "")] * (len(out) > failed)
    named = ", ".join(str(check.get("title", check["name"])).lower() for check in out)
    if not told:
        summary = ""
    elif not out:
        summary = f"All {passed} checks that could be made pass."
        summary += f" {unknown} could not be made." if unknown else ""
    else:
        parts += [f"{unknown} could not be made"] * bool(unknown)
        summary = f"Of {len(told)} checks, {passed} pass, {', '.join(parts)}. To look at: {named}."
    return {"summary": summary, "standing_out": out, "others": others, "clean": not out}


def behind_the_checks(
    quality: Mapping[str, Any], records: Mapping[str, Any], root: Path | None, word: Word, exhibits: Exhibits
) -> dict[str, Any]:
    """Tables and pictures behind the checks, each empty where it was not measured."""
    objects = _mapping(records.get("objects"))
    languages = _mapping(_mapping(records.get("languages")).get("answers"))
    return {
        "cues": _mapping(records.get("text_only")).get("cues") or [],
        "styles": [row for row in _mapping(records.get("style")).get("features") or [] if _has_interval(row)],
        "objects": objects.get("most") or [],
        "objects_read": objects.get("records"),
        "objects_missing": objects.get("missing") or [],
        "kinds": _mapping(_mapping(records.get("questions")).get("kinds")),
        "spoken": languages if len(languages) > 1 else {},
        "repeated": [row for row in _mapping(records.get("repeated")).get("most_frequent") or [] if _several(row)],
        "copies": _mapping(records.get("near_duplicates")).get("largest") or [],
        "compared_raters": _mapping(records.get("raters_compared")).get("by_rater") or [],
        "opposites": _cards(records, "contradictions", root, exhibits),
        "close_calls": _cards(records, "ambiguous", root, exhibits),
        "alike": _pairs_of_pictures(records, root, exhibits),
        "measured_on": records.get("measured_on"),
        "answers_word": word,
    }


def _cards(records: Mapping[str, Any], family: str, root: Path | None, exhibits: Exhibits) -> list[dict[str, Any]]:
    cards = []
    for entry in (_mapping(records.get(family)).get("examples") or [])[:_SHOWN]:
        texts = [str(text) for text in entry.get("answers") or []]
        names = ["chosen", "rejected"] if len(texts) == 2 else [f"answer {n + 1}" for n in range(len(texts))]
        scores = [number(score) for score in entry.get("scores") or [None] * len(texts)]
        media = [(plural, Media(path)) for plural, paths in _mapping(entry.get("media")).items() for path in paths]
        cards.append(
            {
                "id": str(entry.get("id", "")),
                "prompt": str(entry.get("prompt", "")),
                "exhibits": [exhibits.show(plural, item, root) for plural, item in media],
                "answers": list(zip(names, map(escape, texts), scores, strict=False)),
            }
        )
    return cards


def _pairs_of_pictures(records: Mapping[str, Any], root: Path | None, exhibits: Exhibits) -> list[list[Exhibit]]:
    pairs = _mapping(records.get("media_duplicates")).get("examples") or []
    return [[exhibits.show("images", Media(str(path)), root) for path in pair if path] for pair in pairs[:_SHOWN]]


def _has_interval(row: Mapping[str, Any]) -> bool:
    return _mapping(row.get("difference")).get("low") is not None


def _several(row: Mapping[str, Any]) -> bool:
    return int(number(row.get("media_groups")) or 0) > 1


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
