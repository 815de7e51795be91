"""A judge at an OpenAI-compatible endpoint: asked patiently, several questions at a time, and never the same one twice.

`ChatJudge` is a `Judge`: a function from a prompt to a reply, as the benchmarks with a judge take it. What can pass (a
refused or dropped connection, a reply that is late or cut off, the statuses 408, 409, 425, 429 and 5xx) is tried again
after a wait that doubles, or after what ``Retry-After`` asks for. What will not pass (401, 403, 404, a redirect) ends
everything at once, and so do five questions in a row that failed. Each reply is written to a file as soon as it is
there, so that a run that was stopped goes on where it was.
"""

from __future__ import annotations

import base64
import email.utils
import hashlib
import io
import json
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from mmdpo.errors import ConfigError, MMDPOError
from mmdpo.evals.endpoint import CallFailed, Endpoint, Response
from mmdpo.evals.replies import reply_text
from mmdpo.jsonfiles import append_json_line, read_json_lines
from mmdpo.media import Media, open_image

LONGEST_SIDE = 2048
"""Pictures are sent as JPEG with at most so many pixels a side."""
_PASSING = {408, 409, 425, 429}
_OF_THIS_QUESTION = {400, 413, 422}
_FAILED_IN_A_ROW = 5

Progress = Callable[[Iterable[Any]], Iterable[Any]]


class JudgeError(MMDPOError):
    """The judge gave no usable answer to a question."""


class JudgeUnavailableError(JudgeError):
    """The judge cannot be asked at all, or no more."""


class Question(NamedTuple):
    """What a judge is asked.

    Attributes:
        prompt: The text.
        images: Pictures, relative to the judge's folder of media.
    """

    prompt: str
    images: tuple[str, ...] = ()


