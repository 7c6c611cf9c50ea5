"""A language model behind an OpenAI-compatible HTTP server: vLLM serve, TGI, a gateway, OpenAI itself.

Protocol: POST {base_url}/chat/completions, answers bound by `response_format: json_schema`
(https://platform.openai.com/docs/api-reference/chat). What a server says is sorted into the three errors a caller can
act on: the prompt is wrong (ValueError), the server is busy or gone (RetryableError, after retries), the set-up is
wrong (FatalError).
"""

import asyncio
import logging
import math
import os
import random
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from ray_jobs.engines.llm import Completion, Prompt
from ray_jobs.errors import FatalError, RetryableError, SpecError
from ray_jobs.spec import EndpointSpec

_RETRIED_STATUS = {408, 425, 429, 500, 502, 503, 504, 529}
_PROMPT_STATUS = {400, 413, 422}
_MAX_BACKOFF_S = 60.0
_MAX_RETRY_AFTER_S = 600.0
_CHECK_TIMEOUT_S = 10.0
_BYTES_PER_TOKEN = 3  # few tokenizers need more than a token per three bytes of speech

logging.getLogger("httpx").setLevel(logging.WARNING)  # it has a line for each request


class OpenAiEndpoint:
    """An `LlmEngine`. At most `max_concurrency` requests are under way, over all threads that call `generate`.

    Raises SpecError for a key that is not in its variable. `generate` returns a ValueError for a prompt the server
    refuses, and raises RetryableError where it stays busy, hangs or drops connections through `max_attempts`, and
    FatalError where the address, the key or the model is wrong; raising, it cancels the rest of the batch.
    """

    def __init__(self, spec: EndpointSpec, *, model: str, context_tokens: int, seed: int = 0) -> None:
        self.model_name = model
        self.context_tokens = context_tokens
        self._spec = spec
        self._seed = seed
        self._url = f"{spec.url.rstrip('/')}/chat/completions"
        self._client = httpx.AsyncClient(headers=_headers(spec), timeout=None)  # bounded as a whole in _send
        self._slots = asyncio.Semaphore(spec.max_concurrency)
        self._counters = dict.fromkeys(("num_prompts", "num_retries", "prompt_tokens", "completion_tokens"), 0)
        self._request_s = 0.0
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="endpoint", daemon=True).start()

    def count_tokens(self, text: str) -> int:
        """An estimate on the safe side: the server's vocabulary is not known here."""
        return -(-len(text.encode()) // _BYTES_PER_TOKEN)

    def generate(self, prompts: Sequence[Prompt]) -> list[Completion | ValueError]:
        return asyncio.run_coroutine_threadsafe(self._generate(prompts), self._loop).result()

    def stats(self) -> dict[str, float]:
        """`request_s` sums the latencies of all attempts."""
        return {**self._counters, "request_s": self._request_s, "load_s": 0.0}

    async def _generate(self, prompts: Sequence[Prompt]) -> list[Completion | ValueError]:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._result(prompt)) for prompt in prompts]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _result(self, prompt: Prompt) -> Completion | ValueError:
        try:
            return await self._complete(prompt)
        except ValueError as refusal:
            return refusal

    async def _complete(self, prompt: Prompt) -> Completion:
        body, began = self._body(prompt), time.monotonic()
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
                return replace(completion, latency_s=time.monotonic() - began)
        raise AssertionError("max_attempts is at least 1")

    def _body(self, prompt: Prompt) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.model_name,
            "messages": [{"role": message.role, "content": message.content} for message in prompt.messages],
            "max_tokens": prompt.max_tokens,
            "temperature": 0,
            "seed": self._seed,
        }
        if prompt.schema is not None:
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "answer", "strict": True, "schema": dict(prompt.schema)},
            }
        return body

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
        """Exponential, but not before the server asks to be asked again, and jittered so that requests refused together
        do not come back together."""
        backoff_s = min(_MAX_BACKOFF_S, self._spec.backoff_s * 2.0 ** (attempt - 1))
        return max(min(_MAX_RETRY_AFTER_S, retry_after_s), backoff_s) * random.uniform(1.0, 1.5)

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
            usage = document.get("usage") or {}
            prompt_tokens, completion_tokens = (usage.get(f"{kind}_tokens") or 0 for kind in ("prompt", "completion"))
        except (ValueError, KeyError, TypeError, AttributeError):
            kind = response.headers.get("content-type", "nothing")
            raise FatalError(f"{self._url}: sent {kind}, not a chat completion; is the address right?") from None
        if not isinstance(text, str) or finish_reason == "content_filter":
            raise ValueError(f"the endpoint gave no text (finish_reason {finish_reason})")
        return Completion(
            text=text,
            finish_reason="length" if finish_reason == "length" else "stop",
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
        )


def check(spec: EndpointSpec, model: str) -> None:
    """Find before a run what would end it: nobody answers, the key is wrong, the server does not know the model.

    Asks for the list of models ({url}/models); a server that keeps none is taken at its word. Raises SpecError where
    the spec is wrong and RetryableError where nothing answers.
    """
    url = f"{spec.url.rstrip('/')}/models"
    try:
        response = httpx.get(url, headers=_headers(spec), timeout=min(spec.timeout_s, _CHECK_TIMEOUT_S))
    except httpx.TransportError as error:
        raise RetryableError(f"{url}: nothing answers ({str(error) or type(error).__name__}); is it up?") from None
    if response.status_code in (401, 403):
        raise SpecError(f"{url}: refused the key (status {response.status_code}): {_reason(response)}")
    if response.status_code != 200:
        return
    try:
        names = [str(entry["id"]) for entry in response.json()["data"]]
    except (ValueError, KeyError, TypeError):
        kind = response.headers.get("content-type", "nothing")
        raise SpecError(f"{url}: sent {kind}, not a list of models; is llm.endpoint.url right?") from None
    if model not in names:
        raise SpecError(f"{url}: there is no model {model}; there are {', '.join(names) or 'none'}")


class _TransientError(Exception):
    """What another attempt may cure."""

    def __init__(self, reason: str, retry_after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


def _headers(spec: EndpointSpec) -> dict[str, str]:
    if spec.api_key_env is None:
        return {}
    key = os.environ.get(spec.api_key_env)
    if not key:
        raise SpecError(f"{spec.url}: its key is to be in the environment variable {spec.api_key_env}; set it")
    return {"Authorization": f"Bearer {key}"}


def _retry_after_s(response: httpx.Response) -> float:
    """The header, a number of seconds or a date; 0 where there is none, or neither."""
    value = response.headers.get("retry-after", "")
    with suppress(ValueError):
        seconds = float(value)
        return seconds if math.isfinite(seconds) else 0.0
    with suppress(ValueError):
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    return 0.0


def _reason(response: httpx.Response) -> str:
    """What the server says is wrong, on one line."""
    try:
        error = response.json()["error"]
        text = error["message"] if isinstance(error, dict) else error
    except (ValueError, KeyError, TypeError):
        text = response.text
    return " ".join(str(text).split())[:200] or response.reason_phrase
