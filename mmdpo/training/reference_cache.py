"""The reference as numbers on disk: computed once by the path that training takes, then looked up.

Saves the reference's forward pass in every step and, without an adapter, its weights in memory. It is refused where a
number could be another one: every ingredient has a fingerprint (:func:`ingredients`), every row has digests of what it
was computed from (`mmdpo.training.reference_store`), and some rows are computed again at every start (:meth:`prove`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmdpo.collate import Batch, Collator
from mmdpo.errors import ConfigError, ParityError
from mmdpo.fingerprints import digest_of, digest_of_tensors, library_versions, processor_settings
from mmdpo.policy import inner_of
from mmdpo.progress import Progress
from mmdpo.records import Record
from mmdpo.reference import Reference, ReferenceScores
from mmdpo.training.reference_store import ReferenceStore

Prepare = Callable[[Batch], Batch]

FORMAT = 2
"""Raised when what is stored, or how it is computed, changes its meaning."""
PROVEN = 4
"""Records that are scored again at every start."""
TOLERANCE = {torch.float64: 1e-6, torch.float32: 2e-3, torch.bfloat16: 0.25, torch.float16: 0.03}
"""Nats by which a token may differ when it is computed again in other company (padding, other kernels).

A logit and an entropy are in nats too, and differ as much; a sum of squared probabilities differs less.
"""


class CachedReference(Reference):
    """A reference whose numbers are looked up.

    Args:
        source: Computes what is not there yet: the live reference.
        store: What is there.
    """

    def __init__(self, source: Reference, store: ReferenceStore) -> None:
        super().__init__("cached", source.policy)
        self.source = source
        self.store = store

    def scores(
        self, wrapped: nn.Module, batch: Batch, statistics: Collection[str] = (), keep_hidden: bool = False
    ) -> ReferenceScores:
        """As :meth:`mmdpo.reference.Reference.scores`, from the store.

        Raises:
            ConfigError: A row is of another prompt, answer or media than the stored one.
            DataError: A row is not in the store.
        """
        del wrapped
        assert not keep_hidden, "token_kl reads the whole distribution, which no cache holds"
        found = self.store.rows(batch["identity"], batch["mask"])
        return ReferenceScores({name: found[name] for name in ("logp", *statistics)})

    def fill(
        self,
        wrapped: nn.Module,
        collator: Collator,
        records: Sequence[Record],
        prepare: Prepare,
        *,
        batch_size: int,
        process: int = 0,
        processes: int = 1,
        progress: Progress = iter,
    ) -> int:
        """Computes what is missing of some records; this process's share of them.

        Args:
            wrapped: The policy as ``accelerate`` wrapped it.
            collator: Builds batches with the views that will be read.
            records: The records.
            prepare: Moves a batch to the device.
            batch_size: Records at a time.
            process: Number of this process.
            processes: How many share the work.
            progress: Wraps the batches for a progress bar.

        Returns:
            Rows computed.
        """
        own = range(process, len(records), processes)
        computed = 0
        try:
            for start in progress(range(0, len(own), batch_size)):
                batch = collator([(n, records[n]) for n in own[start : start + batch_size]])
                absent = self.store.missing(batch["identity"])
                if absent:
                    batch = prepare(batch)
                    found = self.source.scores(wrapped, batch, set(self.store.statistics) - {"logp"})
                    self.store.add(batch["identity"], batch["mask"], found.values, absent)
                    computed += len(absent)
                    self._forget_features()
        finally:  # what ends this early, Ctrl-C or a full memory, loses nothing
            self.store.flush()
        return computed

    def _forget_features(self) -> None:
        inner = inner_of(self.policy)
        inner.mmdpo_scoring.features.clear()

    def prove(
        self, wrapped: nn.Module, collator: Collator, records: Sequence[Record], prepare: Prepare, seed: int = 0
    ) -> float:
        """Computes a few records again, drawn by seed, and compares every statistic of their tokens.

        Returns:
            The largest difference of a token's log-probability, in nats.

        Raises:
            ParityError: A difference is larger than another batch would explain, or a number is none.
        """
        worst, also = 0.0, set(self.store.statistics) - {"logp"}
        for n in random.Random(seed).sample(range(len(records)), min(PROVEN, len(records))):
            batch = prepare(collator([(n, records[n])]))
            fresh = self.source.scores(wrapped, batch, also).values
            self._forget_features()
            stored = self.store.rows(batch["identity"], batch["mask"])
            differences = {name: float((fresh[name].float() - stored[name]).abs().max()) for name in stored}
            for name, difference in differences.items():
                self._require_close(name, difference)
            worst = max(worst, differences["logp"])
        return worst

    def _require_close(self, name: str, difference: float) -> None:
        if not difference <= tolerance(self.policy):  # NaN is not
            raise ParityError(
                f"the cached reference in {str(self.store.folder)!r} differs by {difference:.3g} in {name} of a token "
                "from what the reference gives now",
                why="Something that its fingerprints do not know has changed; the margins would be measured from "
                "another model.",
                fix="Remove the folder and let it be made again.",
            )


def tolerance(model: nn.Module) -> float:
    """Nats by which a token of this model may differ when it is computed again in other company."""
    dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
    return TOLERANCE.get(dtype, TOLERANCE[torch.bfloat16])


def open_cache(
    source: Reference, folder: Path, told: dict[str, str], statistics: Collection[str], process: int = 0
) -> CachedReference:
    """The cached reference of a folder, made where it is not there.

    Raises:
        ConfigError: A term needs more than a cache can hold, or the folder is of other ingredients.
        DataError: A file of the folder is damaged.
    """
    if "token_kl" in statistics:
        raise ConfigError(
            "reference.kind is cached, and a term reads token_kl",
            why="The divergence from the reference needs its whole distribution at every token, not one number.",
            fix="Use reference: {kind: auto}, or a loss without token_kl (tdpo2 and chip have it).",
        )
    return CachedReference(source, ReferenceStore(folder, told, {"logp", "entropy", *statistics}, process))


def ingredients(model: Any, processor: Any, collator: Collator, source: Reference) -> dict[str, str]:
    """What a reference's log-probabilities depend on beside what is told of every row, each with a fingerprint.

    What a seed draws (a media variant, another record's answer) is in its row's digests.

    Args:
        model: The policy before its first step, not wrapped.
        processor: Its processor.
        collator: Says the layout.
        source: The live reference, whose adapter counts.

    Returns:
        ``weights`` (of the base), ``adapter`` (of the reference), ``processor`` (pixel settings and the like),
        ``tokenizer``, ``template``, ``numerics`` (precision, attention, quantization, layout), ``versions`` (of the
        libraries that change numbers), and ``format``.
    """
    encoder = collator.encoder
    inner = inner_of(model)
    tokenizer = encoder.tokenizer
    dtypes = sorted({str(p.dtype).removeprefix("torch.") for p in inner.parameters()})
    device = next(inner.parameters()).device.type
    numerics = [*dtypes, str(inner.config._attn_implementation), collator.layout, device]
    return {
        "weights": _digest_of_weights(inner, adapter=False),
        "adapter": _digest_of_weights(inner, adapter=True) if source.kind == "adapter_copy" else "none",
        "processor": digest_of(processor_settings(processor)),
        "tokenizer": digest_of([tokenizer.get_vocab(), str(tokenizer.special_tokens_map), list(encoder.eos_ids)]),
        "template": digest_of([getattr(processor, "chat_template", None), getattr(tokenizer, "chat_template", None)]),
        "numerics": " ".join(numerics),
        "versions": library_versions(),
        "format": str(FORMAT),
    }


def _digest_of_weights(model: Any, *, adapter: bool) -> str:
    """A digest of every weight's bytes: of the base, or of the frozen copy of an adapter."""

    def belongs(name: str) -> bool:
        of_adapter = "lora_" in name or ".modules_to_save." in name
        return of_adapter == adapter and (not adapter or ".reference." in name)

    return digest_of_tensors((name, values) for name, values in model.state_dict().items() if belongs(name))