class ChatJudge:
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
        self.endpoint = endpoint
        self.media_root = None if media_root is None else Path(media_root)
        self.calls = 0
        self._replies_file = None if replies is None else Path(replies)
        self._known: dict[str, str] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._free_at = 0.0
        self._failed_in_a_row = 0
        self._cause: JudgeUnavailableError | None = None
        if self._replies_file is not None:
            rows = read_json_lines(self._replies_file).rows
            self._known = {str(row.get("key")): row["reply"] for row in rows if isinstance(row.get("reply"), str)}
            _end_last_line(self._replies_file)

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
        body = self.endpoint.body(question.prompt, tuple(self._picture(name) for name in question.images))
        key = hashlib.sha256(self.endpoint.url.encode() + b"\n" + body).hexdigest()
        with self._lock:
            known = self._known.get(key)
        if known is not None:
            return known
        try:
            reply = self._asked(body)
        except JudgeError as error:
            with self._lock:
                self._failed_in_a_row += 1
                row_of_failures = self._failed_in_a_row >= _FAILED_IN_A_ROW
            if row_of_failures and not isinstance(error, JudgeUnavailableError):
                problem = f"{_FAILED_IN_A_ROW} questions in a row failed, the last thus: {error.what}"
                raise self._unavailable(problem) from error
            raise
        with self._lock:
            self._failed_in_a_row = 0
            self._known[key] = reply
            if self._replies_file is not None:
                row = {"key": key, "model": self.endpoint.model, **question._asdict(), "reply": reply}
                append_json_line(self._replies_file, {**row, "prompt": _writable(question.prompt)})
        return reply

    def ask_all(self, questions: Iterable[Question], progress: Progress = iter) -> dict[Question, str | JudgeError]:
        """Replies to several questions, `Endpoint.at_once` at a time; a question that failed has its error.

        Raises:
            JudgeUnavailableError: No question will get a reply. Those that came are kept in the file.
            MediaError: A picture cannot be read.
        """
        distinct = list(dict.fromkeys(questions))
        self._stopped, self._cause, self._failed_in_a_row = threading.Event(), None, 0
        with ThreadPoolExecutor(self.endpoint.at_once) as pool:
            waiting: list[Future[str | JudgeError]] = [pool.submit(self._reply_or_error, each) for each in distinct]
            try:
                return {each: future.result() for each, future in zip(distinct, progress(waiting), strict=True)}
            except BaseException as error:
                self._stopped.set()  # wakes those that wait for their next attempt
                pool.shutdown(wait=False, cancel_futures=True)
                if isinstance(error, JudgeUnavailableError) and self._cause is not None:
                    raise self._cause from None
                raise

    def _reply_or_error(self, question: Question) -> str | JudgeError:
        try:
            return self.ask(question)
        except JudgeUnavailableError as error:
            self._cause = self._cause or error
            self._stopped.set()
            raise
        except JudgeError as error:
            return error

    def _asked(self, body: bytes) -> str:
        wait, problem = self.endpoint.first_wait, ""
        for attempt in range(self.endpoint.attempts):
            if attempt:
                # Half to whole: clients that failed together should not come back together.
                self._rest(wait * random.uniform(0.5, 1.0))
                wait = min(2 * wait, self.endpoint.longest_wait)
            self._take_turn()
            try:
                response = self.endpoint.post(body)
            except CallFailed as error:
                problem = str(error)
                continue
            if response.status == 200:
                reply = _reply(response.body)
                if reply is not None:
                    return reply
                problem = f"status 200 without a complete chat completion: {self._start(response)}"
                continue
            problem = f"status {response.status}: {self._start(response)}"
            if response.status in _OF_THIS_QUESTION:
                break
            if response.status not in _PASSING and response.status < 500:
                raise self._unavailable(problem)
            self._hold(response)
        raise JudgeError(
            f"the judge {self.endpoint.model!r} at {self.endpoint.url} gave no reply: {problem}",
            why="A question without a reply cannot be counted.",
            fix="Run the command again: replies that came are kept, only the rest is asked.",
        )

    def _hold(self, response: Response) -> None:
        """Keeps all questions back for as long as the endpoint asks for."""
        seconds = _retry_after(response.headers)
        if seconds > self.endpoint.longest_wait:
            raise self._unavailable(
                f"status {response.status}, and it asks to wait {seconds:.0f} s, longer than "
                f"{self.endpoint.longest_wait:g} s"
            )
        with self._lock:
            self._free_at = max(self._free_at, time.monotonic() + seconds)

    def _take_turn(self) -> None:
        """Waits until a call may start."""
        spacing = 60 / self.endpoint.per_minute if self.endpoint.per_minute else 0.0
        with self._lock:
            start = max(time.monotonic(), self._free_at)
            self._free_at = start + spacing
            self.calls += 1
        self._rest(start - time.monotonic())

    def _rest(self, seconds: float) -> None:
        if self._stopped.wait(max(0.0, seconds)):
            raise self._unavailable("another question met an error that will not pass")

    def _unavailable(self, problem: str) -> JudgeUnavailableError:
        return JudgeUnavailableError(
            f"the judge {self.endpoint.model!r} at {self.endpoint.url} cannot be asked: {problem}",
            why="Further questions would fail likewise.",
            fix="Check the address, the model's name and the key in "
            f"{self.endpoint.key_variable}; then run the command again: replies that came are kept.",
        )

    def _start(self, response: Response) -> str:
        """The beginning of a body on one line, for a message; endpoints repeat the key that they refuse."""
        text = response.body.decode("utf-8", errors="replace")
        text = text if self.endpoint.key is None else text.replace(self.endpoint.key, "KEY")
        return " ".join(text[:200].split()) or "an empty body"

    def _picture(self, name: str) -> str:
        image = open_image(Media(name), self.media_root)
        image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
        encoded = io.BytesIO()
        image.save(encoded, "JPEG", quality=90)
        return "data:image/jpeg;base64," + base64.b64encode(encoded.getvalue()).decode("ascii")


def _reply(body: bytes) -> str | None:
    """The text of a chat completion; empty where the judge declined to say anything; None if it is none."""
    try:
        completion = json.loads(body)
        declined = completion["choices"][0]["message"]["content"] is None
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    text = "" if declined else reply_text(completion)
    return None if text is None else _writable(text)


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that the endpoint asks to wait: a number or a date (RFC 9110, section 10.2.3); 0 if it says neither."""
    said = headers.get("retry-after", "").strip()
    if said.isascii() and said.isdigit():
        return float(said)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(said).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _writable(text: str) -> str:
    """The text with half surrogate pairs replaced, which no UTF-8 file can hold."""
    return text.encode("utf-8", errors="replace").decode("utf-8")


def _end_last_line(path: Path) -> None:
    """Makes sure that the file can be written, and that what is added does not join half a line."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            if file.tell():
                file.seek(-1, io.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")
    except OSError as error:
        raise ConfigError(
            f"the file of replies {str(path)!r} cannot be written: {error}",
            why="Replies cost time and money, and are kept as they come.",
            fix="Give another folder.",
        ) from error
