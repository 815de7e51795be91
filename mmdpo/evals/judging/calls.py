"""Calls of an OpenAI-compatible endpoint, made patiently: retries, rate limits, several at a time.

What can pass (a refused or dropped connection, a reply that is late or cut off, the statuses 408, 409, 425, 429 and
5xx) is tried again after a wait that doubles, or after what ``Retry-After`` asks for. What will not pass (401, 403,
404, a redirect) ends everything at once, and so do five questions in a row that failed.
"""

from __future__ import annotations

import email.utils
import json
import random
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

from mmdpo.errors import ConfigError, MMDPOError
from mmdpo.evals.judging.endpoint import CallFailed, Endpoint, Response
from mmdpo.evals.judging.replies import reply_text
from mmdpo.jsonfiles import end_last_line
from mmdpo.progress import Progress

_PASSING = {408, 409, 425, 429}
_OF_THIS_QUESTION = {400, 413, 422}
_FAILED_IN_A_ROW = 5

Asked = TypeVar("Asked", bound=Hashable)
Reply = TypeVar("Reply")


class JudgeError(MMDPOError):
    """The judge gave no usable answer to a question."""


class JudgeUnavailableError(JudgeError):
    """The judge cannot be asked at all, or no more."""


class Completion(NamedTuple):
    """What an endpoint said.

    Attributes:
        text: The reply; empty where the model declined to say anything.
        finished: Whether it came to its end; None where the endpoint does not say.
    """

    text: str
    finished: bool | None


class PatientClient:
    """Asks an endpoint. May be used from several threads.

    Args:
        endpoint: Where it is and how it is asked.
        role: What messages call it.

    Attributes:
        calls: How many were made.
    """

    def __init__(self, endpoint: Endpoint, role: str = "judge") -> None:
        self.endpoint, self.role = endpoint, role
        self.calls = 0
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._free_at = 0.0
        self._failed_in_a_row = 0
        self._cause: JudgeUnavailableError | None = None

    def complete(self, body: bytes) -> Completion:
        """The reply to what ``Endpoint.body`` makes.

        Raises:
            JudgeError: There is none.
            JudgeUnavailableError: No further question will get one.
        """
        try:
            completion = self._asked(body)
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
        return completion

    def each(
        self, questions: Iterable[Asked], ask: Callable[[Asked], Reply], progress: Progress = iter
    ) -> dict[Asked, Reply | JudgeError]:
        """Asks several questions, `Endpoint.at_once` at a time; a question that failed has its error.

        Args:
            questions: Equal ones are asked once.
            ask: Asks one of them, by :meth:`complete`.
            progress: Wraps them as they are answered.

        Raises:
            JudgeUnavailableError: No question will get a reply.
        """
        distinct = list(dict.fromkeys(questions))
        self._stopped, self._cause, self._failed_in_a_row = threading.Event(), None, 0

        def reply_or_error(question: Asked) -> Reply | JudgeError:
            try:
                return ask(question)
            except JudgeUnavailableError as error:
                self._cause = self._cause or error
                self._stopped.set()
                raise
            except JudgeError as error:
                return error

        with ThreadPoolExecutor(self.endpoint.at_once) as pool:
            waiting: list[Future[Reply | JudgeError]] = [pool.submit(reply_or_error, each) for each in distinct]
            try:
                return {each: future.result() for each, future in zip(distinct, progress(waiting), strict=True)}
            except BaseException as error:
                self._stopped.set()  # wakes those that wait for their next attempt
                pool.shutdown(wait=False, cancel_futures=True)
                if isinstance(error, JudgeUnavailableError) and self._cause is not None:
                    raise self._cause from None
                raise

    def _asked(self, body: bytes) -> Completion:
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
                reply = _completion(response.body)
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
            f"the {self.role} {self.endpoint.model!r} at {self.endpoint.url} gave no reply: {problem}",
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
            f"the {self.role} {self.endpoint.model!r} at {self.endpoint.url} cannot be asked: {problem}",
            why="Further questions would fail likewise.",
            fix="Check the address, the model's name and the key in "
            f"{self.endpoint.key_variable}; then run the command again: replies that came are kept.",
        )

    def _start(self, response: Response) -> str:
        """The beginning of a body on one line, for a message; endpoints repeat the key that they refuse."""
        text = response.body.decode("utf-8", errors="replace")
        text = text if self.endpoint.key is None else text.replace(self.endpoint.key, "KEY")
        return " ".join(text[:200].split()) or "an empty body"


def _completion(body: bytes) -> Completion | None:
    """The first choice of a chat completion; None if the body is none."""
    try:
        completion = json.loads(body)
        choice = completion["choices"][0]
        declined, reason = choice["message"]["content"] is None, choice.get("finish_reason")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    text = "" if declined else reply_text(completion)
    return None if text is None else Completion(writable(text), None if reason is None else reason != "length")


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that the endpoint asks to wait: a number or a date (RFC 9110, section 10.2.3); 0 if it says neither."""
    said = headers.get("retry-after", "").strip()
    if said.isascii() and said.isdigit():
        return float(said)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(said).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0


def writable(text: str) -> str:
    """The text with half surrogate pairs replaced, which no UTF-8 file can hold."""
    return text.encode("utf-8", errors="replace").decode("utf-8")


def require_writable(path: Path) -> None:
    """Makes sure that the file can be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        end_last_line(path)
    except OSError as error:
        raise ConfigError(
            f"the file of replies {str(path)!r} cannot be written: {error}",
            why="Replies cost time and money, and are kept as they come.",
            fix="Give another folder.",
        ) from error
