"""A real HTTP server on this machine that speaks the chat protocol, well or badly, as told."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Act = Callable[["Handler"], None]


def completion(text: str | None) -> bytes:
    """A whole chat completion."""
    message = {"role": "assistant", "content": text}
    return json.dumps({"object": "chat.completion", "choices": [{"index": 0, "message": message}]}).encode()


def says(text: str | None) -> Act:
    """Answers well."""
    return lambda handler: handler.send(200, completion(text))


def status(code: int, body: bytes = b'{"error": {"message": "no"}}', **headers: str) -> Act:
    """Answers with a status."""
    return lambda handler: handler.send(code, body, **headers)


def body(content: bytes) -> Act:
    """Answers 200 with any body."""
    return lambda handler: handler.send(200, content)


def drops(handler: Handler) -> None:
    """Hangs up without a word."""
    handler.close_connection = True


def resets(handler: Handler) -> None:
    """Hangs up with a reset."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.close_connection = True


def half(handler: Handler) -> None:
    """Promises a whole body and hangs up in the middle of its JSON."""
    whole = completion("Rating: 6")
    handler.send(200, whole[: len(whole) // 2], **{"Content-Length": str(len(whole))})


def late(seconds: float, text: str = "late") -> Act:
    """Answers well, but late."""

    def act(handler: Handler) -> None:
        handler.server.going.wait(seconds)  # type: ignore[attr-defined]
        handler.send(200, completion(text))

    return act


def drips(handler: Handler) -> None:
    """Sends a byte now and then, and never ends."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
    while not handler.server.going.wait(0.02):  # type: ignore[attr-defined]
        handler.wfile.write(b" ")
        handler.wfile.flush()


class Handler(BaseHTTPRequestHandler):
    """Notes what was asked and does what comes next."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        server: Any = self.server
        self.asked = asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.asked.append({"path": self.path, "headers": dict(self.headers), "body": asked})
            server.times.append(time.monotonic())
            act = server.script.pop(0) if server.script else server.usual
        try:
            act(self)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def send(self, code: int, content: bytes, **headers: str) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)
        self.close_connection = True

    def log_message(self, format: str, *arguments: Any) -> None:
        """Silence."""


class JudgeServer(ThreadingHTTPServer):
    """The server.

    Attributes:
        script: What it does with the next requests, one each.
        usual: What it does with the others: a function of the request's last prompt, or an act.
        asked: The requests that came.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.script: list[Act] = []
        self.usual: Act = says("fine")
        self.asked: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.lock, self.going = threading.Lock(), threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    @property
    def prompts(self) -> list[Any]:
        return [asked["body"]["messages"][-1]["content"] for asked in self.asked]

    def reply_with(self, judge: Callable[[str], str]) -> None:
        """Answers each prompt with what a function says."""

        def act(handler: Handler) -> None:
            handler.send(200, completion(judge(self.prompt_of(handler))))

        self.usual = act

    def prompt_of(self, handler: Handler) -> str:
        content = handler.asked["messages"][-1]["content"]
        return content if isinstance(content, str) else content[-1]["text"]


@contextmanager
def running(port: int = 0) -> Iterator[JudgeServer]:
    """A server in a thread; it has ended when the block ends."""
    server = JudgeServer(port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.going.set()
        server.shutdown()
        server.server_close()
        thread.join()
