"""A language model behind an OpenAI-compatible HTTP server: vLLM serve, TGI, a gateway, OpenAI itself.

Protocol: POST {base_url}/chat/completions, answers bound by `response_format: json_schema`
(https://platform.openai.com/docs/api-reference/chat). What a server says is sorted into the three errors a caller can
act on: the prompt is wrong (ValueError), the server is busy or gone (RetryableError, after retries), the set-up is
wrong (FatalError).
"""

import asyncio
import logging
import os
import random
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from ray_jobs.engines.llm import Completion, Prompt
from ray_jobs.errors import FatalError, RetryableError, SpecError

_RETRIED_STATUS = {408, 425, 429, 500, 502, 503, 504, 529}
_PROMPT_STATUS = {400, 413, 422}
_MAX_BACKOFF_S = 60.0
_BYTES_PER_TOKEN = 3  # few tokenizers need more than a token per three bytes of speech

logging.getLogger("httpx").setLevel(logging.WARNING)  # it has a line for each request


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSpec:
    """Where the model is and how hard it may be asked. `base_url` ends before /chat/completions, mostly in /v1;
    `api_key_env` names the environment variable that holds the key, None sends none; `timeout_s` bounds one attempt
    from connecting to the last byte; prices are in the currency of your bill per million tokens."""

    base_url: str
    model: str
    context_tokens: int
    seed: int = 0
    api_key_env: str | None = None
    timeout_s: float = 120.0
    max_concurrency: int = 32
    max_attempts: int = 5
    backoff_s: float = 1.0
    price_per_million_prompt_tokens: float = 0.0
    price_per_million_completion_tokens: float = 0.0


class OpenAiEndpoint:
    """An `LlmEngine`. At most `max_concurrency` requests are under way, over all threads that call `generate`.

    Raises SpecError for what is no address, and for a key that is not in its variable. `generate` raises ValueError
    for a prompt the server refuses, RetryableError where it stays busy, hangs or drops connections through
    `max_attempts`, and FatalError where the address, the key or the model is wrong; it cancels the rest of the batch.
    """

    def __init__(self, spec: EndpointSpec) -> None:
        self.model_name = spec.model
        self.context_tokens = spec.context_tokens
        self._spec = spec
        self._url = _url(spec)
        self._client = httpx.AsyncClient(headers=_headers(spec), timeout=None)  # bounded as a whole in _send
        self._slots = asyncio.Semaphore(spec.max_concurrency)
        self._counters = dict.fromkeys(("num_prompts", "num_retries", "prompt_tokens", "completion_tokens"), 0)
        self._request_s = 0.0
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="endpoint", daemon=True).start()

    def count_tokens(self, text: str) -> int:
        """An estimate on the safe side: the server's vocabulary is not known here."""
        return -(-len(text.encode()) // _BYTES_PER_TOKEN)

    def generate(self, prompts: Sequence[Prompt]) -> list[Completion]:
        return asyncio.run_coroutine_threadsafe(self._generate(prompts), self._loop).result()

    def stats(self) -> dict[str, float]:
        """`request_s` sums the latencies of all attempts; `cost` is in the currency of the prices."""
        cost = (
            self._counters["prompt_tokens"] * self._spec.price_per_million_prompt_tokens
            + self._counters["completion_tokens"] * self._spec.price_per_million_completion_tokens
        ) / 1e6
        return {**self._counters, "request_s": self._request_s, "cost": cost, "load_s": 0.0}

    async def _generate(self, prompts: Sequence[Prompt]) -> list[Completion]:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._complete(prompt)) for prompt in prompts]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _complete(self, prompt: Prompt) -> Completion:
        body = _body(self._spec, prompt)
        for attempt in range(1, self._spec.max_attempts + 1):
            try:
                async with self._slots:
                    response = await self._send(body)
                completion = self._read(response)
            except _TransientError as fault:
                if attempt == self._spec.max_attempts:
                    raise RetryableError(f"{self._url}: {fault}, {attempt} times running") from None
                self._counters["num_retries"] += 1
                await asyncio.sleep(self._delay_s(attempt, fault.retry_after_s))
            else:
                self._counters["num_prompts"] += 1
                self._counters["prompt_tokens"] += completion.prompt_tokens
                self._counters["completion_tokens"] += completion.completion_tokens
                return completion
        raise AssertionError("max_attempts is at least 1")

    async def _send(self, body: dict[str, Any]) -> httpx.Response:
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._spec.timeout_s):
                return await self._client.post(self._url, json=body)
        except TimeoutError:
            raise _TransientError(f"no answer within {self._spec.timeout_s:g} s") from None
        except httpx.TransportError as error:
            raise _TransientError(f"connection failed ({str(error) or type(error).__name__})") from None
        finally:
            self._request_s += time.monotonic() - began

    def _delay_s(self, attempt: int, retry_after_s: float) -> float:
        """Exponential, jittered so that requests refused together do not come back together."""
        backoff_s = self._spec.backoff_s * 2.0 ** (attempt - 1)
        return min(_MAX_BACKOFF_S, max(retry_after_s, backoff_s) * random.uniform(1.0, 1.5))

    def _read(self, response: httpx.Response) -> Completion:
        status = response.status_code
        if status in _RETRIED_STATUS:
            raise _TransientError(f"status {status}", retry_after_s=_retry_after_s(response))
        if status in _PROMPT_STATUS:
            raise ValueError(f"the endpoint refused the prompt: {_reason(response)}")
        if status in (401, 403):
            key = f"the key in {self._spec.api_key_env}" if self._spec.api_key_env else "a request without a key"
            raise FatalError(f"{self._url}: refused {key} (status {status}): {_reason(response)}")
        if status != 200:
            raise FatalError(
                f"{self._url}: status {status} for model {self.model_name}, is the address right? {_reason(response)}"
            )
        return self._parse(response)

    def _parse(self, response: httpx.Response) -> Completion:
        try:
            document = response.json()
            (choice,) = document["choices"]
            text, finish_reason = choice["message"]["content"], choice["finish_reason"]
        except (ValueError, KeyError, TypeError):
            kind = response.headers.get("content-type", "nothing")
            raise FatalError(f"{self._url}: sent {kind}, not a chat completion; is the address right?") from None
        if not isinstance(text, str) or finish_reason == "content_filter":
            raise ValueError(f"the endpoint gave no text (finish_reason {finish_reason})")
        usage = document.get("usage") or {}
        return Completion(
            text=text,
            finish_reason="length" if finish_reason == "length" else "stop",
            prompt_tokens=usage.get("prompt_tokens", 0),
            completion_tokens=usage.get("completion_tokens", 0),
        )


