"""The largest micro-batch that fits is found before the first step, and nothing of the search stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mmdpo.config import parse_config
from mmdpo.errors import ConfigError
from mmdpo.runs.settings import check_config
from mmdpo.training import batch_search
from mmdpo.training.batch_search import MARGIN, TokenSearch, largest_that_fits
from mmdpo.training.out_of_memory import MemoryShortageError
from mmdpo.training.token_batches import SMALLEST, Batches
from training.common import Gradients, loaded_model, make_trainer, pairs, trained

EIGHT = pairs(8)


@pytest.mark.parametrize("most", [1, 2, 3, 7, 8, 33])
def test_the_largest_is_found_with_few_trials(most: int) -> None:
    for limit in range(most + 1):
        tried: list[int] = []

        def fits(number: int, limit: int = limit, tried: list[int] = tried) -> bool:
            tried.append(number)
            return number <= limit

        assert largest_that_fits(fits, most) == limit
        assert len(tried) == len(set(tried)) <= 2 * most.bit_length() + 1
        assert max(tried) <= max(1, min(most, 2 * limit)), "far more than fits is tried"


class Card:
    """Memory for so many padded tokens: more raise what CUDA's allocator raises."""

    def __init__(self, tokens: float) -> None:
        self.tokens = tokens
        self.tried: list[int] = []
        self.scores = batch_search.scores

    def __call__(self, model: Any, batch: Any, *arguments: Any) -> Any:
        self.tried.append(batch["input_ids"].numel())
        if self.tried[-1] > self.tokens:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self.scores(model, batch, *arguments)


def searched(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tokens: float, **options: Any
) -> tuple[Any, Card, list[tuple[int, str]], Gradients]:
    """A run of one step on such a card."""
    card, told, gradients = Card(tokens), [], Gradients()
    monkeypatch.setattr(batch_search, "scores", card)
    trainer = make_trainer(
        loaded_model(spread=0.2),
        EIGHT,
        folder,
        batches=Batches(SMALLEST),
        callbacks=[gradients],
        max_steps=1,
        **{"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2} | options,
    )
    lengths = [trainer.collator([(n, record)])["input_ids"].shape[1] for n, record in enumerate(EIGHT)]
    trainer.add_callback(TokenSearch(trainer, lengths, lambda tokens, why: told.append((tokens, why))))
    trainer.train()
    return trainer, card, told, gradients


@pytest.mark.slow
@pytest.mark.parametrize("two_pass", [False, True])
def test_a_run_uses_what_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two_pass: bool) -> None:
    longest = 71
    trainer, card, told, gradients = searched(tmp_path, monkeypatch, 3.5 * longest, two_pass=two_pass)
    assert max(card.tried) > 3.5 * longest >= MARGIN * 3.5 * longest > longest
    fitted = max(tokens for tokens in card.tried if tokens <= 3.5 * longest)
    assert [tokens for tokens, _ in told] == [int(MARGIN * fitted)] == [trainer.batches.max_tokens]
    assert f"{fitted} tokens" in told[0][1]
    if not two_pass:
        assert trainer.data_collator.max_tokens == trainer.batches.max_tokens
    # nothing of the search is in the step: its gradients are those of a run that never searched
    plain = Gradients()
    options: dict[str, Any] = {"callbacks": [plain], "max_steps": 1, "per_device_train_batch_size": 8}
    other = make_trainer(loaded_model(spread=0.2), EIGHT, tmp_path / "plain", **options)
    other.train()
    for name, gradient in plain.steps[0].items():
        torch.testing.assert_close(gradients.steps[0][name], gradient, rtol=1e-3, atol=1e-5)
    for name, weight in trained(other.loaded).items():
        torch.testing.assert_close(trained(trainer.loaded)[name], weight, rtol=1e-3, atol=1e-5)


def test_a_whole_step_that_fits_is_not_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, card, told, _ = searched(tmp_path, monkeypatch, 10**6)
    assert told[0][0] == trainer.batches.max_tokens == max(card.tried)
    assert "a whole step" in told[0][1]


def test_a_record_that_does_not_fit_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MemoryShortageError, match=r"pair-\d.*") as found:
        searched(tmp_path, monkeypatch, 20)
    assert "checkpointing" in (found.value.fix or "")


def test_no_draw_of_a_generator_is_used_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    trainer = make_trainer(loaded_model(), EIGHT, tmp_path, batches=Batches(SMALLEST), max_steps=1)
    search = TokenSearch(trainer, [1] * 8, lambda *_: None)
    torch.manual_seed(5)
    search.on_train_begin(trainer.args, None, None, model=trainer.model)
    assert torch.equal(torch.rand(1), expected)
    assert all(parameter.grad is None for parameter in trainer.model.parameters())


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"batches": {"max_tokens": "auto"}}, "the device is cpu"),
        ({"batches": {"max_tokens": 0}}, "max_tokens"),
        ({"batches": {"max_tokens": "some"}}, "max_tokens"),
        (
            {
                "batches": {"max_tokens": 100},
                "records_per_row": "fit",
                "loss": {"dpo": {}, "seen": {"term": "dpo", "media": "blank"}},
            },
            "media variants",
        ),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, sections: dict[str, Any], said: str) -> None:
    settings = {"model": {"path": "m"}, "data": {"path": "d"}, "train": {"use_cpu": True}} | sections
    with pytest.raises(ConfigError, match=said):
        check_config(parse_config(settings), tmp_path, tmp_path / "run")
