"""A judge at an OpenAI-compatible endpoint: asked patiently, several questions at a time, and never the same one twice.

`ChatJudge` is a `Judge`: a function from a prompt to a reply, as the benchmarks with a judge take it. It asks as
`judging.calls` does: what can pass is tried again, what will not pass ends everything. Each reply is written to a
file as soon as it is there, so that a run that was stopped goes on where it was.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from mmdpo.evals.judging.calls import (
    JudgeError,
    JudgeUnavailableError,
    PatientClient,
    require_writable,
    writable,
)
from mmdpo.evals.judging.endpoint import Endpoint
from mmdpo.jsonfiles import append_json_line, read_json_lines
from mmdpo.media import Media, open_image
from mmdpo.progress import Progress

__all__ = ["ChatJudge", "JudgeError", "JudgeUnavailableError", "Progress", "Question", "picture_address"]

LONGEST_SIDE = 2048
"""Pictures are sent as JPEG with at most so many pixels a side."""


class Question(NamedTuple):
    """What a judge is asked.

    Attributes:
        prompt: The text.
        images: Pictures, relative to the judge's folder of media.
    """

    prompt: str
    images: tuple[str, ...] = ()


class ChatJudge(PatientClient):
    """A judge behind an endpoint. May be called from several threads.

    Args:
        endpoint: Where it is and how it is asked.
        replies: JSON-lines file that keeps every reply; a question that it holds is not asked again.
        media_root: Folder of the pictures that questions name.

    Raises:
        ConfigError: The file of replies cannot be written.
    """

    def __init__(
        self, endpoint: Endpoint, *, replies: str | Path | None = None, media_root: str | Path | None = None
    ) -> None:
        super().__init__(endpoint)
        self.media_root = None if media_root is None else Path(media_root)
        self._replies_file = None if replies is None else Path(replies)
        self._known: dict[str, str] = {}
        if self._replies_file is not None:
            rows = read_json_lines(self._replies_file).rows
            self._known = {str(row.get("key")): row["reply"] for row in rows if isinstance(row.get("reply"), str)}
            require_writable(self._replies_file)

    @property
    def name(self) -> str:
        """The model that judges."""
        return self.endpoint.model

    def __call__(self, prompt: str) -> str:
        """The reply to a text."""
        return self.ask(Question(prompt))

    def ask(self, question: Question) -> str:
        """The reply to a question.

        Raises:
            JudgeError: This question got none.
            JudgeUnavailableError: No question will get one.
            MediaError: A picture cannot be read.
        """
        body = self.endpoint.body(question.prompt, tuple(self.picture(name) for name in question.images))
        key = hashlib.sha256(self.endpoint.url.encode() + b"\n" + body).hexdigest()
        with self._lock:
            known = self._known.get(key)
        if known is not None:
            return known
        reply = self.complete(body).text
        with self._lock:
            self._known[key] = reply
            if self._replies_file is not None:
                row = {"key": key, "model": self.endpoint.model, **question._asdict(), "reply": reply}
                append_json_line(self._replies_file, {**row, "prompt": writable(question.prompt)})
        return reply

    def ask_all(self, questions: Iterable[Question], progress: Progress = iter) -> dict[Question, str | JudgeError]:
        """Replies to several questions, `Endpoint.at_once` at a time; a question that failed has its error.

        Raises:
            JudgeUnavailableError: No question will get a reply. Those that came are kept in the file.
            MediaError: A picture cannot be read.
        """
        return self.each(questions, self.ask, progress)

    def picture(self, name: str) -> str:
        """The ``data:`` address of a picture that a question names."""
        return picture_address(Media(name), self.media_root)


def picture_address(picture: Media, root: Path | None) -> str:
    """A picture as a ``data:`` address, as endpoints take it: JPEG, made smaller where a side is too long.

    Raises:
        MediaError: It cannot be read.
    """
    image = open_image(picture, root)
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=90)
    return "data:image/jpeg;base64," + base64.b64encode(encoded.getvalue()).decode("ascii")