class _TransientError(Exception):
    """What another attempt may cure."""

    def __init__(self, reason: str, retry_after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


def _url(spec: EndpointSpec) -> str:
    if not re.match(r"https?://[^/]", spec.base_url):
        raise SpecError(f"{spec.base_url}: not the address of an endpoint; it starts with http:// or https://")
    return f"{spec.base_url.rstrip('/')}/chat/completions"


def _headers(spec: EndpointSpec) -> dict[str, str]:
    if spec.api_key_env is None:
        return {}
    key = os.environ.get(spec.api_key_env)
    if not key:
        raise SpecError(f"{spec.base_url}: its key is to be in the environment variable {spec.api_key_env}; set it")
    return {"Authorization": f"Bearer {key}"}


def _body(spec: EndpointSpec, prompt: Prompt) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": spec.model,
        "messages": [{"role": message.role, "content": message.content} for message in prompt.messages],
        "max_tokens": prompt.max_tokens,
        "temperature": 0,
        "seed": spec.seed,
    }
    if prompt.schema is not None:
        body["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "answer", "strict": True, "schema": dict(prompt.schema)},
        }
    return body


def _retry_after_s(response: httpx.Response) -> float:
    """The header in seconds; its other form, a date, is not worth parsing: the backoff will do."""
    value = response.headers.get("retry-after", "")
    return float(value) if value.isdigit() else 0.0


def _reason(response: httpx.Response) -> str:
    """What the server says is wrong, on one line."""
    try:
        error = response.json()["error"]
        text = error["message"] if isinstance(error, dict) else error
    except (ValueError, KeyError, TypeError):
        text = response.text
    return " ".join(str(text).split())[:200] or response.reason_phrase
