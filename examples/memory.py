"""How much memory a training step takes with each setting: the peak of the whole process, one process a setting.

python examples/memory.py [--width 512] [--answers 2] [--records 4]

The model is a LLaVA of random weights (memory does not depend on them) with a vocabulary of 32,000, so this runs
anywhere and downloads nothing. Settings are those of docs/memory.md.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
from pathlib import Path
from typing import Any

SETTINGS: dict[str, dict[str, Any]] = {
    "layout: plain": {"layout": "plain"},
    "the default": {},
    "activation_checkpointing": {"train": {"activation_checkpointing": True}},
    "batches: {max_tokens: 1}": {"batches": {"max_tokens": 1}},
    "branches_per_row: 1, rows_per_chunk: 1": {"branches_per_row": 1, "rows_per_chunk": 1},
    "max_tokens: 1 and activation_checkpointing": {
        "batches": {"max_tokens": 1},
        "train": {"activation_checkpointing": True},
    },
    "reference: {kind: cached}": {"reference": {"kind": "cached"}},
}


def make_inputs(folder: Path, width: int, answers: int, records: int) -> None:
    """Writes a model and records whose rows have some hundred tokens."""
    import torch
    from transformers import AutoProcessor, LlavaConfig, LlavaForConditionalGeneration

    from mmdpo.models.load import SHIPPED
    from mmdpo.records import Candidate, Record, Records, save_records

    shipped = SHIPPED["playground"]
    config = LlavaConfig.from_pretrained(shipped)
    text = config.text_config
    text.hidden_size, text.intermediate_size, text.num_hidden_layers = width, 3 * width, 8
    text.num_attention_heads = text.num_key_value_heads = 8
    text.head_dim = width // 8
    text.vocab_size, text.max_position_embeddings = 32_000, 4096
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config)
    model.generation_config.eos_token_id = text.eos_token_id
    model.save_pretrained(folder / "model")
    AutoProcessor.from_pretrained(shipped).save_pretrained(folder / "model")
    words = "there is a red ball and a blue box . "
    made = [
        Record(
            id=f"r{n}",
            prompt=({"role": "user", "content": [{"type": "text", "text": words * (12 + 3 * (n % 3))}]},),
            media={},
            candidates=tuple(Candidate(words * 9 + "a dog . " * k) for k in range(answers)),
        )
        for n in range(records)
    ]
    save_records(Records(made), folder / "data")


def one_step(folder: Path, name: str, records: int, answers: int) -> None:
    """Trains one step and prints the peak of this process in MiB."""
    from mmdpo.config import parse_config
    from mmdpo.runs.training import train

    sections = SETTINGS[name]
    fields = {
        "use_cpu": True,
        "disable_tqdm": True,
        "max_steps": 1,
        "per_device_train_batch_size": records,
        "save_strategy": "no",
    }
    settings = {
        "model": {"path": str(folder / "model"), "lora": {"r": 8, "alpha": 16}},
        "data": {"path": str(folder / "data"), "validation": 0},
        "loss": "dpo" if answers == 2 else "plackett_luce",
        **sections,
        "train": fields | sections.get("train", {}),
    }
    train(parse_config(settings), folder / "runs" / name.replace(" ", "_").replace(":", "").replace("/", "_"))
    print(f"{name:45} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:6.0f} MiB", flush=True)


def main() -> None:
    """Every setting in a process of its own, forked from one that has imported everything."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--answers", type=int, default=2)
    parser.add_argument("--records", type=int, default=4)
    given = parser.parse_args()
    import torch

    import mmdpo.runs.training

    torch.set_num_threads(1)  # threads do not survive a fork
    assert mmdpo.runs.training
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as scratch:
        sizes = (given.width, given.answers, given.records)
        started = context.Process(target=make_inputs, args=(Path(scratch), *sizes))
        started.start()
        started.join()
        for name in SETTINGS:
            child = context.Process(target=one_step, args=(Path(scratch), name, given.records, given.answers))
            child.start()
            child.join()


if __name__ == "__main__":
    main()
