"""How fast our Whisper is beside its peers: `python -m benchmarks.asr [--rounds N] [--threads N] [--peers NAME ...]`.

Every engine reads the same packed windows of the same calls, greedily, in English, without timestamp tokens, in turns
within one run. Ours takes the windows as the ASR stage hands them over and times every word; the peers get them
resampled to 16 kHz beforehand and put out text only, at the fastest of their settings, which is looked for first.

x            seconds of speech read per second: medians over the rounds
cpu_s        processor seconds per window: what is left to compare where other programs use the machine too
wer          word errors per reference word, runs of digits split: over the calls and, where CALLMILL_SPEECH_DATA names
             a folder of recordings that are not the project's to give away, its bank calls and read sentences. On so
             few words an engine's last bits move it by half a point: it is the mean over --shifts readings, each with
             10 ms less of every window, and wer_range says from where to where it went

where_time_goes  shares of our engine's time: the encoder's matrix products and attention, the decoder with language
                 detection, the front end, and what makes words of tokens

Peers: faster_whisper (int8, BatchedInferencePipeline), transformers (bfloat16, generate), vllm (bfloat16).

With --shape NAME instead: the speed of a published shape with random weights, on a GPU or a CPU; see asr_shape.py.
"""

import argparse
import csv
import json
import multiprocessing
import os
import re
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import numpy.typing as npt
from whisper_normalizer.english import EnglishTextNormalizer

from benchmarks.wer import Reference, Turn, bank_calls, prepare, sample_calls
from ray_jobs.engines import weights
from ray_jobs.engines.asr import Window
from ray_jobs.records import CallAudio
from ray_jobs.spec import AsrSpec
from ray_jobs.stages.packing import pack

MODEL = "whisper-base"
RATE_HZ = 16_000
READ_SENTENCES = ("ljspeech", "librispeech", "tel_g711")
CPU_ISAS = ("", "AVX2", "AVX512")
BATCH_SIZES = (8, 16)
PROBE_WINDOWS = 4
SHIFT_S = 0.01
PEERS = ("faster_whisper", "transformers", "vllm")
PARTS = ("front_end_s", "encoder_s", "decoder_s", "words_s")

Wave = npt.NDArray[np.float32]
Reader = Callable[[Sequence[Window], Sequence[Wave]], list[str]]
"""An engine as this benchmark sees it: windows, as they are and as waves at 16 kHz in [-1, 1], to texts."""

_normalise = EnglishTextNormalizer()


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """What one party says: the windows of it, and the reference."""

    windows: tuple[Window, ...]
    waves: tuple[Wave, ...]
    text: str


@dataclass(slots=True, kw_only=True)
class Timing:
    """One engine's runs over all windows, in seconds."""

    wall_s: list[float]
    cpu_s: list[float]


# -------------------------------------------------------------------------------------------------------------- data


