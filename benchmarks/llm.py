"""What our engine costs over bare vLLM: `python -m benchmarks.llm [--rounds N] [--max-tokens N]`.

The summary prompts of the sample calls' reference texts go through the engine as an analysis actor holds it
(`VllmLocal`, metered) and through `vllm.LLM.chat`, in turn, on one and the same loaded engine (two of them, alike to
the last setting, differ by up to a fifth through where their memory happens to lie). The schema asks for more than the
budget allows, so that both write the same number of tokens. Each batch starts its transcripts with a label of its own,
so that none is served from the prefix cache of the one before; the order changes with every round.

ours, peer      completion tokens per second, median over rounds
ratio           ours / peer in the same round, median over rounds
cpu_ratio       the same per CPU second: what to read where other work shares the machine and no GPU does the work
cached          share of prompt tokens that the prefix cache served where both default tasks are asked about every call
load_s          seconds until the engine was ready, the import of vLLM included
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ray_jobs import prompts
from ray_jobs.engines import vllm_local, weights
from ray_jobs.engines.llm import Completion, Message, Prompt
from ray_jobs.metrics import MeteredLlm
from ray_jobs.spec import LlmSpec

SPEC = LlmSpec(context_tokens=2048, kv_cache_gib=0.5)
NUM_THREADS = max(1, round(SPEC.actors.num_cpus))
LONG_ANSWER = {
    "type": "object",
    "properties": {"summary": {"type": "string", "minLength": 2000}},
    "required": ["summary"],
}
SAMPLES = Path(__file__).parents[1] / "tests" / "data" / "sample_calls"

Tokens = list[tuple[int, int]]
"""Of each prompt: its own tokens and its completion's."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--max-tokens", type=int, default=32)
    parsed = parser.parse_args()
    began = time.perf_counter()
    asks, ours = load()
    load_s = time.perf_counter() - began
    rates: dict[str, list[float]] = {name: [] for name in asks}
    cpu_rates: dict[str, list[float]] = {name: [] for name in asks}
    for number in range(parsed.rounds + 1):  # the first warms up
        asked: dict[str, Tokens] = {}
        for name in list(asks)[:: 1 if number % 2 else -1]:
            batch = batch_of(f"{name[0]} {number}", parsed.max_tokens)
            began, cpu_began = time.perf_counter(), time.process_time()
            asked[name] = asks[name](batch)
            wall_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu_began
            num_tokens = sum(completion_tokens for _, completion_tokens in asked[name])
            print(f"round {number}  {name}  {num_tokens} tokens  {wall_s:.2f} s  {cpu_s:.2f} CPU-s", flush=True)
            if number:
                rates[name].append(num_tokens / wall_s)
                cpu_rates[name].append(num_tokens / cpu_s)
        assert asked["ours"] == asked["peer"], "the two did not send the same prompts"
    before = ours.stats()
    ours.generate(batch_of("both", parsed.max_tokens, ("summary/v1", "disposition/v1")))
    spent = {key: value - before[key] for key, value in ours.stats().items()}
    result = {
        "benchmark": "llm",
        "ours": round(statistics.median(rates["ours"]), 1),
        "peer": round(statistics.median(rates["peer"]), 1),
        "ratio": ratio(rates),
        "cpu_ratio": ratio(cpu_rates),
        "cached": round(spent["cached_prompt_tokens"] / spent["prompt_tokens"], 3),
        "unit": "completion tokens/s",
        "model": SPEC.model,
        "num_prompts": len(batch_of("", 1)),
        "rounds": parsed.rounds,
        "load_s": round(load_s, 1),
    }
    print(json.dumps(result))


def load() -> tuple[dict[str, Callable[[Sequence[Prompt]], Tokens]], MeteredLlm]:
    """Both ways to ask the engine of one `vllm.LLM`, and ours."""
    os.environ |= vllm_local.ENVIRONMENT
    import torch
    from vllm import LLM
    from vllm.platforms import current_platform

    set_num_threads = torch.set_num_threads  # vLLM takes it away once it has loaded, and it holds for one thread only
    set_num_threads(NUM_THREADS)
    folder = weights.resolve(SPEC.model, "vllm_local")
    peer = LLM(**vllm_local.engine_arguments(SPEC, folder, on_cpu=bool(current_platform.is_cpu())))

    def adopt(_: LlmSpec) -> Any:
        set_num_threads(NUM_THREADS)
        return peer.llm_engine

    vllm_local.load_engine = adopt  # type: ignore[assignment]
    ours = MeteredLlm(vllm_local.VllmLocal(SPEC), SPEC)
    asks: dict[str, Callable[[Sequence[Prompt]], Tokens]] = {
        "ours": lambda batch: generate(ours, batch),
        "peer": lambda batch: chat(peer, batch),
    }
    return asks, ours


def generate(ours: MeteredLlm, batch: Sequence[Prompt]) -> Tokens:
    answers = [answer for answer in ours.generate(batch) if isinstance(answer, Completion)]
    return [(answer.prompt_tokens, answer.completion_tokens) for answer in answers]


def chat(peer: Any, batch: Sequence[Prompt]) -> Tokens:
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    outputs = peer.chat(
        [[{"role": message.role, "content": message.content} for message in prompt.messages] for prompt in batch],
        [
            SamplingParams(
                temperature=0.0,
                repetition_penalty=SPEC.repetition_penalty,
                max_tokens=prompt.max_tokens,
                structured_outputs=StructuredOutputsParams(json=dict(prompt.schema or {})),
            )
            for prompt in batch
        ],
        use_tqdm=False,
    )
    return [(len(output.prompt_token_ids), len(output.outputs[0].token_ids)) for output in outputs]


def batch_of(label: str, max_tokens: int, versions: Sequence[str] = ("summary/v1",)) -> list[Prompt]:
    """One prompt of each version per sample call, those of a call side by side."""
    batch = []
    for path in sorted(SAMPLES.glob("*.json")):
        turns = json.loads(path.read_text())["turns"]
        dialogue = "\n".join(f"{turn['speaker']}: {turn['text']}" for turn in turns)
        for version in versions:
            rendered = prompts.load(version).render(transcript=f"{label}\n{dialogue}")
            messages = (Message(role="system", content=rendered.system), Message(role="user", content=rendered.user))
            batch.append(Prompt(messages=messages, max_tokens=max_tokens, schema=LONG_ANSWER))
    return batch


def ratio(rates: dict[str, list[float]]) -> float:
    return round(statistics.median(a / b for a, b in zip(rates["ours"], rates["peer"], strict=True)), 3)


if __name__ == "__main__":
    main()
