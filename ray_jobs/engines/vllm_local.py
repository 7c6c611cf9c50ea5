"""A language model in vLLM's offline engine, stepped by one thread of this process.

Prompts of concurrent `generate` calls join one running batch, so the engine does not drain between partitions. The
engine core runs in this process, not in the child that vLLM starts by default: an actor that is killed with SIGKILL
takes its engine along, and one process has to import vLLM instead of two or three. Written against vLLM 0.32.
"""

import itertools
import logging
import os
import queue
import threading
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray_jobs.engines import weights
from ray_jobs.engines.llm import Completion, Prompt
from ray_jobs.errors import ModelError, RetryableError
from ray_jobs.spec import LlmSpec

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine core lives and dies with this process
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}
"""Read by vLLM and torch when they are imported; what the user has set stays, but for the first."""

_CPU_KV_CACHE_GIB = 1.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    prompt: Any  # vLLM's tokenised input
    params: Any  # vLLM's SamplingParams
    done: "Future[Completion]" = field(default_factory=Future)
    began: float = field(default_factory=time.monotonic)


class VllmLocal:
    """An `LlmEngine` on this machine's GPU, or on its CPU where there is none. Greedy, so the same prompt gives the
    same text as far as the kernels' rounding allows: the batch a prompt falls into can change it.

    On a CPU the model runs on `spec.actors.num_cpus` threads, uncompiled (compiling takes a minute and gains a fifth),
    with `spec.kv_cache_gib` of attention cache; on a GPU vLLM takes `spec.gpu_memory_fraction` of the memory, or the
    attention cache the spec asks for.

    Raises ModelError where the weights cannot be loaded; `generate` returns a ValueError for a prompt that does not fit
    the context or a schema that cannot be compiled, and raises RetryableError once the engine has failed: it stays so.
    """

    def __init__(self, spec: LlmSpec) -> None:
        began = time.monotonic()
        self.model_name = spec.model
        self.context_tokens = spec.context_tokens
        self._repetition_penalty = spec.repetition_penalty
        self._inbox: queue.SimpleQueue[list[_Request] | None] = queue.SimpleQueue()
        self._tokenizer_lock = threading.Lock()  # Hugging Face's fast tokenizers do not like two threads at once
        self._counters = dict.fromkeys(("num_prompts", "prompt_tokens", "cached_prompt_tokens", "completion_tokens"), 0)
        self._busy_s = 0.0
        # Loaded by the thread that steps it: OpenMP's thread count and CUDA's current device belong to a thread.
        loaded: Future[Any] = Future()
        self._stopped = threading.Event()
        threading.Thread(target=self._run, args=(spec, loaded), name="vllm", daemon=True).start()
        self._tokenizer = loaded.result()
        self._load_s = time.monotonic() - began
        _log.info("%s loaded in %.0f s", spec.model, self._load_s)

    def count_tokens(self, text: str) -> int:
        with self._tokenizer_lock:
            return len(self._tokenizer.encode(text, add_special_tokens=False))

    def generate(self, prompts: Sequence[Prompt]) -> list[Completion | ValueError]:
        requests = [self._rendered(prompt) for prompt in prompts]
        # As one, so that the first step sees the whole batch.
        self._inbox.put([request for request in requests if isinstance(request, _Request)])
        return [_result(request) for request in requests]

    def stats(self) -> dict[str, float]:
        """Counters, load_s, and completion_tokens_per_s of busy time; cached_prompt_tokens hit the prefix cache."""
        rate = self._counters["completion_tokens"] / self._busy_s if self._busy_s else 0.0
        return {
            **self._counters,
            "busy_s": self._busy_s,
            "load_s": self._load_s,
            "completion_tokens_per_s": rate,
        }

    def close(self) -> None:
        """Stop the engine and free its memory; unanswered prompts fail."""
        self._inbox.put(None)
        self._stopped.wait()

    def _rendered(self, prompt: Prompt) -> _Request | ValueError:
        try:
            return self._render(prompt)
        except ValueError as refusal:
            return refusal

    def _render(self, prompt: Prompt) -> _Request:
        from vllm import SamplingParams
        from vllm.inputs.engine import tokens_input
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        conversation = [{"role": message.role, "content": message.content} for message in prompt.messages]
        with self._tokenizer_lock:
            token_ids = self._tokenizer.apply_chat_template(
                conversation, add_generation_prompt=True, tokenize=True, return_dict=False
            )
        if len(token_ids) + prompt.max_tokens > self.context_tokens:
            raise ValueError(
                f"a prompt of {len(token_ids)} tokens and a completion of {prompt.max_tokens} do not fit "
                f"the context of {self.context_tokens}"
            )
        params = SamplingParams(
            temperature=0.0,
            repetition_penalty=self._repetition_penalty,
            max_tokens=prompt.max_tokens,
            output_kind=RequestOutputKind.FINAL_ONLY,
            structured_outputs=None if prompt.schema is None else StructuredOutputsParams(json=dict(prompt.schema)),
        )
        return _Request(prompt=tokens_input(token_ids), params=params)

    # ------------------------------------------------------------------------------------- the engine's own thread

    def _run(self, spec: LlmSpec, loaded: "Future[Any]") -> None:
        try:
            engine = load_engine(spec)
        except BaseException as error:  # to whoever waits for the constructor
            loaded.set_exception(error)
            return
        loaded.set_result(engine.get_tokenizer())
        waiting: dict[str, _Request] = {}
        try:
            self._step_until_closed(engine, waiting)
            failure = RetryableError(f"{spec.model}: the engine was closed")
        except Exception as error:  # after a failed step nobody knows the engine's state
            _log.exception("%s: the engine failed", spec.model)
            failure = RetryableError(f"{spec.model}: the engine failed: {_one_line(error)}")
        for request in waiting.values():
            request.done.set_exception(failure)
        with suppress(Exception):  # it may be what failed
            engine.engine_core.shutdown()
        del engine
        self._stopped.set()
        self._refuse(failure)

    def _step_until_closed(self, engine: Any, waiting: dict[str, _Request]) -> None:
        from vllm.exceptions import VLLMClientError

        ids = map(str, itertools.count())
        while True:
            while not waiting or not self._inbox.empty():
                if (batch := self._inbox.get()) is None:
                    return
                numbered = {next(ids): request for request in batch}
                waiting.update(numbered)
                for request_id, request in numbered.items():
                    try:
                        engine.add_request(request_id, request.prompt, request.params)
                    except (ValueError, VLLMClientError) as error:  # a schema the grammar compiler refuses
                        waiting.pop(request_id).done.set_exception(ValueError(_one_line(error)))
            began = time.monotonic()
            for output in engine.step():
                if output.finished:
                    self._answer(output, waiting.pop(output.request_id))
            self._busy_s += time.monotonic() - began

    def _answer(self, output: Any, request: _Request) -> None:
        answer = output.outputs[0]
        if answer.finish_reason not in ("stop", "length"):
            request.done.set_exception(ValueError(f"vLLM gave up on a prompt (finish_reason {answer.finish_reason})"))
            return
        completion = Completion(
            text=answer.text,
            finish_reason=answer.finish_reason,
            prompt_tokens=len(output.prompt_token_ids),
            completion_tokens=len(answer.token_ids),
            latency_s=time.monotonic() - request.began,
        )
        self._counters["num_prompts"] += 1
        self._counters["prompt_tokens"] += completion.prompt_tokens
        self._counters["cached_prompt_tokens"] += output.num_cached_tokens or 0
        self._counters["completion_tokens"] += completion.completion_tokens
        request.done.set_result(completion)

    def _refuse(self, failure: Exception) -> None:
        """Answer whatever still comes, for as long as the process lives: nobody may wait for an engine that is gone."""
        while True:
            for request in self._inbox.get() or ():
                request.done.set_exception(failure)