def read_sentences(folder: Path) -> Iterator[Reference]:
    """Single sentences of the manifest's groups READ_SENTENCES."""
    with (folder / "manifest.tsv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            if row["group"] in READ_SENTENCES:
                turn = Turn(channel=0, start_s=0.0, end_s=float(row["duration_s"]), text=row["reference"])
                yield Reference(path=folder / row["file"], turns=(turn,))


def load_channels(references: Sequence[Reference]) -> list[Channel]:
    """The speech that the product's ETL finds, packed as its ASR stage packs it."""
    calls = zip(references, prepare(references), strict=True)
    return [channel for reference, audio in calls for channel in _channels(reference, audio)]


def _channels(reference: Reference, audio: CallAudio) -> Iterator[Channel]:
    packed = pack(audio, "en")
    for number in sorted({window.channel for window in packed}):
        windows = [window.window for window in packed if window.channel == number]
        said = [turn.text for turn in reference.turns if turn.channel == number or audio.num_channels == 1]
        yield Channel(windows=tuple(windows), waves=tuple(_waves(windows)), text=" ".join(said))


def _waves(windows: Sequence[Window]) -> list[Wave]:
    import torch

    from ray_jobs.engines.waves import num_samples, to_waves

    waves = to_waves(windows, torch.device("cpu")).numpy()
    return [wave[: num_samples(window)].copy() for wave, window in zip(waves, windows, strict=True)]


# ----------------------------------------------------------------------------------------------------------- engines


def load_ours(num_threads: int) -> tuple[Reader, Any]:
    """Our engine, and the object itself for its stats."""
    from ray_jobs.engines.whisper_torch import WhisperTorch

    engine = WhisperTorch(AsrSpec(engine="whisper_torch", model=MODEL), num_threads)

    def read(windows: Sequence[Window], _waves: Sequence[Wave]) -> list[str]:
        return [" ".join(segment.text for segment in text.segments) for text in engine.transcribe(windows)]

    return read, engine


def load_faster_whisper(num_threads: int, batch_size: int) -> Reader:
    from faster_whisper import BatchedInferencePipeline, WhisperModel

    folder = str(weights.resolve(MODEL, "faster_whisper"))
    model = WhisperModel(folder, device="cpu", compute_type="int8", cpu_threads=num_threads)
    pipeline = BatchedInferencePipeline(model)

    def read(_windows: Sequence[Window], waves: Sequence[Wave]) -> list[str]:
        ends = np.cumsum([len(wave) for wave in waves]) / RATE_HZ
        starts = [0.0, *ends[:-1].tolist()]
        clips = [{"start": start, "end": end} for start, end in zip(starts, ends.tolist(), strict=True)]
        segments, _ = pipeline.transcribe(
            np.concatenate(waves),
            language="en",
            beam_size=1,
            temperature=0.0,
            batch_size=batch_size,
            vad_filter=False,
            clip_timestamps=clips,
            without_timestamps=True,
        )
        texts = [""] * len(waves)
        for segment in segments:
            texts[int(np.searchsorted(ends, (segment.start + segment.end) / 2))] += segment.text
        return texts

    return read


def load_transformers(num_threads: int, folder: Path) -> Reader:
    """transformers' generate in bfloat16, sixteen windows at a time."""
    import torch
    from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperTokenizerFast

    torch.set_num_threads(num_threads)
    model = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16).eval()
    extractor = WhisperFeatureExtractor()
    tokenizer = WhisperTokenizerFast.from_pretrained(folder)

    def read(_windows: Sequence[Window], waves: Sequence[Wave]) -> list[str]:
        texts = []
        for first in range(0, len(waves), 16):
            batch = list(waves[first : first + 16])
            features = extractor(batch, sampling_rate=RATE_HZ, return_tensors="pt").input_features
            prompt = torch.tensor([tokenizer.convert_tokens_to_ids(_PROMPT)] * len(batch))
            with torch.inference_mode():
                tokens = model.generate(features.bfloat16(), decoder_input_ids=prompt, max_new_tokens=224)
            texts += tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return texts

    return read


def load_vllm(num_threads: int, folder: Path) -> Reader:
    """vLLM in bfloat16; its engine is a process of its own, whose processor time is not counted.

    Eager, as compiling takes longer than reading everything does.
    """
    os.environ.update(VLLM_CPU_KVCACHE_SPACE="2", HF_HUB_OFFLINE="1", OMP_NUM_THREADS=str(num_threads))
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"  # by itself it leaves a core to the client
    from vllm import LLM, SamplingParams

    model = LLM(str(folder), dtype="bfloat16", max_num_seqs=16, enforce_eager=True, limit_mm_per_prompt={"audio": 1})
    sampling = SamplingParams(temperature=0.0, max_tokens=224)

    def read(_windows: Sequence[Window], waves: Sequence[Wave]) -> list[str]:
        audio = [{"multi_modal_data": {"audio": (wave, RATE_HZ)}, "prompt": "".join(_PROMPT)} for wave in waves]
        return [output.outputs[0].text for output in model.generate(audio, sampling, use_tqdm=False)]

    return read


_PROMPT = ("<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>")


# ------------------------------------------------------------------------------------------------------- measurement


