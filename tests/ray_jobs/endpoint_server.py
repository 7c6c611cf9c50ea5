"""A chat endpoint that answers every task, judges, and is busy the first time it is asked. A context manager."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PROMPT_TOKENS, COMPLETION_TOKENS = 100, 10
ANSWERS = {"summary": "A call.", "reason": "It is short.", "score": 4}


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        time.sleep(self.server.thinks_s)  # type: ignore[attr-defined]
        properties = body["response_format"]["json_schema"]["schema"]["properties"]
        self._reply(503 if self.server.is_first() else 200, {name: self.server.answers[name] for name in properties})  # type: ignore[attr-defined]

    def do_GET(self) -> None:
        self._send(200, {"data": [{"id": "big"}]})

    def _reply(self, status: int, answer: dict[str, Any]) -> None:
        choice = {"message": {"content": json.dumps(answer)}, "finish_reason": "stop"}
        usage = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": COMPLETION_TOKENS}
        self._send(status, {"choices": [choice], "usage": usage})

    def _send(self, status: int, document: dict[str, Any]) -> None:
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, answers: dict[str, Any], thinks_s: float) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers = answers
        self.thinks_s = thinks_s
        self._first = threading.Lock()

    def is_first(self) -> bool:
        return self._first.acquire(blocking=False)


@contextmanager
def endpoint(*, thinks_s: float = 0.0, **answers: Any) -> Iterator[str]:
    """The server's base url, for as long as it runs; `answers` are members of answers beside ANSWERS, each of which
    takes it `thinks_s`."""
    server = _Server({**ANSWERS, **answers}, thinks_s)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
