"""Records out and back: what comes back is what went out, up to what the export lists; what is set aside must be."""

import json
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from foreign_rows import png, wav, write_media
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from data_builders.importers.formats import FORMATS, format_named, recognise
from data_builders.importers.media_cells import MediaReader
from data_builders.importers.sources import open_source
from data_builders.importers.writing import REPORT_FILE, SET_ASIDE_FILE, ExportReport, write_records
from mmdpo.errors import ConfigError, DataError
from mmdpo.media import read_bytes
from mmdpo.records import Candidate, Media, Message, Part, Record, Records, user_message
from mmdpo.records.checks import ratings_of, validate_records

RANKED = ("nectar", "nemo_rl", "vlfeedback")
MARK = re.compile("<(image|video|audio)>")
FILES = {"images": "cat.png", "audios": "1.wav", "videos": "v.gif"}


def back(out: Path, form: str, tables: list[str]) -> list[Record]:
    """What an import of an exported folder gives."""
    described = form.startswith("llamafactory") and form != "llamafactory_v1"
    found: list[Any] = []
    for table in tables:
        path = out if described or form == "mmpr" else out / f"{table}.{FORMATS[form].kind}"
        found += format_named(form).read(open_source(str(path), subset=table if described else None), MediaReader(out))
    assert all(isinstance(item, Record) for item in found), found
    return found


def joined(parts: list[Part]) -> list[tuple[str, str]]:
    """Parts with texts that meet made one, and without empty ones."""
    pieces = [(part["type"], part.get("text", "")) for part in parts if part.get("text") != ""]
    runs = [(kind, list(run)) for kind, run in groupby(pieces, key=lambda piece: piece[0])]
    return [
        piece
        for kind, run in runs
        for piece in ([("text", "".join(text for _, text in run))] if kind == "text" else run)
    ]


def told(record: Record, root: Path, keeps: frozenset[str]) -> dict[str, Any]:
    """What must come back of a record."""
    candidates = list(record.candidates)
    if keeps & {"rank", "score"} and ratings_of(record) and len(candidates) > 2:
        rated = zip(ratings_of(record), candidates, strict=True)
        candidates = [candidate for _, candidate in sorted(rated, key=lambda pair: -pair[0])]
    return {
        "id": record.id,
        "prompt": [(message["role"], joined(message["content"])) for message in record.prompt],
        "answers": [(c.text, *(getattr(c, name) for name in sorted(keeps - {"rank"}))) for c in candidates],
        "media": {name: [read_bytes(item, root) for item in items] for name, items in record.media.items() if items},
    }


def in_text(pattern: str) -> Callable[[Record], bool]:
    return lambda record: any(re.search(pattern, text) for text in all_texts(record))


def all_texts(record: Record) -> Iterator[str]:
    for message in record.prompt:
        for piece in [
            *joined(message["content"]),
            ("", "".join(p.get("text", f"<{p['type']}>") for p in message["content"])),
        ]:
            yield piece[1]
    yield from (candidate.text for candidate in record.candidates)


def kinds(record: Record) -> list[str]:
    return [part["type"] for message in record.prompt for part in message["content"] if part["type"] != "text"]


