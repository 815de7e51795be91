"""A ``transformers.Trainer`` that scores batches under policy and reference, and validates on held-out pairs."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer
from transformers.trainer_utils import EvalLoopOutput

from mmdpo.collate import Batch, Collator, table_of
from mmdpo.diagnostics import Reward, media_variants
from mmdpo.forward.batch_rows import cut_by_tokens, split_rows
from mmdpo.objectives import Objective
from mmdpo.policy import LoadedModel
from mmdpo.reference import Reference
from mmdpo.scoring import ReferenceHidden, scores
from mmdpo.training.guard import Guard
from mmdpo.training.meter import Meter
from mmdpo.training.token_batches import MICRO, Batches, Epochs, LengthGroups, micro_batches
from mmdpo.training.two_pass import gather_tables, join
from mmdpo.training.validation import BLIND, Blind, first_time, validation_columns, validation_metrics
from mmdpo.training.workers import InWorker, prepare_for_workers, unpacked
from mmdpo.views import ScoreTable

logger = logging.getLogger(__name__)
MUCH_WAITING = 0.2
"""Share of a run's time that is spent waiting for batches, above which it is said."""
LONG_WAITING = 60.0
"""Seconds of it, below which it is not worth saying."""


class ScoringTrainer(Trainer):
    """What training and validation share; :class:`mmdpo.trainer.PreferenceTrainer` sets the attributes.

    Attributes:
        loaded: Model, processor and facts.
        objective: The objective.
        reference: The reference, or None when no term needs one.
        reward: How log-ratios become rewards.
        groups: Group (image) of each held-out record.
        collator: Builds training batches.
        validation_collator: Builds validation batches, with the blind views.
        blind: How the media of held-out pairs are hidden.
        batches: How steps are cut into micro-batches.
        rows_per_chunk: Rows that the two-pass step scores with gradient at a time; None for all of a batch.
        waited: Seconds in which this process waited for batches.
        _loss_parts: Each term's share of the loss since the last log, in this process.
    """

    loaded: LoadedModel
    objective: Objective
    reference: Reference | None
    reward: Reward
    groups: list[str]
    collator: Collator
    data_collator: Any
    validation_collator: Collator
    blind: Blind = Blind(BLIND, "no other was tried")
    batches: Batches = Batches()
    rows_per_chunk: int | None = None
    waited: float = 0.0
    _seconds: float = 0.0
    _loss_parts: dict[str, Tensor]
    _guard: Guard

    def _reference_scores(
        self, model: nn.Module, inputs: Batch, also: Collection[str] = ()
    ) -> tuple[dict[str, Tensor] | None, ReferenceHidden | None]:
        """What the reference gives of a batch, and what the policy's ``token_kl`` needs of it; None without one."""
        if self.reference is None:
            return None, None
        wanted = self.objective.statistics
        statistics = {*wanted, *also} - {"token_kl"}
        with self.accelerator.autocast():  # a frozen copy is not wrapped, and must round as the policy does
            found = self.reference.scores(model, inputs, statistics, keep_hidden="token_kl" in wanted)
        return found.values, found.hidden

    def _table(self, model: nn.Module, inputs: Batch, collator: Collator, also: Collection[str] = ()) -> ScoreTable:
        """The score table of a batch; ``also`` names further statistics of the reference."""
        reference, hidden = self._reference_scores(model, inputs, also)
        policy = scores(model, inputs, self.objective.statistics, hidden)
        return table_of(inputs, collator.media_names, policy, reference)

    # ---- batches ----

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """Records in random order, or in one in which those of a batch have similar lengths."""
        if self.batches.lengths is None:
            return super()._get_train_sampler(train_dataset)
        args = self.args
        sampler = LengthGroups(self.batches.lengths, args.per_device_train_batch_size, args.world_size, args.seed)
        self.add_callback(Epochs(sampler))  # accelerate forgets to tell it where batches are skipped on a resume
        return sampler

    def get_train_dataloader(self) -> Any:
        """Batches of the training records, made in workers where the arguments say so."""
        if self.args.dataloader_num_workers == 0:
            return super().get_train_dataloader()
        prepare_for_workers()
        own, self.data_collator = self.data_collator, InWorker(self.data_collator)
        try:
            return super().get_train_dataloader()
        finally:
            self.data_collator = own

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], Any]:
        """Fetches a step's batches, and takes the time that it waits for them."""
        start = time.perf_counter()
        found: tuple[list[Batch], Any] = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.waited += time.perf_counter() - start
        for batch in found[0]:
            unpacked(batch)
        return found

    def waiting(self) -> dict[str, float]:
        """How long this process waited for batches: seconds, and their share of the training's time."""
        return {"seconds": round(self.waited, 3), "share": round(self.waited / max(self._seconds, 1e-9), 4)}

    def training_step(self, model: nn.Module, inputs: Batch, num_items_in_batch: Any = None) -> Tensor:
        """Forward and backward of a batch, or of the micro-batches of a whole optimizer step one after the other."""
        if MICRO not in inputs:
            return super().training_step(model, inputs, num_items_in_batch)
        parts = micro_batches(inputs)
        self.current_gradient_accumulation_steps = len(parts)
        with self.accelerator.no_sync(model=model):
            for _ in range(self._passes_too_few(parts)):
                self._accompany(model, parts[-1])
        state, total = self.accelerator.gradient_state, torch.zeros((), device=self.args.device)
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            state._set_sync_gradients(last)  # as Trainer itself does; DeepSpeed steps where it is set
            alone = last or self.is_deepspeed_enabled
            with contextlib.nullcontext() if alone else self.accelerator.no_sync(model=model):
                total += super().training_step(model, part, num_items_in_batch)
        return total

    def _chunks(self, inputs: Batch) -> list[tuple[Batch, Tensor]]:
        """The parts of a batch that the two-pass step scores with gradient, and which answers each holds."""
        if self.batches.max_tokens is None:
            return split_rows(inputs, self.rows_per_chunk or len(inputs["input_ids"]))
        multiple = self.loaded.facts.row_multiple if self.collator.layout == "shared" else 1
        return cut_by_tokens(inputs, self.batches.max_tokens, rows=self.rows_per_chunk, multiple=multiple)

    def _router_loss(self) -> Tensor | float:
        """This forward pass's share of the experts' load-balancing loss, a mean over the step's micro-batches."""
        router = self.loaded.inner.mmdpo_scoring.router
        if router is None:
            return 0.0
        loss = router.take() / (self.current_gradient_accumulation_steps * self.accelerator.num_processes)
        self._loss_parts["router"] = self._loss_parts.get("router", 0.0) + torch.as_tensor(loss).detach()
        return loss

    def _passes_too_few(self, parts: Sequence[Batch]) -> int:
        """How many forward passes others have more: FSDP2 gathers weights in each, and all must take part."""
        if not self.is_fsdp_enabled:
            return 0
        own = torch.tensor([len(parts)], device=self.args.device)
        return int(self.accelerator.gather(own).max()) - len(parts)

    def _accompany(self, model: nn.Module, batch: Batch) -> None:
        """Forward and backward of a batch without any gradient, for processes that have more micro-batches."""
        model.train()
        batch = self._prepare_inputs(batch)
        hidden = self._reference_scores(model, batch)[1]
        found = scores(model, batch, self.objective.statistics, hidden)
        self.accelerator.backward(torch.stack([values.sum() for values in found.values()]).sum() * 0.0)
        if self.loaded.inner.mmdpo_scoring.router is not None:
            self.loaded.inner.mmdpo_scoring.router.take()  # no share of the step's

    def floating_point_ops(self, inputs: Batch) -> int:
        """Of all micro-batches."""
        return sum(super(ScoringTrainer, self).floating_point_ops(part) for part in micro_batches(inputs))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds how long the run waited for batches to what is told of its time."""
        if "train_runtime" in logs:
            logs["train_waiting_runtime"] = round(self.waited, 4)
            self._seconds, share = logs["train_runtime"], self.waited / max(logs["train_runtime"], 1e-9)
            if share > MUCH_WAITING and self.waited > LONG_WAITING and self.args.process_index == 0:
                workers = self.args.dataloader_num_workers
                logger.warning("%.0f%% of the time was spent waiting for batches (%d workers)", 100 * share, workers)
        super().log(logs, start_time)

    # ---- held-out records ----

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """The validation pairs, with their blind views."""
        of_training = self.data_collator
        workers = self.args.dataloader_num_workers > 0
        self.data_collator = InWorker(self.validation_collator) if workers else self.validation_collator
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.data_collator = of_training

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Accuracy and margin of the held-out pairs, with and without their media, with intervals."""
        model = self.model_wrapped if self.model_wrapped is not None else self.model
        if model is self.model and len(self.accelerator._models) == 0:
            model = self.accelerator.prepare_model(self.model, evaluation_mode=True)
        was_training = model.training
        model.eval()
        columns: list[Tensor] = []
        variants = media_variants(self.objective)
        seen: set[int] = set()
        tables: list[ScoreTable] = []
        for batch in dataloader:
            self.loaded.inner.mmdpo_scoring.features.clear()
            inputs = self._prepare_inputs(unpacked(batch))
            with torch.no_grad(), self.compute_loss_context_manager():
                table = self._table(model, inputs, self.validation_collator, also=("entropy",))
            found = validation_columns(table, inputs["index"], self.reward, self.blind.variant, variants)
            gathered = self.accelerator.gather(found)
            fresh = torch.tensor(first_time(gathered[:, 0].long().tolist(), seen), device=gathered.device)
            columns.append(gathered[fresh])
            own = fresh.view(-1, len(inputs["index"]))[self.accelerator.process_index]
            tables.append(table.select(own[table.example]))
        self.loaded.inner.mmdpo_scoring.features.clear()
        model.train(was_training)
        values = torch.cat(columns).double().cpu().numpy()
        metrics = validation_metrics(values, self.groups, metric_key_prefix)
        metrics |= {f"{metric_key_prefix}_{name}": value for name, value in self._of_objective(tables).items()}
        return EvalLoopOutput(predictions=None, label_ids=None, metrics=metrics, num_samples=len(values))

    @torch.no_grad()
    def _of_objective(self, tables: Sequence[ScoreTable]) -> dict[str, float]:
        """The objective's value on all held-out records as in one optimizer step of them, and what its terms say."""
        everything = join(tables)
        coupled, meter = self.objective.coupled, Meter()
        if coupled and self.accelerator.num_processes > 1:
            everything = join(gather_tables(everything, self.accelerator))
        counts = self.objective.counts(everything)
        if not coupled:
            counts = self.accelerator.reduce(counts, reduction="sum")
        loss = self.objective(everything, counts, self.progress)[0]
        if not coupled:  # else each process has the value of all records
            loss = self.accelerator.reduce(loss, reduction="sum")
        watched = self.objective.watch(everything)
        meter.add({f"diagnostics/{name}": values for name, values in watched.items()})
        return {"loss": float(loss), **meter.read(self.accelerator.reduce)}

    @property
    def progress(self) -> float:
        """Share of the run's optimizer steps that is done."""
        return self.state.global_step / max(1, self.state.max_steps)
