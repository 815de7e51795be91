"""Exit codes of the installed command, in a process of its own: Ctrl-C, and checks that fail."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mmdpo import cli, pipeline
from mmdpo.interrupts import Interrupted

BEGINS = "import sys, typer, mmdpo.cli as cli\ncli.app.registered_commands.clear()\n@cli.app.command()\n"


def ends(body: str) -> subprocess.CompletedProcess[str]:
    """A command whose only verb does this, called through `main` as the installed script does."""
    code = f"{BEGINS}def verb() -> None:\n    {body}\n@cli.app.command()\ndef other() -> None: ...\ncli.main()"
    return subprocess.run([sys.executable, "-c", code, "verb"], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("pass", 0),
        ("raise KeyboardInterrupt", 130),
        ("raise typer.Exit(1)", 1),
        ("raise typer.Abort()", 130),
    ],
)
def test_every_verb_ends_with_its_code(body: str, code: int) -> None:
    done = ends(body)
    assert done.returncode == code, done.stderr
    assert ("interrupted" in done.stderr) is (code == 130)


@pytest.mark.parametrize(("where", "what"), [(cli, "run_config"), (pipeline, "train")])
def test_training_that_is_stopped_at_its_start_says_how_to_begin_again(
    where: Any, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the configuration is read, and after it, before there is a run folder."""

    def stopped(*_: Any, **__: Any) -> None:
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(where, what, stopped)
    (tmp_path / "run.yaml").write_text("model: {path: playground}\ndata: {path: pairs}\n", encoding="utf-8")
    with pytest.raises(Interrupted, match="stopped while starting") as caught:
        cli.app(["train", str(tmp_path / "run.yaml"), "--out", str(tmp_path / "run")], standalone_mode=False)
    assert caught.value.exit_code == 130
    assert caught.value.fix == "Give the same command again."
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_ctrl_c_ends_a_build_with_130_and_it_goes_on(tmp_path: Path) -> None:
    """The signal comes when the build has its folder; `--resume` ends what it began."""
    rows = "".join(f"{n}.png,caption {n} {r},{1 + (n + r) % 5}\n" for n in range(1000) for r in range(2))
    (tmp_path / "ratings.csv").write_text("image,caption,rating\n" + rows, encoding="utf-8")
    words = ["build", "ratings", f"data={tmp_path / 'ratings.csv'}", "scale.min=1", "scale.max=5"]
    words += ["higher_is_better=true", "media=optional", "columns.rater=null", "--out", str(tmp_path / "out")]
    command = [sys.executable, "-m", "mmdpo", *words]
    started = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a job of a shell ignores it
    )
    while not (tmp_path / "out").exists() and started.poll() is None:
        time.sleep(0.05)
    started.send_signal(signal.SIGINT)
    told = started.communicate(timeout=120)[1]
    assert started.returncode == 130, told
    assert "interrupted" in told
    again = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "out" / "quality.json").is_file()
