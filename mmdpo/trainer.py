"""The trainer: wires records, views, scoring, reference and objective into ``transformers.Trainer``. Wiring only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from accelerate.utils import fsdp2_prepare_model
from torch import Tensor, nn
from transformers import PrinterCallback, ProgressCallback, TrainerCallback, TrainingArguments

from mmdpo.collate import Batch, Collator, Layout, RecordDataset, table_of
from mmdpo.diagnostics import reward_of, training_metrics
from mmdpo.encoding.companions import Companions
from mmdpo.encoding.example import Encoder
from mmdpo.errors import ConfigError
from mmdpo.objectives import Objective
from mmdpo.policy import LoadedModel
from mmdpo.records import Record
from mmdpo.reference import Reference
from mmdpo.scoring import scores
from mmdpo.training.callbacks import Bar, FreshVariants
from mmdpo.training.guard import Guard
from mmdpo.training.guarded_trainer import GuardedTrainer
from mmdpo.training.meter import Meter
from mmdpo.training.not_finite import Scored
from mmdpo.training.sharding import plan_sharding, plan_zero, require_shards
from mmdpo.training.token_batches import Batches, StepCollator, micro_batches, whole_steps
from mmdpo.training.two_pass import FirstPass, Generators, even_chunks, first_pass, first_rows, gather_tables, stacked
from mmdpo.training.validation import blind_variant, held_out_views
from mmdpo.views import ScoreTable, View


class PreferenceTrainer(GuardedTrainer):
    """Trains a model on preference records.

    Args:
        loaded: Model, processor and facts.
        objective: The objective.
        reference: The reference, or None when no term needs one.
        encoder: Turns records into model inputs.
        train_records: Records to train on.
        validation_records: Held-out records.
        validation_groups: Group (image) of each validation record; intervals resample groups.
        args: ``transformers.TrainingArguments``.
        layout: ``"shared"`` or ``"plain"``.
        two_pass: Always take the two-pass step; it is taken anyway when a term couples records.
        branches_per_row: How many answers of a record share a row; None for all.
        records_per_row: How many records share a row, or ``"fit"`` (see :class:`mmdpo.collate.Collator`).
        rows_per_chunk: Rows that are scored with gradient at a time; needs, and takes, the two-pass step.
        batches: How steps are cut into micro-batches; by default as ``args`` say.
        callbacks: Further callbacks.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        objective: Objective,
        reference: Reference | None,
        encoder: Encoder,
        train_records: Sequence[Record],
        *,
        args: TrainingArguments,
        validation_records: Sequence[Record] = (),
        validation_groups: Sequence[str] = (),
        layout: Layout = "shared",
        two_pass: bool = False,
        branches_per_row: int | None = None,
        records_per_row: int | Literal["fit"] = 1,
        rows_per_chunk: int | None = None,
        batches: Batches | None = None,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        if args.n_gpu > 1:
            raise ConfigError(
                f"{args.n_gpu} GPUs are visible and no launcher is used",
                why="DataParallel copies the model each step and cannot score.",
                fix="Use mmdpo train CONFIG --processes N, or show one GPU with CUDA_VISIBLE_DEVICES=0.",
            )
        pad = getattr(encoder.tokenizer, "pad_token_id", None)

        def collator(records: Sequence[Record], views: Sequence[View], by: Encoder, **rows: Any) -> Collator:
            others = Companions(records, by.seed)
            return Collator(by, views, companions=others, layout=layout, pad_id=pad or 0, **rows)

        rows: dict[str, Any] = {"branches_per_row": branches_per_row, "records_per_row": records_per_row}
        self.collator = collator(train_records, objective.views, encoder, **rows)
        self.blind = blind_variant(encoder, validation_records)
        views = held_out_views(objective, self.blind.variant)
        self.validation_collator = collator(validation_records, views, encoder.fixed())
        super().__init__(
            model=loaded.model,
            args=args if batches is None or batches.max_tokens is None else whole_steps(args),
            data_collator=self.collator,
            train_dataset=RecordDataset(train_records),
            eval_dataset=RecordDataset(validation_records) if validation_records else None,
            processing_class=loaded.processor,
            callbacks=callbacks,
        )
        self._own_callbacks(encoder)
        self.loaded = loaded
        self.objective = objective
        self.reference = reference
        self.groups = list(validation_groups)
        self.two_pass = two_pass or objective.coupled or rows_per_chunk is not None
        self.rows_per_chunk = rows_per_chunk
        self.batches = batches or Batches()
        if self.batches.max_tokens is not None and not self.two_pass:  # the two-pass step cuts its batches itself
            self.data_collator = StepCollator(self.collator, self.batches.max_tokens)
        self.reward = reward_of(objective)
        self.meter = Meter()
        self._loss_parts = {}
        self._guard = Guard()
        self._scored = []
        self._steps_since_log = 0
        # the loss is divided by counts over the whole optimizer step, so Trainer must not divide it again
        self.loss_is_scaled_for_ga = True
        self.model_accepts_loss_kwargs = False
        self._shard()

    def _own_callbacks(self, encoder: Encoder) -> None:
        # Trainer's own bar and printer write every log to stdout, which belongs to results
        self.remove_callback(ProgressCallback)
        self.remove_callback(PrinterCallback)
        if not self.args.disable_tqdm:
            self.add_callback(Bar)
        if encoder.fresh:
            self.add_callback(FreshVariants(encoder, self.args))

    def _shard(self) -> None:
        """Says what FSDP2 may shard, and puts a frozen reference where the policy will be."""
        require_shards(self.accelerator.distributed_type)
        if self.is_fsdp_enabled:
            plan_sharding(self.accelerator.state.fsdp_plugin, self.loaded)
        if self.is_deepspeed_enabled:
            frozen = None if self.reference is None else self.reference.frozen
            keeper = plan_zero(self.accelerator.state.deepspeed_plugin, self.loaded, frozen)
            if keeper is not None:
                self.add_callback(keeper)
        if self.reference is not None and self.reference.frozen is not None:
            self.reference.frozen.to(self.args.device)
            if self.is_fsdp_enabled:
                self.reference.frozen = fsdp2_prepare_model(self.accelerator, self.reference.frozen)

    # ---- one optimizer step ----

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], Tensor | int | None]:
        """Fetches the step's micro-batches and counts every term's units over all of them and all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.loaded.inner.mmdpo_scoring.features.clear()
        if not batches:
            return batches, None
        parts = [part for batch in batches for part in micro_batches(batch)]
        self._steps_since_log += 1
        names = self.collator.media_names
        counts = torch.stack(
            [self.objective.counts(table_of(b, names, {"logp": torch.zeros_like(b["weight"])})) for b in parts]
        ).sum(0)
        counts = self.accelerator.reduce(counts.to(device), reduction="sum")
        if self.two_pass:
            self._first_pass(batches, counts)
        return batches, counts

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The micro-batch's share of the step's loss, times the processes that DDP will average over."""
        assert isinstance(num_items_in_batch, Tensor)
        done: FirstPass | None = inputs.get("first_pass")
        if done is not None:
            loss = self._second_pass(model, inputs, done)
        else:
            table = self._table(model, inputs, self.collator)
            loss, parts = self.objective(table, num_items_in_batch, self.progress)
            loss = loss + self._router_loss()
            self._record(inputs, table, parts, self.objective.watch(table))
        loss = loss * self.accelerator.num_processes
        return (loss, {}) if return_outputs else loss

    def _first_pass(self, batches: list[Batch], counts: Tensor) -> None:
        """Scores the whole step without gradient and leaves dL/dlogp in each micro-batch."""
        model = self.model_wrapped
        model.train()
        tables = []
        with torch.no_grad(), self.compute_loss_context_manager():
            for batch in batches:
                inputs = self._prepare_inputs(batch)
                chunks = self._chunks(inputs)
                if self.is_fsdp_enabled or self.is_deepspeed_enabled:
                    chunks = even_chunks(chunks, self.accelerator)
                batch["chunks"], policy, reference = [], [], []
                for part, answers in chunks:
                    of_reference, hidden = self._reference_scores(model, part)
                    reference.append(first_rows(of_reference or {}, len(answers)))
                    batch["chunks"].append((part, answers, hidden, Generators.now()))
                    policy.append(first_rows(scores(model, part, self.objective.statistics, hidden), len(answers)))
                found, expected = (stacked(of, [answers for _, answers in chunks]) for of in (policy, reference))
                tables.append(table_of(inputs, self.collator.media_names, found, expected or None))
        crosses = self.objective.coupled and self.accelerator.num_processes > 1
        gather = (lambda own: gather_tables(own, self.accelerator)) if crosses else None
        results, parts, watched = first_pass(tables, self.objective, counts, self.progress, gather)
        sharers = self.accelerator.num_processes if crosses else 1  # each of them holds the value of the whole step
        for number, (batch, result, table) in enumerate(zip(batches, results, tables, strict=True)):
            batch["first_pass"] = FirstPass(result.gradients, result.loss / sharers)
            shares = {name: part / sharers for name, part in parts.items()}
            self._record(batch, table, shares if number == 0 else {}, watched if number == 0 else {})

    def _second_pass(self, model: nn.Module, inputs: Batch, done: FirstPass) -> Tensor:
        """Backward of all chunks but the last, whose loss is returned; its value is the objective's."""
        *others, last = inputs["chunks"]
        state = self.accelerator.gradient_state
        steps, unscaled = state.sync_gradients, {"scale_wrt_gas": False} if self.is_deepspeed_enabled else {}
        with self.accelerator.no_sync(model):  # around the forward too: DDP decides there whether to reduce
            state._set_sync_gradients(False)  # DeepSpeed steps at the end of a backward, unless told
            for chunk in others:
                surrogate = self._surrogate(model, chunk, done, len(inputs["chunks"]))
                self.accelerator.backward(surrogate * self.accelerator.num_processes, **unscaled)
        state._set_sync_gradients(steps)
        surrogate = self._surrogate(model, last, done, len(inputs["chunks"]))
        return surrogate - surrogate.detach() + done.loss

    def _surrogate(self, model: nn.Module, chunk: Any, done: FirstPass, chunks: int) -> Tensor:
        """A number with the objective's gradient for one chunk."""
        part, answers, hidden, generators = chunk
        generators.restore()
        found = first_rows(scores(model, part, self.objective.statistics, hidden), len(answers))
        parts = [(values * done.gradients[name][answers]).sum() for name, values in found.items()]
        return torch.stack(parts).sum() + self._router_loss() / chunks

    def _record(self, batch: Batch, table: ScoreTable, parts: dict[str, Tensor], watched: dict[str, Tensor]) -> None:
        self._scored.append(Scored.of(batch["index"], table))
        self.meter.add(training_metrics(table, self.objective))
        self.meter.add({f"diagnostics/{name}": values for name, values in watched.items()})
        # each micro-batch holds a share of the step's loss: the sum over micro-batches is one value a step
        for name, value in parts.items():
            self._loss_parts[name] = self._loss_parts.get(name, torch.zeros_like(value)) + value

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the means since the last log, over records and processes."""
        if "loss" in logs:
            for name in sorted(self._loss_parts):
                total = self.accelerator.reduce(self._loss_parts[name], reduction="sum")
                logs[f"loss/{name}"] = float(total) / max(1, self._steps_since_log)
            self._loss_parts.clear()
            self._steps_since_log = 0
            logs |= self.meter.read(self.accelerator.reduce)
        super().log(logs, start_time)
