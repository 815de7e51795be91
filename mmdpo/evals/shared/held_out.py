"""Held-out media with their captions: what `perplexity` scores, and what `diversity` draws answers about.

Read are: a data set of records (a folder or a Parquet file; of a pair the chosen answer, of a rated list the best),
COCO captions (a file or a folder of ``captions_*.json``), JSON lines ``{image, caption}`` with an ``id`` and a
``prompt`` of their own where they have one, and CHAIR's table ``{image: [objects]}``, which has no captions.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmdpo.errors import ConfigError, DataError
from mmdpo.evals.chair import Chair
from mmdpo.evals.result import Sample
from mmdpo.evals.shared.files import read_rows, read_text
from mmdpo.records import Candidate, Media, Record, Records, prompt_text, user_message
from mmdpo.records.checks import ratings_of


@dataclass(frozen=True)
class HeldOut:
    """Media, a prompt about them, and the captions that they have.

    Attributes:
        group: What tells these media from others.
        record: The prompt with its media; the captions are its candidates.
    """

    group: str
    record: Record

    def sample(self, sample_id: str, *candidates: Candidate) -> Sample:
        """The prompt as a sample of a benchmark; with a candidate, that is to be scored."""
        record = replace(self.record, id=sample_id, candidates=candidates, higher_is_better=None)
        media = {
            plural: [item.path for item in items if item.path is not None and item.data is None]
            for plural, items in record.media.items()
        }
        target = candidates[0].text if candidates else None
        return Sample(sample_id, prompt_text(record), media, target, self.group, record=record)


@dataclass(frozen=True)
class Reading:
    """How held-out data are read.

    Args:
        prompt: What is asked about media that come without a prompt.
        media: What the files are, as the list of a record is called.
        split: Which split of a data set of records; None for the only one.
        image_name: With CHAIR's table, the file name of an item, as for `mmdpo.evals.chair.Chair`.
    """

    prompt: str
    media: str = "images"
    split: str | None = None
    image_name: str | None = None

    def media_root(self, data: Path) -> Path | None:
        """Where a data set of records says that its media are; None for other data."""
        return load(data, self.split).media_root if is_record_set(data) else None

    def read(self, data: Path) -> list[HeldOut]:
        """The media of a file or folder with their captions, in the order in which they stand.

        Raises:
            DataError: It has none of the forms.
        """
        if is_record_set(data):
            found = list(self._of_records(load(data, self.split)))
        elif data.is_dir():
            paths = sorted(data.glob("captions_*.json"))
            found = [one for path in paths for one in self._of_coco(_parsed(path), str(path))]
        else:
            whole = _parsed(data)
            if isinstance(whole, dict) and {"images", "annotations"} <= set(whole):
                found = list(self._of_coco(whole, str(data)))
            elif isinstance(whole, dict) and all(isinstance(value, list) for value in whole.values()):
                found = list(self._of_table(data))
            else:
                found = list(self._of_rows(data))
        if not found:
            raise DataError(
                f"{str(data)!r} holds no held-out media",
                why="Read are data sets of records, captions_*.json of COCO, JSON lines and CHAIR's table of objects.",
                fix='Write lines such as {"image": "1.jpg", "caption": "A dog on a beach."}.',
            )
        return found

    def _of_records(self, records: Records) -> Iterator[HeldOut]:
        for record in records:
            first = next((item.identity for _, item in record.media_items()), record.id)
            best = _best(record)
            texts = _captions([(best.text, best.finished)] if best else [])
            yield HeldOut(first, replace(record, candidates=texts))

    def _of_coco(self, content: Any, origin: str) -> Iterator[HeldOut]:
        try:
            captions: dict[str, list[str]] = {str(image["id"]): [] for image in content["images"]}
            for annotation in content["annotations"]:
                captions[str(annotation["image_id"])].append(annotation["caption"])
            named = [(str(image["id"]), str(image["file_name"])) for image in content["images"]]
        except (KeyError, TypeError) as error:
            raise DataError(
                f"{origin!r} is not of the form of COCO's captions: {type(error).__name__} {error}",
                why="Every annotation needs the id of an image and a caption.",
                fix="Give captions_*.json; instances_*.json has no captions.",
            ) from error
        for image, file in named:
            yield self._item(image, image, file, self.prompt, captions[image])

    def _of_table(self, path: Path) -> Iterator[HeldOut]:
        chair = Chair(prompt=self.prompt, media=self.media, image_name=self.image_name)
        for sample in chair.samples(path):
            yield self._item(sample.id, sample.group, sample.media[self.media][0], self.prompt, [])

    def _of_rows(self, path: Path) -> Iterator[HeldOut]:
        key = self.media.removesuffix("s")
        for number, row in enumerate(read_rows(path), 1):
            file, caption = row.get(key), row.get("caption", row.get("text"))
            prompt, name = row.get("prompt", self.prompt), str(row.get("id", number))
            if not all(isinstance(value, str | None) for value in (file, caption)) or not isinstance(prompt, str):
                raise DataError(
                    f"entry {number} of {str(path)!r} has no {key}, caption and prompt of text: {str(row)[:200]}",
                    why="Anything else could be read as another text than the one that was meant.",
                    fix=f'Write {{"{key}": "1.jpg", "caption": "A dog on a beach."}}.',
                )
            if file is None and "prompt" not in row:
                raise DataError(
                    f"entry {number} of {str(path)!r} has neither {key} nor prompt: {str(row)[:200]}",
                    why="There is nothing that the caption would be about.",
                    fix=f'Write {{"{key}": "1.jpg", "caption": "A dog on a beach."}}.',
                )
            yield self._item(name, file or name, file, prompt, [] if caption is None else [caption])

    def _item(self, name: str, group: str, file: str | None, prompt: str, captions: list[str]) -> HeldOut:
        media = {} if file is None else {self.media: (Media(path=file),)}
        message = user_message(prompt, **{plural: 1 for plural in media})
        texts = _captions([(caption, True) for caption in captions])
        return HeldOut(group, Record(name, (message,), texts, media))


def is_record_set(data: Path) -> bool:
    """Whether a path is a data set of records."""
    return data.suffix == ".parquet" or (data.is_dir() and any((data / "data").glob("*.parquet")))


@functools.lru_cache(maxsize=1)
def load(data: Path, split: str | None) -> Records:
    """A data set of records; the newest is remembered, because its media's folder is asked for apart.

    Raises:
        ConfigError: It has several splits, and none is named.
        DataError: There is no such split.
    """
    from mmdpo.records.files import list_splits, load_records  # pulls in datasets, which other forms do not need

    splits = [] if data.suffix == ".parquet" else list_splits(data)
    if split is None and len(splits) > 1:
        raise ConfigError(
            f"{str(data)!r} has the splits {', '.join(splits)}",
            why="Captions that a model was trained on are not held out.",
            fix="Name one: --split validation.",
        )
    return load_records(data, split=split or (splits[0] if splits else "train"))


def _best(record: Record) -> Candidate | None:
    """The answer that people preferred; None where the record does not say."""
    ratings: Mapping[int, float] = dict(enumerate(ratings_of(record)))
    if record.form == "pair":
        return record.chosen
    if record.form == "unpaired":
        return None if record.candidates[0].label is False else record.candidates[0]
    return record.candidates[max(ratings, key=ratings.__getitem__)] if ratings else None


def _captions(texts: list[tuple[str, bool]]) -> tuple[Candidate, ...]:
    """Captions as candidates; what is scored is the text, not the ids that another tokenizer gave it."""
    return tuple(Candidate(text.strip(), finished=finished) for text, finished in texts)


def _parsed(path: Path) -> Any:
    """The one JSON value of a file; None where it holds lines."""
    try:
        return json.loads(read_text(path))
    except ValueError:
        return None
