"""Where a judge is and what one call of it looks like: one POST to an OpenAI-compatible ``/chat/completions``.

Only the standard library's HTTP client is used. A whole call has one deadline, redirects are not followed, no proxy is
used, and a key is sent only over TLS or to this machine.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import json
import math
import os
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import SplitResult, urlsplit

import yaml
from pydantic import TypeAdapter, ValidationError

from mmdpo.errors import ConfigError, did_you_mean
from mmdpo.evals.shared.files import read_text

MAX_REPLY_BYTES = 4_000_000
"""Longest body of a reply that is read; a few sentences are expected."""


class Response(NamedTuple):
    """What came back: the status, the headers by lower-case name, the body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class CallFailed(Exception):
    """No complete answer came: refused, dropped, too late, or too long."""


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible chat endpoint and how it is asked.

    Args:
        url: Its base, such as ``http://localhost:8000/v1``; ``/chat/completions`` is added where it is not there.
        model: The model's name at the endpoint.
        key_variable: Environment variable that holds the key; nothing is sent where it is not set.
        temperature: Of the judge; None leaves it out, for models that take none.
        max_tokens: Longest reply; None leaves it out.
        timeout: Seconds that one call may take from connecting to the last byte.
        attempts: Calls for one question before it counts as failed.
        first_wait: Seconds before the second attempt; each wait is twice the one before.
        longest_wait: Most seconds between two attempts. An endpoint that asks for more is given up.
        per_minute: Most calls in a minute.
        at_once: Calls at the same time.
    """

    url: str
    model: str
    key_variable: str = "MMDPO_JUDGE_KEY"
    temperature: float | None = 0.0
    max_tokens: int | None = 1024
    timeout: float = 60.0
    attempts: int = 5
    first_wait: float = 1.0
    longest_wait: float = 60.0
    per_minute: float | None = None
    at_once: int = 4

    def __post_init__(self) -> None:
        parts = self._parts
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            raise ConfigError(
                f"the judge's address {self._shown!r} is no plain http or https address",
                why="The questions are sent there, and an address with a name and password or a query would be "
                "written into results.",
                fix="Write it like http://localhost:8000/v1, and put the key into the environment variable "
                f"{self.key_variable}.",
            )
        wrong = [
            f"{field.name} is {getattr(self, field.name)!r}"
            for field in fields(self)
            if field.name in ("max_tokens", "timeout", "attempts", "longest_wait", "per_minute", "at_once")
            and (value := getattr(self, field.name)) is not None
            and not (value > 0 and math.isfinite(value))
        ]
        if wrong or self.first_wait < 0:
            raise ConfigError(
                f"settings of the judge at {self.url} are not above 0: {', '.join(wrong) or 'first_wait'}",
                why="The judge could not be asked even once.",
                fix="Give numbers above 0, or leave them out.",
            )
        if not self.key_variable.isidentifier():  # not shown: it may be the key itself
            raise ConfigError(
                "key_variable of the judge is no name of an environment variable",
                why="The key is read from there; itself it stands in no file and no command.",
                fix="Give a name such as MMDPO_JUDGE_KEY, and put the key into that variable.",
            )
        key = self.key
        if key is not None and not (key.isascii() and key.isprintable()):
            raise ConfigError(
                f"the key in {self.key_variable} holds a line break or another character that no key has",
                why="It is sent in a header line.",
                fix=f"Set {self.key_variable} again, without quotes or line breaks inside it.",
            )
        if key is not None and parts.scheme == "http" and not is_this_machine(parts.hostname):
            raise ConfigError(
                f"{self.key_variable} is set, and {self.url} is another machine without TLS",
                why="Everybody on the way could read the key.",
                fix=f"Use https, or unset {self.key_variable} if the endpoint needs no key.",
            )

    @cached_property
    def _parts(self) -> SplitResult:
        try:
            parts = urlsplit(self.url)
            _ = parts.port  # only reading it tells whether it is a number
        except ValueError:
            return SplitResult("", "", "", "", "")
        return parts

    @property
    def _shown(self) -> str:
        """The address without a password."""
        return self.url.rpartition("@")[2] if "@" in self.url else self.url

    @property
    def key(self) -> str | None:
        """The key, where there is one."""
        return os.environ.get(self.key_variable) or None

    @property
    def path(self) -> str:
        """Where on the host questions are posted."""
        base = self._parts.path.rstrip("/")
        return base if base.endswith("/chat/completions") else f"{base}/chat/completions"

    def body(self, prompt: str, images: tuple[str, ...] = ()) -> bytes:
        """What is posted for one question.

        Args:
            prompt: What the judge is asked.
            images: Pictures as ``data:`` addresses, in front of the prompt.
        """
        pictures: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": image}} for image in images]
        content = [*pictures, {"type": "text", "text": prompt}] if images else prompt
        values: dict[str, Any] = {"model": self.model, "messages": [{"role": "user", "content": content}]}
        settings = {"max_tokens": self.max_tokens, "temperature": self.temperature}
        values |= {name: value for name, value in settings.items() if value is not None}
        return json.dumps(values).encode("ascii")

    def post(self, body: bytes) -> Response:
        """One call.

        Raises:
            CallFailed: No complete answer came before the deadline.
        """
        kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(str(self._parts.hostname), self._parts.port, timeout=self.timeout)
        late = threading.Event()
        watch = None
        try:
            connection.connect()
            # The socket's own timeout is for each read: an endpoint that sends a byte now and then would never end.
            watch = threading.Timer(self.timeout, _cut, [connection.sock, late])
            watch.daemon = True
            watch.start()
            connection.request("POST", self.path, body, self._headers())
            answer = connection.getresponse()
            content = answer.read(MAX_REPLY_BYTES + 1)
        except (OSError, http.client.HTTPException, ValueError) as error:
            if late.is_set() or isinstance(error, TimeoutError):
                raise CallFailed(f"no complete answer in {self.timeout:g} s") from error
            raise CallFailed(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__) from error
        finally:
            if watch is not None:
                watch.cancel()
            connection.close()
        if late.is_set():
            raise CallFailed(f"no complete answer in {self.timeout:g} s")
        if len(content) > MAX_REPLY_BYTES:
            raise CallFailed(f"an answer of more than {MAX_REPLY_BYTES:,} bytes")
        return Response(answer.status, {name.lower(): value for name, value in answer.getheaders()}, content)

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Accept": "application/json", "Connection": "close"}
        return headers if self.key is None else {**headers, "Authorization": f"Bearer {self.key}"}


def read_endpoint(path: Path) -> Endpoint:
    """An endpoint from a YAML file whose keys are the fields of `Endpoint`.

    Raises:
        ConfigError: The file is no such YAML; every key that is wrong is named, and no value shown: it may be a secret.
        DataError: The file cannot be read.
    """
    try:
        values = yaml.safe_load(read_text(path))
    except (yaml.YAMLError, RecursionError) as error:
        # A parser's message quotes the line, which may hold a key.
        place = getattr(error, "problem_mark", None)
        where = "" if place is None else f" (line {place.line + 1})"
        raise ConfigError(
            f"the judge's file {str(path)!r} is not valid YAML{where}",
            why="Nothing of it could be read.",
            fix="Write url: and model:, one a line.",
        ) from None
    known = [field.name for field in fields(Endpoint)]
    given = values if isinstance(values, dict) else {}
    problems = [f"{key}: unknown key. {did_you_mean(str(key), known)}" for key in given if key not in known]
    problems += [f"{key}: required, but not given" for key in ("url", "model") if key not in given]
    found = None
    try:
        found = TypeAdapter(Endpoint).validate_python({key: value for key, value in given.items() if key in known})
    except ValidationError as error:
        wrong = [problem for problem in error.errors() if problem["type"] != "missing"]
        problems += [f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in wrong]
    if found is None or problems:
        raise ConfigError(
            f"the judge's file {str(path)!r} cannot be used:\n  " + "\n  ".join(problems),
            why="The judge could not be asked, or not as you want it to be.",
            fix="Correct it; a key is never written there, but put into the environment variable key_variable names.",
        )
    return found


def is_this_machine(host: str) -> bool:
    """Whether a host name is the loopback address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _cut(connected: socket.socket, late: threading.Event) -> None:
    """Ends a connection from another thread, so that whoever reads from it wakes up."""
    late.set()
    with contextlib.suppress(OSError):  # it had just ended by itself
        # Not the method of a TLS socket, which would also take its state away from the reading thread.
        socket.socket.shutdown(connected, socket.SHUT_RDWR)
