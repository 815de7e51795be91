"""The core broken on purpose: whatever stops a build, nothing is half-written, and it goes on to the same records."""

import csv
import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from PIL import Image

from data_builders.running import build as building
from data_builders.running.build import BuildResult, build
from data_builders.running.folder import BUILDING
from data_builders.running.ledger import Ledger
from data_builders.running.work import Work
from data_builders.tables import spool
from mmdpo import jsonfiles
from mmdpo.errors import ConfigError, DataError
from mmdpo.media import Media, MediaError
from mmdpo.records.files import list_splits

CONFIG: dict[str, Any] = {"scale": {"min": 1, "max": 5}, "higher_is_better": True, "validation": 0.25}


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ratings of six photos, one bad row; more than the spool keeps in memory."""
    monkeypatch.setitem(spool.Spool.__init__.__kwdefaults__, "limit", 5)
    root = tmp_path / "photos"
    root.mkdir()
    rows = []
    for n in range(6):
        Image.new("RGB", (8, 8), (40 * n, 0, 0) if n else "white").save(root / f"{n}.png")
        rows += [(f"{n}.png", f"caption {k}", 1 + 2 * k, "x") for k in range(2)]
    with (root / "ratings.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "caption", "rating", "rater"), *rows, ("0.png", "caption 9", "4/5", "x")])
    return root / "ratings.csv"


def run(table: Path, out: Path, **how: Any) -> BuildResult:
    config = {**CONFIG, **how.pop("config", {})}
    return build("ratings", {"data": table, **config}, out, **how)


def content(result: BuildResult) -> tuple[Any, ...]:
    """Everything that must not depend on an interruption."""
    prints = {name: records.fingerprint() for name, records in result.splits.items()}
    quality = {key: value for key, value in result.quality.items() if key != "records"}
    return prints, quality, result.set_aside


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def whole(table: Path, out: Path, expected: tuple[Any, ...]) -> None:
    """A build goes on to what it would have been, and leaves nothing else."""
    assert content(run(table, out, resume=True)) == expected
    assert names(out) == ["data", "info.json", "quality.json", "set_aside.jsonl"]


def writers() -> list[tuple[Any, str]]:
    return [
        (pyarrow.parquet.ParquetWriter, "write_table"),
        (spool.Spool, "_spill"),
        (Ledger, "set_aside"),
        (jsonfiles, "_write_atomically"),
        (shutil, "copyfile"),
        (Path, "replace"),
        (Path, "mkdir"),
    ]


def failing_at(number: int, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lets the n-th of all writes fail; returns a list of one number, the writes so far."""
    count = [0]

    def wrapped(original: Callable[..., Any]) -> Callable[..., Any]:
        def write(*arguments: Any, **named: Any) -> Any:
            count[0] += 1
            if count[0] == number:
                raise error
            return original(*arguments, **named)

        return write

    for owner, name in writers():
        monkeypatch.setattr(owner, name, wrapped(getattr(owner, name)))
    return count


@pytest.mark.slow
def test_a_full_disk_at_every_write(table: Path, tmp_path: Path):
    expected = content(run(table, tmp_path / "whole"))
    with pytest.MonkeyPatch.context() as patch:
        count = failing_at(0, OSError(), patch)
        run(table, tmp_path / "counted")
    assert count[0] > 20
    for number in range(1, count[0] + 1):
        out = tmp_path / f"out {number}"
        with pytest.MonkeyPatch.context() as patch:
            failing_at(number, OSError(errno.ENOSPC, "No space left on device"), patch)
            with pytest.raises((DataError, ConfigError), match="No space left on device") as caught:
                run(table, out)
        assert "room" in str(caught.value)
        assert not out.exists() or list_splits(out) == [], number
        whole(table, out, expected)


