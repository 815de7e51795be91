"""A modality of a user: the file that `mmdpo new` writes, the conformance check, and bad input, named by record."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from composed.languages import WHISPER, clip, language_model
from mmdpo import registry
from mmdpo.cli import app
from mmdpo.collate import Collator
from mmdpo.conformance import check
from mmdpo.encoding.example import Encoder
from mmdpo.errors import ConfigError, DataError, MMDPOError, ModelError
from mmdpo.extensions.scaffold import LONGEST_NAME, write_new
from mmdpo.media import MediaError
from mmdpo.modalities.arrays import open_array
from mmdpo.modalities.base import Modality
from mmdpo.modalities.embeddings import Embeddings
from mmdpo.modalities.encoders import MediaEncoder
from mmdpo.models.composed import compose
from mmdpo.objectives import make_objective
from mmdpo.policy import prepare
from mmdpo.records import Candidate, Media, Record, user_message
from mmdpo.scoring import score
from mmdpo.training.screening import screen
from mmdpo.views import View

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _registry_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers or imports is gone after it."""
    monkeypatch.setattr(registry.modalities, "_entries", dict(registry.modalities._entries))
    monkeypatch.setattr(registry, "_plugins", dict(registry._plugins))
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in [name for name in sys.modules if "thermal" in name]:
        monkeypatch.delitem(sys.modules, name)


@pytest.fixture
def thermal(tmp_path: Path) -> Iterator[ModuleType]:
    """The modality that `mmdpo new modality thermal` writes, loaded as a plugin."""
    (path, _) = write_new("modality", "thermal", tmp_path / "new")
    registry.load_plugins([path])
    module = registry._plugins[path.resolve()]
    yield module
    sys.modules.pop(module.__name__, None)


def series(*rows: int, channels: int = 3) -> list[Any]:
    generator = np.random.default_rng(0)
    return [generator.standard_normal((count, channels), dtype=np.float32) for count in rows]


ITEMS = series(47, 47, 20, 1)


# --- what `mmdpo new` writes


