"""What is evaluated: on which base, with which settings, in which order, and again after an interruption."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

import mmdpo
from mmdpo.answering import evaluation, loading
from mmdpo.answering.answers import sample_record
from mmdpo.cli import app
from mmdpo.config import RunConfig, parse_config
from mmdpo.errors import ConfigError, MMDPOError, ModelError
from mmdpo.evals.base import Sample
from mmdpo.evals.chair import Chair
from mmdpo.evals.comparing.folders import require
from mmdpo.models.load import load_pretrained
from mmdpo.runs.training import train
from mmdpo.verbs.commandline import eval_sections

TRAIN = {"max_steps": 2, "learning_rate": 0.01, "use_cpu": True, "disable_tqdm": True, "save_strategy": "no"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    records = []
    for number in range(3):
        Image.new("RGB", (64, 64), (60 * number, 90, 120)).save(folder / f"{number}.png")
        message = {
            "role": "user",
            "content": [{"type": "image"}, {"type": "text", "text": "Describe the image."}],
        }
        candidates = (mmdpo.Candidate("A red star on a lake."), mmdpo.Candidate("A boat on a lake."))
        media = {"images": (mmdpo.Media(path=f"{number}.png"),)}
        records.append(mmdpo.Record(id=str(number), prompt=(message,), candidates=candidates, media=media))
    mmdpo.save_records(mmdpo.Records(records, media_root=folder), str(folder / "pairs"))
    (folder / "objects.json").write_text(json.dumps({str(n): ["star"] for n in range(3)}), encoding="utf-8")
    (folder / "names.txt").write_text("star\nboat\n", encoding="utf-8")
    return folder


def config_of(data: Path, **model: Any) -> RunConfig:
    options = {"synonyms": str(data / "names.txt"), "image_name": "{id}.png"}
    chair = {"data": str(data / "objects.json"), "images": str(data), "max_new_tokens": 4, "options": options}
    values = {
        "model": {"path": "playground", "lora": {"r": 4, "alpha": 8}, **model},
        "data": {"path": str(data / "pairs"), "validation": 0},
        "train": TRAIN,
        "eval": {"chair": chair},
    }
    return parse_config(values)


def trained(data: Path, out: Path, **model: Any) -> RunConfig:
    config = config_of(data, **model)
    train(config, out)
    return config


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[Mapping[str, Any]]:
    """Every call of ``load_pretrained``."""
    calls: list[Mapping[str, Any]] = []

    def load(path: str, **options: Any) -> Any:
        calls.append({"path": path, **options})
        return load_pretrained(path, **options)

    monkeypatch.setattr(loading, "load_pretrained", load)
    return calls


def answers(folder: Path) -> list[str]:
    lines = (folder / "chair" / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["image_id"] + json.loads(line)["caption"] for line in lines]


@pytest.mark.slow
def test_a_run_is_evaluated_on_the_base_it_was_trained_on(
    data: Path, tmp_path: Path, loads: list[Mapping[str, Any]]
) -> None:
    run = tmp_path / "run"
    config = trained(data, run, dtype="bfloat16", attention="eager")
    evaluation.evaluate_run(run, config)
    assert loads == [{"path": "playground", "dtype": "bfloat16", "quantize": None, "attention": "eager"}]
    for path in (run, run / "adapter"):
        model, _ = evaluation.load_any(str(path))
        assert model.get_base_model().lm_head.weight.dtype == torch.bfloat16
    model, processor = evaluation.load_any("playground", config.model)
    section = config.eval["chair"]
    chair = evaluation.make_benchmark("chair", **section.options)
    evaluation.answer_and_score(model, processor, chair, section, tmp_path / "base" / "chair")
    assert answers(run / "base_eval") == answers(tmp_path / "base")
    assert (run / "comparison.json").is_file()


def test_training_from_python_evaluates_and_reports_as_the_command_does(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def undrawn(self: Figure, file: Any, **_: Any) -> None:
        if isinstance(file, io.StringIO):
            file.write("<svg></svg>")

    monkeypatch.setattr(Figure, "savefig", undrawn)  # drawing takes longer than all the rest
    run = mmdpo.train(config_of(data).model_dump(exclude_unset=True), str(tmp_path / "run"))
    assert run == tmp_path / "run"
    for stage in ("base_eval", "eval"):
        assert len(answers(run / stage)) == 3
        assert (run / stage / "chair" / "metrics.json").is_file()
    compared = json.loads((run / "comparison.json").read_text(encoding="utf-8"))
    assert compared["metrics"].keys() >= {"chair_i", "chair_s"}
    assert "CHAIR_i" in (run / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_run_that_goes_on_is_compared_with_the_adapter_it_came_from(data: Path, tmp_path: Path) -> None:
    trained(data, tmp_path / "first")
    config = trained(data, tmp_path / "second", adapter=str(tmp_path / "first" / "adapter"))
    evaluation.evaluate_run(tmp_path / "second", config)
    mmdpo.evaluate(str(tmp_path / "first"), {"chair": config.eval["chair"].model_dump()}, str(tmp_path / "alone"))
    assert answers(tmp_path / "second" / "base_eval") == answers(tmp_path / "alone" / "eval")
    assert (tmp_path / "second" / "comparison.json").is_file()


def test_an_interrupted_evaluation_is_made_again(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loads: list[Mapping[str, Any]]
) -> None:
    run = tmp_path / "run"
    config = trained(data, run)
    with monkeypatch.context() as patch:
        patch.setattr(Chair, "score", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            evaluation.evaluate_run(run, config)
    assert (run / "eval" / "chair" / "answers.jsonl").is_file()
    evaluation.evaluate_run(run, config)
    for stage in ("base_eval", "eval"):
        assert json.loads((run / stage / "chair" / "metrics.json").read_text(encoding="utf-8"))["n"] == 3
    loads.clear()
    evaluation.evaluate_run(run, config)
    assert loads == []


def test_chair_takes_its_own_options_from_the_shell(data: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    words = ["eval", "playground", "chair", "--data", f"chair={data / 'objects.json'}", "--images", f"chair={data}"]
    words += ["--synonyms", str(data / "names.txt"), "--image-name", "{id}.png", "--limit", "2"]
    result = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, (result.output, result.exception)
    rows = (tmp_path / "out/eval/chair/answers.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(row)["media"]["images"] for row in rows] == [["0.png"], ["1.png"]]


def test_with_several_benchmarks_an_option_says_whose_it_is() -> None:
    paths = ["pope=q.jsonl", "chair=o.json"]
    sections = eval_sections(["pope", "chair", "--parser", "pope=opera", "--prompt=chair=a=b"], paths, [], None)
    assert sections["pope"].options == {"parser": "opera"}
    assert sections["chair"].options == {"prompt": "a=b"}
    assert eval_sections(["chair", "--prompt", "a=b"], paths[1:], [], None)["chair"].options == {"prompt": "a=b"}
    with pytest.raises(ConfigError, match="has no benchmark name"):
        eval_sections(["pope", "chair", "--parser", "opera"], paths, [], None)


def test_wrong_input_is_told_not_thrown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"chair\.limitt: unknown key"):
        mmdpo.evaluate("playground", {"chair": {"data": "x.json", "limitt": 3}}, str(tmp_path / "out"))
    with pytest.raises(ConfigError, match="is no pattern"):
        Chair(image_name="{number}.png")
    import transformers

    def absent(**_: Any) -> None:
        raise ImportError("Using `bitsandbytes` 4-bit quantization requires bitsandbytes")

    monkeypatch.setattr(transformers, "BitsAndBytesConfig", absent)
    with pytest.raises(ModelError, match="bitsandbytes") as caught:
        load_pretrained("playground", quantize="4bit")
    assert "mmdpo[quant]" in caught.value.fix


def test_a_limit_is_a_ceiling_where_lower_is_better() -> None:
    def entry(value: float, better: str) -> dict[str, Any]:
        return {"after": {"value": value}, "better": better}

    comparison = {"metrics": {"chair_i": entry(0.2, "lower"), "pope_f1": entry(0.8, "higher")}}
    require(comparison, ["chair_i=0.3", "pope_f1=0.7"])
    with pytest.raises(MMDPOError, match=r"chair_i is 0\.2000, above 0\.1"):
        require(comparison, ["chair_i=0.1"])
    with pytest.raises(MMDPOError, match=r"pope_f1 is 0\.8000, below 0\.9"):
        require(comparison, ["pope_f1=0.9"])
    with pytest.raises(ConfigError, match="no number"):
        require(comparison, ["pope_f1=abc"])


def test_a_sample_of_any_media_has_a_place_for_each_item() -> None:
    media = {"audios": (Path("a.wav"), Path("b.wav")), "images": (Path("c.png"),)}
    sample = Sample(id="1", prompt="What is heard?", media=media, target=None, group="a")
    record = sample_record(sample)
    assert [part["type"] for part in record.prompt[0]["content"]] == ["audio", "audio", "image", "text"]
    assert [media.path for media in record.media["audios"]] == ["a.wav", "b.wav"]
