"""What a configuration asks of the libraries below: every problem at once, before anything heavy is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from mmdpo import registry
from mmdpo.config import RunConfig, together
from mmdpo.errors import ConfigError, MMDPOError, did_you_mean
from mmdpo.feature_caching import folder_of
from mmdpo.objectives import Objective
from mmdpo.objectives.configuration import made_terms
from mmdpo.runs.data import Data
from mmdpo.runs.eval_settings import BEST_OF_HELD_OUT, eval_problems
from mmdpo.runs.places import check_place
from mmdpo.runs.train_fields import value_problems
from mmdpo.training.batch_search import check_batches
from mmdpo.training.workers import local_processes, usual_workers
from mmdpo.views import REJECTED

REFUSED = {
    "label_smoothing_factor": "it smooths language-model labels; use a loss term that has it",
    "neftune_noise_alpha": "noise in the embeddings would make policy and reference differ at step 0",
    "label_names": "the objective has no labels",
    "torch_compile": "it compiles the encoding of media too, again for each size; use model.compile: true",
    "use_liger_kernel": "it replaces the forward that scores the answers",
    "remove_unused_columns": "records are not tensors; it is always off",
    "logging_nan_inf_filter": "it would log numbers in place of a loss that is none; it is always off",
    "auto_find_batch_size": "it would change the optimizer step in the middle of the run",
    "include_num_input_tokens_seen": "shared prefixes make it count something else",
    "per_gpu_train_batch_size": "use per_device_train_batch_size",
    "output_dir": "the run folder keeps the checkpoints; set it with --out",
    "seed": "the run has one seed; set it as seed: at the top",
    "dataloader_multiprocessing_context": "workers share the model's functions, and must be forked",
    "dataloader_drop_last": "it would leave out held-out records too",
    "accelerator_config.even_batches": "a process with fewer micro-batches would keep the others waiting forever",
    "resume_from_checkpoint": "the run folder knows its last checkpoint; use --resume",
    "save_only_model": "a resumed run would go on with a fresh optimizer",
    "ignore_data_skip": "a resumed run would see its first records again",
    "enable_jit_checkpoint": "a checkpoint is written at SIGTERM anyway",
}
"""Fields of ``TrainingArguments`` that would break the objective or the run, and why."""


def check_config(config: RunConfig, folder: Path, out: Path) -> tuple[Objective, TrainingArguments]:
    """Checks what the schema cannot: loss terms, training fields, benchmarks with their data.

    Args:
        config: The configuration.
        folder: Folder that relative plugin paths start from.
        out: The run folder.

    Returns:
        The objective and the training arguments, as far as they are known without data.

    Raises:
        ConfigError: Listing every problem of all sections at once.
    """
    registry.load_plugins([folder / plugin for plugin in config.plugins])
    terms, loss_problems = made_terms(config.loss)
    objective = Objective(terms)
    problems: list[MMDPOError] = [
        *loss_problems,
        *_train_problems(config, out),
        *eval_problems(config, _given(config)),
        *_place_problems(config),
    ]
    if not loss_problems:
        problems += _reference_problems(config, objective)
    if problems:
        raise together("the configuration", problems)
    arguments = training_arguments(config, out)
    check_batches(config.batches, arguments, objective, packed=config.records_per_row != 1)
    return objective, arguments


def what_trains(config: RunConfig) -> tuple[str, str]:
    """What trains, and which settings say so."""
    section = config.model
    if section.adapter is not None:
        return "adapter", f"{section.adapter} goes on as it is; model.lora and model.trainable are not used"
    if section.lora is not None:
        return "lora", f"a new adapter (model.lora) on model.trainable {section.trainable}"
    return "parts", f"the parts of model.trainable {section.trainable} themselves: model.lora is null"


def _reference_problems(config: RunConfig, objective: Objective) -> Iterator[ConfigError]:
    """Settings of a reference that nothing reads."""
    if "reference" in config.model_fields_set and not objective.needs_reference:
        yield ConfigError(
            f"reference: is set, and no term of the loss reads a reference ({', '.join(objective.terms)})",
            why="The loss is reference-free: the setting would have no effect.",
            fix="Remove the reference: section, or add a term that compares with it.",
        )
    if config.reference.kind != "cached":
        return
    if "token_kl" in objective.statistics:
        yield ConfigError(
            "reference.kind is cached, and a term of the loss reads token_kl",
            why="The divergence from the reference needs its whole distribution at every token, not one number.",
            fix="Use reference: {kind: auto}, or a loss without token_kl (tdpo2 and chip have it).",
        )
    if config.data.variants == "fresh":
        yield ConfigError(
            "reference.kind is cached, and data.variants is fresh",
            why="Media variants that are drawn anew in every epoch have no number that could be looked up.",
            fix="Use data.variants: fixed, or reference: {kind: auto}.",
        )


def _place_problems(config: RunConfig) -> Iterator[ConfigError]:
    """Folders of caches that are asked for and could not be made."""
    places = []
    if config.reference.kind == "cached":
        places.append(("reference.cache", config.reference.folder(config.data.path)))
    if config.features.cache == "disk" or config.features.folder is not None:
        places.append(("features.folder", folder_of(config)))
    for setting, folder in places:
        try:
            check_place(folder, setting)
        except ConfigError as error:
            yield error


def training_arguments(config: RunConfig, out: Path) -> TrainingArguments:
    """``transformers.TrainingArguments`` of the ``train:`` section; :func:`scheduled` finishes them.

    Raises:
        ConfigError: Fields are unknown, would break the objective, or do not go together.
    """
    problems = _train_problems(config, out)
    if problems:
        raise together("the train: section", problems)
    return _made(config, out)


def scheduled(arguments: TrainingArguments, config: RunConfig, objective: Objective, data: Data) -> TrainingArguments:
    """Adds validation four times a run and the choice of the best checkpoint, where the user set nothing else.

    Raises:
        ConfigError: Validation is asked for, and nothing is held out.
    """
    if not data.validation:
        if _given(config).get("eval_strategy", "no") != "no":
            raise ConfigError(
                f"train.eval_strategy is {config.train['eval_strategy']!r}, and no record is held out",
                why="There is nothing to evaluate on.",
                fix="Set data.validation to a share of the images or to a path, or remove train.eval_strategy.",
            )
        plain = {"eval_strategy": "no", "load_best_model_at_end": False, "save_strategy": "steps"}
        return replace(arguments, **{k: v for k, v in plain.items() if k not in config.train} | _chosen_by_stop(config))
    rows = arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    steps = arguments.max_steps
    if steps <= 0:
        steps = int(max(1, len(data.train) // rows) * arguments.num_train_epochs)
    paired = any(view.candidate == REJECTED for view in objective.views)
    plan = _validation_plan(_given(config), max(1, steps // 4), paired)
    return replace(arguments, **plan | _chosen_by_stop(config))


def _chosen_by_stop(config: RunConfig) -> dict[str, Any]:
    """Where ``stop:`` chooses the best checkpoint, held-out records are scored and choose nothing."""
    return {} if config.stop is None else {"load_best_model_at_end": False} | dict.fromkeys(BEST_OF_HELD_OUT)


def _validation_plan(given: Mapping[str, Any], every: int, paired: bool) -> dict[str, Any]:
    """Fields that the user left open; what is saved follows what is evaluated.

    Args:
        given: What the user set.
        every: Optimizer steps between two evaluations.
        paired: Whether the objective reads a rejected answer, so that held-out pairs have a margin.
    """
    strategy = given.get("eval_strategy", "steps")
    if strategy == "no":
        return {}
    plan: dict[str, Any] = {"eval_strategy": strategy, "save_strategy": strategy}
    plan["eval_steps"] = given.get("eval_steps", given.get("save_steps", every))
    plan["save_steps"] = plan["eval_steps"]
    whole = {**plan, **given}
    plan["load_best_model_at_end"] = _saves_what_it_evaluates(whole)
    best = given.get("load_best_model_at_end", plan["load_best_model_at_end"]) or whole["save_strategy"] == "best"
    if best and "metric_for_best_model" not in given:
        # the direction belongs to the metric: of a metric that the user chose, transformers knows it
        plan |= {"metric_for_best_model": "eval_rewards/margins" if paired else "eval_loss"}
        plan |= {"greater_is_better": paired}
    return {name: value for name, value in plan.items() if name not in given}


def _saves_what_it_evaluates(fields: Mapping[str, Any]) -> bool:
    """Whether every checkpoint has just been evaluated, so that the best of them is known."""
    evaluates, saves = fields["eval_strategy"], fields["save_strategy"]
    if saves == "best" or evaluates != "steps":
        return bool(saves in ("best", evaluates))
    every, kept = fields["eval_steps"], fields["save_steps"]
    numbers = isinstance(every, int | float) and isinstance(kept, int | float) and every > 0
    return saves == evaluates and numbers and kept % every == 0


def _given(config: RunConfig) -> dict[str, Any]:
    """The ``train:`` section; YAML reads a bare `no` as false."""
    return {k: "no" if v is False and k.endswith("_strategy") else v for k, v in config.train.items()}


def _made(config: RunConfig, out: Path) -> TrainingArguments:
    given = _given(config)
    fields: dict[str, Any] = {
        "output_dir": str(out / "checkpoints"),
        "seed": config.seed,
        "report_to": "none",
        "logging_steps": 10,
        "logging_first_step": True,
        "save_total_limit": 2,
        "learning_rate": 5e-6,
        "num_train_epochs": 1,
        "per_device_train_batch_size": 2,
        "max_grad_norm": 1.0,
        "dataloader_pin_memory": torch.cuda.is_available(),
    }
    if config.data.validation != 0:  # how often is known only with the data
        fields |= _validation_plan(given, every=1, paired=True)
    cpu = given.get("use_cpu", False) or not torch.cuda.is_available()
    workers = given.get("dataloader_num_workers", usual_workers("cpu" if cpu else "cuda", local_processes()))
    fields["dataloader_num_workers"] = workers
    if isinstance(workers, int) and workers > 0:
        fields["dataloader_multiprocessing_context"] = "fork"  # encoders hold functions of the model
    return TrainingArguments(**fields | given | {"remove_unused_columns": False, "logging_nan_inf_filter": False})


def _train_problems(config: RunConfig, out: Path) -> list[ConfigError]:
    known = TrainingArguments.__dataclass_fields__
    inner = [f"{name}.{key}" for name, value in config.train.items() if isinstance(value, Mapping) for key in value]
    problems = [
        ConfigError(f"train.{name} cannot be set", why=f"It would break the run: {REFUSED[name]}.", fix="Remove it.")
        for name in [*config.train, *inner]
        if name in REFUSED
    ] + [
        ConfigError(
            f"train.{name} is unknown", why=did_you_mean(name, known), fix="See transformers.TrainingArguments."
        )
        for name in config.train
        if name not in known and name not in REFUSED
    ]
    problems += value_problems(config.train)
    if not problems:
        try:
            made = _made(config, out)
            if made.dataloader_persistent_workers and made.dataloader_num_workers == 0:
                raise ValueError("dataloader_persistent_workers is on, and dataloader_num_workers is 0")
        except (TypeError, ValueError, NotImplementedError) as error:
            problems = [
                ConfigError(
                    f"the train: section is refused: {error}",
                    why="transformers.TrainingArguments checks its fields.",
                    fix="Correct the field that is named.",
                )
            ]
    return problems
