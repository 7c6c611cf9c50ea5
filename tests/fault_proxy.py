"""A small HTTP proxy that makes a good server a bad one: slow, throttling, breaking off in the middle of answers.

Faults come by count, so a test sees the same ones each time: of the requests that `is_hit` picks, every `throttle`th is
answered with 503 SlowDown and never reaches the server, every `cut`th is passed on and its answer broken off.
"""

import http.client
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlparse

SLOW_DOWN = (
    b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)


class FaultProxy(ThreadingHTTPServer):
    """Counts what it did in `done` (passed, throttled, cut) and keeps each request as (method, path, range)."""

    daemon_threads = True

    def __init__(self, target: str, *, latency_s: float = 0.0, throttle: int = 0, cut: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = urlparse(target).netloc
        self.latency_s = latency_s
        self.throttle = throttle
        self.cut = cut
        self.is_hit: Callable[[str, str], bool] = lambda method, path: True
        self.done: Counter[str] = Counter()
        self.requests: list[tuple[str, str, str]] = []
        self.most_at_once = 0
        self._num_hits = 0
        self._at_once = 0
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @contextmanager
    def request(self, method: str, path: str, byte_range: str) -> Iterator[str]:
        """What becomes of a request: passed, throttled or cut."""
        with self._lock:
            self.requests.append((method, path, byte_range))
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            fate = "passed"
            if self.is_hit(method, path):
                self._num_hits += 1
                if self.throttle and self._num_hits % self.throttle == 0:
                    fate = "throttled"
                elif self.cut and self._num_hits % self.cut == 0:
                    fate = "cut"
            self.done[fate] += 1
        try:
            yield fate
        finally:
            with self._lock:
                self._at_once -= 1


class _Handler(BaseHTTPRequestHandler):
    server: FaultProxy
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        body = self._read_body()
        with self.server.request(self.command, self.path, self.headers.get("Range", "")) as fate:
            time.sleep(self.server.latency_s)
            if fate == "throttled":
                self._answer(503, {"Content-Type": "application/xml"}, SLOW_DOWN)
                return
            status, headers, data = self._pass_on(body)
            self._answer(status, headers, data, broken_off=fate == "cut")

    def _read_body(self) -> bytes:
        if self.headers.get("Expect") == "100-continue":
            self.send_response_only(100)
            self.end_headers()
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _pass_on(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self.server.target, timeout=30)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in ("connection", "expect")}
        connection.request(self.command, self.path, body, headers)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        return answer.status, dict(answer.getheaders()), data

    def _answer(self, status: int, headers: dict[str, str], data: bytes, *, broken_off: bool = False) -> None:
        self.close_connection = broken_off
        if broken_off and not data:
            return  # not even a status
        self.send_response_only(status)
        kept = {k: v for k, v in headers.items() if k.lower() not in ("connection", "transfer-encoding")}
        if self.command != "HEAD":
            kept["Content-Length"] = str(len(data))
        for name, value in kept.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if broken_off else data)

    def log_message(self, format: str, *args: Any) -> None:
        pass

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve  # noqa: N815


@contextmanager
def faulty(target: str, **faults: Any) -> Iterator[FaultProxy]:
    """A proxy before `target`, with the faults of FaultProxy."""
    proxy = FaultProxy(target, **faults)
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join()
