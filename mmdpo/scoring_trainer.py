"""A ``transformers.Trainer`` that scores batches under policy and reference, and validates on held-out pairs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import Trainer
from transformers.trainer_utils import EvalLoopOutput

from mmdpo.advice import Guard
from mmdpo.collate import Batch, Collator, table_of
from mmdpo.diagnostics import Reward, media_variants
from mmdpo.meter import Meter
from mmdpo.objectives import Objective
from mmdpo.objectives.schedules import weight_at
from mmdpo.policy import LoadedModel
from mmdpo.reference import Reference
from mmdpo.scoring import ReferenceHidden, scores
from mmdpo.two_pass import gather_tables, join
from mmdpo.validation import BLIND, Blind, first_time, validation_columns, validation_metrics
from mmdpo.views import ScoreTable


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
        _loss_parts: Each term's share of the loss since the last log, in this process.
    """

    loaded: LoadedModel
    objective: Objective
    reference: Reference | None
    reward: Reward
    groups: list[str]
    collator: Collator
    validation_collator: Collator
    blind: Blind = Blind(BLIND, "no other was tried")
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

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """The validation pairs, with their blind views."""
        self.data_collator: Any = self.validation_collator
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.data_collator = self.collator

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
            inputs = self._prepare_inputs(batch)
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

    # ---- every optimizer step ----

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """The gradient norm, with every process at the same step, before the weights change: the guard may end the run.

        Raises:
            ModelError: See :class:`mmdpo.advice.Guard`.
        """
        norm = super()._get_grad_norm(model, grad_norm)
        names = sorted(self._loss_parts)
        own = torch.stack([self._loss_parts[name].detach().float() for name in names]).to(self.args.device)
        values: list[float] = self.accelerator.reduce(own, reduction="sum").tolist()
        terms = self.objective.terms
        weights = {name: weight_at(terms[name].weight, self.progress) if name in terms else 1.0 for name in names}
        steps = self.state.global_step, self.state.max_steps
        # a gradient scaler leaves out steps whose gradient is not finite, and goes on with a smaller scale
        scaled = getattr(self.accelerator, "scaler", None) is not None
        gradient = 1.0 if scaled else float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
        self._guard.hear(dict(zip(names, values, strict=True)), weights, gradient, *steps)
        return norm

    @property
    def progress(self) -> float:
        """Share of the run's optimizer steps that is done."""
        return self.state.global_step / max(1, self.state.max_steps)
