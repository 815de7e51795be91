"""Each format's own example rows, changed in one thing: a place too many or too few, no answer, a tie, control tokens;
and out and back.
"""

import copy
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from foreign_rows import EXAMPLES, Example, ratings, turn, write_media

from data_builders.importers.formats import FORMATS, format_named, recognise
from data_builders.importers.media_cells import MediaReader
from data_builders.importers.sources import Source, Table, open_source
from data_builders.importers.writing import write_records
from data_builders.running.ledger import SetAside
from data_builders.tables.reading import Row
from mmdpo.media import read_bytes
from mmdpo.records import Record, Records

NAMES = [f"{example.format}-{number}" for number, example in enumerate(EXAMPLES)]
BY_NAME = dict(zip(NAMES, EXAMPLES, strict=True))
OPTIONAL_PLACE = ("rlaif_v", "mmpr", "mm_rlhf", "vl_rlhf", "mdpo", "vlfeedback", "align_anything")
QUESTION = "What is this?"
TOKENS = "<|im_end|> <s> [INST] </s> <|vision_start|><|image_pad|> <start_of_turn> <|eot_id|> \u200b"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_media(tmp_path_factory.mktemp("media"))


def source_of(row: dict[str, Any]) -> Source:
    return Source([Table("rows", lambda: iter([Row(1, copy.deepcopy(row))]))])


def read(example: Example, row: dict[str, Any], root: Path) -> list[Record | SetAside]:
    return list(format_named(example.format).read(source_of(row), MediaReader(root)))


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """The value with each string or part inside it changed."""
    if isinstance(value, dict):
        value = {key: mapped(inner, change) for key, inner in value.items()}
    elif isinstance(value, list):
        value = [made for inner in value for made in _several(mapped(inner, change))]
    return change(value)


def _several(made: Any) -> list[Any]:
    return list(made) if isinstance(made, tuple) else [made]


def replaced(row: dict[str, Any], old: str, new: Any) -> dict[str, Any]:
    """The row with that text, where it is a whole string, replaced."""
    changed: dict[str, Any] = mapped(row, lambda value: new if isinstance(value, str) and value == old else value)
    assert changed != row
    return changed


