"""OK-VQA: open questions about images that need knowledge from outside of them.

Paper: Marino et al., "OK-VQA: A Visual Question Answering Benchmark Requiring External Knowledge", CVPR 2019
    (arXiv:1906.00067).
Official code: no scorer of its own; the data have the form of VQA's. The data (v1.1) on COCO val2014 are CC BY 4.0.
Rule here: that of lmms-eval. Answers are rewritten by `vqa_text.eval_ai`; each human answer is left out in turn and
    the answer scores min(1, matches among the others / 3).
Known quirks: five people answered, and each answer stands in the data twice, so one that a single person gave scores
    .6; the data hold the human answers *stemmed* ("race" for "racing"), beside ``raw_answer``. lmms-eval compares a
    model's unstemmed words with them, so that "racing" scores 0. OpenFlamingo stems the model's answer with a tagger,
    WordNet and a list of exceptions, and then scores by VQA's rule.
Stemming here: `none`, as in lmms-eval; `data`, word by word as the data stem their own raw answers, which needs no
    dictionary and leaves words alone that no person used; or a function of your own (``stem``).
Data: the annotations ``{"annotations": [...]}``; the questions' texts, which only `mmdpo eval` needs, are in the
    official file of questions (``questions``).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmdpo.errors import ConfigError
from mmdpo.evals.base import Sample
from mmdpo.evals.shared import vqa_text
from mmdpo.evals.shared.consensus import ConsensusBenchmark, consensus, human_answers, question_texts
from mmdpo.evals.shared.options import check_choice, check_function
from mmdpo.evals.vqa import read_annotations
from mmdpo.registry import benchmarks

STEMMING = ("none", "data")


@benchmarks.register("okvqa")
@dataclass(frozen=True)
class OkVqa(ConsensusBenchmark):
    """Open questions that need knowledge, with five human answers counted twice.

    Args:
        suffix: What is put behind every question when a model is asked.
        image_name: File name of an image, made from its ``{id}``; None takes the subset that the annotations name.
        stemming: ``none`` or ``data``: what is done to a model's answer before it meets the stemmed human ones.
        questions: The official file of questions; needed only to let a model answer.
        stem: Takes the place of ``stemming``: from an answer to its stemmed form.
    """

    stemming: str = "none"
    questions: str | Path | None = None
    stem: Callable[[str], str] | None = None
    name = "okvqa"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self.name, "stemming", self.stemming, STEMMING, "The default, none, compares as lmms-eval does.")
        check_function(self.name, "stem", self.stem)
        if self.stem is not None and self.stemming != "none":
            raise ConfigError(
                f"stemming {self.stemming!r} with a function",
                why="Only one of them can stem an answer.",
                fix="Leave stemming at none when you hand a function in.",
            )

    @property
    def rule(self) -> str:
        """The form in which answers are compared, and the stemming."""
        return f"eval_ai; stemming {'given function' if self.stem is not None else self.stemming}"

    def samples(self, data: Path) -> list[Sample]:
        """The questions of a file of annotations."""
        content = read_annotations(data)
        texts = question_texts(self.questions)
        stems = learned_stems(content["annotations"]) if self.stemming == "data" else {}
        subset = content.get("data_subtype") or "val2014"
        samples = []
        for row in content["annotations"]:
            references = human_answers(row["answers"], f"question {row['question_id']} of {str(data)!r}")
            question = str(row.get("question") or texts.get(str(row["question_id"]), ""))
            file = f"COCO_{subset}_{row['image_id']:0>12}.jpg"
            samples.append(
                self.sample(row["question_id"], question, row["image_id"], references, {"stems": stems}, file)
            )
        return samples

    def judged(self, sample: Sample, text: str) -> tuple[str, float]:
        """An answer in the form in which it is compared, and its score."""
        said = vqa_text.eval_ai(text if self.stem is None else self.stem(text))
        if sample.meta["stems"]:
            said = " ".join(sample.meta["stems"].get(word, word) for word in said.split())
        return said, consensus(said, [vqa_text.eval_ai(reference) for reference in sample.target])


def learned_stems(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Word -> stem, as most human answers of the data have it; words that stay as they are are left out.

    A raw answer and its stemmed form are laid side by side where they have as many words.
    """
    seen: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for entry in (entry for row in rows for entry in row["answers"] if isinstance(entry, dict)):
        raw = vqa_text.eval_ai(str(entry.get("raw_answer", ""))).split()
        stemmed = vqa_text.eval_ai(str(entry.get("answer", ""))).split()
        if len(raw) == len(stemmed):
            for word, stem in zip(raw, stemmed, strict=True):
                seen[word][stem] += 1
    common = {word: stems.most_common(1)[0][0] for word, stems in seen.items()}
    return {word: stem for word, stem in common.items() if word != stem}
