"""Our Whisper at the size of a real model, with random weights: how fast it is, whatever it writes.

`python -m benchmarks.asr --shape large-v3-turbo [--device cuda] [--windows N]`. Every window is dense and gets exactly
NUM_TOKENS tokens, with times; no text is tried again.

engine_x        seconds of audio per second through the engine, a median of ROUNDS
stage_x         seconds of speech per second through the whole ASR stage, fed from memory: two partitions at once, as
                its actor takes them, packed, read and written up
roofline_share  of the engine's time, what its arithmetic and its traffic with the memory would take at the speed that
                plain matrix products and copies reach on this device
idle_share      of the engine's time, what the device does nothing: on a GPU by its kernels' times, on a CPU by the
                process's processor time

On a GPU all of it is measured with the decoder's steps replayed as graphs, and launched one by one.
"""

import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from benchmarks.whisper_shapes import Shape, write_random
from ray_jobs.engines import whisper_decode, whisper_torch
from ray_jobs.engines.asr import MAX_WINDOW_S, Window
from ray_jobs.engines.whisper_torch import WhisperTorch
from ray_jobs.engines.whisper_weights import WhisperConfig
from ray_jobs.records import CallAudio, Span
from ray_jobs.spec import AsrSpec, ChannelSpec
from ray_jobs.stages.packing import pack
from ray_jobs.stages.transcribe import transcribe

NUM_TOKENS = 100
ROUNDS = 3
RATE_HZ = 8_000
SPAN_S, SPANS_PER_CHANNEL = 9.8, 30
END_TOKEN = 50_257
PUBLISHED_X = {"large-v3-turbo": 1_740}  # vLLM's on an H100, without voice detection


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """See the module's description."""

    batch_size: int
    engine_x: float
    stage_x: float
    roofline_share: float
    idle_share: float


def measure_shape(name: str, shape: Shape, device: str, num_windows: int, num_threads: int) -> dict[str, Any]:
    """The benchmark's result. `device`, cuda or cpu, has to be what the engine picks by itself."""
    if device != ("cuda" if torch.cuda.is_available() else "cpu"):
        raise SystemExit(f"error: --device {device}: the engine would not run there; see CUDA_VISIBLE_DEVICES")
    ways = {"graphs": True, "launches": False} if device == "cuda" else {"launches": False}
    with tempfile.TemporaryDirectory() as folder, forced_texts():
        write_random(Path(folder), shape, suppressed=(END_TOKEN,))
        asr = AsrSpec(engine="whisper_torch", model=folder, language="en")
        speeds = {}
        for way, cuda_graphs in ways.items():
            spec = asr.model_copy(update={"cuda_graphs": cuda_graphs})
            speeds[way] = measure_speed(spec, device, num_windows, num_threads)
            print(f"{way}: {speeds[way]}")
            gc.collect()  # the engine before frees the card
    best = max(speeds.values(), key=lambda speed: speed.engine_x)
    peer = PUBLISHED_X.get(name) if device == "cuda" else None
    return {
        "benchmark": "asr_shape",
        "shape": name,
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "threads": num_threads,
        "num_windows": num_windows,
        "tokens_per_window": NUM_TOKENS,
        "ours": best.engine_x,
        "peer": peer,
        "ratio": peer and round(best.engine_x / peer, 2),
        **{way: asdict(speed) for way, speed in speeds.items()},
    }


@contextmanager
def forced_texts() -> Iterator[None]:
    """Texts of NUM_TOKENS tokens, of a model that cannot write the end: no loop is stopped, no text read again."""
    with (
        patch.object(whisper_decode, "MAX_TOKENS", NUM_TOKENS),
        patch.object(whisper_decode, "_LOOP_TOKENS", NUM_TOKENS + 1),
        patch.object(whisper_torch, "_FALLBACK_TEMPERATURES", ()),
    ):
        yield


