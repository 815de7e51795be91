"""A short training run of each family: the loss falls, and what was trained is what is saved, merged and asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainingArguments

from core.oracle import row_logprobs
from families.matrix import Item, Measured, check, difference, item, layout_of, record, taken
from families.specs import SPECS
from mmdpo.answering.evaluation import merge_run
from mmdpo.answering.loading import encoder_of, load_any
from mmdpo.config import parse_config
from mmdpo.generate import GenerationSettings, generate
from mmdpo.objectives import make_objective
from mmdpo.policy import LoadedModel, prepare
from mmdpo.records import Record, Records, save_records
from mmdpo.reference import make_reference
from mmdpo.runs import model as run_model
from mmdpo.runs import training
from mmdpo.trainer import PreferenceTrainer
from tiny import FAMILIES
from training.common import encoder_of as training_encoder
from training.common import loaded_model, run_settings

ROUNDING = 2e-4
"""Nats a token by which an adapter and the weights that it was merged into may differ in float32."""


def pairs(family: str) -> list[Record]:
    """Four pairs: with each modality, with two items, and with text alone."""
    kinds = SPECS[family].kinds
    first, second, third = (Item(kinds[seed % len(kinds)], item(kinds[seed % len(kinds)], seed)) for seed in range(3))
    records = [
        record("one", "What is here?", ["A cat on a mat.", "Two dogs."], first),
        record("two", "Compare.", ["Not the same.", "They are the same, I think."], second, third),
        record("text", "Say something.", ["There is a red bird.", "No."]),
        record("three", "What is it?", ["A ball.", "A man in the park"], third),
    ]
    return taken(family, records)


@check("learns")
def test_the_loss_falls(family: str, measured: Measured, tmp_path: Path) -> None:
    """Eight full steps on four pairs, adapters on everything: the DPO loss from ln 2 downwards, the margin upwards."""
    loaded = loaded_model(family, trainable="all")
    objective = make_objective({"dpo": {"beta": 0.1}})
    trainer = PreferenceTrainer(
        loaded,
        objective,
        make_reference(loaded),
        training_encoder(loaded),
        pairs(family),
        layout=layout_of(loaded.inner),
        args=TrainingArguments(
            output_dir=str(tmp_path),
            per_device_train_batch_size=4,
            max_steps=8,
            learning_rate=1e-2,
            lr_scheduler_type="constant",
            logging_steps=1,
            use_cpu=True,
            disable_tqdm=True,
            report_to="none",
            save_strategy="no",
            remove_unused_columns=False,
        ),
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    measured(layout=layout_of(loaded.inner), reason=f"loss {losses[0]:.3f} to {losses[-1]:.3f}")
    assert losses[0] == pytest.approx(0.6931, abs=1e-3)
    assert losses[-1] < 0.5
    margins = [entry["rewards/margins"] for entry in trainer.state.log_history if "rewards/margins" in entry]
    assert margins[-1] > margins[0] + 0.3


@check("saved")
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")  # peft reads it
def test_saved_reloaded_and_merged(
    family: str, measured: Measured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After `mmdpo train`, the live model, its adapter loaded again and the merged model say and score the same."""
    tiny = FAMILIES[family]()
    tiny.model.save_pretrained(tmp_path / "model")
    tiny.processor.save_pretrained(tmp_path / "model")
    save_records(Records(pairs(family)), tmp_path / "data", embed=True)
    live: list[LoadedModel] = []

    def kept(*args: Any, **kwargs: Any) -> LoadedModel:
        live.append(prepare(*args, **kwargs))
        return live[0]

    monkeypatch.setattr(run_model, "prepare", kept)
    settings = run_settings(tmp_path, train={"max_steps": 3, "learning_rate": 1e-2})
    settings["model"]["trainable"] = "all"
    run = training.train(parse_config(settings), tmp_path / "run")
    models = {
        "live": (live[0].model, live[0].processor),
        "reloaded": load_any(str(run)),
        "merged": load_any(str(merge_run(run, tmp_path / "merged"))),
        "base": load_any(str(tmp_path / "model")),
    }
    said = {name: answers(family, *pair) for name, pair in models.items()}
    scored = {name: logprobs(family, *pair) for name, pair in models.items()}
    worst = max(difference(scored[name], scored["live"]) for name in ("reloaded", "merged"))
    measured(layout=layout_of(live[0].inner), difference=worst)
    assert said["live"] == said["reloaded"] == said["merged"]
    assert worst < ROUNDING
    assert difference(scored["base"], scored["live"]) > 100 * ROUNDING


def answers(family: str, model: Any, processor: Any) -> list[tuple[int, ...]]:
    """Ids of greedy answers to all prompts."""
    records = pairs(family)
    found = generate(model, encoder_of(model, processor, None), records, GenerationSettings(max_new_tokens=8))
    return [answer.token_ids for (answer,) in found]


@torch.no_grad()
def logprobs(family: str, model: Any, processor: Any) -> list[torch.Tensor]:
    """[L] log-probabilities of each answer, by the model's own forward."""
    encoder = encoder_of(model, processor, None)
    seen = replace(FAMILIES[family](), model=model.eval(), processor=processor)
    return [
        row_logprobs(seen, entry, encoder.answer(entry, candidate).ids)
        for entry in pairs(family)
        for candidate in entry.candidates
    ]
