"""A ``transformers.Trainer`` that scores batches under policy and reference, and validates on held-out pairs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer
from transformers.trainer_utils import EvalLoopOutput

from mmdpo.collate import Batch, Collator, table_of
from mmdpo.diagnostics import Reward
from mmdpo.objectives import Objective
from mmdpo.policy import LoadedModel
from mmdpo.reference import Reference
from mmdpo.scoring import score
from mmdpo.validation import first_time, validation_columns, validation_metrics
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
    """

    loaded: LoadedModel
    objective: Objective
    reference: Reference | None
    reward: Reward
    groups: list[str]
    collator: Collator
    validation_collator: Collator

    def _table(self, model: nn.Module, inputs: Batch, collator: Collator) -> ScoreTable:
        reference = None
        if self.reference is not None:
            reference = self.reference.score(model, inputs)
        return table_of(inputs, collator.media_names, score(model, inputs), reference)

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
        seen: set[int] = set()
        totals = torch.zeros(2, len(self.objective.terms), device=self.args.device)
        for batch in dataloader:
            self.loaded.inner.mmdpo_scoring.features.clear()
            inputs = self._prepare_inputs(batch)
            with torch.no_grad(), self.compute_loss_context_manager():
                table = self._table(model, inputs, self.validation_collator)
            gathered = self.accelerator.gather(validation_columns(table, inputs["index"], self.reward))
            fresh = torch.tensor(first_time(gathered[:, 0].long().tolist(), seen), device=gathered.device)
            columns.append(gathered[fresh])
            own = fresh.view(-1, len(inputs["index"]))[self.accelerator.process_index]
            self._add_totals(totals, table.select(own[table.example]))
        self.loaded.inner.mmdpo_scoring.features.clear()
        model.train(was_training)
        values = torch.cat(columns).double().cpu().numpy()
        metrics = validation_metrics(values, self.groups, metric_key_prefix)
        sums, counts = self.accelerator.reduce(totals, reduction="sum")
        weights = torch.tensor([term.weight for term in self.objective.terms.values()], device=sums.device)
        metrics[f"{metric_key_prefix}_loss"] = float((weights * sums / counts.clamp(min=1)).sum())
        return EvalLoopOutput(predictions=None, label_ids=None, metrics=metrics, num_samples=len(values))

    def _add_totals(self, totals: Tensor, table: ScoreTable) -> None:
        """Adds every term's sum and count of one batch, for the objective's value on the held-out records."""
        totals[0] += torch.stack([term.total(table).float() for term in self.objective.terms.values()])
        totals[1] += self.objective.counts(table)