def _result(request: _Request | ValueError) -> Completion | ValueError:
    if isinstance(request, ValueError):
        return request
    try:
        return request.done.result()
    except ValueError as refusal:
        return refusal


def load_engine(spec: LlmSpec) -> Any:
    folder = weights.resolve(spec.model, "vllm_local")
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    logging.getLogger("vllm").setLevel(logging.ERROR)  # for what it says before it reads its own variable
    warnings.filterwarnings("ignore", category=FutureWarning)  # torch, about vLLM's imports
    import torch
    from vllm.engine.arg_utils import EngineArgs
    from vllm.platforms import current_platform
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.llm_engine import LLMEngine

    on_cpu = current_platform.is_cpu()
    if on_cpu:
        torch.set_num_threads(max(1, round(spec.actors.num_cpus)))
    try:
        arguments = EngineArgs(**engine_arguments(spec, folder, on_cpu=on_cpu))
        return LLMEngine.from_engine_args(arguments, usage_context=UsageContext.LLM_CLASS)
    except (ValueError, RuntimeError, OSError, KeyError) as error:
        raise ModelError(f"model {spec.model}: vLLM cannot load it: {_one_line(error)}") from error


def engine_arguments(spec: LlmSpec, folder: Path, *, on_cpu: bool) -> dict[str, Any]:
    """What vLLM is started with: keywords of its EngineArgs, and of its LLM."""
    kv_cache_gib = spec.kv_cache_gib or (_CPU_KV_CACHE_GIB if on_cpu else None)
    return {
        "model": str(folder),
        "served_model_name": spec.model,
        "seed": spec.seed,
        "max_model_len": spec.context_tokens,
        "max_num_seqs": spec.max_batch,
        "enable_prefix_caching": True,
        "gpu_memory_utilization": spec.gpu_memory_fraction,
        "kv_cache_memory_bytes": int(kv_cache_gib * 2**30) if kv_cache_gib else None,
        "enforce_eager": on_cpu,
        # Blank space is what a guided model pads with when it does not know how to go on.
        "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
    }


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
