"""A ``transformers.Trainer`` that scores batches under policy and reference, and validates on held-out pairs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer
from transformers.trainer_utils import EvalLoopOutput

from mmdpo.collate import Batch, Collator, table_of
from mmdpo.diagnostics import Reward, media_variants
from mmdpo.objectives import Objective
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
    """

    loaded: LoadedModel
    objective: Objective
    reference: Reference | None
    reward: Reward
    groups: list[str]
    collator: Collator
    validation_collator: Collator
    blind: Blind = Blind(BLIND, "no other was tried")

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
        metrics[f"{metric_key_prefix}_loss"] = self._held_out_loss(tables)
        return EvalLoopOutput(predictions=None, label_ids=None, metrics=metrics, num_samples=len(values))

    @torch.no_grad()
    def _held_out_loss(self, tables: Sequence[ScoreTable]) -> float:
        """The objective's value on all held-out records at once, as in one optimizer step of all of them."""
        everything = join(tables)
        if not self.objective.coupled:
            counts = self.accelerator.reduce(self.objective.counts(everything), reduction="sum")
            loss = self.objective(everything, counts, self.progress)[0]
            return float(self.accelerator.reduce(loss, reduction="sum"))
        if self.accelerator.num_processes > 1:
            everything = join(gather_tables(everything, self.accelerator))
        return float(self.objective(everything, self.objective.counts(everything), self.progress)[0])

    @property
    def progress(self) -> float:
        """Share of the run's optimizer steps that is done."""
        return self.state.global_step / max(1, self.state.max_steps)