def best_faster_whisper(channels: Sequence[Channel], num_threads: int) -> tuple[str, int]:
    """The instruction set and batch size at which the peer is fastest; each set in a process of its own."""
    windows, waves = _flat(channels)
    step = max(1, len(windows) // PROBE_WINDOWS)
    probe = (windows[::step], waves[::step], num_threads)
    found = []
    for isa in CPU_ISAS:
        with multiprocessing.get_context("spawn").Pool(1, initializer=_set_isa, initargs=(isa,)) as pool:
            for batch_size in BATCH_SIZES:
                elapsed_s = pool.apply(_probe, (*probe, batch_size))
                print(f"faster_whisper {isa or 'default'} batch {batch_size}: {elapsed_s / len(probe[0]):.3f} s/window")
                found.append((elapsed_s, isa, batch_size))
    _, isa, batch_size = min(found)
    return isa, batch_size


def _set_isa(isa: str) -> None:
    """CTranslate2 reads the variable once, when it is loaded."""
    if isa:
        os.environ["CT2_FORCE_CPU_ISA"] = isa


def _probe(windows: Sequence[Window], waves: Sequence[Wave], num_threads: int, batch_size: int) -> float:
    read = load_faster_whisper(num_threads, batch_size)
    return min(_run(read, windows, waves)[0] for _ in range(2))


def _run(read: Reader, windows: Sequence[Window], waves: Sequence[Wave]) -> tuple[float, float]:
    """Wall and processor seconds of one reading."""
    wall, cpu = time.perf_counter(), time.process_time()
    read(windows, waves)
    return time.perf_counter() - wall, time.process_time() - cpu


def alternate(readers: dict[str, Reader], channels: Sequence[Channel], num_rounds: int) -> dict[str, Timing]:
    windows, waves = _flat(channels)
    timings = {name: Timing(wall_s=[], cpu_s=[]) for name in readers}
    for _ in range(num_rounds):
        for name, read in readers.items():
            wall_s, cpu_s = _run(read, windows, waves)
            timings[name].wall_s.append(wall_s)
            timings[name].cpu_s.append(cpu_s)
    return timings


def error_rates(read: Reader, channels: Sequence[Channel], num_shifts: int) -> list[float]:
    """Word error rates of windows that begin later and later: what is said in them stays."""
    return [word_error_rate(read, [_shifted(channel, SHIFT_S * i) for channel in channels]) for i in range(num_shifts)]


def _shifted(channel: Channel, shift_s: float) -> Channel:
    windows = tuple(
        replace(window, pcm=window.pcm[round(shift_s * window.sample_rate_hz) :]) for window in channel.windows
    )
    waves = tuple(wave[round(shift_s * RATE_HZ) :] for wave in channel.waves)
    return replace(channel, windows=windows, waves=waves)


def word_error_rate(read: Reader, channels: Sequence[Channel]) -> float:
    texts = iter(read(*_flat(channels)))
    heard = [" ".join(next(texts) for _ in channel.windows) for channel in channels]
    pairs = [(_normal(channel.text), _normal(text)) for channel, text in zip(channels, heard, strict=True)]
    errors = sum(len(hypothesis.split()) for reference, hypothesis in pairs if not reference)
    spoken = [pair for pair in pairs if pair[0]]
    score = jiwer.process_words([reference for reference, _ in spoken], [hypothesis for _, hypothesis in spoken])
    errors += score.substitutions + score.deletions + score.insertions
    return errors / sum(len(reference.split()) for reference, _ in spoken)


def _normal(text: str) -> str:
    return re.sub(r"(?<=\d)(?=\d)", " ", _normalise(text))


def _flat(channels: Sequence[Channel]) -> tuple[list[Window], list[Wave]]:
    windows = [window for channel in channels for window in channel.windows]
    return windows, [wave for channel in channels for wave in channel.waves]


def where_time_goes(engine: Any, channels: Sequence[Channel]) -> dict[str, float]:
    """Shares of our engine's time by part, the encoder's by kind of operation."""
    windows, _ = _flat(channels)
    before = engine.stats()
    engine.transcribe(windows)
    parts = {name: engine.stats()[name] - before[name] for name in before if name in PARTS}
    encoder_s = parts.pop("encoder_s")
    parts |= {f"encoder_{kind}_s": share * encoder_s for kind, share in _encoder_shares(engine, windows).items()}
    total = sum(parts.values())
    return {name.removesuffix("_s"): round(part / total, 3) for name, part in parts.items()}


def _encoder_shares(engine: Any, windows: Sequence[Window]) -> dict[str, float]:
    """How the encoder's time for some windows, on one core, divides among kinds of operations."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    torch.set_num_threads(1)
    with torch.inference_mode():
        log_mel = engine._log_mel(windows[:PROBE_WINDOWS])
        engine._encoder(log_mel)
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            engine._encoder(log_mel)
    times = dict.fromkeys(("gemm", "attention", "other"), 0.0)
    for event in profiler.key_averages():
        # Without AMX attention is plain products and softmax (engines/attention.py); those of weights add a bias.
        is_attention = re.search(r"attention|softmax|::b?mm$", event.key)
        kind = "attention" if is_attention else "gemm" if re.search("mm|linear", event.key) else "other"
        times[kind] += event.self_cpu_time_total
    return {kind: spent / sum(times.values()) for kind, spent in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.asr", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--shifts", type=int, default=5, help="readings that the word error rate is the mean of")
    parser.add_argument("--peers", nargs="+", default=["faster_whisper"], choices=PEERS, help="the first is the one")
    parser.add_argument("--shape", help="measure a model of random weights instead: tiny ... large-v3-turbo")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="with --shape")
    parser.add_argument("--windows", type=int, default=2_048, help="with --shape: how many are read at once")
    options = parser.parse_args()
    if options.shape:
        from benchmarks.asr_shape import measure_shape
        from benchmarks.whisper_shapes import SHAPES

        if options.shape not in SHAPES:
            parser.error(f"--shape {options.shape}: there are {', '.join(SHAPES)}")
        print(
            json.dumps(
                measure_shape(options.shape, SHAPES[options.shape], options.device, options.windows, options.threads)
            )
        )
        return
    folder = os.environ.get("CALLMILL_SPEECH_DATA")
    calls = load_channels([*sample_calls(), *(bank_calls(Path(folder)) if folder else ())])
    sentences = load_channels(list(read_sentences(Path(folder)))) if folder else []
    speech_s = sum(len(wave) for channel in calls for wave in channel.waves) / RATE_HZ
    num_windows = sum(len(channel.windows) for channel in calls)
    print(f"{num_windows} windows of calls, {speech_s:.0f} s; {len(sentences)} sentences")

    settings: dict[str, object] = {}
    readers: dict[str, Reader] = {}
    if "faster_whisper" in options.peers:
        isa, batch_size = best_faster_whisper(calls, options.threads)
        settings = {"peer_isa": isa or "default", "peer_batch_size": batch_size}
        _set_isa(isa)
    readers["ours"], engine = load_ours(options.threads)
    for peer in options.peers:
        if peer == "faster_whisper":
            readers[peer] = load_faster_whisper(options.threads, batch_size)
        else:
            load = load_transformers if peer == "transformers" else load_vllm
            readers[peer] = load(options.threads, weights.resolve(MODEL, "whisper_vllm"))  # a Hugging Face folder
    timings = alternate(readers, calls, options.rounds)
    rates = {name: error_rates(read, [*calls, *sentences], options.shifts) for name, read in readers.items()}

    engines = {}
    for name, timing in timings.items():
        wall_s, cpu_s = statistics.median(timing.wall_s), statistics.median(timing.cpu_s)
        engines[name] = {
            "x": round(speech_s / wall_s, 1),
            "cpu_s": round(cpu_s / num_windows, 3),
            "wer": round(statistics.mean(rates[name]), 4),
            "wer_range": [round(min(rates[name]), 4), round(max(rates[name]), 4)],
        }
        print(f"{name:15s} {engines[name]}  {asdict(timing)}")
    ours, peer = engines["ours"], engines[options.peers[0]]
    result = {
        "benchmark": "asr",
        "model": MODEL,
        "threads": options.threads,
        "speech_s": round(speech_s),
        "num_windows": num_windows,
        "ours": ours["x"],
        "peer": peer["x"],
        "ratio": round(ours["x"] / peer["x"], 2),
        "cpu_ratio": round(peer["cpu_s"] / ours["cpu_s"], 2),
        "wer_ours": ours["wer"],
        "wer_peer": peer["wer"],
        "where_time_goes": where_time_goes(engine, calls),
        "engines": engines,
        **settings,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
