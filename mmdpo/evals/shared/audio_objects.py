"""Objects in descriptions of clips against the clip's labels: the generative part of `audio_hallucination`.

Official rule (interspeech2024/generative_tasks/evaluation.py): for each description, with P the set of objects it names
    and L the set of labels, CHAIR = 1 - |P and L| / |P|, Cover = |P and L| / |L|, and Hal = 1 unless CHAIR is 0. The
    numbers are means over descriptions. Objects are equal if their names are, letter by letter.
Known quirks: a description that names nothing has CHAIR and Hal -1, and **the -1 enters the mean**, so that silence
    lowers both. Here chair and hal are means over the descriptions that name something, and cover over those with
    labels; `official_numbers` has the script's. The script divides by zero at a clip without labels. A prediction that
    is a text, as the official inference.py writes it, is taken apart letter by letter by the script.
How objects are found in a text is not published. Here the labels of all the data are looked for, as whole words, in
    singular and plural, the longest first; `noun_extractor` takes the place of that. A list of objects is taken as it
    is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmdpo.errors import DataError
from mmdpo.evals.base import Answer, Item, Metric, Sample
from mmdpo.evals.shared.phrases import Phrases
from mmdpo.evals.stats import ratio


@dataclass(frozen=True)
class NamedObjects(Answer):
    """A description whose objects are known.

    Attributes:
        objects: The objects it names, as the answer file lists them; None if it holds a text.
    """

    objects: Sequence[str] | None = None


def samples(content: Mapping[str, Mapping[str, Any]], origin: str) -> list[Sample]:
    """One sample for each clip and prompt; its id is ``CLIP/PROMPT``.

    Raises:
        DataError: An entry has no list of labels.
    """
    for clip, prompt, entry in _entries(content):
        labels = entry.get("label")
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise DataError(
                f"clip {clip!r} of {origin} has no list of labels for {prompt!r}",
                why="Every object that its description names would count as hallucinated.",
                fix='It looks like {"CLIP": {"Describe the audio.": {"label": ["dog", "speech"]}}}.',
            )
    every = {label: [label] for _, _, entry in _entries(content) for label in entry["label"]}
    phrases = Phrases(every)
    return [
        Sample(f"{clip}/{prompt}", prompt, {"audios": [f"{clip}.wav"]}, list(entry["label"]), clip, {"names": phrases})
        for clip, prompt, entry in _entries(content)
    ]


def answers(content: Mapping[str, Mapping[str, Any]], origin: str) -> list[Answer]:
    """The descriptions in a file of the official form.

    Raises:
        DataError: An entry has no prediction.
    """
    found: list[Answer] = []
    for clip, prompt, entry in _entries(content):
        said = entry.get("prediction")
        if isinstance(said, str):
            found.append(NamedObjects(f"{clip}/{prompt}", said))
        elif isinstance(said, list) and all(isinstance(name, str) for name in said):
            found.append(NamedObjects(f"{clip}/{prompt}", ", ".join(said), None, said))
        else:
            raise DataError(
                f"clip {clip!r} of {origin} has no prediction for {prompt!r}",
                why="A missing description cannot be told from one that names nothing.",
                fix='Write "prediction": a list of objects, or the description itself.',
            )
    return found


def item(item_id: str, sample: Sample, answer: Answer, extract: Callable[[str], Sequence[str]] | None) -> Item:
    """Compares the objects that a description names with the labels."""
    listed: Sequence[str] | None = getattr(answer, "objects", None)
    if listed is None:
        listed = extract(answer.text) if extract else sample.meta["names"].categories(answer.text)
    named, present = set(listed), set(sample.target)
    right = len(named & present)
    chair = 1 - right / len(named) if named else 0.0
    counts = {
        "descriptions": 1.0,
        "naming": float(bool(named)),
        "chair": chair,
        "hal": float(chair != 0),
        "labelled": float(bool(present)),
        "cover": right / len(present) if present else 0.0,
    }
    details = {"prompt": sample.prompt, "audio": sample.media["audios"][0], "hallucinated": sorted(named - present)}
    parsed = sorted(named) or None
    return Item(item_id, sample.group, answer.text, parsed, sample.target, None, counts, details)


def metrics(columns: Collection[str]) -> list[Metric]:
    """chair, cover and hal, where there are descriptions."""
    if "descriptions" not in columns:
        return []
    return [
        ratio("chair", "chair", "naming", better="lower", role="hallucination"),
        ratio("cover", "cover", "labelled", role="coverage"),
        ratio("hal", "hal", "naming", better="lower", role="hallucination"),
    ]


def notes(items: Sequence[Item]) -> list[str]:
    """Counts descriptions that name nothing."""
    silent = sum(not item.counts["naming"] for item in items)
    meaning = "are in neither chair nor hal; the official means count each as -1"
    return [f"names_nothing: {silent} of {len(items)} descriptions {meaning}"] if silent else []


def official_numbers(items: Sequence[Item]) -> dict[str, float] | None:
    """What the official script prints: percent, two decimals, with -1 for whatever names nothing."""
    if not all(item.counts["labelled"] for item in items):
        return None
    total = float(len(items))
    columns = {
        "chair": [item.counts["chair"] if item.counts["naming"] else -1 for item in items],
        "cover": [item.counts["cover"] for item in items],
        "hal": [item.counts["hal"] if item.counts["naming"] else -1 for item in items],
    }
    return {name: round(sum(values) / total * 100, 2) for name, values in columns.items()}


def _entries(content: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str, Mapping[str, Any]]]:
    return [(clip, prompt, entry) for clip, prompts in content.items() for prompt, entry in prompts.items()]
