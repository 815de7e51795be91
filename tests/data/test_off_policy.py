"""How foreign answers are to a model: against its own logits, and what does not fit is left out and counted."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from data_builders.quality import with_checks
from mmdpo.answering.loading import load_any
from mmdpo.preferences.off_policy import off_policy_finding, surprises
from mmdpo.records import Candidate, Media, Record, Records, save_records, user_message


def pair(name: str, chosen: str, photo: str) -> Record:
    prompt = (user_message("Describe the picture.", images=1),)
    return Record(name, prompt, (Candidate(chosen), Candidate("A boat.")), {"images": (Media(photo),)})


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for number in range(4):
        Image.new("RGB", (64, 64), (60 * number, 90, 120)).save(tmp_path / f"{number}.png")
    records = [pair(str(n), "A star on a lake." + " And a star." * n, f"{n}.png") for n in range(4)]
    save_records(Records(records, tmp_path), tmp_path / "pairs")
    (tmp_path / "3.png").unlink()
    return tmp_path


def test_the_gap_is_that_of_the_models_own_logits(data: Path) -> None:
    model, processor = load_any("playground")
    records = Records([pair(str(n), "A star on a lake." + " And a star." * n, f"{n}.png") for n in range(3)], data)
    found = surprises(model, processor, records, batch_size=2)
    for record, one in zip(records, found, strict=True):
        assert one is not None
        turns = [*record.prompt, {"role": "assistant", "content": [{"type": "text", "text": record.chosen.text}]}]
        with Image.open(record.media["images"][0].path and data / record.media["images"][0].path) as picture:
            whole = processor(
                text=processor.apply_chat_template(turns), images=[picture.convert("RGB")], return_tensors="pt"
            )
            start = processor(
                text=processor.apply_chat_template(list(record.prompt), add_generation_prompt=True),
                images=[picture.convert("RGB")],
                return_tensors="pt",
            )["input_ids"].shape[1]
        with torch.no_grad():
            logp = model(**whole).logits.float().log_softmax(-1)[0]
        ids = whole["input_ids"][0]
        stop = next(n for n in range(start, len(ids)) if int(ids[n]) == model.generation_config.eos_token_id) + 1
        rows, targets = logp[start - 1 : stop - 1], ids[start:stop]
        assert one.nll == pytest.approx(float(-rows.gather(-1, targets[:, None]).mean()), abs=1e-3)
        assert one.entropy == pytest.approx(float(-(rows.exp() * rows).sum(-1).mean()), abs=1e-3)


def test_the_finding_counts_what_was_left_out(data: Path) -> None:
    found = off_policy_finding("playground", data / "pairs", None)
    assert found["n"] == 3 and "1 left out" in found["message"]
    assert found["low"] < found["value"] < found["high"]
    assert with_checks({"n": 4, "findings": [found]})["checks"]