@pytest.mark.slow
def test_ctrl_c_at_every_write(table: Path, tmp_path: Path):
    expected = content(run(table, tmp_path / "whole"))
    with pytest.MonkeyPatch.context() as patch:
        count = failing_at(0, OSError(), patch)
        run(table, tmp_path / "counted")
    for number in range(1, count[0] + 1):
        out = tmp_path / f"out {number}"
        with pytest.MonkeyPatch.context() as patch:
            failing_at(number, KeyboardInterrupt(), patch)
            with pytest.raises(KeyboardInterrupt):
                run(table, out)
        assert not out.exists() or list_splits(out) == [], number
        whole(table, out, expected)


def stopping_at(number: int) -> Callable[[Iterable[Any]], Iterator[Any]]:
    def progress(items: Iterable[Any]) -> Iterator[Any]:
        for place, item in enumerate(items):
            if place == number:
                raise KeyboardInterrupt
            yield item

    return progress


@pytest.mark.slow
def test_ctrl_c_at_every_row_and_twice(table: Path, tmp_path: Path):
    expected = content(run(table, tmp_path / "whole"))
    for number in range(13):
        out = tmp_path / f"out {number}"
        for resume in (False, True):
            with pytest.raises(KeyboardInterrupt):
                run(table, out, progress=stopping_at(number), resume=resume)
            assert names(out) == [BUILDING]
        whole(table, out, expected)


@pytest.mark.slow
def test_a_killed_build_goes_on(table: Path, tmp_path: Path):
    code = (
        "import os, signal, sys\n"
        "from data_builders.running.build import build\n"
        "def progress(items):\n"
        "    for place, item in enumerate(items):\n"
        "        if place == 7: os.kill(os.getpid(), signal.SIGKILL)\n"
        "        yield item\n"
        f"build('ratings', {{**{CONFIG!r}, 'data': sys.argv[1]}}, sys.argv[2], progress=progress)\n"
    )
    out = tmp_path / "out"
    done = subprocess.run([sys.executable, "-c", code, str(table), str(out)], check=False, env={**os.environ})
    assert done.returncode == -signal.SIGKILL and names(out) == [BUILDING]
    with pytest.raises(ConfigError, match="holds an interrupted build"):
        run(table, out)
    whole(table, out, content(run(table, tmp_path / "whole")))


