"""A cached reference is the live one's numbers, and is refused as soon as anything they depend on has changed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from mmdpo.checked_tensors import from_bytes, to_bytes
from mmdpo.collate import Collator
from mmdpo.config import parse_config
from mmdpo.errors import ConfigError, DataError, ParityError
from mmdpo.jsonfiles import read_json, read_json_lines
from mmdpo.objectives import make_objective
from mmdpo.parity import to_model
from mmdpo.policy import LoadedModel
from mmdpo.records import Record
from mmdpo.reference import Reference, make_reference
from mmdpo.runs.training import train
from mmdpo.training import reference_store
from mmdpo.training.reference_cache import CachedReference, ingredients, open_cache
from mmdpo.training.reference_store import ReferenceStore
from mmdpo.views import View
from training.common import encoder_of, loaded_model, make_trainer, pairs, run_settings, saved_inputs, trained

RECORDS = pairs(6)


def collator(loaded: LoadedModel, loss: str = "dpo") -> Collator:
    return Collator(encoder_of(loaded), make_objective({loss: {}}).views)


def cache(
    loaded: LoadedModel, folder: Path, *, records: Sequence[Record] = RECORDS, source: Reference | None = None
) -> tuple[CachedReference, int]:
    """The cache of a folder, filled; and how many rows that took."""
    source = source or make_reference(loaded)
    batches = collator(loaded)
    told = ingredients(loaded.model, loaded.processor, batches, source)
    reference = open_cache(source, folder, told, ())
    count = reference.fill(loaded.model, batches, records, lambda b: to_model(b, loaded.inner), batch_size=2)
    reference.store.load()
    return reference, count


def test_it_gives_what_the_reference_gives(tmp_path: Path) -> None:
    loaded = loaded_model(spread=0.3)
    reference, count = cache(loaded, tmp_path)
    assert count == 12
    batch = collator(loaded)(list(enumerate(RECORDS)))
    live, stored = (
        make_reference(loaded).scores(loaded.model, batch, ("entropy",)),
        reference.scores(loaded.model, batch, ("entropy",)),
    )
    for name in ("logp", "entropy"):
        torch.testing.assert_close(stored.values[name], live.values[name], rtol=0, atol=2e-5)
    assert (stored.values["logp"][~batch["mask"]] == 0).all()


@pytest.mark.parametrize(
    "case",
    [
        {},
        pytest.param({"lora": None}, marks=pytest.mark.slow),
        pytest.param({"trainable": "all", "lora": None}, marks=pytest.mark.slow),
    ],
    ids=["lora", "llm", "all"],
)
def test_training_on_it_is_training_on_the_live_reference(case: dict[str, Any], tmp_path: Path) -> None:
    found = []
    for cached in (False, True):
        loaded = loaded_model(**case)
        trainer = make_trainer(loaded, RECORDS, tmp_path / f"run{cached}", max_steps=3, learning_rate=0.3)
        if cached:
            live = Reference("live", loaded.model) if case else make_reference(loaded)
            loaded.model.eval()
            trainer.reference, _ = cache(loaded, tmp_path / "cache", source=live)
            assert trainer.reference.prove(loaded.model, collator(loaded), RECORDS, lambda b: b) < 1e-4
        start = trainer.check_start()
        assert start is not None and start.difference < 1e-4
        trainer.train()
        found.append(trained(loaded))
    live_weights, cached_weights = found
    for name, values in live_weights.items():
        torch.testing.assert_close(cached_weights[name], values, rtol=0, atol=2e-5)


def test_what_is_there_is_not_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference_store, "TOKENS_PER_FILE", 20)
    loaded = loaded_model()
    _, first = cache(loaded, tmp_path, records=RECORDS[:3])
    files = len(list(tmp_path.glob("part-*")))
    _, more = cache(loaded, tmp_path)
    _, nothing = cache(loaded, tmp_path)
    assert (first, more, nothing) == (6, 6, 0)
    assert files > 1 and len(list(tmp_path.glob("part-*"))) > files
    assert not list(tmp_path.glob("*.tmp"))


def test_a_file_that_was_removed_is_made_again_beside_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the error about a damaged file says to do."""
    monkeypatch.setattr(reference_store, "TOKENS_PER_FILE", 20)
    reference, _ = cache(loaded_model(), tmp_path)
    first, *others = sorted(tmp_path.glob("part-*"))
    first.unlink()
    again, count = cache(loaded_model(), tmp_path)
    assert 0 < count < len(reference.store) == len(again.store) == 12
    assert all(path.is_file() for path in others)


def test_processes_share_the_work(tmp_path: Path) -> None:
    loaded = loaded_model()
    source, batches = make_reference(loaded), collator(loaded)
    told = ingredients(loaded.model, loaded.processor, batches, source)
    for process in range(2):
        reference = open_cache(source, tmp_path / "two", told, (), process)
        reference.fill(loaded.model, batches, RECORDS, lambda b: b, batch_size=2, process=process, processes=2)
    reference.store.load()
    alone, _ = cache(loaded, tmp_path / "one")
    batch = batches(list(enumerate(RECORDS)))
    ours, theirs = (one.store.rows(batch["identity"], batch["mask"])["logp"] for one in (reference, alone))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5)


