"""Contracts of every page: one file, nothing external, everything escaped, the numbers of the run in it."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path

import pytest

from mmdpo.errors import ConfigError, DataError
from mmdpo.jsonfiles import read_json, write_json, write_json_lines
from mmdpo.report.grids import compare_items, grids, mark
from mmdpo.report.pages import write_report
from mmdpo.report.reading import read_run
from mmdpo.run import RunFolder

from .conftest import SCRIPT
from .parsed_page import Page, assert_self_contained

MakeRun = Callable[..., Path]


def test_report_is_one_file_with_the_numbers_of_the_run(make_run: MakeRun) -> None:
    path = write_report([make_run()])
    assert path.name == "report.html"
    page = assert_self_contained(path.read_text(encoding="utf-8"))
    text = " ".join(page.text.split())
    for expected in (
        "It hallucinates less, at a small cost in what it names.",
        "13.2%",
        "3.3%",
        "−9.9 pts",
        "−10.9 to −8.9",
        "p = 0.40".removeprefix("p = "),
        "2 better",
        "1 mixed",
        "1 worse",
        "1 unchanged",
        "seed 0",
        "f00dfeed",
        "3 × too long",
        "both layouts agreed to 2e-6",
        "-log sigmoid(beta * x)",
        "mmdpo train 'a config.yaml' seed=0",
        "org/base-7b",
        "1 of 5 answers to chair could not be parsed",
    ):
        assert expected in text, expected


def test_text_of_users_and_models_is_escaped(make_run: MakeRun) -> None:
    html = write_report([make_run("a<script>b")]).read_text(encoding="utf-8")
    assert_self_contained(html)
    assert "<script" not in html
    assert html.count("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;") >= 2  # a caption and the story


def test_report_is_the_same_every_time(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    first = write_report([run], tmp_path / "a.html").read_bytes()
    assert write_report([run], tmp_path / "b.html").read_bytes() == first


def test_an_unclear_difference_says_what_could_have_been_seen(make_run: MakeRun) -> None:
    run = make_run()
    comparison = read_json(run / "comparison.json")
    difference = comparison["metrics"]["pope_random_f1"]["difference"]
    del difference["p"]
    difference |= {"p_value": 0.77, "detectable": 0.0123}
    write_json(run / "comparison.json", comparison)
    text = " ".join(Page(write_report([run]).read_text(encoding="utf-8")).text.split())
    assert "could have shown 1.2 pts" in text
    assert "0.77" in text


def test_several_runs_stand_side_by_side(make_run: MakeRun, tmp_path: Path) -> None:
    runs = [make_run("one"), make_run("two", recall_after=0.561, chosen=-0.02)]
    path = write_report(runs)
    assert path == tmp_path / "report.html"
    text = " ".join(assert_self_contained(path.read_text(encoding="utf-8")).text.split())
    for expected in ("2 runs side by side", "but it also says less", "at a small cost", "56.1%", "96.0%"):
        assert expected in text
    assert not (runs[0] / "report.html").exists()


def test_runs_with_different_starting_points_show_each_of_them(make_run: MakeRun) -> None:
    runs = [make_run("one"), make_run("two")]
    comparison = read_json(runs[1] / "comparison.json")
    comparison["metrics"]["recall"]["before"]["value"] = 0.888
    write_json(runs[1] / "comparison.json", comparison)
    text = " ".join(Page(write_report(runs).read_text(encoding="utf-8")).text.split())
    assert "before 97.1%" in text
    assert "before 88.8%" in text


def test_a_run_without_an_evaluation_says_so(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "run", config={}) as run:
        run.log({"step": 1, "loss": 0.7, "rewards/chosen": 0.0, "rewards/rejected": 0.0})
    page = assert_self_contained(write_report([run.path]).read_text(encoding="utf-8"))
    assert "Trained, not measured." in page.text
    assert "Before and after" not in page.text
    RunFolder.create(tmp_path / "empty", config={})
    assert "Nothing to report yet." in write_report([tmp_path / "empty"]).read_text(encoding="utf-8")


def test_before_and_after_without_a_comparison_claims_nothing(make_run: MakeRun) -> None:
    run = make_run()
    (run / "comparison.json").unlink()
    text = " ".join(Page(write_report([run]).read_text(encoding="utf-8")).text.split())
    assert "Measured, not compared." in text
    assert "no paired differences are shown" in text


def test_unreadable_inputs_are_named(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    with (run / "log.jsonl").open("a") as file:
        file.write("{torn\n")
    assert "1 line(s) of log.jsonl could not be read" in write_report([run]).read_text(encoding="utf-8")
    (run / "comparison.json").write_text('{"metrics": {"chair_i": 3}}')
    with pytest.raises(DataError, match="object of named values"):
        write_report([run])
    with pytest.raises(ConfigError, match="not a run folder"):
        write_report([tmp_path / "nowhere"])
    with pytest.raises(ConfigError, match="no run"):
        write_report([])


def test_hallucinated_words_are_marked_as_whole_words() -> None:
    assert mark("Two cars, a carpet & a CAR", ["car"]) == ("Two <mark>cars</mark>, a carpet &amp; a <mark>CAR</mark>")
    assert mark("a hot dog and a dog", ["dog", "hot dog"]) == "a <mark>hot dog</mark> and a <mark>dog</mark>"
    assert mark(SCRIPT, ["script"]).count("<mark>script</mark>") == 2
    assert "<script" not in mark(SCRIPT, ["script"])
    assert mark("a (red) dog", ["(red)"]) == "a <mark>(red)</mark> dog"
    assert mark("nothing", []) == "nothing"


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({"correct": False}, {"correct": True}, "better"),
        ({"correct": True}, {"correct": False}, "worse"),
        ({"correct": True}, {"correct": True}, "unchanged"),
        ({"objects": ["a", "x"], "hallucinated": ["x"]}, {"objects": ["a"], "hallucinated": []}, "better"),
        ({"objects": ["a", "x"], "hallucinated": ["x"]}, {"objects": [], "hallucinated": []}, "mixed"),
        ({"objects": ["a"], "hallucinated": []}, {"objects": ["a", "b", "x"], "hallucinated": ["x"]}, "mixed"),
        ({"objects": ["a", "b"], "hallucinated": []}, {"objects": ["a"], "hallucinated": []}, "worse"),
        ({"objects": ["x", "x"], "hallucinated": ["x", "x"]}, {"objects": ["y"], "hallucinated": ["y"]}, "unchanged"),
    ],
)
def test_classes_of_change(before: dict[str, object], after: dict[str, object], expected: str) -> None:
    assert compare_items(before, after) == expected


def test_choice_of_pictures_depends_on_the_seed_alone(make_run: MakeRun) -> None:
    run = make_run()
    many = [
        {"id": place, "prompt": "?", "raw": "yes", "label": "yes", "correct": place % 2 == 0} for place in range(200)
    ]
    flipped = [{**item, "correct": not item["correct"]} for item in many]
    for stage, items in (("base_eval", many), ("eval", flipped)):
        write_json_lines(run / stage / "chair" / "items.jsonl", items)

    def chosen(seed: int, each: int = 3) -> list[str]:
        (grid,) = grids([read_run(run)], each=each, seed=seed)
        assert grid.counts == {"better": 100, "worse": 100}
        return [card.id for card in grid.cards]

    assert chosen(0) == chosen(0) != chosen(1)
    assert len(chosen(0)) == 6


def test_items_of_one_side_only_are_counted(make_run: MakeRun) -> None:
    run = make_run()
    items = [{"id": place, "raw": "", "correct": True} for place in (0, 1, 2, 99)]
    write_json_lines(run / "eval" / "chair" / "items.jsonl", items)
    (grid,) = grids([read_run(run)], each=1, seed=0)
    assert (grid.n, grid.unmatched) == (3, 3)


def test_items_of_an_evaluation_are_joined_with_what_was_asked_and_shown(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    for stage, correct in (("base_eval", False), ("eval", True)):
        folder = run / stage / "chair"
        item = {"id": "random/7", "group": "scene", "raw": "yes", "label": "no", "correct": correct, "counts": {}}
        asked = {"question_id": "random/7", "prompt": "Is there a cat?", "media": {"images": ["scene.png"]}}
        write_json_lines(folder / "items.jsonl", [{**item, "details": {"question": "?"}}])
        write_json_lines(folder / "answers.jsonl", [asked])
        write_json(folder / "generation.json", {"media_root": str(tmp_path)})
    (grid,) = grids([read_run(run)], each=1, seed=0)
    (card,) = grid.cards
    assert (card.prompt, card.label, card.outcome) == ("Is there a cat?", "no", "better")
    assert [exhibit.what for exhibit in card.exhibits] == ["Picture"]


def test_captions_whose_items_have_no_right_or_wrong_are_compared_by_objects() -> None:
    before = {"correct": None, "objects": ["cat", "dog"], "hallucinated": [["puppy", "dog"]]}
    assert compare_items(before, {"correct": None, "objects": ["cat"], "hallucinated": []}) == "better"


def test_a_report_on_sounds_plays_them_and_speaks_of_clips(make_sounding_run: MakeRun, tmp_path: Path) -> None:
    run = make_sounding_run()
    (tmp_path / "clips" / "4.wav").write_bytes(b"RIFF....WAVE")
    html = write_report([run]).read_text(encoding="utf-8")
    page = assert_self_contained(html)
    text = " ".join(page.text.split())
    for expected in (
        "Clips: chair",
        "the same clips and questions before and after",
        "not in the clips below",
        "name what is not in the clip.",
        "whose unit is the clip: what is said about one clip",
        "0.wav · 0.12 s · 16 kHz",
        "truncated audio",
    ):
        assert expected in text, expected
    assert "picture" not in text
    played = {attributes["src"] for tag, attributes in page.elements if tag == "audio" and "controls" in attributes}
    files = [(tmp_path / "clips" / f"{place}.wav").read_bytes() for place in range(4)]
    assert played == {f"data:audio/wav;base64,{base64.b64encode(data).decode()}" for data in files}


def test_media_of_a_run_folder_are_not_read_from_the_whole_machine(make_sounding_run: MakeRun) -> None:
    run = make_sounding_run()
    for stage in ("base_eval", "eval"):
        write_json(run / stage / "chair" / "generation.json", {"media_root": "/"})
    (grid,) = grids([read_run(run)], each=1, seed=0)
    assert {exhibit.missing for card in grid.cards for exhibit in card.exhibits} == {"outside root"}


def test_runs_on_different_media_speak_of_items(make_sounding_run: MakeRun, make_run: MakeRun) -> None:
    runs = [make_sounding_run("sounds"), make_run("pictures")]
    text = " ".join(Page(write_report(runs).read_text(encoding="utf-8")).text.split())
    assert "the same items and questions before and after" in text
    assert "Clips: chair" in text
