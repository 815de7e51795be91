"""The real-audio example: its pairs, and three training steps on real clips at Whisper's real shape."""

import importlib.util
import math
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
import soundfile
import torch

from mmdpo.config import load_config
from mmdpo.jsonfiles import read_json
from mmdpo.records import Records, save_records

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "real_audio"
FENSE = ROOT.parent / "shared" / "data" / "fense"

real = pytest.mark.skipif(not FENSE.is_dir(), reason=f"real votes and clips are not at {FENSE}")


@pytest.fixture(scope="module")
def example() -> ModuleType:
    """The example's script as a module."""
    spec = importlib.util.spec_from_file_location("real_audio_run", EXAMPLE / "run.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_every_caption_is_chosen_once_and_rejected_once(example: ModuleType, tmp_path: Path) -> None:
    names = [f"{letter}.wav" for letter in "abcde"]
    lines = [",".join([name, *(f"{name[0]}{number}" for number in range(5))]) for name in [*names, "absent.wav"]]
    header = "file_name," + ",".join(f"caption_{number}" for number in range(1, 6))
    (tmp_path / "captions.csv").write_text("\n".join([header, *lines]), encoding="utf-8")
    for name in names:
        (tmp_path / name).touch()
    made = example.make_pairs(tmp_path / "captions.csv", tmp_path, "What is heard?")
    captions = {f"{letter}{number}": 1 for letter in "abcde" for number in range(5)}
    assert (
        Counter(record.chosen.text for record in made) == captions == Counter(record.rejected.text for record in made)
    )
    for record in made:
        clip = record.media["audios"][0].path
        assert record.chosen.text[0] == clip[0] != record.rejected.text[0] == record.meta["other_clip"][0]


@real
def test_the_readme_counts_the_pairs(example: ModuleType, tmp_path: Path) -> None:
    voted = example.build_voted(FENSE / "clotho_eval.json", FENSE / "clotho_eval.csv", FENSE / "audio", tmp_path / "v")
    made = example.make_pairs(FENSE / "clotho_eval.csv", FENSE / "audio", "Describe the audio.")
    assert Counter(record.media["audios"][0].path for record in voted) == {"Blade Big.wav": 6, "Radio Garble.wav": 6}
    assert len(made) == 25 and len({record.media["audios"][0].path for record in made}) == 5


@real
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks for it
def test_three_steps_on_real_clips_move_the_rewards(example: ModuleType, tmp_path: Path) -> None:
    voted = example.build_voted(FENSE / "clotho_eval.json", FENSE / "clotho_eval.csv", FENSE / "audio", tmp_path / "v")
    few = Records([*voted[:2], *voted[-2:]], voted.media_root)
    model = example.save_random_listener((c.text for r in few for c in r.candidates), tmp_path / "model", 0)
    data = save_records(few, tmp_path / "few")
    overrides = [f"model.path={model}", f"data.path={data}", "train.max_steps=3", "train.disable_tqdm=true"]
    config = load_config(EXAMPLE / "train.yaml", [*overrides, "train.per_device_train_batch_size=4"])
    assert example.controls.reward_margins(config, None, few, few.media_root) == {"clean": [0.0] * 4}

    run = example.train(config, tmp_path / "run")
    manifest = read_json(run / "manifest.json")
    assert manifest["decisions"]["layout"]["value"] == "shared"
    assert manifest["counts"] == {"train": 4, "validation": 0} and manifest["set_aside"] == {}
    margins = example.controls.reward_margins(config, run / "adapter", few, few.media_root)
    assert sum(margins["clean"]) > 0 and torch.tensor(margins["clean"]).isfinite().all()
    assert margins["clean"] != margins["blank"], "silence is not the clip"

    loaded = example.controls.load_policy(config, torch.device("cpu"))
    encoder = example.controls.Encoder(loaded.processor, loaded.facts, loaded.eos_ids, few.media_root)
    for record in few:
        places = encoder.prompt(record).input_ids == loaded.inner.config.media["audio"]["token_id"]
        seconds = soundfile.info(FENSE / "audio" / str(record.media["audios"][0].path)).duration
        assert int(places.sum()) == math.ceil(math.ceil(seconds / 0.02) / 8), "8 frames of 20 ms for each token"
