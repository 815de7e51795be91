"""Records whose answers are to be preferred because of what is shown: `mmdpo build counterfactual`.

Losses such as SymMPO, S-VCO and Re-Align compare an answer under its own picture with the same answer under another
one. That teaches something where the other picture is similar, and the answer is not true of it:

    records --scenes--> similar ones --not copies, answers not true--> partners --meta.partner--> records
                                              |                           |
                                              `--- counted                `--- set aside: no partner
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from data_builders.base import Builder, Work
from data_builders.counterfactual_config import CounterfactualConfig
from data_builders.partners.finding import Partners
from data_builders.partners.partnering import quartiles
from data_builders.running.work import THREADS
from data_builders.tables.config import absence_note
from mmdpo.corruptions import ItemCache
from mmdpo.media import Media, MediaError
from mmdpo.modalities.base import check_variant
from mmdpo.modalities.variants import items_of
from mmdpo.records import Record
from mmdpo.records.files import read_rows
from mmdpo.registry import builders
from mmdpo.views import CLEAN

_ROWS_AT_A_TIME = 1000  # their media are checked in parallel
_ITEMS_AT_A_TIME = 64  # decoded items of so many records are held


@builders.register("counterfactual")
class Counterfactual(Builder[CounterfactualConfig]):
    """Records with a partner whose media are similar and of which the answer is not true; for image-side losses."""

    Config = CounterfactualConfig
    sound_reasons = (
        *("no_media", "not_right", "unchanged"),
        *("not_similar", "near_copy", "answer_holds", "partner_taken", "other_question"),
    )

    def media_root(self, config: CounterfactualConfig) -> Path | None:
        """Folder that the records' media paths are relative to."""
        return config.opened[1]

    def records(self, config: CounterfactualConfig, work: Work) -> Iterator[Record]:
        """See `Builder.records`."""
        work.quality["source"] = str(config.data)
        absent: dict[str, bool] = {}
        for record in _changed(config, work) if config.mode == "corrupted" else _partnered(config, work):
            absent |= {item.identity: item.sha256 is None for _, item in record.media_items()}
            yield record
        work.notes += absence_note(absent)


def _usable(config: CounterfactualConfig, work: Work) -> Iterator[tuple[int, Record]]:
    """The rows with media that can be used, their content hashes known, and an answer that is right."""
    rows = enumerate(work.progress(read_rows(config.opened[0])), 1)
    while block := list(islice(rows, _ROWS_AT_A_TIME)):
        found: dict[tuple[str, Media], Media | MediaError] = {}
        for plural in dict.fromkeys(plural for _, record in block for plural in record.media):
            checked = work.checked_media(
                [item for _, record in block for item in record.media.get(plural, ())],
                config.opened[1],
                modality=plural.removesuffix("s"),
                optional=config.media == "optional",
                max_pixels=config.max_pixels,
            )
            found |= {(plural, item): result for item, result in checked.items()}
        for number, record in block:
            work.ledger.read(number)
            media: dict[str, tuple[Media, ...]] = {}
            for plural, item in record.media_items():
                one = found[plural, item]
                if isinstance(one, MediaError):
                    work.ledger.set_aside(one.kind, number, item.name, message=one.what)
                    break
                media[plural] = (*media.get(plural, ()), one)
            else:
                if not media:
                    work.ledger.set_aside("no_media", number, record.id, message="it shows nothing to exchange")
                elif not _is_right(record, config):
                    work.ledger.set_aside(
                        "not_right", number, record.id, message="even its best answer is none to prefer"
                    )
                else:
                    yield number, replace(record, media=media)


def _is_right(record: Record, config: CounterfactualConfig) -> bool:
    """Whether its first answer may be preferred because of what is shown."""
    answer = record.candidates[0]
    if answer.label is False or config.min_rating is None or answer.score is None:
        return answer.label is not False
    return answer.score >= config.min_rating if record.higher_is_better else answer.score <= config.min_rating


def _partnered(config: CounterfactualConfig, work: Work) -> Iterator[Record]:
    partners = Partners(config, work)
    for number, record in _usable(config, work):
        partners.add(number, record)
    found = partners.find()
    for number, record in enumerate(read_rows(config.opened[0]), 1):
        told = found.get(number)
        if told is not None:
            yield _made(record, number, told)


def _made(record: Record, number: int, told: dict[str, Any]) -> Record:
    """A record as it was, with what was found of it."""
    before = record.meta.get("builder")
    meta = {**record.meta, **told, "builder": "counterfactual", "rows": [number]}
    return replace(record, meta=meta if before is None else {**meta, "of": before})


def _changed(config: CounterfactualConfig, work: Work) -> Iterator[Record]:
    """The records whose media the variant changes, as training with the same seed will draw it."""
    changes: list[float] = []
    rows = _usable(config, work)
    with ThreadPoolExecutor(THREADS) as pool:
        while block := list(islice(rows, _ITEMS_AT_A_TIME)):
            for plural in {plural for _, record in block for plural in record.media}:
                check_variant(plural, config.variant)
            for (number, record), change in zip(
                block, pool.map(lambda one: _change(one[1], config), block), strict=True
            ):
                if change is None or change < config.min_change:
                    told = "absent" if change is None else f"the mean change is {change:.3f} of the range"
                    work.ledger.set_aside("unchanged", number, config.variant, message=told)
                    continue
                changes.append(change)
                work.ledger.use(number)
                yield _made(record, number, {"variant": config.variant, "change": round(change, 4)})
    work.quality["corrupted"] = {"variant": config.variant, "seed": config.seed, "change": quartiles(changes)}
    work.notes.append(
        f"train with the variant {config.variant}, for instance loss.mdpo.media={config.variant}, and "
        f"seed={config.seed}: what is shown then is what was measured here"
    )


def _change(record: Record, config: CounterfactualConfig) -> float | None:
    """Mean change of the values of a record's media under the variant, of their range; None where one is absent."""
    root, no_cache = config.opened[1], ItemCache(0)
    try:
        before, after = (items_of(record, name, root, no_cache, seed=config.seed) for name in (CLEAN, config.variant))
    except MediaError:
        return None
    pairs = [pair for plural in before for pair in zip(before[plural], after[plural], strict=True)]
    return float(np.mean([_distance(*map(_values, pair)) for pair in pairs]))


def _values(item: Any) -> Any:
    """The numbers of a decoded item: pixels of 0 to 1, samples, or an array as it is."""
    if hasattr(item, "frames"):
        return np.stack([_values(frame) for frame in item.frames])
    if hasattr(item, "samples"):
        return np.asarray(item.samples, np.float64)
    values = np.asarray(item)
    return values / 255 if values.dtype == np.uint8 else values.astype(np.float64)


def _distance(before: Any, after: Any) -> float:
    """Mean absolute difference, of the range of the first; 0 where it has none."""
    spread = float(np.ptp(before))
    return float(np.abs(before - after).mean()) / spread if spread else 0.0