# ---- every ingredient alone ----


def changed_weight(loaded: LoadedModel) -> None:
    with torch.no_grad():
        weight = loaded.inner.get_output_embeddings().weight
        weight[7, 3] += 1e-3


def changed_template(loaded: LoadedModel) -> None:
    loaded.processor.chat_template = loaded.processor.chat_template + " "


def changed_pixels(loaded: LoadedModel) -> None:
    loaded.processor.image_processor.image_mean = [0.1, 0.2, 0.3]


def changed_tokenizer(loaded: LoadedModel) -> None:
    loaded.processor.tokenizer.add_tokens(["brandnew"])


def changed_attention(loaded: LoadedModel) -> None:
    loaded.inner.config._attn_implementation = "eager"


def changed_precision(loaded: LoadedModel) -> None:
    loaded.inner.to(torch.float64)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("weights", changed_weight),
        ("template", changed_template),
        ("processor", changed_pixels),
        ("tokenizer", changed_tokenizer),
        ("numerics", changed_attention),
        ("numerics", changed_precision),
    ],
    ids=["weights", "template", "pixels", "tokenizer", "attention", "precision"],
)
def test_a_changed_ingredient_is_refused_by_name(name: str, change: Any, tmp_path: Path) -> None:
    cache(loaded_model(), tmp_path)
    cache(loaded_model(), tmp_path)  # the same again is accepted
    loaded = loaded_model()
    change(loaded)
    with pytest.raises(ConfigError, match=rf"other ingredients: .*\b{name} \("):
        cache(loaded, tmp_path)


def test_a_changed_adapter_is_refused(tmp_path: Path) -> None:
    for number, spread in enumerate((0.3, 0.2)):
        loaded_model(spread=spread).model.save_pretrained(tmp_path / f"adapter{number}")
    cache(loaded_model(lora=None, adapter=tmp_path / "adapter0"), tmp_path / "cache")
    with pytest.raises(ConfigError, match=r"\badapter \("):
        cache(loaded_model(lora=None, adapter=tmp_path / "adapter1"), tmp_path / "cache")


@pytest.mark.parametrize("name", ["versions", "format"])
def test_a_changed_circumstance_is_refused(name: str, tmp_path: Path) -> None:
    loaded = loaded_model()
    told = ingredients(loaded.model, loaded.processor, collator(loaded), make_reference(loaded))
    ReferenceStore(tmp_path, told)
    ReferenceStore(tmp_path, told)
    with pytest.raises(ConfigError, match=rf"{name} \("):
        ReferenceStore(tmp_path, {**told, name: "something else"})


def test_an_adapter_that_trains_is_no_ingredient(tmp_path: Path) -> None:
    """Its weights are not those of the reference, which is the base."""
    cache(loaded_model(), tmp_path)
    _, count = cache(loaded_model(spread=0.5), tmp_path)
    assert count == 0


def test_the_seed_counts_where_a_view_is_drawn_by_it(tmp_path: Path) -> None:
    loaded, drawn = loaded_model(), make_objective({"mdpo": {}}).views
    source = make_reference(loaded)

    def fill(seed: int, views: Sequence[View]) -> int:
        by = encoder_of(loaded)
        by.seed = seed
        batches = Collator(by, views)
        reference = open_cache(source, tmp_path, ingredients(loaded.model, loaded.processor, batches, source), ())
        return reference.fill(loaded.model, batches, RECORDS, lambda b: to_model(b, loaded.inner), batch_size=2)

    plain = make_objective({"dpo": {}}).views
    assert [fill(seed, plain) for seed in (0, 1)] == [12, 0]
    assert fill(1, drawn) == 5  # one more view of each record that has an image
    with pytest.raises(ConfigError, match=r"does not fit a record: media\n.*the seed that draws its variant"):
        fill(0, drawn)


def test_views_that_are_not_there_are_told(tmp_path: Path) -> None:
    loaded = loaded_model()
    reference, _ = cache(loaded, tmp_path)
    with pytest.raises(DataError, match="lacks a row"):
        batch = collator(loaded, "mdpo")(list(enumerate(RECORDS)))
        reference.store.rows(batch["identity"], batch["mask"])


@pytest.mark.parametrize("part", ["prompt", "answer", "media"])
def test_a_changed_record_is_refused_by_what_changed(part: str, tmp_path: Path) -> None:
    loaded = loaded_model()
    reference, _ = cache(loaded, tmp_path)
    first, other = RECORDS[0], RECORDS[1]
    if part == "prompt":
        changed = replace(first, prompt=other.prompt)
    elif part == "answer":
        changed = replace(first, candidates=(other.candidates[0], first.candidates[1]))
    else:
        changed = replace(first, media=other.media)
        assert len(other.media["images"]) == len(first.media["images"])
    batch = collator(loaded)([(0, changed)])
    for look in (
        lambda: reference.store.rows(batch["identity"], batch["mask"]),
        lambda: cache(loaded, tmp_path, records=[changed]),
    ):
        with pytest.raises(ConfigError, match=f"does not fit a record: {part}\n"):
            look()