def test_a_new_modality_passes_ruff_and_its_own_test(tmp_path: Path) -> None:
    out = tmp_path / "sensors"
    result = CliRunner().invoke(app, ["new", "modality", "thermal_camera", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in out.iterdir()) == ["test_thermal_camera.py", "thermal_camera.py"]
    assert "python -m pytest" in result.stderr and "test_thermal_camera.py" in result.stderr
    ruff = [sys.executable, "-m", "ruff"]
    for words in (["check"], ["format", "--check"]):
        settings = ["--config", str(ROOT / "pyproject.toml"), "--no-cache"]
        done = subprocess.run([*ruff, *words, *settings, str(out)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
    sys.path.insert(0, str(out))
    spec = importlib.util.spec_from_file_location("test_thermal_camera", out / "test_thermal_camera.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    tests = [value for name, value in vars(module).items() if name.startswith("test_")]
    assert len(tests) == 2
    for number, test in enumerate(tests):
        folder = tmp_path / str(number)
        folder.mkdir()
        test(folder)
    assert registry.modalities.get("thermal_camera").plural == "thermal_cameras"


def test_the_longest_name_still_passes_ruff(tmp_path: Path) -> None:
    write_new("modality", "a" * LONGEST_NAME, tmp_path)
    for words in (["check"], ["format", "--check"]):
        settings = ["--config", str(ROOT / "pyproject.toml"), "--no-cache", str(tmp_path)]
        done = subprocess.run([sys.executable, "-m", "ruff", *words, *settings], capture_output=True, check=False)
        assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_the_written_test_is_green_under_pytest(tmp_path: Path) -> None:
    write_new("modality", "thermal", tmp_path)
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "test_thermal.py"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("modalty", "thermal", "no template for a new 'modalty'\nDid you mean 'modality'"),
        ("modality", "Thermal", "lower case"),
        ("modality", "thermal-camera", "Python identifier"),
        ("modality", "class", "Python identifier"),
        ("modality", "_thermal", "start with a letter"),
        ("modality", "a" * (LONGEST_NAME + 1), "at most 30 characters"),
        ("modality", "text", "the text of a prompt"),
        ("modality", "image", "a modality of that name is registered"),
        ("modality", "json", "a Python module of that name is installed"),
        ("modality", "numpy", "a Python module of that name is installed"),
    ],
)
def test_kinds_and_names_that_are_refused(kind: str, name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        write_new(kind, name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "test_thermal.py").write_text("mine", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"test_thermal\.py' exists"):
        write_new("modality", "thermal", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["test_thermal.py"]


@pytest.mark.slow
def test_a_package_registers_its_modality_by_entry_point(tmp_path: Path) -> None:
    write_new("modality", "thermal", tmp_path)
    metadata = tmp_path / "mmdpo_thermal-0.1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: mmdpo-thermal\nVersion: 0.1\n", encoding="utf-8")
    (metadata / "entry_points.txt").write_text("[mmdpo]\nthermal = thermal\n", encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    code = "from mmdpo.modalities.base import modality_of; print(type(modality_of('thermals')))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stdout == "<class 'thermal.ThermalModality'>\n", done.stderr


def test_a_file_that_the_program_imported_is_not_loaded_once_more_as_a_plugin(tmp_path: Path) -> None:
    (path, _) = write_new("modality", "thermal", tmp_path)
    sys.path.insert(0, str(tmp_path))
    module = importlib.import_module("thermal")
    registry.load_plugins([path])
    assert registry.modalities.get("thermal") is module.ThermalModality


# --- arrays


def written(folder: Path, name: str, data: bytes) -> Media:
    (folder / name).write_bytes(data)
    return Media(name)


def npy(folder: Path, values: Any) -> Media:
    np.save(folder / "item.npy", values)
    return Media("item.npy")


def test_arrays_are_read_from_npy_and_csv(tmp_path: Path) -> None:
    wanted = np.array([[1, -2.5], [3, 4e3]], dtype=np.float32)
    for media in (
        npy(tmp_path, wanted.astype(np.float64)),
        npy(tmp_path, np.asfortranarray(wanted)),
        written(tmp_path, "plain.csv", b"1,-2.5\n3,4e3\n"),
        written(tmp_path, "named.txt", b'\xef\xbb\xbfx,"y"\r\n1, -2.5\r\n\r\n3,4e3'),
        Media(data=b"1,-2.5\n3,4000"),
    ):
        found = open_array(media, tmp_path, channels=2)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, wanted)
    assert open_array(npy(tmp_path, np.arange(4, dtype=np.int16)), tmp_path).shape == (4, 1)
    assert open_array(npy(tmp_path, np.array([[True], [False]])), tmp_path).tolist() == [[1.0], [0.0]]


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        (np.array([{"a": 1}], dtype=object), "not_an_array", "Object arrays cannot be loaded"),
        (np.array(["a"]), "not_an_array", "holds <U1, not real numbers"),
        (np.array([1j]), "not_an_array", "not real numbers"),
        (np.zeros((0, 3)), "wrong_shape", r"shape \(0, 3\); wanted is \[t, 3\]"),
        (np.zeros((4, 2)), "wrong_shape", r"shape \(4, 2\)"),
        (np.zeros((4, 3, 1)), "wrong_shape", r"shape \(4, 3, 1\)"),
        (np.array([[0, 0, 0], [0, np.nan, 0]]), "not_finite", "first in row 1"),
        (np.array([[0, 0, 1e39]]), "not_finite", "first in row 0"),
        (b"", "wrong_shape", r"shape \(0,\)"),
        (b"1,2,3\n1,2", "not_an_array", "not equally long"),
        (b"1,2,3\n1,x,3", "not_an_array", "could not convert string to float: 'x'"),
        (b"\xff\xfe\x00", "not_an_array", "utf-8"),
        (b"\x93NUMPY\x01\x00", "not_an_array", "neither NumPy's"),
    ],
)
def test_arrays_that_are_refused(data: Any, kind: str, message: str, tmp_path: Path) -> None:
    if isinstance(data, bytes):
        media = written(tmp_path, "item.npy", data)
    else:
        np.save(tmp_path / "item.npy", data, allow_pickle=True)
        media = Media("item.npy")
    with pytest.raises(MediaError, match=message) as caught:
        open_array(media, tmp_path, channels=3)
    assert caught.value.kind == kind
    assert "'item.npy'" in caught.value.what


def test_a_header_that_claims_a_petabyte_is_refused(tmp_path: Path) -> None:
    header = str({"descr": "<f4", "fortran_order": False, "shape": (2**48, 3)}).encode().ljust(117) + b"\n"
    media = written(
        tmp_path, "bomb.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\0" * 64
    )
    with pytest.raises(MediaError, match=r"bomb\.npy.*cannot be read"):
        open_array(media, tmp_path)


# --- the conformance check


def names(findings: Any) -> set[str]:
    return {finding.check for finding in findings}


def test_a_modality_that_keeps_the_contract(thermal: ModuleType, tmp_path: Path) -> None:
    assert check(thermal.ThermalModality(), thermal.ThermalPatches(rows=7), ITEMS) == []
    files = []
    for number, item in enumerate(ITEMS):
        np.save(tmp_path / f"{number}.npy", item)
        files.append(Media(f"{number}.npy"))
    llm, tokenizer = language_model("gemma2")
    encoder = thermal.ThermalPatches()
    assert check(thermal.ThermalModality(), encoder, files, root=tmp_path, llm=llm, tokenizer=tokenizer) == []


def test_built_in_modalities_and_encoders_keep_it() -> None:
    from PIL import Image

    from mmdpo.modalities.audio import AudioModality
    from mmdpo.modalities.clip import ClipPatches
    from mmdpo.modalities.image import ImageModality
    from mmdpo.modalities.whisper import WhisperFeatures

    clips = [clip(0.4), clip(0.4, seed=1), clip(2.3, seed=2)]
    assert check(AudioModality(), WhisperFeatures(config=WHISPER), clips) == []
    noise = np.random.default_rng(0).integers(0, 256, (3, 24, 24, 3), dtype=np.uint8)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    clip_tower = ClipPatches(config={**sizes, "image_size": 16, "patch_size": 8})
    assert check(ImageModality(), clip_tower, [Image.fromarray(pixels) for pixels in noise]) == []
    assert check(ImageModality(), Embeddings(dim=3), series(5, 5, 2)) != []  # its blank is of pictures


@dataclass(frozen=True, kw_only=True)
class Means(MediaEncoder):
    """One token for each two rows; every test breaks it in one way."""

    inputs: ClassVar[tuple[str, ...]] = ("values", "lengths")
    channels: int = 3

    @property
    def width(self) -> int:
        return 4

    def tokens(self, item: Any) -> int:
        return -(-len(item) // 2)

    def prepare(self, item: Any) -> dict[str, Tensor]:
        return {"values": torch.from_numpy(np.array(item))[None], "lengths": torch.tensor([len(item)])}

    def build(self) -> nn.Module:
        return MeansNetwork()


class MeansNetwork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 4)

    def forward(self, values: Tensor, lengths: Tensor) -> list[Tensor]:
        whole = nn.functional.pad(values, (0, 0, 0, values.shape[1] % 2))
        features = self.layer(whole.unflatten(1, (-1, 2)).flatten(2))
        return [item[: -(-length // 2)] for item, length in zip(features, lengths.tolist(), strict=True)]


def blank(item: Any, generator: np.random.Generator) -> Any:
    return np.zeros_like(item)


def subject(
    encoder: dict[str, Any] | None = None, network: dict[str, Any] | None = None, **modality: Any
) -> tuple[Modality, MediaEncoder]:
    """A modality and an encoder in which some attributes are replaced; registered."""
    own_network = type("Network", (MeansNetwork,), network or {})
    made = type("Broken", (Means,), {"build": lambda self: own_network(), **(encoder or {})})
    kind = dataclass(frozen=True, kw_only=True)(made)
    facts = {"name": "probe", "corruptions": {"blank": blank}, "encoders": {"means": kind}} | modality
    facts |= {"load": lambda self, media, root: open_array(media, root)}
    found = type("Probe", (Modality,), facts)
    registry.modalities._entries[facts["name"]] = found
    return found(), kind()


def test_the_subject_of_the_checks_is_sound() -> None:
    assert check(*subject(), ITEMS) == []


def in_place(item: Any, generator: np.random.Generator) -> Any:
    item *= 0.5
    return item.copy()


def batch_norm(self: Any, values: Tensor, lengths: Tensor) -> list[Tensor]:
    return MeansNetwork.forward(self, values - values.mean(), lengths)


def unmasked(self: Any, values: Tensor, lengths: Tensor) -> list[Tensor]:
    return MeansNetwork.forward(self, values, torch.full_like(lengths, values.shape[1]))


def hidden_state(self: Any) -> None:
    MeansNetwork.__init__(self)
    self.secret = torch.randn(4)


BROKEN: dict[str, tuple[set[str], dict[str, Any], str]] = {
    "another plural": ({"name"}, {"plural": "probez"}, "'probez'; records look for 'probes'"),
    "the name of text": ({"name"}, {"name": "text"}, "other than 'text'"),
    "no blank": ({"blank"}, {"corruptions": {"noise": blank}}, "no 'blank'"),
    "another encoder": ({"registered"}, {"encoders": {}}, "not registered for modality 'probe'"),
    "blank that blanks nothing": (
        {"blank"},
        {"corruptions": {"blank": lambda item, generator: item}},
        "tells items 0 and 1 apart",
    ),
    "shorter variant": (
        {"corruption"},
        {"corruptions": {"blank": blank, "cut": lambda item, generator: item[:1]}},
        "'cut' of item 0 has 1 tokens, the item 24",
    ),
    "another type": (
        {"corruption"},
        {"corruptions": {"blank": lambda item, generator: np.ma.array(np.zeros_like(item))}},
        "is a MaskedArray, not a ndarray",
    ),
    "unseeded": (
        {"corruption"},
        {"corruptions": {"blank": blank, "noise": lambda item, generator: item + np.float32(np.random.rand())}},
        "differs from time to time",
    ),
    "in place": ({"corruption"}, {"corruptions": {"blank": blank, "half": in_place}}, "changes the item itself"),
    "raises": (
        {"corruption"},
        {"corruptions": {"blank": lambda item, generator: item.blank()}},
        "'blank' of item 0: AttributeError",
    ),
    "tensor without item dimension": (
        {"prepare"},
        {"encoder": {"prepare": lambda self, item: {k: v[0:0] for k, v in Means.prepare(self, item).items()}}},
        "shape (0, 47, 3), not [1, ...]",
    ),
    "other inputs": (
        {"prepare"},
        {"encoder": {"prepare": lambda self, item: {"value": torch.zeros(1, 3)}}},
        "gives ['value']; declared are ['lengths', 'values']",
    ),
    "random preparation": (
        {"prepare"},
        {
            "encoder": {
                "prepare": lambda self, item: Means.prepare(self, item) | {"values": torch.rand(1, len(item), 3)}
            }
        },
        "another when prepared again",
    ),
    "logarithm of zero": (
        {"finite"},
        {"encoder": {"prepare": lambda self, item: Means.prepare(self, item) | {"values": torch.zeros(1, 1, 3).log()}}},
        "values of item 0 has values that are not finite",
    ),
    "gaps filled": (
        {"nan"},
        {"encoder": {"prepare": lambda self, item: Means.prepare(self, np.nan_to_num(item))}},
        "with a NaN gives finite inputs",
    ),
    "another length": (
        {"length"},
        {"encoder": {"tokens": lambda self, item: len(item) // 2}},
        "shapes [(24, 4)]; tokens() and width declare [(23, 4)]",
    ),
    "one tensor": (
        {"length"},
        {"network": {"forward": lambda self, **i: torch.stack(MeansNetwork.forward(self, **i))}},
        "wanted is a list",
    ),
    "another width": ({"length"}, {"encoder": {"width": 5}}, "declare [(24, 5)]"),
    "features that are not finite": (
        {"finite"},
        {"network": {"forward": lambda self, **i: [f * torch.inf for f in MeansNetwork.forward(self, **i)]}},
        "features of item 0 are not finite",
    ),
    "mean over the batch": ({"batch"}, {"network": {"forward": batch_norm}}, "differ in a batch"),
    "padding kept": ({"batch"}, {"network": {"forward": unmasked}}, "has 10 features alone and 24 in a batch"),
    "float32 inside": (
        {"half_precision"},
        {"network": {"forward": lambda self, values, lengths: MeansNetwork.forward(self, values.float(), lengths)}},
        "item 0 in bfloat16: RuntimeError",
    ),
    "state that is not saved": ({"composed"}, {}, "the saved model gives other features"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_every_breach_is_found_and_named(case: str) -> None:
    wanted, changes, message = BROKEN[case]
    if case == "state that is not saved":

        def forward(self: Any, values: Tensor, lengths: Tensor) -> list[Tensor]:
            return [item + self.secret.to(item) for item in MeansNetwork.forward(self, values, lengths)]

        changes = {"network": {"__init__": hidden_state, "forward": forward}}
    findings = check(*subject(**changes), [item.copy() for item in ITEMS])
    assert names(findings) == wanted
    assert any(message in finding.message for finding in findings), findings


def test_what_is_not_registered_or_cannot_be_saved() -> None:
    modality, encoder = subject()
    del registry.modalities._entries["probe"]
    assert names(check(modality, encoder, ITEMS)) == {"registered"}
    modality, encoder = subject(encoder={"__annotations__": {"steps": "tuple[int, ...]"}, "steps": (1, 2)})
    assert names(check(modality, encoder, ITEMS)) == {"fields"}


def test_items_that_cannot_be_loaded_or_judged(tmp_path: Path) -> None:
    modality, encoder = subject()
    findings = check(modality, encoder, [*ITEMS, Media("absent.npy")], root=tmp_path)
    assert names(findings) == {"loads"}
    assert "item 4: MediaError: the media file 'absent.npy' is not under" in findings[0].message
    assert names(check(modality, encoder, series(4, 6))) == {"items"}
    assert names(check(modality, encoder, [ITEMS[0], ITEMS[0]])) == {"items"}


def test_several_breaches_are_told_at_once() -> None:
    findings = check(*subject(plural="probez", corruptions={}), ITEMS)
    assert names(findings) == {"name", "blank"}


# --- bad input, in training


def record(name: str, *media: Media, places: int = 1, plural: str = "thermals") -> Record:
    prompt = (user_message("What is here?", **{plural: places}),)
    return Record(id=name, prompt=prompt, candidates=(Candidate("A dog."), Candidate("No.")), media={plural: media})


def item(values: Any) -> Media:
    import io

    stream = io.BytesIO()
    np.save(stream, np.asarray(values, dtype=np.float32))
    return Media(data=stream.getvalue())


def encoder_for(encoder: MediaEncoder, modality: str = "thermal") -> tuple[Any, Encoder]:
    llm, tokenizer = language_model()
    model, processor = compose(llm, {modality: encoder}, tokenizer=tokenizer)
    policy = prepare(model, processor, trainable="llm" if isinstance(encoder, Embeddings) else "all")
    return policy, Encoder(processor, policy.facts, policy.eos_ids)


def scored(policy: Any, encoder: Encoder, *records: Record) -> Tensor:
    return score(policy.model, Collator(encoder, [View(0), View(1)])(list(enumerate(records))))


def test_a_record_of_a_new_modality_is_scored(thermal: ModuleType) -> None:
    policy, encoder = encoder_for(thermal.ThermalPatches())
    found = scored(policy, encoder, record("one", item(ITEMS[0])), record("two", item(ITEMS[2])))
    assert found.isfinite().all()
    found.sum().backward()
    assert policy.model.model.encoders["thermal"].layers[0].weight.grad.abs().sum() > 0


def test_another_number_of_features_than_declared_names_the_record(thermal: ModuleType) -> None:
    class Short(thermal.ThermalPatches):  # type: ignore[name-defined,misc]
        def tokens(self, item: Any) -> int:
            return int(super().tokens(item)) - 1

    thermal.ThermalModality.encoders = {"patches": Short}
    policy, encoder = encoder_for(Short())
    with pytest.raises(ModelError, match=r"gave 2 features for .*'two'.*has 1 thermal placeholder"):
        scored(policy, encoder, record("two", item(ITEMS[2])))


def test_features_with_nan_name_the_record(thermal: ModuleType) -> None:
    policy, encoder = encoder_for(thermal.ThermalPatches())
    with torch.no_grad():
        policy.model.model.encoders["thermal"].layers[0].bias[0] = torch.nan
    with pytest.raises(ModelError, match=r"thermal features of .*'one'.* are not finite"):
        scored(policy, encoder, record("one", item(ITEMS[0])))


def test_an_item_with_nan_names_file_and_record(thermal: ModuleType, tmp_path: Path) -> None:
    _, encoder = encoder_for(thermal.ThermalPatches())
    np.save(tmp_path / "gap.npy", np.full((3, 3), np.nan))
    encoder.root = tmp_path
    with pytest.raises(MediaError, match=r"record 'one': the array 'gap\.npy'.*first in row 0") as caught:
        encoder.prompt(record("one", Media("gap.npy")))
    assert caught.value.kind == "not_finite"


def test_a_nan_that_a_modality_lets_through_is_refused_all_the_same(
    thermal: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, encoder = encoder_for(thermal.ThermalPatches())
    monkeypatch.setattr(thermal.ThermalModality, "load", lambda self, media, root: np.full((3, 3), np.nan))
    with pytest.raises(DataError, match=r"the thermals of record 'one' give thermal_values that are not finite"):
        encoder.prompt(record("one", item(ITEMS[0])))


@pytest.mark.parametrize(("places", "items"), [(2, 1), (1, 2), (1, 0), (0, 1)])
def test_places_and_items_that_differ_name_the_record(places: int, items: int, thermal: ModuleType) -> None:
    _, encoder = encoder_for(thermal.ThermalPatches())
    bad = record("one", *[item(ITEMS[2])] * items, places=places)
    with pytest.raises(DataError, match=f"record 'one' has {places} places for {items} thermals"):
        encoder.prompt(bad)
    (aside,) = screen([bad], encoder, make_objective("dpo")).set_aside
    assert (aside.id, aside.reason) == ("one", "placeholder_mismatch")


def test_media_for_a_model_that_cannot_take_them_name_the_record(thermal: ModuleType, tiny_llava: Any) -> None:
    _, encoder = encoder_for(Embeddings(dim=3), "audio")
    with pytest.raises(MMDPOError, match=r"record 'one' has thermals, and 'mmdpo_composed' takes none"):
        encoder.prompt(record("one", item(ITEMS[2])))
    published = Encoder(tiny_llava.processor, prepare(tiny_llava.model, tiny_llava.processor).facts, [2])
    with pytest.raises(MMDPOError, match=r"record 'one' has thermals, and 'llava' takes none"):
        published.prompt(record("one", item(ITEMS[2])))


def test_two_modalities_that_want_one_placeholder_or_one_name(thermal: ModuleType) -> None:
    llm, tokenizer = language_model()
    with pytest.raises(ConfigError, match="'thermal' and 'event' both want the placeholder '<x>'"):
        compose(
            llm,
            {"thermal": thermal.ThermalPatches(), "event": Embeddings(dim=3)},
            tokenizer=tokenizer,
            placeholders={"thermal": "<x>", "event": "<x>"},
        )
    with pytest.raises(ConfigError, match="'thermal' is registered twice among the modalities"):
        registry.modalities.register("thermal")(type("Other", (Modality,), {"name": "thermal"}))


def test_blank_check_refuses_what_it_cannot_compare(thermal: ModuleType) -> None:
    from mmdpo.conformance import blank_check
    from mmdpo.records import Records

    one = record("one", item(ITEMS[2]))
    alone = dataclasses.replace(one, candidates=one.candidates[:1])
    with pytest.raises(DataError, match="record 'one' has 1 candidates and 1 media items"):
        blank_check(None, None, Records([alone]))
    with pytest.raises(DataError, match="about 1 distinct media items"):
        blank_check(None, None, Records([one, dataclasses.replace(one, id="two")]))


def test_blank_check_counts_right_answers_with_and_without(
    thermal: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four questions about three items: 2.5 right with them (a tie is a half), 1 right without."""
    from mmdpo.conformance import blank as module
    from mmdpo.records import Records

    totals = {
        "clean": [[-1, -2], [-1, -3, -2], [-1, -1], [-2, -1]],
        "blank": [[-2, -1], [-2, -3, -1], [-3, -1], [-1, -2]],
    }
    monkeypatch.setattr(module, "score", lambda model, processor, records, media, batch_size: totals[media])
    items = [item(ITEMS[0]), item(ITEMS[0]), item(ITEMS[2]), item(ITEMS[3])]
    records = Records([record(str(number), media) for number, media in enumerate(items)])
    found = module.blank_check(None, None, records)
    assert (found.clean.value, found.blank.value, found.gain.value) == (2.5 / 4, 1 / 4, 1.5 / 4)
    assert (found.clean.n, found.gain.n) == (4, 3)  # questions; items, of which two are the same
