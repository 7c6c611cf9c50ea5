"""What our engine costs over bare vLLM: `python -m benchmarks.llm [--rounds N] [--max-tokens N]`.

The summary prompts of the sample calls' reference texts go through `VllmLocal.generate` and through
`vllm.LLM.chat`, in turn, with the same engine arguments, sampling and threads; the schema asks for more than the
budget allows, so that both write the same number of tokens. Each round puts its number before the transcripts, so that
no round is served from the prefix cache of the one before; the order changes with every round. Each engine has a
process of its own: of two in one process, the one loaded second is up to a fifth faster, whichever it is.

ours, peer      completion tokens per second, median over rounds
ratio           median over rounds of ours / peer in the same round
cpu_ratio       the same per CPU second: what to read where other work shares the machine and no GPU does the work
load_s          seconds until each engine was ready, the import of vLLM included, one after the other
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from ray_jobs import prompts
from ray_jobs.engines import weights
from ray_jobs.engines.llm import Message, Prompt
from ray_jobs.engines.vllm_local import ENVIRONMENT, VllmLocal, engine_arguments
from ray_jobs.spec import LlmSpec

SPEC = LlmSpec(context_tokens=2048, kv_cache_gib=0.5)
LONG_ANSWER = {
    "type": "object",
    "properties": {"summary": {"type": "string", "minLength": 2000}},
    "required": ["summary"],
}
SAMPLES = Path(__file__).parents[1] / "tests" / "data" / "sample_calls"

Tokens = list[tuple[int, int]]
"""Of each prompt: its own tokens and its completion's."""

ask: list[Callable[[Sequence[Prompt]], Tokens]] = []
"""In an engine's own process, the one way to ask it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--max-tokens", type=int, default=48)
    parsed = parser.parse_args()
    engines, load_s = {}, {}
    for name in ("ours", "peer"):
        began = time.perf_counter()
        engines[name] = ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn"))
        engines[name].submit(load, name).result()
        load_s[name] = round(time.perf_counter() - began, 1)
    rates: dict[str, list[float]] = {name: [] for name in engines}
    cpu_rates: dict[str, list[float]] = {name: [] for name in engines}
    for number in range(parsed.rounds + 1):  # the first warms up
        batch = batch_of(f"round {number}", parsed.max_tokens)
        names = ("ours", "peer") if number % 2 else ("peer", "ours")
        measured = {name: engines[name].submit(run, batch).result() for name in names}
        assert measured["ours"][0] == measured["peer"][0], "the engines were not asked the same"
        for name, (tokens, wall_s, cpu_s) in measured.items() if number else ():
            num_tokens = sum(completion_tokens for _, completion_tokens in tokens)
            rates[name].append(num_tokens / wall_s)
            cpu_rates[name].append(num_tokens / cpu_s)
            print(f"round {number}  {name}  {num_tokens} tokens  {wall_s:.2f} s  {cpu_s:.2f} CPU-s", flush=True)
    result = {
        "benchmark": "llm",
        "ours": round(statistics.median(rates["ours"]), 1),
        "peer": round(statistics.median(rates["peer"]), 1),
        "ratio": ratio(rates),
        "cpu_ratio": ratio(cpu_rates),
        "unit": "completion tokens/s",
        "model": SPEC.model,
        "num_prompts": len(batch_of("", 1)),
        "rounds": parsed.rounds,
        "load_s": load_s,
    }
    for engine in engines.values():
        engine.shutdown()
    print(json.dumps(result))


def batch_of(label: str, max_tokens: int) -> list[Prompt]:
    """One summary prompt per sample call."""
    file = prompts.load("summary/v1")
    batch = []
    for path in sorted(SAMPLES.glob("*.json")):
        turns = json.loads(path.read_text())["turns"]
        dialogue = "\n".join(f"{turn['speaker']}: {turn['text']}" for turn in turns)
        rendered = file.render(transcript=f"{label}\n{dialogue}")
        messages = (Message(role="system", content=rendered.system), Message(role="user", content=rendered.user))
        batch.append(Prompt(messages=messages, max_tokens=max_tokens, schema=LONG_ANSWER))
    return batch


def load(name: str) -> None:
    """In the engine's own process: load it, and keep how it is asked."""
    import torch

    torch.set_num_threads(max(1, round(SPEC.actors.num_cpus)))  # the peer runs in this thread, ours limits its own
    if name == "ours":
        ours = VllmLocal(SPEC)
        ask.append(lambda batch: [(c.prompt_tokens, c.completion_tokens) for c in ours.generate(batch)])
    else:
        peer = load_peer()
        ask.append(lambda batch: chat(peer, batch))


def run(batch: Sequence[Prompt]) -> tuple[Tokens, float, float]:
    """One batch: its tokens, and what it took in seconds and in CPU seconds of all the process's threads."""
    began, cpu_began = time.perf_counter(), time.process_time()
    tokens = ask[0](batch)
    return tokens, time.perf_counter() - began, time.process_time() - cpu_began


def ratio(rates: dict[str, list[float]]) -> float:
    return round(statistics.median(a / b for a, b in zip(rates["ours"], rates["peer"], strict=True)), 3)


def load_peer() -> Any:
    os.environ |= ENVIRONMENT
    from vllm import LLM
    from vllm.platforms import current_platform

    folder = weights.resolve(SPEC.model, "vllm_local")
    return LLM(**engine_arguments(SPEC, folder, on_cpu=bool(current_platform.is_cpu())))


def chat(peer: Any, batch: Sequence[Prompt]) -> Tokens:
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    outputs = peer.chat(
        [[{"role": message.role, "content": message.content} for message in prompt.messages] for prompt in batch],
        [
            SamplingParams(
                temperature=0.0,
                max_tokens=prompt.max_tokens,
                structured_outputs=StructuredOutputsParams(json=dict(prompt.schema or {})),
            )
            for prompt in batch
        ],
        use_tqdm=False,
    )
    return [(len(output.prompt_token_ids), len(output.outputs[0].token_ids)) for output in outputs]


if __name__ == "__main__":
    main()