def within(row: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    """The row with that text replaced inside its strings."""
    changed: dict[str, Any] = mapped(row, lambda value: value.replace(old, new) if isinstance(value, str) else value)
    assert changed != row
    return changed


def marked_kind(example: Example) -> str | None:
    """The medium whose placeholder stands in the texts of the row; None where there is none or it is only text."""
    kinds = [part for _, parts in example.prompt for part in parts if part in ("<image>", "<video>", "<audio>")]
    texts = "\n".join(string for string in strings(example.row))
    return kinds[0] if kinds and kinds[0] in texts and not example.format.startswith("trl") else None


def strings(value: Any) -> list[str]:
    if isinstance(value, dict | list):
        return [string for inner in (value.values() if isinstance(value, dict) else value) for string in strings(inner)]
    return [value] if isinstance(value, str) else []


MARKED = [name for name, example in BY_NAME.items() if marked_kind(example)]


@pytest.mark.parametrize("name", MARKED)
def test_one_place_too_many_or_too_few_in_the_text(name: str, root: Path):
    example = BY_NAME[name]
    mark = marked_kind(example)
    assert mark is not None
    (entry,) = read(example, within(example.row, mark, mark + mark), root)
    assert isinstance(entry, SetAside) and entry.reason == "placeholder_mismatch"
    if example.format not in OPTIONAL_PLACE:
        (entry,) = read(example, within(example.row, mark, ""), root)
        assert isinstance(entry, SetAside) and entry.reason == "placeholder_mismatch"


@pytest.mark.parametrize("name", [name for name, example in BY_NAME.items() if example.format in OPTIONAL_PLACE])
def test_the_only_item_may_be_marked_or_not_but_not_twice(name: str, root: Path):
    example = BY_NAME[name]
    kind = example.prompt[0][1][0]
    mark = kind + "\n" if example.format == "mdpo" else kind
    unmarked = within(example.row, mark, "") if kind in str(example.row) else example.row
    for row in (unmarked, within(unmarked, QUESTION, kind + QUESTION)):
        *_, record = read(example, row, root)
        assert isinstance(record, Record)
        assert [part.get("text", f"<{part['type']}>") for part in record.prompt[0]["content"]] == [kind, QUESTION]
    *_, entry = read(example, within(unmarked, QUESTION, f"{kind}{QUESTION}{kind}"), root)
    assert isinstance(entry, SetAside) and entry.reason == "placeholder_mismatch"


TYPED = [name for name in NAMES if name.startswith("trl") and "'type': 'image'" in str(BY_NAME[name].row)]


@pytest.mark.parametrize("change", [(), ({"type": "image"}, {"type": "image"})], ids=["fewer", "more"])
@pytest.mark.parametrize("name", TYPED)
def test_one_typed_place_too_many_or_too_few(name: str, change: tuple[Any, ...], root: Path):
    example = BY_NAME[name]
    row = mapped(example.row, lambda value: change if value == {"type": "image"} else value)
    (entry,) = read(example, row, root)
    assert isinstance(entry, SetAside) and entry.reason == "placeholder_mismatch"


UNANSWERED = {
    "text": {"empty_candidate"},
    "other": {"empty_candidate", "not_text", "no_preference", "no_messages", "several_turns"},
}
ANSWERED = [name for name, example in BY_NAME.items() if example.answers]


@pytest.mark.parametrize("name", ANSWERED)
@pytest.mark.parametrize("place", [0, -1])
@pytest.mark.parametrize("value", [None, "", " \n", 5, []], ids=["null", "empty", "blank", "number", "list"])
def test_a_row_without_one_of_its_answers_is_listed(name: str, place: int, value: Any, root: Path):
    example = BY_NAME[name]
    row = replaced(example.row, example.answers[place], value)
    *_, entry = read(example, row, root)
    assert isinstance(entry, SetAside) and entry.column is None
    assert entry.reason in UNANSWERED["text" if isinstance(value, str) else "other"]


@pytest.mark.parametrize("name", ANSWERED)
def test_control_tokens_stay_text_and_come_back(name: str, root: Path, tmp_path: Path):
    example = BY_NAME[name]
    row = example.row
    for answer in example.answers:
        row = replaced(row, answer, f"{answer} {TOKENS}")
    asked = next(part for part in reversed(example.prompt[-1][1]) if not part.startswith("<"))
    row = within(row, asked.rpartition("\n")[2], f"{TOKENS} {asked.rpartition(chr(10))[2]}")
    *_, record = read(example, row, root)
    assert isinstance(record, Record)
    assert [candidate.text for candidate in record.candidates] == [f"{answer} {TOKENS}" for answer in example.answers]
    assert [part["text"] for part in record.prompt[-1]["content"] if TOKENS in part.get("text", "")]
    assert out_and_back(example, record, root, tmp_path / "out") == [content(record, root)]


def content(record: Record, root: Path) -> tuple[Any, ...]:
    """What must come back."""
    form = FORMATS[record.meta["format"]]
    columns = record.meta.get("columns", {})
    media = {name: [read_bytes(item, root) for item in items] for name, items in record.media.items()}
    return (record.id, record.prompt, record.candidates, media, {k: v for k, v in columns.items() if k in form.columns})


def out_and_back(example: Example, record: Record, root: Path, out: Path) -> list[tuple[Any, ...]]:
    write_records(Records([record], root), format_named(example.format), out)
    source = open_source(str(out))
    form, _ = recognise(source)
    assert form.name == example.format
    found = list(form.read(source, MediaReader(source.folder)))
    assert all(isinstance(one, Record) for one in found), found
    return [content(one, out) for one in found if isinstance(one, Record)]


@pytest.mark.parametrize("name", NAMES)
def test_an_example_comes_back_from_its_export(name: str, root: Path, tmp_path: Path):
    example = BY_NAME[name]
    *_, record = read(example, example.row, root)
    assert isinstance(record, Record)
    assert out_and_back(example, record, root, tmp_path / "out") == [content(record, root)]


RANKED = {
    "vlfeedback": lambda pairs: {
        "img_path": "cat.png",
        "prompt": QUESTION,
        "completions": {
            "annotations": [{"Helpfulness": {"Rating": str(9 - rank)}} for _, rank in pairs],
            "response": [text for text, _ in pairs],
        },
    },
    "nectar": lambda pairs: {"prompt": QUESTION, "answers": [{"answer": t, "rank": float(r)} for t, r in pairs]},
    "nemo_rl": lambda pairs: {
        "context": [turn("user", QUESTION)],
        "completions": [{"rank": rank, "completion": [turn("assistant", text)]} for text, rank in pairs],
    },
}


@pytest.mark.parametrize("form", sorted(RANKED))
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_the_better_answer_comes_first_wherever_it_stands(form: str, order: tuple[int, ...], root: Path):
    answers = [("best", 1), ("middling", 4), ("worst", 7)]
    row = RANKED[form]([answers[place] for place in order])
    (record,) = format_named(form).read(source_of(row), MediaReader(root))
    assert isinstance(record, Record)
    assert [candidate.text for candidate in record.candidates] == ["best", "middling", "worst"]
    assert record.higher_is_better is (form == "vlfeedback")


@pytest.mark.parametrize("form", sorted(RANKED))
def test_equal_ranks_stay_equal_and_are_no_preference_alone(form: str, root: Path):
    (entry,) = format_named(form).read(source_of(RANKED[form]([("a", 2), ("b", 2)])), MediaReader(root))
    assert isinstance(entry, SetAside) and entry.reason == "tie"
    (record,) = format_named(form).read(source_of(RANKED[form]([("a", 2), ("b", 1), ("c", 2)])), MediaReader(root))
    assert isinstance(record, Record)
    first, *others = record.candidates
    assert first.text == "b" and len({(one.rank, one.score) for one in others}) == 1


@pytest.mark.parametrize("vote", [0, 3, -1, 1.5, "1", True, None, "tie", float("nan")])
def test_a_vote_that_is_not_1_or_2_is_not_guessed(vote: Any, root: Path):
    example = next(each for each in EXAMPLES if each.format == "align_anything")
    (entry,) = read(example, {**example.row, "overall_response": vote}, root)
    assert isinstance(entry, SetAside) and entry.reason == "unknown_vote"


@pytest.mark.parametrize("label", [1, 0, "true", "false", None, 1.0, "yes"])
@pytest.mark.parametrize("column", ["label", "kto_tag"])
def test_a_label_that_is_not_true_or_false_is_not_guessed(label: Any, column: str, root: Path):
    for example in (each for each in EXAMPLES if column in each.row):
        (entry,) = read(example, {**example.row, column: label}, root)
        assert isinstance(entry, SetAside) and entry.reason in ("not_a_label", "no_preference")


@pytest.mark.parametrize("rating", ["N/A", "4/5", "", None, "nan", "inf", True, [5], {"x": 5}])
def test_a_rating_that_is_no_number_costs_its_answer_and_is_listed(rating: Any, root: Path):
    rated = [ratings("1"), ratings(rating), ratings("5")]
    row = {"img_path": "cat.png", "prompt": "Q", "completions": {"annotations": rated, "response": ["a", "b", "c"]}}
    entry, record = format_named("vlfeedback").read(source_of(row), MediaReader(root))
    assert isinstance(entry, SetAside) and (entry.reason, entry.column) == ("not_a_number", "completions[1]")
    assert isinstance(record, Record) and [candidate.text for candidate in record.candidates] == ["c", "a"]


@pytest.mark.parametrize("form", ["nectar", "nemo_rl"])
@pytest.mark.parametrize("rank", ["1", 1.5, None, True, float("nan"), [1]])
def test_a_rank_that_is_no_whole_number_costs_its_answer_and_is_listed(form: str, rank: Any, root: Path):
    row = RANKED[form]([("a", 2), ("b", 3), ("c", 1)])
    told = row["answers" if form == "nectar" else "completions"]
    told[1]["rank"] = rank
    entry, record = format_named(form).read(source_of(row), MediaReader(root))
    assert isinstance(entry, SetAside) and entry.reason == "not_a_rank"
    assert isinstance(record, Record) and [candidate.text for candidate in record.candidates] == ["c", "a"]


def test_what_turns_hold_beside_a_text_is_listed(root: Path):
    example = next(each for each in EXAMPLES if each.format == "ms_swift")
    asked, answer = example.row["messages"]
    told = {"reasoning_content": "It has whiskers.", "name": None, "loss": True}
    entries = read(example, {**example.row, "messages": [{**asked, "loss": False}, {**answer, **told}]}, root)
    found = {(entry.reason, entry.column, entry.value) for entry in entries if isinstance(entry, SetAside)}
    assert found == {
        ("turn_field", "messages.loss", False),
        ("turn_field", "messages.reasoning_content", "It has whiskers."),
    }
    assert isinstance(entries[-1], Record)


@pytest.mark.parametrize(("place", "weight"), [(0, 1.0), (1, 0.5)])
def test_weights_that_training_does_not_use_are_listed(place: int, weight: float, root: Path):
    example = next(each for each in EXAMPLES if each.format == "llamafactory_v1")
    row = copy.deepcopy(example.row)
    row["rejected_messages"][place]["loss_weight"] = weight
    entry, record = read(example, row, root)
    assert isinstance(entry, SetAside) and isinstance(record, Record)
    assert (entry.reason, entry.column, entry.value) == ("turn_field", "rejected_messages.loss_weight", weight)


def test_settings_of_a_template_come_back(root: Path, tmp_path: Path):
    example = next(each for each in EXAMPLES if each.format == "ms_swift")
    row = {**example.row, "chat_template_kwargs": {"enable_thinking": False}, "channel": "vision"}
    (record,) = read(example, row, root)
    assert isinstance(record, Record)
    assert out_and_back(example, record, root, tmp_path / "out") == [content(record, root)]
    assert content(record, root)[-1] == {
        "margin": 2.5,
        "channel": "vision",
        **{"chat_template_kwargs": {"enable_thinking": False}},
    }
