"""Held-out preferences scored by a model: likelihoods, implicit rewards, CLIP scores; and the probabilities of yes.

The numbers are judged in `mmdpo.evals.preferences` and `mmdpo.evals.yes_no`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from mmdpo.answering.answers import sample_record
from mmdpo.answering.evaluation import limited
from mmdpo.answering.loading import encoder_of
from mmdpo.answering.text_scores import CandidateScores, Likelihood, candidate_scores
from mmdpo.answering.yes_no import Choice, YesNoReader
from mmdpo.errors import ConfigError, DataError
from mmdpo.evals.base import Result
from mmdpo.evals.calibration import summaries
from mmdpo.evals.comparing.folders import compare_stages
from mmdpo.evals.preferences import Preferences
from mmdpo.evals.result import METRICS_FILE
from mmdpo.evals.shared.calibrated import CalibratedBenchmark
from mmdpo.evals.yes_no import YesNo
from mmdpo.jsonfiles import read_json, write_json, write_json_lines
from mmdpo.media import open_image
from mmdpo.preferences.origins import of_stages, origin_of
from mmdpo.preferences.rated_lists import rated_lists
from mmdpo.progress import Progress
from mmdpo.records import Records
from mmdpo.report.reliability import write_reliability

SET_ASIDE_FILE = "set_aside.jsonl"
ImageScore = Callable[[Image.Image, Sequence[str]], Sequence[float]]
"""From an image and texts to one number for each text, more is better: `mmdpo.models.clip_score.ClipScore`, say."""


def evaluate_preferences(
    path: str,
    records: Records,
    out: Path,
    *,
    reference: str | None = None,
    beta: float | None = None,
    image_score: ImageScore | None = None,
    limit: int | None = None,
    batch_size: int = 8,
    progress: Progress = iter,
) -> dict[str, Result]:
    """How well a model's numbers agree with held-out ratings.

    Args:
        path: A run folder, an adapter folder, a model folder or a hub name.
        records: The rated answers; those that no loss could learn a preference from are set aside and counted.
        out: Folder that gets ``eval/preferences``, with what was rated in ``preferences.jsonl``; for the reference
            ``base_eval/preferences`` and ``comparison.json``; and the reliability diagram. Records that are too long
            for the model or cannot be read are listed in ``set_aside.jsonl``. It can be the run itself.
        reference: The model that training started from; a run knows its own. Without one there is no reward.
        beta: Factor of the reward; by default the run's own, else 0.1. Only the calibration depends on it.
        image_score: Gives the source ``clip`` where every list has one image.
        limit: Use the first so many images.
        batch_size: Records at a time.
        progress: Wraps long loops for a progress bar.

    Returns:
        The results by stage: ``eval``, and ``base_eval`` where there is a reference.

    Raises:
        ConfigError: ``out`` holds such an evaluation already.
        DataError: No record has ratings, or none with ratings can be scored.
    """
    origin = origin_of(path, reference, beta)
    _require_new(out, Preferences.name)
    rated, benchmark = rated_lists(records), Preferences()
    lists = _folder(out / "eval" / benchmark.name) / "preferences.jsonl"
    write_json_lines(lists, rated.rows)
    samples = limited(benchmark.samples(lists), limit)
    chosen = {sample.id for sample in samples}
    used = Records([record for record in rated.records if record.id in chosen], records.media_root)
    flags = {"eval": [*rated.flags, *origin.overlap(used)], "base_eval": rated.flags}

    def scored(model: Any, processor: Any) -> CandidateScores:
        return candidate_scores(model, processor, used, batch_size=batch_size, progress=progress)

    found = of_stages(origin, scored)
    fit, told = _fitting(used, found.values(), lists.with_name(SET_ASIDE_FILE))
    samples, used = [samples[n] for n in fit], Records([used[n] for n in fit], used.media_root)
    stages = {stage: [one.scores[n] for n in fit] for stage, one in found.items()}
    clip = None if image_score is None else _image_scores(used, image_score, progress)
    results = {}
    for stage, own_scores in stages.items():
        rewarded = stage == "eval" and "base_eval" in stages
        rewards = _rewards(own_scores, stages["base_eval"], origin.beta) if rewarded else {}
        scores = _likelihoods(own_scores) | rewards | ({} if clip is None else {"clip": clip})
        entries = [
            {"id": sample.id, "scores": {source: values[n] for source, values in scores.items()}}
            for n, sample in enumerate(samples)
        ]
        noted = [*flags[stage], *told]
        results[stage] = _judged(benchmark, samples, entries, out / stage, noted, {"beta": origin.beta})
        _note_media(out / stage / benchmark.name, used.media_root)
    _compared(out, results)
    return results


def evaluate_yes_no(
    path: str,
    questions: Path,
    images: Path,
    out: Path,
    *,
    reference: str | None = None,
    media: str = "images",
    limit: int | None = None,
    batch_size: int = 16,
    progress: Progress = iter,
) -> dict[str, Result]:
    """Whether the probabilities of yes and no come true.

    Args:
        path: A run folder, an adapter folder, a model folder or a hub name.
        questions: Questions in the form of POPE.
        images: Folder of their images, or of other media.
        out: As for `evaluate_preferences`.
        reference: The model that training started from; a run knows its own.
        media: What the questions are about, as the list of a record is called.
        limit: Use the first so many images.
        batch_size: Questions at a time.
        progress: Wraps long loops for a progress bar.

    Returns:
        The results by stage.

    Raises:
        ConfigError: ``out`` holds such an evaluation already.
    """
    origin = origin_of(path, reference, None)
    benchmark = YesNo(media=media)
    _require_new(out, benchmark.name)
    samples = limited(benchmark.samples(questions), limit)
    records = [sample_record(sample) for sample in samples]

    def read(model: Any, processor: Any) -> list[Choice]:
        reader = YesNoReader(model, encoder_of(model, processor, images))
        choices: dict[int, Choice] = {}
        for batch in progress(reader.batches(records, batch_size)):
            choices |= zip(batch, reader.read([records[n] for n in batch]), strict=True)
        return [choices[n] for n in range(len(records))]

    results = {}
    for stage, choices in of_stages(origin, read).items():
        entries = [
            {"question_id": sample.id, "prompt": sample.prompt, "yes": choice.yes, "no": choice.no}
            for sample, choice in zip(samples, choices, strict=True)
        ]
        results[stage] = _judged(benchmark, samples, entries, out / stage, [], {})
        _note_media(out / stage / benchmark.name, images)
    _compared(out, results)
    return results


def _fitting(records: Records, found: Iterable[CandidateScores], listing: Path) -> tuple[list[int], list[str]]:
    """Places of the records that every model could score, and what to say of the others; these are listed."""
    unfit = {n: reason for scores in found for n, reason in scores.unfit.items()}
    if not unfit:
        return list(range(len(records))), []
    write_json_lines(listing, [{"id": records[n].id, "reason": reason} for n, reason in sorted(unfit.items())])
    first = f"first: {records[min(unfit)].id!r}: {unfit[min(unfit)]}"
    if len(unfit) == len(records):
        raise DataError(
            f"none of the {len(records)} rated records can be scored ({first})",
            why="There is no number to hold against the ratings.",
            fix="Shorten the answers, or use a model with more positions.",
        )
    told = f"unfit: {len(unfit)} records cannot be scored and are set aside ({first})"
    return [n for n in range(len(records)) if n not in unfit], [told]


def _likelihoods(scores: Sequence[Sequence[Likelihood]]) -> dict[str, list[list[float]]]:
    return {
        "likelihood": [[one.total for one in own] for own in scores],
        "likelihood_mean": [[one.mean for one in own] for own in scores],
    }


def _rewards(
    policy: Sequence[Sequence[Likelihood]], reference: Sequence[Sequence[Likelihood]], beta: float
) -> dict[str, list[list[float]]]:
    ratios = [
        [(one.total - other.total, max(1, one.tokens)) for one, other in zip(own, base, strict=True)]
        for own, base in zip(policy, reference, strict=True)
    ]
    return {
        "reward": [[beta * value for value, _ in own] for own in ratios],
        "reward_mean": [[beta * value / tokens for value, tokens in own] for own in ratios],
    }


def _image_scores(records: Records, image_score: ImageScore, progress: Progress) -> list[list[float]]:
    scores = []
    for record in progress(records):
        items = record.media.get("images", ())
        if len(items) != 1:
            raise DataError(
                f"record {record.id!r} has {len(items)} images",
                why="CLIP score is about one image and one text.",
                fix="Leave out --clip for these records.",
            )
        image = open_image(items[0], records.media_root)
        scores.append([float(value) for value in image_score(image, [c.text for c in record.candidates])])
    return scores


def _judged(
    benchmark: CalibratedBenchmark,
    samples: Sequence[Any],
    rows: Sequence[dict[str, Any]],
    stage: Path,
    flags: Sequence[str],
    settings: dict[str, Any],
) -> Result:
    folder = _folder(stage / benchmark.name)
    write_json_lines(folder / "answers.jsonl", rows)
    result = benchmark.score(samples, benchmark.answers(rows))
    result = replace(result, flags=[*flags, *result.flags])
    write_json(
        folder / "calibration.json", {**settings, "calibration": summaries(benchmark.calibrations(result.items))}
    )
    result.save(folder)
    return result


def _compared(out: Path, results: dict[str, Result]) -> None:
    """The paired differences, beside those that a run folder has already, and the reliability diagram."""
    if len(results) == 2 and len({item.group for item in results["eval"].items}) > 1:
        known = read_json(out / "comparison.json") if (out / "comparison.json").is_file() else {"metrics": {}}
        found = compare_stages(out / "base_eval", out / "eval")
        write_json(out / "comparison.json", {**known, **found, "metrics": {**known["metrics"], **found["metrics"]}})
    write_reliability(out)


def _require_new(out: Path, name: str) -> None:
    for stage in ("eval", "base_eval"):
        if (out / stage / name / METRICS_FILE).exists():
            raise ConfigError(
                f"{str(out / stage / name)!r} exists",
                why="Evaluations are never overwritten.",
                fix="Choose another --out.",
            )


def _note_media(folder: Path, root: Path | None) -> None:
    """Where the media are, so that a report can show them."""
    write_json(folder / "generation.json", {"media_root": None if root is None else str(root.resolve())})


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path
