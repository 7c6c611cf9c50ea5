"""What the engines do, as Ray metrics: Prometheus scrapes them at every node's metrics port, named ray_callmill_*.

callmill_engine_KEY              one per key of an engine's stats(), by stage and model: counters, but for levels
callmill_engine_windows_per_s, tokens_per_s, padding_share, idle_share
                                 gauges of an ASR engine, since it published last: over its last partition
callmill_llm_request_s           histogram, by model: from handing a prompt in to its answer, retries included
callmill_llm_cost_usd            counter, by model, where the spec has its price
callmill_llm_broken_answers      counter, by task: answers that broke their schema, the first try included
callmill_llm_answers             counter, by task and status (ok, truncated, failed)
callmill_judge_score             histogram, by judge: 1 to 5
"""

import json
import threading
from collections.abc import Mapping, Sequence
from functools import cache

from ray.util.metrics import Counter, Gauge, Histogram

from ray_jobs.engines.llm import Completion, LlmEngine, Prompt
from ray_jobs.records import Insight
from ray_jobs.spec import LlmSpec

_REQUEST_BOUNDS_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 120.0, 300.0)
_SCORE_BOUNDS = (0.5, 1.5, 2.5, 3.5, 4.5, 5.5)  # Ray sums the middles of the buckets: so, the scores themselves


class EngineMetrics:
    """Publishes one engine's `stats()`; several threads may call it."""

    def __init__(self, stage: str, model: str) -> None:
        self._tags = {"stage": stage, "model": model}
        self._published: dict[str, float] = {}
        self._lock = threading.Lock()

    def publish(self, stats: Mapping[str, float]) -> None:
        """Counters go up by what was added since the last call; levels (load_s, *_per_s, *_share) are set."""
        with self._lock:
            added = {key: value - self._published.get(key, 0.0) for key, value in stats.items()}
            for key, value in {**stats, **asr_levels(added)}.items():
                name = f"callmill_engine_{key}"
                if key == "load_s" or key.endswith(("_per_s", "_share")):
                    _gauge(name).set(value, tags=self._tags)
                elif added[key] > 0:
                    _counter(name, ("stage", "model")).inc(added[key], tags=self._tags)
                    self._published[key] = value


def asr_levels(added: Mapping[str, float]) -> dict[str, float]:
    """Speed, padding and idleness, from what came to an ASR engine's `stats()`; nothing of other engines."""
    if "window_s" not in added:
        return {}
    up_s, window_s = added["up_s"], added["window_s"]
    return {
        "windows_per_s": added["num_windows"] / up_s if up_s > 0 else 0.0,
        "tokens_per_s": added["num_tokens"] / up_s if up_s > 0 else 0.0,
        "padding_share": 1 - added["audio_s"] / window_s if window_s > 0 else 0.0,
        "idle_share": 1 - added["busy_s"] / up_s if up_s > 0 else 0.0,
    }


class MeteredLlm:
    """An `LlmEngine` that measures every request of another."""

    def __init__(self, engine: LlmEngine, llm: LlmSpec, stage: str = "analyse") -> None:
        self.model_name = engine.model_name
        self.context_tokens = engine.context_tokens
        self._engine = engine
        self._price = llm.prices.get(engine.model_name)
        self._metrics = EngineMetrics(stage, engine.model_name)

    def count_tokens(self, text: str) -> int:
        return self._engine.count_tokens(text)

    def generate(self, prompts: Sequence[Prompt]) -> list[Completion | ValueError]:
        try:
            results = self._engine.generate(prompts)
        finally:  # a batch that failed had its retries, too
            self._metrics.publish(self._engine.stats())
        completions = [result for result in results if isinstance(result, Completion)]
        tags = {"model": self.model_name}
        for completion in completions:
            _histogram("callmill_llm_request_s", ("model",), _REQUEST_BOUNDS_S).observe(completion.latency_s, tags=tags)
        if self._price:
            cost_usd = sum(self._price.cost_usd(c.prompt_tokens, c.completion_tokens) for c in completions)
            if cost_usd > 0:
                _counter("callmill_llm_cost_usd", ("model",)).inc(cost_usd, tags=tags)
        return results

    def stats(self) -> dict[str, float]:
        return self._engine.stats()


def count_insights(insights: Sequence[Insight], llm: LlmSpec) -> None:
    """Publish what became of the tasks of one partition, and the judges' scores."""
    judges = {judge.name for judge in llm.judges}
    for insight in insights:
        _counter("callmill_llm_answers", ("task", "status")).inc(tags={"task": insight.task, "status": insight.status})
        if insight.num_broken:
            _counter("callmill_llm_broken_answers", ("task",)).inc(insight.num_broken, tags={"task": insight.task})
        if insight.task in judges and insight.answered:
            score = json.loads(insight.value_json)["score"]
            _histogram("callmill_judge_score", ("judge",), _SCORE_BOUNDS).observe(score, tags={"judge": insight.task})


@cache
def _counter(name: str, tag_keys: tuple[str, ...]) -> Counter:
    return Counter(name, tag_keys=tag_keys)


@cache
def _gauge(name: str) -> Gauge:
    return Gauge(name, tag_keys=("stage", "model"))


@cache
def _histogram(name: str, tag_keys: tuple[str, ...], bounds: tuple[float, ...]) -> Histogram:
    return Histogram(name, boundaries=list(bounds), tag_keys=tag_keys)
