"""Judged answers: the ratings of VLFeedback, the votes of Align-Anything."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from data_builders.importers.base import Draft, Format, OutRow, Sample
from data_builders.importers.flat import asked, question_text
from data_builders.importers.media_out import MediaOut
from data_builders.importers.messages import as_items, as_text, without_marks
from data_builders.importers.pairs import only_pair
from data_builders.importers.ranking import best_first
from data_builders.importers.unusable import Unusable
from mmdpo.records import Candidate, Record

if TYPE_CHECKING:
    import datasets


class VlFeedback(Format):
    """VLFeedback: `prompt`, `img_path`, and `completions` with ratings. A score is the mean of an answer's ratings."""

    name = "vlfeedback"
    media = ("images",)
    keeps = frozenset({"score", "source"})

    def matches(self, sample: Sample) -> str | None:
        """See `Format.matches`."""
        for row in sample.rows:
            found = list(_completions(row.get("completions")))
            if found and all("annotations" in each for each in found):
                return "rows have completions with annotations"
        return None

    def parse(self, row: dict[str, Any], info: Mapping[str, Any]) -> Draft:
        """See `Format.parse`."""
        del info
        image = next((row.pop(name) for name in ("img_path", "image") if name in row), None)
        prompt, media = asked(row.pop("prompt", None), {"images": as_items(image)})
        completions = list(_completions(row.pop("completions", None)))
        if not completions:
            raise Unusable("no_preference", "the row has no completions, or lists of other lengths")
        dropped: list[Unusable] = []
        rated = []
        for place, told in enumerate(completions):
            try:
                rated.append((_ratings(told.get("annotations")), told))
            except Unusable as problem:
                where = f"completions[{place}]"
                dropped.append(Unusable(problem.reason, problem.message, problem.value, column=where))
        aspects = {aspect for ratings, _ in rated for aspect in ratings}
        candidates: list[Candidate] = []
        kept: dict[str, dict[str, float]] = {}
        for ratings, told in rated:
            if missing := aspects - ratings.keys():
                message = f"it is not rated for {min(missing)}, and others are"
                dropped.append(Unusable("missing_aspect", message, column="completions"))
                continue
            text, model = as_text(told.get("response")), told.get("model")
            score = math.fsum(ratings.values()) / len(ratings)
            candidates.append(Candidate(text, score=score, source=model if isinstance(model, str) else None))
            kept[text.strip()] = ratings
        ordered = best_first(candidates, dropped, higher_is_better=True)
        facts = {"ratings": [kept[candidate.text.strip()] for candidate in ordered]}
        return Draft([prompt], ordered, media, True, facts, dropped)

    def row(self, record: Record, media: MediaOut) -> OutRow:
        """See `Format.row`."""
        scores = [candidate.score for candidate in record.candidates if candidate.score is not None]
        if len(scores) < max(2, len(record.candidates)):
            raise Unusable("no_scores", "the format has two or more answers with a score each")
        if not record.higher_is_better or len(set(scores)) == 1:
            raise Unusable("tie" if record.higher_is_better else "lower_is_better", "higher ratings are better there")
        texts = [without_marks(candidate.text, ("image",)) for candidate in record.candidates]
        question = question_text(record, self.media)
        completions = {
            "annotations": [{"Overall": {"Rating": repr(float(score))}} for score in scores],
            "model": [candidate.source for candidate in record.candidates],
            "response": texts,
        }
        paths = media.paths(record, "images")
        return OutRow({"prompt": question, **({"img_path": paths[0]} if paths else {}), "completions": completions})


class AlignAnything(Format):
    """Align-Anything: two responses and `overall_response`, 1 or 2, with an image, a sound or a video."""

    name = "align_anything"
    media = ("images", "audios")
    kind = "parquet"

    _COLUMNS = (("images", ("image",)), ("audios", ("audio", "audio_path")), ("videos", ("video", "video_path")))

    def matches(self, sample: Sample) -> str | None:
        """See `Format.matches`."""
        told = sample.has("response_1", "response_2", "overall_response")
        return "rows have response_1, response_2 and overall_response" if told else None

    def parse(self, row: dict[str, Any], info: Mapping[str, Any]) -> Draft:
        """See `Format.parse`."""
        del info
        listed = {
            field: [item for column in columns for item in as_items(row.pop(column, None))]
            for field, columns in self._COLUMNS
        }
        question = row.pop("question") if "question" in row else row.pop("prompt", None)
        prompt, media = asked(question, listed)
        answers = [Candidate(as_text(row.pop(f"response_{number}", None))) for number in (1, 2)]
        better = row.pop("overall_response", None)
        if better not in (1, 2) or isinstance(better, bool):
            raise Unusable("unknown_vote", "overall_response must be 1 or 2", better)
        return Draft([prompt], answers if better == 1 else answers[::-1], media)

    def row(self, record: Record, media: MediaOut) -> OutRow:
        """See `Format.row`."""
        items = [name for name, _ in record.media_items()]
        if len(items) != 1:
            raise Unusable("not_one_item", f"the format has one image or one sound, not {len(items)} media items")
        question = question_text(record, self.media)
        chosen, rejected = (without_marks(answer.text, ("image", "audio")) for answer in only_pair(record))
        (item,) = media.cells(record, items[0])
        answers = {"response_1": chosen, "response_2": rejected, "overall_response": 1}
        if items[0] == "images":
            return OutRow({"image": item, "question": question, **answers}, "images")
        return OutRow({"audio_path": item, "prompt": question, **answers}, "audios")

    def features(self, table: str) -> datasets.Features:
        """See `Format.features`."""
        import datasets

        text = datasets.Value("string")
        item = {"image": datasets.Image()} if table == "images" else {"audio_path": datasets.Audio()}
        asked_in = "question" if table == "images" else "prompt"
        answers = {"response_1": text, "response_2": text, "overall_response": datasets.Value("int64")}
        return datasets.Features({**item, asked_in: text, **answers})


def _completions(value: Any) -> Iterator[Mapping[str, Any]]:
    """Completions one by one, from a list of objects or an object of lists; none where it is neither."""
    if isinstance(value, Mapping):
        lists = {name: items for name, items in value.items() if isinstance(items, list | tuple)}
        lengths = {len(items) for items in lists.values()}
        for place in range(lengths.pop() if len(lengths) == 1 else 0):
            yield {name: items[place] for name, items in lists.items()}
    elif isinstance(value, list | tuple) and all(isinstance(item, Mapping) for item in value):
        yield from value


def _ratings(annotations: Any) -> dict[str, float]:
    """The ratings of an answer by aspect.

    Raises:
        Unusable: One of them is no number; without it the mean would be of other things than the others' means.
    """
    ratings = {}
    told = annotations if isinstance(annotations, Mapping) else {}
    for aspect, judged in told.items():
        if judged is None:  # Arrow gives every row the aspects of all rows
            continue
        rating = judged.get("Rating") if isinstance(judged, Mapping) else None
        try:
            value = (
                float(rating) if isinstance(rating, str | int | float) and not isinstance(rating, bool) else math.nan
            )
        except (ValueError, OverflowError):
            value = math.nan
        if not math.isfinite(value):
            raise Unusable("not_a_number", f"the rating for {aspect} is no number", rating)
        ratings[str(aspect)] = value
    if not ratings:
        raise Unusable("no_rating", "the answer has no rating")
    return ratings