JUSTIFIED: dict[str, Callable[[Record], bool]] = {
    "placeholder_in_text": in_text("<(image|video|audio)>"),
    "template_in_text": in_text(r"USER:|ASSISTANT:|\n\n(Human|Assistant):|^\s|\s$"),
    "bad_text": in_text("[\ud800-\udfff]"),
    "not_a_pair": lambda record: len(record.candidates) != 2,
    "not_unpaired": lambda record: len(record.candidates) != 1,
    "no_label": lambda record: len(record.candidates) == 1 and record.candidates[0].label is None,
    "no_scores": lambda record: len(record.candidates) < 2 or any(c.score is None for c in record.candidates),
    "no_order": lambda record: len(record.candidates) == 1 or len(set(ratings_of(record))) < 2,
    "lower_is_better": lambda record: record.higher_is_better is False,
    "tie": lambda record: len(set(ratings_of(record))) == 1,
    "not_one_turn": lambda record: len(record.prompt) > 1,
    "turns_do_not_alternate": lambda record: "tool" in [message["role"] for message in record.prompt],
    "unknown_role": lambda record: {"tool", "system"} & {message["role"] for message in record.prompt} != set(),
    "empty_prompt": lambda record: any(not joined(message["content"]) for message in record.prompt),
    "media_not_supported": lambda record: bool(kinds(record)),
    "media_not_first": lambda record: bool(kinds(record)),
    "not_one_image": lambda record: kinds(record) != ["image"],
    "not_one_item": lambda record: len(kinds(record)) != 1,
}

TEXT = st.lists(
    st.text(max_size=6)
    | st.sampled_from(
        [
            "<image>",
            "<ima",
            "ge>",
            "<video>",
            "\n",
            "\r\n",
            " ",
            "USER: ",
            "\n\nHuman:",
            "</s>",
            "\u2028",
            "\x00",
            "\ud800",
        ]
        + ["<|im_end|>", "ASSISTANT:", "猫", "e\u0301", '"}', "word"] * 3
    ),
    max_size=4,
).map("".join)
ITEM = st.sampled_from(["path", "bytes", "both"])


def item_of(kind: str, name: str) -> Media:
    data = wav() if name == "audios" else png()
    return {"path": Media(FILES[name]), "bytes": Media(data=data), "both": Media("sub/x.png", data=data)}[kind]


@st.composite
def records(draw: st.DrawFn, place: int = 0) -> Record:
    roles = draw(
        st.sampled_from([["user"]] * 5 + [["system", "user"], ["user", "assistant", "user"], ["user", "tool"]])
    )
    media: dict[str, list[Media]] = {}
    prompt: list[Message] = []
    for role in roles:
        content: list[Part] = []
        usual = st.sampled_from([["text"]] * 2 + [["image", "text"]] * 4)
        odd = st.lists(st.sampled_from(["text", "text", "image", "video", "audio"]), max_size=3)
        for kind in draw(
            usual if role == "user" and draw(st.integers(0, 3)) else odd if role == "user" else st.just(["text"])
        ):
            if kind == "text":
                content.append({"type": "text", "text": draw(TEXT)})
            else:
                content.append({"type": kind})
                media.setdefault(f"{kind}s", []).append(item_of(draw(ITEM), f"{kind}s"))
        prompt.append({"role": role, "content": content})
    count = draw(st.sampled_from([1, 2, 2, 2, 3]))
    texts = draw(st.lists(TEXT.filter(str.strip), min_size=count, max_size=count, unique_by=str.strip))
    form = draw(st.sampled_from(["plain", "score", "rank"]))
    higher = None if form == "plain" else form == "score" or draw(st.booleans())
    values = sorted(draw(st.lists(st.integers(0, 3), min_size=count, max_size=count)), reverse=bool(higher))
    candidates = [
        Candidate(
            text,
            score=value / 2 if form == "score" else None,
            rank=value if form == "rank" else None,
            label=draw(st.sampled_from([True, False, None])) if count == 1 else None,
            source=draw(st.sampled_from([None, "m"])),
            finished=draw(st.sampled_from([True, True, False])),
        )
        for text, value in zip(texts, values, strict=True)
    ]
    if count > 2:
        candidates = draw(st.permutations(candidates))
    items = {name: tuple(found) for name, found in media.items()}
    return Record(f"r{place}", tuple(prompt), tuple(candidates), items, higher)


SETS = st.integers(1, 4).flatmap(lambda n: st.tuples(*(records(place) for place in range(n))))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_media(tmp_path_factory.mktemp("media"))


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(drawn=SETS)
def test_records_come_back(root: Path, drawn: tuple[Record, ...]):
    """Every format writes the same records: drawing them takes longer than that."""
    problems = {problem.kind for problem in validate_records(Records(drawn, root))}
    assert problems <= {"bad_text"}
    for form in sorted(FORMATS):
        note(f"as {form}")
        come_back(form, root, drawn)


