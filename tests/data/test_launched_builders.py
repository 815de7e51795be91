"""Builders in processes that `accelerate launch` starts: they share the work, and one of them writes the records."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data_builders.running.build import build
from data_builders.running.folder import BUILDING
from mmdpo.launch import _free_port
from mmdpo.records import load_records

DDP = Path(__file__).parents[2] / "configs" / "accelerate" / "ddp.yaml"
MODEL = {"model": "playground", "n": 2, "temperatures": [1.0], "max_new_tokens": 8, "batch_size": 2}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five pictures with a table of them."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for n in range(5):
        Image.new("RGB", (64, 64), (50 * n, 90, 120)).save(folder / f"{n}.png")
    table = folder / "photos.csv"
    table.write_text("image\n" + "".join(f"{n}.png\n" for n in range(5)), encoding="utf-8")
    return table


def launched(folder: Path, *words: str) -> None:
    """`accelerate launch --config_file configs/accelerate/ddp.yaml -m mmdpo build WORDS` with two processes."""
    accelerate = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--config_file", str(DDP)]
    port = str(_free_port())
    done = subprocess.run(
        [*accelerate, "--num_processes", "2", "--main_process_port", port, "-m", "mmdpo", "build", *words],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_launched_processes_draw_what_one_draws(photos: Path, tmp_path: Path) -> None:
    config: dict[str, Any] = {"data": str(photos), "sources": [MODEL]}
    (tmp_path / "sample.yaml").write_text(json.dumps(config), encoding="utf-8")
    launched(tmp_path, "sample", "sample.yaml", "--out", "two")
    one = build("sample", config, tmp_path / "one")
    assert load_records(tmp_path / "two").fingerprint() == one.records.fingerprint()
    quality = json.loads((tmp_path / "two" / "quality.json").read_text(encoding="utf-8"))
    assert (quality["rows"], quality["sampling"]) == (one.quality["rows"], one.quality["sampling"])
    assert not (tmp_path / "two" / BUILDING).exists()


@pytest.mark.slow
def test_launched_processes_find_a_build_that_is_done(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was killed when all was written but the last traces of it: no process may wait for one that has left."""
    config: dict[str, Any] = {"data": str(photos), "sources": [MODEL]}
    (tmp_path / "sample.yaml").write_text(json.dumps(config), encoding="utf-8")
    plain = shutil.rmtree

    def killed(path: Path, *args: Any, **options: Any) -> None:
        if path.name == BUILDING:
            raise KeyboardInterrupt
        plain(path, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            build("sample", config, tmp_path / "out")
    done = load_records(tmp_path / "out").fingerprint()
    assert (tmp_path / "out" / BUILDING).is_dir()
    launched(tmp_path, "sample", "sample.yaml", "--out", "out", "--resume")
    assert load_records(tmp_path / "out").fingerprint() == done
    assert not (tmp_path / "out" / BUILDING).exists()