def test_an_end_that_came_just_before_tidying_up(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out, remove = tmp_path / "out", shutil.rmtree

    def interrupted(path: Path, **named: Any) -> None:
        if path == out / BUILDING:
            raise KeyboardInterrupt
        remove(path, **named)

    with monkeypatch.context() as patch:
        patch.setattr(building.shutil, "rmtree", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(table, out)
    with pytest.raises(ConfigError, match="holds an interrupted build"):
        run(table, out)
    with monkeypatch.context() as patch:  # it is done: nothing is read again
        patch.setattr(building, "_run", None)
        again = run(table, out, resume=True)
    assert {split: len(records) for split, records in again.splits.items()} == {"train": 4, "validation": 2}
    assert names(out) == ["data", "info.json", "quality.json", "set_aside.jsonl"]


def test_other_settings_or_another_source_are_refused(table: Path, tmp_path: Path):
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run(table, out, progress=stopping_at(3))
    with pytest.raises(ConfigError, match="was of other settings: min_margin, seed"):
        run(table, out, resume=True, config={"seed": 5, "min_margin": 1})
    before, times = table.read_bytes(), table.stat()
    table.write_bytes(before.replace(b"caption 1", b"caption 7"))
    with pytest.raises(ConfigError, match=r"the source of the interrupted build .* has changed: .*ratings\.csv"):
        run(table, out, resume=True)
    table.write_bytes(before)
    os.utime(table, ns=(times.st_atime_ns, times.st_mtime_ns))
    whole(table, out, content(run(table, tmp_path / "whole")))


def test_two_builds_at_once(table: Path, tmp_path: Path):
    out, told = tmp_path / "out", []

    def progress(items: Iterable[Any]) -> Iterator[Any]:
        for resume in (False, True):
            with pytest.raises(ConfigError, match="another build is at work") as caught:
                run(table, out, resume=resume)
            told.append(caught.value)
        yield from items

    result = run(table, out, progress=progress)
    assert len(told) == 2 and content(result) == content(run(table, tmp_path / "whole"))


def test_places_that_cannot_be_written_to_and_such_that_can(table: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"nothing can be written to .*: Not a directory"):
        run(table, table / "out")
    assert table.is_file()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not an empty folder"):
        run(table, tmp_path / "mine")
    assert names(tmp_path / "mine") == ["thesis.txt"]
    inside = run(table, table.parent / "out of it")  # the output inside the media root
    assert content(inside) == content(run(table, tmp_path / "whole"))
    shutil.move(table.parent, tmp_path / "moved")
    from mmdpo.records import load_records

    records = load_records(tmp_path / "moved" / "out of it")
    assert records.media_path(records[0].media["images"][0]).is_file()


def test_media_that_change_while_they_are_built(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from data_builders import ratings

    original = ratings.checked_media

    def changing(*arguments: Any) -> Any:
        found = original(*arguments)
        Image.new("RGB", (9, 9)).save(table.parent / "3.png")
        return found

    monkeypatch.setattr(ratings, "checked_media", changing)
    with pytest.raises(DataError, match=r"record '[0-9a-f]+': the media item '3\.png' is not the one"):
        run(table, tmp_path / "out", embed=True)
    assert not (tmp_path / "out").exists()


def test_half_a_line_in_the_journal_of_media(table: Path, tmp_path: Path):
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt), pytest.MonkeyPatch.context() as patch:
        patch.setattr("data_builders.running.build.MediaGroups.add", stop)
        run(table, out)
    journal = out / BUILDING / "media.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    assert len(lines) == 6
    journal.write_text("".join(lines[:3]) + lines[3][:20])
    with pytest.raises(KeyboardInterrupt), pytest.MonkeyPatch.context() as patch:
        patch.setattr("data_builders.running.build.MediaGroups.add", stop)
        run(table, out, resume=True)
    read = jsonfiles.read_json_lines(journal)
    assert (len(read.rows), read.unreadable) == (6, 1)
    whole(table, out, content(run(table, tmp_path / "whole")))


def test_the_journal_of_media_is_read_once_and_believed_only_where_it_says_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    reads: list[Path] = []

    def counted(path: Path) -> Any:
        reads.append(path)
        return jsonfiles.read_json_lines(path)

    monkeypatch.setattr("data_builders.running.work.read_json_lines", counted)
    work = Work(tmp_path, Ledger())
    for number in range(3):
        Image.new("RGB", (9, 9), (number, 0, 0)).save(tmp_path / f"{number}.png")
    items = [Media(f"{number}.png") for number in range(3)]
    first = [work.checked_media([item], tmp_path)[item] for item in items]
    opened: list[Media] = []
    again = [work.checked_media([item], tmp_path, decode=opened.append)[item] for item in items]
    assert first == again and all(isinstance(item, Media) and item.sha256 for item in again)
    assert len(reads) == 1 and opened == []
    (wrong,) = work.checked_media([Media("0.png", sha256="0" * 64)], tmp_path).values()
    assert isinstance(wrong, MediaError) and wrong.kind == "changed_media"


def stop(*_: Any) -> None:
    raise KeyboardInterrupt


def test_near_duplicates_and_sources_decide_splits(table: Path, tmp_path: Path):
    plain = run(table, tmp_path / "plain")
    assert plain.quality["splits"] == {"train": 4, "validation": 2}
    joined = run(table, tmp_path / "joined", config={"near_duplicates": True, "stratify": "source"})
    assert joined.quality["notes"][-2].startswith("4 pictures look nearly like another one")
    assert joined.quality["notes"][-1].startswith("validation takes 1 of only 2 groups")
    assert joined.quality["splits"] == {"train": 1, "validation": 5}  # all shades but white: one group stays together