def come_back(form: str, root: Path, drawn: tuple[Record, ...]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        chosen = format_named(form)
        try:
            report = write_records(Records(drawn, root), chosen, out)
        except DataError as error:
            assert "can express none" in error.what and not out.exists()
            return
        aside = set_aside(out)
        assert report.read == len(drawn) and report.written == len(drawn) - len(aside)
        for record in drawn:
            if record.id in aside:
                assert JUSTIFIED[aside[record.id]](record), (aside[record.id], record)
        kept = [record for record in drawn if record.id not in aside]
        found = {record.id: record for record in back(out, form, [Path(name).stem for name in report.files])}
        assert found.keys() == {record.id for record in kept}
        for record in kept:
            keeps = chosen.keeps if not chosen.prompts_only else frozenset()
            original = replace(record, candidates=()) if chosen.prompts_only else record
            assert told(found[record.id], out, keeps) == told(original, root, keeps)
            if form in RANKED[:2]:
                assert _order(found[record.id]) == _order(record)
        check_lost(report, kept, chosen.keeps, prompts_only=chosen.prompts_only)


def set_aside(out: Path) -> dict[str, str]:
    path = out / SET_ASIDE_FILE
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return {row["id"]: row["reason"] for row in rows}


def _order(record: Record) -> list[list[str]]:
    """Texts in groups of equal rating, best first; a pair is in the order of its places."""
    if len(record.candidates) == 2:
        return [[candidate.text] for candidate in record.candidates]
    rated = sorted(zip(ratings_of(record), (c.text for c in record.candidates), strict=True), key=lambda pair: -pair[0])
    return [sorted(text for _, text in group) for _, group in groupby(rated, key=lambda pair: pair[0])]


def check_lost(report: ExportReport, kept: list[Record], keeps: frozenset[str], *, prompts_only: bool) -> None:
    if prompts_only:
        assert report.lost["candidates"] == len(kept)
        return
    for name, default in (("score", None), ("rank", None), ("source", None), ("finished", True), ("label", None)):
        having = sum(any(getattr(c, name) != default for c in record.candidates) for record in kept)
        assert report.lost.get(f"candidates.{name}", 0) == (0 if name in keeps else having), name


def pairs(root: Path, *texts: str) -> Records:
    made = [
        Record(
            str(n),
            (user_message(f"{text}?", images=1),),
            (Candidate(f"{text}!"), Candidate("No.")),
            {"images": (Media("cat.png"),)},
        )
        for n, text in enumerate(texts)
    ]
    return Records(made, root)


def test_the_report_lists_what_is_left_out(root: Path, tmp_path: Path):
    (one,) = pairs(root, "cat")
    answer = Candidate("A <image>.", score=2.0, spans=((0, 1),), weights=(2.0,), token_ids=(1,))
    other = Candidate("B", score=1.0, finished=False)
    marked = replace(one, id="marked", candidates=(answer, other), higher_is_better=True)
    full = replace(marked, id="full", candidates=(replace(answer, text="A."), other))
    full = replace(full, meta={"columns": {"margin": 1.5, "other": 1}})
    out = tmp_path / "out"
    report = write_records(Records([one, marked, full], root), format_named("ms_swift"), out)
    assert json.loads((out / REPORT_FILE).read_text()) == vars(report)
    assert (report.read, report.written, report.set_aside) == (3, 2, {"placeholder_in_text": 1})
    assert set_aside(out) == {"marked": "placeholder_in_text"}
    names = ("finished", "score", "spans", "token_ids", "weights")
    assert report.lost == {**{f"candidates.{name}": 1 for name in names}, "higher_is_better": 1, "meta": 1}
    rows = [json.loads(line) for line in (out / "pairs.jsonl").read_text().splitlines()]
    assert [row.get("margin") for row in rows] == [None, 1.5] and "other" not in rows[1]
    assert report.media == {"copied": 1, "embedded": 0} and (out / "media" / "cat.png").is_file()


@pytest.mark.parametrize("form", sorted(set(FORMATS) - {"easyr1", "axolotl", "nectar", "nemo_rl"}))
def test_exports_are_recognised(form: str, root: Path, tmp_path: Path):
    """Pairs, single answers and rated lists about one picture; the others are recognised by their examples."""
    (one,) = pairs(root, "cat")
    if form == "trl_unpaired":
        one = replace(one, candidates=(Candidate("A", label=True),))
    if form == "vlfeedback":
        one = replace(one, candidates=(Candidate("A", score=1.0), Candidate("B", score=0.5)), higher_is_better=True)
    if form == "mm_rlhf":
        one = replace(one, meta={"columns": {"ls_factor": 1.0}})
    write_records(Records([one], root), format_named(form), tmp_path / "out")
    assert recognise(open_source(str(tmp_path / "out")))[0].name == form


def test_media_may_stay_where_they_are(root: Path, tmp_path: Path):
    report = write_records(pairs(root, "cat"), format_named("vl_rlhf"), tmp_path / "deep" / "out", media="paths")
    (row,) = json.loads((tmp_path / "deep" / "out" / "train.json").read_text())
    assert (tmp_path / "deep" / "out" / row["image"]).resolve() == (root / "cat.png").resolve()
    assert report.media == {"copied": 0, "embedded": 0} and not (tmp_path / "deep" / "out" / "media").exists()


def test_files_of_one_name_stay_apart_and_videos_of_frames_are_copied(tmp_path: Path):
    root = tmp_path / "in"
    (root / "clip").mkdir(parents=True)
    for number in (1, 2, 10):
        (root / "clip" / f"{number}.png").write_bytes(png(number))
    prompt = (user_message("?", videos=1, images=2),)
    media = {"videos": (Media("clip"),), "images": (Media("clip/1.png"), Media("clip/./1.png"))}
    record = Record("r", prompt, (Candidate("A"), Candidate("B")), media)
    write_records(Records([record], root), format_named("ms_swift"), tmp_path / "out")
    (row,) = [json.loads(line) for line in (tmp_path / "out" / "pairs.jsonl").read_text().splitlines()]
    assert len({*row["images"], *row["videos"]}) == 3
    found = back(tmp_path / "out", "ms_swift", ["pairs"])[0]
    folder = tmp_path / "out" / (found.media["videos"][0].path or "")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {f"{n}.png": png(n) for n in (1, 2, 10)}


def test_a_missing_or_changed_file_is_told(root: Path, tmp_path: Path):
    (one,) = pairs(root, "cat")
    gone = replace(one, id="gone", media={"images": (Media("gone.png"),)})
    changed = replace(one, id="changed", media={"images": (Media("cat.png", sha256="0" * 64),)})
    for mode in ("copy", "paths"):
        out = tmp_path / mode
        write_records(Records([one, gone, changed], root), format_named("mdpo"), out, media=mode)  # type: ignore[arg-type]
        assert set_aside(out) == {"gone": "missing_media", "changed": "changed_media"}


def test_nothing_is_overwritten_and_nothing_half_written(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    with pytest.raises(ConfigError, match="not an empty folder"):
        write_records(pairs(root, "cat"), format_named("mmpr"), tmp_path / "taken")
    with pytest.raises(DataError, match="trl_unpaired can express none of the 1 records"):
        write_records(pairs(root, "cat"), format_named("trl_unpaired"), tmp_path / "out")

    def fail(*given: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("data_builders.importers.writing.write_json", fail)
    with pytest.raises(OSError, match="disk full"):
        write_records(pairs(root, "cat"), format_named("mmpr"), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
