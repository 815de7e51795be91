"""Pages about records: what a builder made of its source, and what single records hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from data_builders.quality import with_checks
from mmdpo.media import Media
from mmdpo.records import Record, Records, prompt_text
from mmdpo.report.drawing import inline_svg
from mmdpo.report.evaluated import number
from mmdpo.report.exhibits import Exhibit, Exhibits
from mmdpo.report.figures import histogram_figure
from mmdpo.report.quality_checks import behind_the_checks, checks_in_words
from mmdpo.report.rendering import write_page
from mmdpo.report.verdict import Verdict
from mmdpo.report.words import Word, counted, word_for

_REASONS = {
    "missing_media": "the {item} is not there",
    "too_few_claims": "fewer claims were judged than asked for",
    "bad_claims": "its judged claims cannot be read",
    "unknown_label": "the label of a claim is none of those that were named",
    "repeated_claim": "names a claim twice",
    "no_thumb": "nobody gave a thumb",
    "turn_field": "a turn of its conversation holds something beside a role and a text",
    "no_media": "shows nothing that could be exchanged",
    "not_right": "its only answer is undesirable, or its best one not good enough",
    "unchanged": "the variant changes its {item} too little",
    "not_similar": "nothing with its question is similar enough",
    "near_copy": "everything similar is a copy of its {item}",
    "answer_holds": "its answer may be true of what is similar, or the other way round",
    "partner_taken": "what is similar has another partner",
    "other_question": "its {item} has a partner, which was asked something else",
    "not_selected": "sound, but another pair of the same {item} was taken",
    "no_margin": "as good as every other caption of its {item}, or too close",
    "single_caption": "the only caption of its {item}: nothing to compare it with",
    "too_few_raters": "rated by fewer people than asked for",
    "not_a_number": "the rating is no number",
    "out_of_scale": "the rating is outside the scale",
    "duplicate_row": "says again what an earlier row said",
    "conflicting_rating": "the same person rated the same caption differently before",
    "equal_captions": "the two captions have the same words",
    "tie": "both captions have as many votes",
    "too_few_votes": "fewer people voted than asked for",
    "below_margin": "the votes are closer than asked for",
    "below_agreement": "fewer voters agree than asked for",
    "duplicate_vote": "the same person gave the same vote before",
    "conflicting_vote": "the same person voted otherwise before",
    "unknown_vote": "the vote is none of the values that have a meaning",
    "no_audio": "the clip is not named, or not found by its captions",
    "truncated_image": "the picture is damaged or cut off",
    "not_an_image": "the file is no picture",
    "truncated_audio": "the clip is damaged or cut off",
    "not_audio": "the file is no sound",
    "empty_audio": "the clip has no samples",
    "too_long_audio": "the clip is longer than is decoded",
    "decompression_bomb": "the {item} claims a size that would exhaust memory",
    "outside_root": "the path leaves the media folder",
    "length_balance": "its pair was left out to balance lengths",
    "bad_weight": "the weight is no number from 0 on",
    "unknown_thumb": "the thumb has no meaning that was told",
    "not_corrected": "nothing was changed",
    "rewritten": "too much was changed to mark it",
    "no_list": "there is no list of answers",
    "no_rater": "the row does not say who rated",
    "not_a_count": "the number of votes is no count",
    "low_agreement": "fewer people than asked for gave the commonest answer",
    "disputed": "two answers were given as often",
    "unanswerable": "people say that it cannot be answered",
    "no_wrong_answer": "no wrong answer of the same type was found",
    "yes_no_balance": "left out so that yes is chosen as often as no",
    "not_yes_no": "the answer to a yes/no question is neither",
    "no_question": "the answers belong to no question",
    "no_answers": "the question has no answers",
    "duplicate_question": "the question was there before",
    "not_annotated": "nothing is known of its {item}",
    "no_objects": "it names no object",
    "not_true": "it is not true of its {item} to begin with",
    "no_place": "nothing in it can be changed",
    "no_hallucination": "it names nothing that is not there",
    "no_continuation": "no true answer goes on from the same beginning",
    "no_answer": "no answer came",
    "equal_candidate": "the same answer was drawn before",
    "too_few_candidates": "fewer than two different answers",
    "unjudged": "the judge gave no verdict that could be read",
    "no_claims": "its answer has no claim that could be asked or was judged",
    "not_split": "the answer was not cut into claims",
    "unchecked_claim": "a claim could not be asked",
    "not_one_image": "it needs exactly one image",
    "emptied_by_cleaning": "nothing was left of an answer after cleaning",
    "equal_after_cleaning": "after cleaning its answers are the same",
    "remote_url": "the {item} is a URL, and nothing is fetched",
}
_ALIKE = 0.4
"""Captions at least this similar get their different words marked; between others everything differs."""


@dataclass(frozen=True)
class Example:
    """One record as a page shows it."""

    id: str
    prompt: str
    exhibits: Sequence[Exhibit]
    answers: Sequence[tuple[str, Markup, float | None]]


def write_quality_page(
    quality: Mapping[str, Any], path: Path, *, title: str = "Quality of the records", media_root: Path | None = None
) -> Path:
    """Writes ``quality.html`` from what a builder or ``mmdpo quality`` measured.

    Args:
        quality: The content of ``quality.json``: of a builder (with the account of its source), or of
            ``data_builders.quality.measure`` alone, which is then judged by the thresholds that ship.
        path: The file to write.
        title: Heading of the page.
        media_root: Folder that the media paths of the examples are relative to.

    Returns:
        The file written.
    """
    if "checks" not in quality:
        quality = with_checks(quality)
    records = _mapping(quality.get("records")) or quality
    histogram = _mapping(_mapping(records.get("margin")).get("histogram"))
    figure = ""
    if histogram:
        drawn = histogram_figure(histogram["edges"], histogram["counts"], "margin of the scores (chosen − rejected)")
        figure = inline_svg(drawn, "margins", "Histogram of the margins of the pairs")
    rows, agreement = _mapping(quality.get("rows")), _mapping(quality.get("agreement"))
    word, exhibits = word_for(_mapping(records.get("media"))), Exhibits()
    return write_page(
        path,
        "quality.html.j2",
        title=title,
        word=word,
        quality=quality,
        records=records,
        rows=rows,
        verdict=_verdict(quality, records),
        set_aside=_explained(_mapping(quality.get("set_aside")), rows.get("read"), word),
        set_aside_values=_explained(_mapping(quality.get("set_aside_values")), None, word),
        agreement=agreement,
        alpha=_mapping(agreement.get("alpha_interval")),
        raters=quality.get("raters") or [],
        votes=quality.get("votes"),
        kinds=_mapping(agreement.get("by_kind")),
        length=_mapping(records.get("length")),
        margin=_mapping(records.get("margin")),
        histogram=figure,
        checks=checks_in_words(quality["checks"]),
        behind_checks=behind_the_checks(quality, records, media_root, word, exhibits),
        examples=[_example(entry, media_root, exhibits) for entry in records.get("examples") or []],
    )


def write_records_page(records: Records, path: Path, *, title: str = "Records", count: int = 24) -> Path:
    """Writes a page with the first records as they are stored: media, prompt, candidates.

    Args:
        records: The records.
        path: The file to write.
        title: Heading of the page.
        count: How many are shown.

    Returns:
        The file written.
    """
    shown, exhibits = records[:count], Exhibits()
    return write_page(
        path,
        "records.html.j2",
        title=title,
        total=len(records),
        form=records.form,
        examples=[_record_example(record, records.media_root, exhibits) for record in shown],
    )


def _verdict(quality: Mapping[str, Any], records: Mapping[str, Any]) -> Verdict:
    count = int(number(records.get("n")) or 0)
    rows, media = _mapping(quality.get("rows")), _mapping(records.get("media"))
    distinct = " and ".join(counted(number_of, plural) for plural, number_of in media.items())
    what = {"pair": "pairs", "unpaired": "rated answers"}.get(str(records.get("form")), "records")
    headline = f"{count:,} {what}" + (f" on {distinct}" if distinct else "")
    headline += f", from {rows['read']:,} rows." if "read" in rows else "."
    checks = checks_in_words(quality["checks"])
    return Verdict(headline, checks["summary"], "good" if count and checks["clean"] else "mixed")


def _explained(counts: Mapping[str, Any], total: Any, word: Word) -> list[dict[str, Any]]:
    """Reason, meaning, count and share of the rows read."""
    return [
        {
            "reason": str(reason).replace("_", " "),
            "meaning": _REASONS.get(str(reason), "").format(item=word.one),
            "count": count,
            "share": count / total if total else None,
        }
        for reason, count in counts.items()
    ]


def _example(entry: Mapping[str, Any], root: Path | None, exhibits: Exhibits) -> Example:
    media = [(plural, Media(path)) for plural, paths in _mapping(entry.get("media")).items() for path in paths]
    texts = [str(entry.get("chosen", "")), str(entry.get("rejected", ""))]
    scores = [number(score) for score in entry.get("scores") or (None, None)]
    return Example(
        id=str(entry.get("id", "")),
        prompt=str(entry.get("prompt", "")),
        exhibits=[exhibits.show(plural, item, root) for plural, item in media],
        answers=list(zip(("chosen", "rejected"), mark_differences(*texts), scores, strict=True)),
    )


def _record_example(record: Record, root: Path | None, exhibits: Exhibits) -> Example:
    texts = [candidate.text for candidate in record.candidates]
    names = ["chosen", "rejected"] if record.form == "pair" else [f"candidate {n + 1}" for n in range(len(texts))]
    if record.form == "unpaired":
        names = [{None: names[0], True: "desirable", False: "undesirable"}[record.candidates[0].label]]
    marked = mark_differences(*texts) if record.form == "pair" else [escape(text) for text in texts]
    scores = [candidate.score for candidate in record.candidates]
    return Example(
        id=record.id,
        prompt=prompt_text(record),
        exhibits=[exhibits.show(plural, item, root) for plural, item in record.media_items()],
        answers=list(zip(names, marked, scores, strict=True)),
    )


def mark_differences(first: str, second: str) -> list[Markup]:
    """Both texts, escaped; where they are alike, the words that differ are marked as ``<b>``."""
    return [
        Markup(" ").join(Markup("<b>{}</b>").format(words) if differs else escape(words) for words, differs in parts)
        for parts in differing_words(first, second)
    ]


def differing_words(first: str, second: str) -> tuple[list[tuple[str, bool]], list[tuple[str, bool]]]:
    """Both texts as stretches of words, each with whether it differs from the other text.

    Between texts that are hardly alike nothing is told apart: everything differs.
    """
    words = first.split(), second.split()
    matcher = SequenceMatcher(None, *words, autojunk=False)
    if matcher.ratio() < _ALIKE:
        return [(first, False)], [(second, False)]
    parts: tuple[list[tuple[str, bool]], list[tuple[str, bool]]] = ([], [])
    for kind, start, end, other_start, other_end in matcher.get_opcodes():
        for side, span in enumerate((slice(start, end), slice(other_start, other_end))):
            if words[side][span]:
                parts[side].append((" ".join(words[side][span]), kind != "equal"))
    return parts


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
