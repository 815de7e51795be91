"""What protects a run: the check of its start, checkpoints that are whole, and stops that say which records it was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, EvalLoopOutput, rotate_checkpoints

from mmdpo.collate import Batch
from mmdpo.errors import ParityError
from mmdpo.objectives.schedules import weight_at
from mmdpo.records import Record
from mmdpo.reference import Start
from mmdpo.training import checkpoints
from mmdpo.training.meter import Meter
from mmdpo.training.not_finite import Culprits, Scored, culprits, told
from mmdpo.training.out_of_memory import Settings, is_shortage, shortage
from mmdpo.training.scoring_trainer import ScoringTrainer
from mmdpo.training.token_batches import Batches


class GuardedTrainer(ScoringTrainer):
    """A scoring trainer that can be killed and goes on; :class:`mmdpo.trainer.PreferenceTrainer` sets it up.

    Attributes:
        meter: Means of what is logged since the last log.
        batches: How steps are cut into micro-batches.
        rows_per_chunk: Rows that are scored with gradient at a time; None for a micro-batch.
    """

    meter: Meter
    batches: Batches
    rows_per_chunk: int | None
    _steps_since_log: int
    _saving = False
    _evaluating = False
    _resumed_from: str | None = None
    _generators_of: str | None = None
    _batch: Batch | None = None
    _scored: list[Scored]

    # ---- the start ----

    def check_start(self, began_with: float | None = None, tolerance: float = 1e-3) -> Start | None:
        """Asserts that policy and reference agree before the first step, so that every margin is 0.

        Must be called before a checkpoint is loaded.

        Args:
            began_with: On a resume, :attr:`Start.reference` of the run's first start.
            tolerance: Largest allowed difference of a token's log-probability, in nats.

        Returns:
            What was measured on the first record; None without a reference.

        Raises:
            ParityError: They differ: the loss would not start at its closed form. Or the reference is another one than
                at the run's first start.
        """
        if self.reference is None:
            return None
        model = self.model
        batch = self._prepare_inputs(self.collator([self.train_dataset[0]]))
        was_training = model.training
        model.eval()  # an adapter's own dropout is no difference
        with torch.no_grad(), self.compute_loss_context_manager():
            table = self._table(model, batch, self.collator)
        model.train(was_training)
        self.loaded.inner.mmdpo_scoring.features.clear()
        assert table.ref_logp is not None
        worst = float((table.logp - table.ref_logp).abs().max())
        if not worst <= tolerance:
            raise ParityError(
                f"policy and reference differ by {worst:.3g} nats on the first record before any training",
                why="The margins would not start at 0: the run would be measured from another model.",
                fix="Start from the adapter or model itself (model.adapter), or use reference: {kind: copy}.",
            )
        value = float((table.ref_logp * table.mask).sum())
        if began_with is not None and abs(value - began_with) > 1e-2 * max(1.0, abs(began_with)):
            raise ParityError(
                f"the reference gives {value:.4f} nats to the first record, the run began with {began_with:.4f}",
                why="Model or data have changed since; the resumed run would optimise against another reference.",
                fix="Restore what changed, or start a new run.",
            )
        return Start(worst, value)

    # ---- checkpoints ----

    def train(self, resume_from_checkpoint: Any = None, **options: Any) -> Any:
        """Trains; a checkpoint brings the objective's running values and the sums since the last log with it.

        Raises:
            MemoryShortageError: A batch does not fit in memory.
        """
        if isinstance(resume_from_checkpoint, str):
            checkpoints.restore_objective(Path(resume_from_checkpoint), self.objective)
            self._resumed_from = self._generators_of = resume_from_checkpoint
        self.add_callback(checkpoints.OnBegin(self._go_on))
        try:
            with self.telling_memory():
                return super().train(resume_from_checkpoint, **options)
        finally:
            self.remove_callback(checkpoints.OnBegin)

    def _go_on(self) -> None:
        """Takes what a checkpoint holds beside what Trainer has read of it."""
        if self._resumed_from is None:
            return
        if self.state.best_model_checkpoint is None:  # the run folder was moved, or is called otherwise from here
            self.state.best_model_checkpoint = checkpoints.best_of(self.args.output_dir, self.state.best_global_step)
        chosen = self.state.eval_steps, self.state.save_steps
        self.state.compute_steps(self.args, self.state.max_steps)  # Trainer would go on with those of the checkpoint
        if self.args.eval_strategy != "no":  # what is scored and saved decides which checkpoint is the best
            self.state.eval_steps, self.state.save_steps = chosen
        found = checkpoints.read_running(Path(self._resumed_from), self.args.process_index)
        if not found:
            return
        found = {name: value.to(self.args.device) for name, value in found.items()}
        self._tr_loss = found["loss"]
        self._total_loss_scalar, last, since, without = found["counts"].tolist()
        self._globalstep_last_logged, self._steps_since_log = int(last), int(since)
        self._guard.without_gradient = None if without < 0 else int(without)
        self._loss_parts.update(_named(found, "parts/"))
        self.meter.sums.update(_named(found, "meter/"))

    def _running(self) -> dict[str, Tensor]:
        """The sums since the last log entry, and the counts that go with them."""
        without = self._guard.without_gradient
        counts = (self._total_loss_scalar, self._globalstep_last_logged, self._steps_since_log)
        return {
            "loss": self._tr_loss,
            "counts": torch.tensor([*counts, -1 if without is None else without], dtype=torch.float64),
            **{f"parts/{name}": value for name, value in self._loss_parts.items()},
            **{f"meter/{name}": value for name, value in self.meter.sums.items()},
        }

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], Any]:
        """Fetches a step's batches; on a resume, the generators are then set, before a first pass draws from them."""
        found = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self._generators_of is not None:
            self._load_rng_state(self._generators_of)
        return found

    def _run_epoch(self, *args: Any, **options: Any) -> None:
        """Takes no step where none is left: Trainer would take one after a checkpoint of the last."""
        if self.state.global_step >= self.state.max_steps or self.control.should_training_stop:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **options)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        super()._load_rng_state(checkpoint)
        self._generators_of = None

    def _get_output_dir(self, trial: Any) -> str:
        folder: str = super()._get_output_dir(trial)
        return str(Path(folder, checkpoints.UNFINISHED)) if self._saving else folder

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Writes a checkpoint under another name; it gets its own once everything is in it, of all processes."""
        args, name = self.args, f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        folder = Path(args.output_dir)
        made, final = folder / checkpoints.UNFINISHED / name, folder / name
        if args.should_save:
            checkpoints.remove_unfinished(folder)
        self.accelerator.wait_for_everyone()
        self._saving = True
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._saving = False
        checkpoints.save_running(made, self._running(), args.process_index)
        if self.state.best_model_checkpoint == str(made):
            self.state.best_model_checkpoint = str(final)
        if args.should_save:
            checkpoints.save_objective(made, self.objective)
            self.state.save_to_json(str(made / TRAINER_STATE_NAME))
        self.accelerator.wait_for_everyone()
        if args.should_save:
            checkpoints.put_in_place(made, final)
            rotate_checkpoints(str(folder), args.save_total_limit, self.state.best_model_checkpoint)
        self.accelerator.wait_for_everyone()

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Writes the model; a checkpoint has the names that it is loaded by."""
        model = self.model
        if self._saving and isinstance(model, PreTrainedModel):
            # transformers writes the names of its older versions, and Trainer does not translate them back
            model.save_pretrained = partial(model.save_pretrained, save_original_format=False)
        try:
            super()._save(output_dir, state_dict)
        finally:
            model.__dict__.pop("save_pretrained", None)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Refuses a checkpoint of which not every weight was loaded: Trainer would go on from others, with a warning.

        Raises:
            DataError: It lacks weights of this model, or has others.
        """
        checkpoints.require_all_loaded(self.model, load_result.missing_keys, load_result.unexpected_keys)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Gives the mean loss of all steps of the run, those before a resume included."""
        if "train_loss" in logs:
            logs["train_loss"] = self._total_loss_scalar / max(self.state.global_step, 1)
        super().log(logs, start_time)

    # ---- numbers that are not finite ----

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """The gradient norm, with every process at the same step, before the weights change: the guard may end the run.

        Raises:
            ModelError: See :class:`mmdpo.training.guard.Guard`.
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
        self._guard.hear(dict(zip(names, values, strict=True)), weights, gradient, *steps, who=self._who)
        self._scored.clear()
        return norm

    def _who(self) -> tuple[str, str]:
        """The records of this step whose numbers are not finite, of all processes; and what to do."""
        own = culprits(self.objective, self._scored, self.progress)
        every: list[Culprits] = gather_object([own]) if self.args.world_size > 1 else [own]
        if any(one.by != "nothing" for one in every):
            every = [one for one in every if one.by != "nothing"]
        by = "scores" if any(one.by == "scores" for one in every) else every[0].by
        places = sorted({place for one in every for place in one.places})
        found = Culprits(tuple(places), by, all(one.everything for one in every))
        return told(found, [self.train_dataset.records[place].id for place in places])

    # ---- out of memory ----

    def _prepare_inputs(self, inputs: Any) -> Any:
        """Remembers the batch that is at work."""
        self._batch = super()._prepare_inputs(inputs)
        return self._batch

    def evaluation_loop(self, *args: Any, **options: Any) -> EvalLoopOutput:
        """Remembers that held-out records are scored."""
        self._evaluating = True
        found = super().evaluation_loop(*args, **options)
        self._evaluating = False
        return found

    @contextmanager
    def telling_memory(self, scored: Sequence[Record] | None = None) -> Iterator[None]:
        """Says of what does not fit in memory which record is the largest, and which setting helps.

        Args:
            scored: Records that are only scored, without gradient; None in training.

        Raises:
            MemoryShortageError: There was not enough memory.
        """
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if not is_shortage(error):
                raise
            held_out = self._evaluating or scored is not None
            records = scored or (self.eval_dataset if self._evaluating else self.train_dataset).records
            settings = Settings(
                batch=self.args.per_device_train_batch_size,
                accumulation=self.args.gradient_accumulation_steps,
                max_tokens=self.batches.max_tokens,
                rows_per_chunk=self.rows_per_chunk,
                branches_per_row=self.collator.branches,
                checkpointing=self.args.gradient_checkpointing,
                wide=next(self.model.parameters()).dtype == torch.float32,
            )
            raise shortage(error, self._batch, records, settings, held_out) from error


def _named(values: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