def rewritten(folder: Path, name: str, value: Callable[[Tensor], Tensor], rows: slice = slice(None)) -> None:
    """Gives a statistic other values in whole, readable files: what a mistake of ours would leave there."""
    for path in folder.glob("part-*"):
        part, told = from_bytes(path.read_bytes())
        part[name][rows] = value(part[name][rows])
        path.write_bytes(to_bytes(part, told))


@pytest.mark.parametrize("name", ["logp", "entropy"])
@pytest.mark.parametrize("value", [lambda found: found - 0.05, lambda found: found * math.nan], ids=["shifted", "nan"])
def test_what_no_fingerprint_knows_is_found_by_computing_again(
    name: str, value: Callable[[Tensor], Tensor], tmp_path: Path
) -> None:
    loaded = loaded_model()
    cache(loaded, tmp_path)
    rewritten(tmp_path, name, value)
    reference, _ = cache(loaded, tmp_path)
    with pytest.raises(ParityError, match=rf"differs by (0\.05|nan) in {name}"):
        reference.prove(loaded.model, collator(loaded), RECORDS, lambda b: b)


def test_one_number_that_is_none_is_found_among_others(tmp_path: Path) -> None:
    loaded = loaded_model()
    cache(loaded, tmp_path, records=RECORDS[:1])
    rewritten(tmp_path, "logp", lambda found: found * math.nan, slice(1, 2))
    reference, _ = cache(loaded, tmp_path, records=RECORDS[:1])
    with pytest.raises(ParityError, match="differs by nan"):
        reference.prove(loaded.model, collator(loaded), RECORDS[:1], lambda b: b)


def test_damage_is_told_before_a_run_reads_it(tmp_path: Path) -> None:
    """Of one record that is not computed again: a value in the middle of the file."""
    loaded = loaded_model()
    cache(loaded, tmp_path)
    (path,) = tmp_path.glob("part-*")
    data = bytearray(path.read_bytes())
    data[-6] ^= 0x40
    path.write_bytes(data)
    with pytest.raises(DataError, match="cannot be read: its checksum"):
        cache(loaded, tmp_path)


def test_a_divergence_cannot_be_cached(tmp_path: Path) -> None:
    loaded = loaded_model()
    with pytest.raises(ConfigError, match="a term reads token_kl"):
        open_cache(make_reference(loaded), tmp_path, {}, {"token_kl"})


# ---- in a run ----


def adapter_of(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "adapter" / "adapter_model.safetensors")


def test_a_run_with_a_cache_is_the_run_without(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = saved_inputs(tmp_path, RECORDS)
    caplog.set_level("INFO", logger="mmdpo")
    runs = {}
    for name in ("auto", "cached", "again"):
        reference = {} if name == "auto" else {"reference": {"kind": "cached", "cache": str(tmp_path / "cache")}}
        settings = run_settings(folder, **reference, train={"learning_rate": 0.05})
        runs[name] = adapter_of(train(parse_config(settings), tmp_path / name))
    for name, values in runs["auto"].items():
        torch.testing.assert_close(runs["cached"][name], values, rtol=0, atol=2e-5)
        assert torch.equal(runs["again"][name], runs["cached"][name])
    computed = [record.args[0] for record in caplog.records if record.msg.startswith("reference: ")]
    assert computed == [12, 0]
    decision = read_json(tmp_path / "cached" / "manifest.json")["decisions"]["reference"]
    assert decision["value"] == "cached" and str(tmp_path / "cache") in decision["reason"]


@pytest.mark.slow
def test_held_out_pairs_are_in_the_cache_too(tmp_path: Path) -> None:
    folder = saved_inputs(tmp_path, pairs(8))
    settings = run_settings(folder, reference={"kind": "cached"}, train={"eval_strategy": "steps", "eval_steps": 2})
    settings["data"]["validation"] = 0.3
    run = train(parse_config(settings), tmp_path / "run")
    logged = [row for row in read_json_lines(run / "log.jsonl").rows if "eval_rewards/accuracies" in row]
    assert logged and "eval_diagnostics/off_policy_gap" in logged[0]
    assert (folder / "data.reference" / "ingredients.json").is_file()


def test_what_cannot_be_cached_is_told_before_anything_is_loaded(tmp_path: Path) -> None:
    folder = saved_inputs(tmp_path, RECORDS)
    settings = run_settings(folder, reference={"kind": "cached"}, loss={"tdpo2": {}})
    settings["data"]["variants"] = "fresh"
    with pytest.raises(ConfigError, match=r"(?s)token_kl.*data\.variants is fresh"):
        train(parse_config(settings), tmp_path / "run")
    with pytest.raises(ConfigError, match="read with kind: cached alone"):
        parse_config(run_settings(folder, reference={"cache": "somewhere"}))