def measure_speed(asr: AsrSpec, device: str, num_windows: int, num_threads: int) -> Speed:
    engine = WhisperTorch(asr, num_threads)
    windows = list(dense_windows(num_windows))
    engine.transcribe(windows)
    engine_s = statistics.median(seconds(lambda: engine.transcribe(windows)) for _ in range(ROUNDS))
    partitions = [list(dense_calls(num_windows // 2, seed)) for seed in (1, 2)]
    speech_s = sum(call.speech_s for calls in partitions for call in calls)
    stage_s = statistics.median(seconds(lambda: run_stage(engine, asr, partitions)) for _ in range(ROUNDS))
    batch_size = min(engine._batch_size, num_windows)
    bound_s = num_windows * window_bound_s(engine._decoder.config, batch_size, *device_speed(device))
    return Speed(
        batch_size=engine._batch_size,
        engine_x=round(num_windows * MAX_WINDOW_S / engine_s, 1),
        stage_x=round(speech_s / stage_s, 1),
        roofline_share=round(bound_s / engine_s, 3),
        idle_share=round(idle_share(device, num_threads, lambda: engine.transcribe(windows)), 3),
    )


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


# -------------------------------------------------------------------------------------------------------------- input


def dense_windows(number: int) -> Iterator[Window]:
    """30 s of noise each."""
    random = np.random.default_rng(0)
    for _ in range(number):
        pcm = random.integers(-3_000, 3_000, int(MAX_WINDOW_S * RATE_HZ), np.int16)
        yield Window(pcm=pcm, sample_rate_hz=RATE_HZ, language="en")


def dense_calls(num_windows: int, seed: int) -> Iterator[CallAudio]:
    """Calls of two channels whose speech fills at least `num_windows` windows."""
    random = np.random.default_rng(seed)
    while num_windows > 0:
        spans_here = min(SPANS_PER_CHANNEL, 3 * -(-num_windows // 2))
        span_samples, step = int(SPAN_S * RATE_HZ), int((SPAN_S + 1.0) * RATE_HZ)
        spans = tuple(
            Span(channel=channel, start_sample=i * step, num_samples=span_samples)
            for channel in (0, 1)
            for i in range(spans_here)
        )
        call = CallAudio(
            call_id=f"call-{seed}-{num_windows}",
            uri="memory",
            duration_s=spans_here * step / RATE_HZ,
            sample_rate_hz=RATE_HZ,
            num_channels=2,
            spans=spans,
            pcm=random.integers(-3_000, 3_000, span_samples * len(spans), np.int16).tobytes(),
        )
        num_windows -= len(pack(call, "en"))
        yield call


def run_stage(engine: WhisperTorch, asr: AsrSpec, partitions: Sequence[Sequence[CallAudio]]) -> None:
    with ThreadPoolExecutor(len(partitions)) as threads:
        list(threads.map(lambda calls: transcribe(calls, engine, asr, ChannelSpec()), partitions))


# ------------------------------------------------------------------------------------------------------------- bounds


def window_bound_s(shape: WhisperConfig, batch_size: int, flops_per_s: float, bytes_per_s: float) -> float:
    """The least time for one window of a batch: its arithmetic, and what the decoder reads at every token."""
    width, positions, frames = shape.width, shape.audio_positions, 2 * shape.audio_positions
    convs = 2 * 3 * width * (shape.num_mels * frames + width * positions)
    encoder = shape.encoder_layers * (24 * width**2 * positions + 4 * positions**2 * width)
    cross_attention = shape.decoder_layers * 4 * shape.num_heads * width * positions
    decoder_weights = shape.decoder_layers * 16 * width**2 + shape.vocab_size * width
    flops = convs + encoder + NUM_TOKENS * (2 * decoder_weights + cross_attention)
    audio_and_text = width * positions + shape.decoder_layers * width * NUM_TOKENS
    read_bytes = 2 * NUM_TOKENS * (audio_and_text + decoder_weights / batch_size)
    return flops / flops_per_s + read_bytes / bytes_per_s


def device_speed(device: str) -> tuple[float, float]:
    """Floating point operations per second of a large half-precision product, and bytes per second of a copy."""
    dtype, size, num_bytes = (torch.float16, 8_192, 2**31) if device == "cuda" else (torch.bfloat16, 2_048, 2**28)
    matrix = torch.randn(size, size, device=device).to(dtype)
    memory = torch.zeros(num_bytes, dtype=torch.uint8, device=device)
    product_s = _best_s(device, lambda: matrix @ matrix)
    copy_s = _best_s(device, lambda: memory.clone())
    return 2 * size**3 / product_s, 2 * num_bytes / copy_s


def _best_s(device: str, work: Callable[[], object]) -> float:
    def synchronised() -> None:
        work()
        if device == "cuda":
            torch.cuda.synchronize()

    return min(seconds(synchronised) for _ in range(6))


def idle_share(device: str, num_threads: int, work: Callable[[], object]) -> float:
    """The share of `work`'s time in which the device computes nothing."""
    if device == "cpu":
        cpu_s = time.process_time()
        wall_s = seconds(work)
        return max(0.0, 1 - (time.process_time() - cpu_s) / wall_s / num_threads)
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        wall_s = seconds(work)
    kernels = [event.time_range for event in profiler.events() if event.device_type == DeviceType.CUDA]
    return max(0.0, 1 - covered((kernel.start, kernel.end) for kernel in kernels) / 1e6 / wall_s)


def covered(intervals: Iterable[tuple[float, float]]) -> float:
    """The length of what (start, end) intervals cover together."""
    total, reached = 0.0, -np.inf
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return float(total)
