"""What audio ETL costs per core: `python -m benchmarks.etl [--calls N] [--rounds N] [--speech FOLDER]`.

Stereo G.711 calls, half of each channel silence (the sample calls strung together in seeded orders), go from files on
the local disk to tables of speech in Ray's object store: Spark on Ray, as the main job has it, in waves of several
partitions. In the same run, in turn, the peers' way has the same calls: soundfile, torchaudio's resampling to 16 kHz,
and Silero VAD stream by stream with our spec's settings, once with the package's usual streaming model and once with
its sequence model, which is its fastest (the `peer` of the ratio).

ours, peer         call-seconds per core-second, median over rounds: the CPU time of all processes, Ray's and the JVMs'
                   included, from the second wave on; start_up_core_s is what comes before, however many calls follow
ours_no_spark      the same without Spark and Ray: bytes in memory to rows of speech, in this process
frame_f1           agreement with per-stream Silero on its 32 ms chunks at the threshold, lowest over corpora
frame_f1_spans     the same for what is kept in the end, after padding and merging
turns              share of the sample calls' turns that is kept (recall), and of the rest (extra), ours and peer's
cross_talk         each party bleeds into the other's channel: share of that bleed that is kept, and of one's own speech
                   while both talk (of what is kept of it without bleed)
peak_memory_mib    of an executor, its JVM and its Python worker, and of this way without Spark in a fresh process,
                   against the minutes of calls in its partition
long_call          the same of one recording of some hours on disk, beside the speech it hands over

Needs soundfile and silero-vad. --speech adds a folder of recordings, with a manifest.tsv, to the agreement.
"""

import argparse
import csv
import json
import os
import random
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import psutil

from benchmarks.corpus import mu_law_wav, resample
from ray_jobs.ledger import Ledger, Partition
from ray_jobs.records import Call, CallAudio
from ray_jobs.runtime import SPARK_MASTER_CPUS, prepare_environment, ray_cluster
from ray_jobs.spec import EtlSpec, parse_spec
from spark_etl import job
from spark_etl.decode import Samples
from spark_etl.helper import Decoder
from spark_etl.job import open_part
from spark_etl.plan import make_plan
from spark_etl.prepare import prepare_partition
from spark_etl.recording import Recording as Stored
from spark_etl.vad import CHUNK_S, speech_probabilities

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

SAMPLES = Path(__file__).parents[1] / "tests" / "data" / "sample_calls"
STEREO = (
    "01_billing_dispute",
    "02_card_payment",
    "03_internet_outage",
    "04_appointment",
    "05_cancellation",
    "08_tech_support",
)
ETL = EtlSpec()
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """Decoded audio and, where they are known, its turns as (channel, start_s, end_s)."""

    name: str
    sample_rate_hz: int
    pcm: Samples
    turns: tuple[tuple[int, float, float], ...] = ()

    @property
    def num_chunks(self) -> int:
        return int(self.pcm.shape[1] / self.sample_rate_hz / CHUNK_S)


# ------------------------------------------------------------------------------------------------------------ audio


def sample_calls() -> Iterator[Recording]:
    for path in sorted(SAMPLES.glob("0*.json")):
        document = json.loads(path.read_text())
        turns = tuple((turn["channel"], turn["start_s"], turn["end_s"]) for turn in document["turns"])
        yield _decoded(SAMPLES / document["file"], turns)


def speech_data(folder: Path) -> Iterator[Recording]:
    """The recordings of a manifest.tsv that are at least 2 s long, and the stereo calls beside it."""
    with (folder / "manifest.tsv").open() as manifest:
        for row in csv.DictReader(manifest, delimiter="\t"):
            if float(row["duration_s"]) >= 2:
                yield _decoded(folder / row["file"])


def _decoded(path: Path, turns: tuple[tuple[int, float, float], ...] = ()) -> Recording:
    with Decoder(max_s=3600, timeout_s=60) as decoder:
        blocks = list(decoder.decode(Stored(path.open("rb"))))
    pcm = np.concatenate([block.pcm for block in blocks], axis=1)
    return Recording(name=path.stem, sample_rate_hz=blocks[0].sample_rate_hz, pcm=pcm, turns=turns)


def telephone_calls(num_calls: int) -> tuple[list[bytes], float, float]:
    """mu-law stereo WAV files, the sample calls in seeded orders; their seconds; the silent share of a channel."""
    parts = [(resample(c.pcm, c.sample_rate_hz), c.turns) for c in sample_calls() if c.name in STEREO]
    shuffle = random.Random(0)
    calls = [np.concatenate(shuffle.sample([pcm for pcm, _ in parts], len(parts)), axis=1) for _ in range(num_calls)]
    # No two are of one length: they would be looked at as duplicates, and some orders do come twice.
    files = [mu_law_wav(pcm[:, number * 8 :]) for number, pcm in enumerate(calls)]
    call_s = sum(pcm.shape[1] for pcm, _ in parts) / 8000
    spoken_s = sum(end - start for _, turns in parts for _, start, end in turns)
    return files, call_s * num_calls, 1 - spoken_s / (2 * call_s)


# ------------------------------------------------------------------------------------------------------------- ways


def ours(files: Sequence[bytes]) -> list[CallAudio]:
    calls = [  # each has a size of its own: none is looked at as a duplicate
        Call(call_id=str(i), uri=str(i), source=str(i), size_bytes=i, version="", expected_speech_s=0)
        for i in range(len(files))
    ]
    rows = prepare_partition(calls, ETL, lambda part, _: Stored.holding(files[int(part.uri)]))
    return [row for row in rows if isinstance(row, CallAudio)]


class Peer:
    """Per-stream Silero VAD from the silero-vad package, fed as its own loader feeds it."""

    def __init__(self, *, sequence: bool) -> None:
        import silero_vad
        import torch

        torch.set_num_threads(1)
        self._model = silero_vad.load_silero_vad(onnx=True)
        self._timestamps = silero_vad.get_speech_timestamps
        self._sequence = None
        if sequence:
            from silero_vad.sequence_vad import SileroVADSequence
            from silero_vad.utils_vad import get_speech_timestamps_from_probs

            self._from_probabilities = get_speech_timestamps_from_probs
            self._sequence = SileroVADSequence(
                Path(silero_vad.__file__).parent / "data" / "silero_vad_16k_sequence.onnx"
            )

    def __call__(self, files: Sequence[bytes]) -> list[list[list[dict[str, int]]]]:
        """For each file and channel its spans in samples at 16 kHz."""
        import soundfile

        found = []
        for data in files:
            pcm, rate = soundfile.read(BytesIO(data), dtype="float32", always_2d=True)
            found.append([self.spans(channel) for channel in _at_16khz(pcm.T, rate)])
        return found

    def spans(self, channel: npt.NDArray[np.float32]) -> list[dict[str, int]]:
        settings = {
            "threshold": ETL.vad.threshold,
            "min_speech_duration_ms": ETL.vad.min_speech_ms,
            "max_speech_duration_s": ETL.vad.max_speech_s,
            "min_silence_duration_ms": ETL.vad.min_silence_ms,
            "speech_pad_ms": ETL.vad.pad_ms,
        }
        if self._sequence is None:
            return list(self._timestamps(channel, self._model, **settings))
        values = self.probabilities(channel).tolist()
        return list(self._from_probabilities(values, audio_length_samples=len(channel), **settings))

    def probabilities(self, channel: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        assert self._sequence is not None
        probabilities: npt.NDArray[np.float32] = self._sequence.audio_forward(channel)
        return probabilities


def _at_16khz(pcm: npt.NDArray[np.float32], rate: int) -> npt.NDArray[np.float32]:
    import torch
    import torchaudio

    wide = np.ascontiguousarray(pcm)
    if rate != 16000:
        wide = torchaudio.functional.resample(torch.from_numpy(wide), rate, 16000).numpy()
    return wide


def _wide(recording: Recording) -> npt.NDArray[np.float32]:
    """What the peer's loader makes of a recording: float32 in [-1, 1), shape (num_channels, num_samples), 16 kHz."""
    return _at_16khz(recording.pcm.astype(np.float32) * np.float32(1 / 32768), recording.sample_rate_hz)


@contextmanager
def spark_on_ray() -> Iterator["SparkSession"]:
    """A Ray of this process's own and Spark on it, as the spec's defaults have them."""
    spec = parse_spec({"input": {"uri": "."}, "llm": {"engine": "none"}})
    prepare_environment(("etl",))
    with ray_cluster(spec, ("etl",)):
        try:
            yield job.start_spark(spec.etl.spark, SPARK_MASTER_CPUS)
        finally:
            job.stop_spark()


def planned(files: Sequence[bytes], folder: Path, calls_per_partition: int) -> Sequence[Partition]:
    """The partitions of these calls, which are put into the folder."""
    for number, data in enumerate(files):
        (folder / f"{number:04}.wav").write_bytes(data)
    limits = {"max_calls": calls_per_partition, "max_speech_s": 1e9, "max_bytes": 1 << 40}
    document = {"input": {"uri": str(folder)}, "output": {"uri": str(folder / "out")}, "etl": {"partition": limits}}
    return make_plan(parse_spec(document), Ledger(str(folder / "out"))).partitions


def through_spark(spark: "SparkSession", partitions: Sequence[Partition]) -> None:
    """One wave, into Ray's object store and out of Spark's caches again."""
    import ray

    wave = job.cache_wave(spark, job.prepare_wave(spark, partitions, ETL))
    for table in job.to_ray(wave):
        ray.get(table)
    job.release(spark, wave)


def executor_peak_mib() -> dict[str, float]:
    """What the executor's JVM and its Python worker have needed at their height so far."""
    peaks = {"jvm": 0.0, "python": 0.0}
    for process in psutil.Process().children(recursive=True):
        if process.name() == "java" and process.children():
            workers = [child for child in process.children(recursive=True) if child.name().startswith("python")]
            if workers:
                peaks["jvm"] = max(peaks["jvm"], _peak_mib(process.pid))
                peaks["python"] = max(_peak_mib(worker.pid) for worker in workers)
    return peaks


def peak_memory_mib(num_calls: int) -> float:
    """What a fresh process that prepares a partition of so many calls needs at its height, the calls included."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_peak_memory_mib, num_calls).result()


def _peak_memory_mib(num_calls: int) -> float:
    ours(telephone_calls(num_calls)[0])
    return _peak_mib(os.getpid())


def long_call(hours: int) -> dict[str, float]:
    """What a fresh process needs at its height to prepare one recording of so many hours, and what it hands over."""
    [data], call_s, _ = telephone_calls(1)
    header, audio = data[: data.index(b"data") + 4], data[data.index(b"data") + 8 :]
    num_times = int(hours * 3600 / call_s)
    with NamedTemporaryFile(suffix=".wav") as file:
        file.write(header + (num_times * len(audio)).to_bytes(4, "little"))
        file.writelines(repeat(audio, num_times))
        file.flush()
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            return pool.submit(_long_call, file.name).result()


def _long_call(path: str) -> dict[str, float]:
    call = Call(call_id="long", uri=path, source=path, size_bytes=0, version="", expected_speech_s=0)
    [row] = prepare_partition([call], EtlSpec(max_call_s=1e6), open_part)
    assert isinstance(row, CallAudio)
    return {
        "hours": row.duration_s / 3600,
        "peak_memory_mib": _peak_mib(os.getpid()),
        "speech_mib": len(row.pcm) / 2**20,
    }


def _peak_mib(process_id: int) -> float:
    status = Path(f"/proc/{process_id}/status").read_text()  # getrusage would count what the parent was at the fork
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def core_seconds(work: Callable[[], object]) -> float:
    """CPU seconds that this process, and all below it, spend meanwhile."""
    before = _cpu_s()
    work()
    return _cpu_s() - before


def _cpu_s() -> float:
    """Of processes that have ended, their parents know."""
    total = 0.0
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        with suppress(psutil.Error):
            total += sum(process.cpu_times()[:4])
    return total


# ---------------------------------------------------------------------------------------------------------- agreement


def agreement(recordings: Sequence[Recording], peer: Peer) -> tuple[float, float]:
    """Frame F1 of ours against the peer: of probabilities at the threshold, and of the spans kept."""
    frames, kept = np.zeros(3), np.zeros(3)
    for recording in recordings:
        wide = _wide(recording)
        values = speech_probabilities(list(recording.pcm), recording.sample_rate_hz)
        spans = our_masks(recording)
        for channel, samples in enumerate(wide):
            theirs = peer.probabilities(samples)
            length = min(len(theirs), len(values[channel]))
            frames += _matches(values[channel][:length] >= ETL.vad.threshold, theirs[:length] >= ETL.vad.threshold)
            kept += _matches(
                spans[channel], _mask(((s["start"], s["end"]) for s in peer.spans(samples)), 16000, recording)
            )
    return _f1(frames), _f1(kept)


def _matches(one: Mask, other: Mask) -> npt.NDArray[np.float64]:
    return np.array([np.sum(one & other), np.sum(one), np.sum(other)], np.float64)


def _f1(counts: npt.NDArray[np.float64]) -> float:
    return float(2 * counts[0] / (counts[1] + counts[2])) if counts[1] + counts[2] else 1.0


def our_masks(recording: Recording) -> list[Mask]:
    """What the product keeps of a recording, per channel, in chunks."""
    data = _pcm_wav(recording)
    rows = ours([data])
    spans = rows[0].spans if rows else ()
    return [
        _mask(
            ((s.start_sample, s.start_sample + s.num_samples) for s in spans if s.channel == channel),
            recording.sample_rate_hz,
            recording,
        )
        for channel in range(len(recording.pcm))
    ]


def _pcm_wav(recording: Recording) -> bytes:
    import wave

    file = BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(len(recording.pcm))
        out.setsampwidth(2)
        out.setframerate(recording.sample_rate_hz)
        out.writeframes(recording.pcm.T.tobytes())
    return file.getvalue()


def _mask(spans: Iterator[tuple[int, int]], rate: int, recording: Recording) -> Mask:
    mask = np.zeros(recording.num_chunks, np.bool_)
    for start, end in spans:
        mask[round(start / rate / CHUNK_S) : round(end / rate / CHUNK_S)] = True
    return mask


def turn_masks(recording: Recording, margin_s: float = 0.0) -> list[Mask]:
    turns = [(c if len(recording.pcm) > 1 else 0, start, end) for c, start, end in recording.turns]
    return [
        _mask(
            (
                (round((start - margin_s) * 1000), round((end + margin_s) * 1000))
                for c, start, end in turns
                if c == channel
            ),
            1000,
            recording,
        )
        for channel in range(len(recording.pcm))
    ]


def against_turns(recordings: Sequence[Recording], peer: Peer) -> dict[str, dict[str, float]]:
    """How much of the turns is kept, and how much else, as shares of the turns' time and of the rest."""
    counts = {"ours": np.zeros(4), "peer": np.zeros(4)}
    for recording in recordings:
        wide = _wide(recording)
        theirs = [_mask(((s["start"], s["end"]) for s in peer.spans(samples)), 16000, recording) for samples in wide]
        for name, masks in (("ours", our_masks(recording)), ("peer", theirs)):
            for mask, turns in zip(masks, turn_masks(recording), strict=True):
                counts[name] += np.sum(mask & turns), np.sum(turns), np.sum(mask & ~turns), np.sum(~turns)
    return {name: {"recall": c[0] / c[1], "extra": c[2] / c[3]} for name, c in counts.items()}


def cross_talk(recordings: Sequence[Recording]) -> dict[str, dict[str, float]]:
    """Bleed of either party into the other at -15 and -23 dB: what of it is kept, and what of true overlap."""
    stereo = [recording for recording in recordings if len(recording.pcm) == 2]
    results = {}
    for gain_db in (-15, -23):
        bleed, overlap, clean_overlap = np.zeros(2), 0, 0
        for recording in stereo:
            clean = recording.pcm.astype(np.float64)
            mixed = (clean + clean[::-1] * 10 ** (gain_db / 20)).clip(-32768, 32767).astype(np.int16)
            with_bleed = our_masks(Recording(name="", sample_rate_hz=recording.sample_rate_hz, pcm=mixed))
            without = our_masks(recording)
            turns, near = turn_masks(recording), turn_masks(recording, margin_s=0.3)
            for own, other in ((0, 1), (1, 0)):
                only_other = turns[other] & ~near[own]
                bleed += np.sum(with_bleed[own] & only_other), np.sum(only_other)
                both = turns[own] & turns[other] & without[own]
                overlap += int(np.sum(with_bleed[own] & both))
                clean_overlap += int(np.sum(both))
        results[f"{gain_db} dB"] = {"bleed_kept": bleed[0] / bleed[1], "overlap_kept": overlap / clean_overlap}
    return results


# --------------------------------------------------------------------------------------------------------------- main


def main() -> None:
    parser = argparse.ArgumentParser(description="Call-seconds of audio ETL per core-second, beside per-stream Silero.")
    parser.add_argument("--calls", type=int, default=12, help="calls of six minutes in a partition")
    parser.add_argument("--partitions", type=int, default=4, help="partitions in a wave of Spark")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--speech", type=Path, metavar="FOLDER", help="recordings and their manifest.tsv")
    arguments = parser.parse_args()
    try:
        streaming, sequence = Peer(sequence=False), Peer(sequence=True)
        import soundfile  # noqa: F401
    except ImportError as error:
        sys.exit(f"the peer is missing: {error.name}; pip install soundfile silero-vad")

    files, call_s, silent = telephone_calls(arguments.calls * arguments.partitions)
    each_s = call_s / len(files)
    print(f"{len(files)} stereo mu-law calls, {call_s / 60:.0f} minutes, {silent:.0%} of a channel silent", flush=True)
    in_process: dict[str, tuple[Callable[[Sequence[bytes]], object], Sequence[bytes]]] = {
        "ours_no_spark": (ours, files[: arguments.calls]),
        "sequence": (sequence, files[: arguments.calls]),
        "streaming": (streaming, files[: max(1, arguments.calls // 4)]),  # it takes its time
    }
    rates: dict[str, list[float]] = {name: [] for name in ("ours", *in_process)}
    for way, given in in_process.values():
        way(given[:1])  # weights and code are loaded
    for _ in range(arguments.rounds):  # before Ray is there, whose idling is not theirs
        for name, (way, given) in in_process.items():
            rates[name].append(each_s * len(given) / core_seconds(partial(way, given)))
        print("  ".join(f"{name} {values[-1]:,.0f}" for name, values in rates.items() if values), flush=True)
    memory: dict[str, dict[str, float]] = {}
    before_s = _cpu_s()
    with TemporaryDirectory() as folder, spark_on_ray() as spark:
        for num_calls in (1, arguments.calls, 3 * arguments.calls):
            part = Path(folder, str(num_calls))
            part.mkdir()
            through_spark(spark, planned(files[:num_calls], part, num_calls))
            memory.setdefault(f"{each_s * num_calls / 60:.0f} min", executor_peak_mib())
            if num_calls == 1:
                start_up_core_s = _cpu_s() - before_s
        whole = Path(folder, "whole")
        whole.mkdir()
        partitions = planned(files, whole, arguments.calls)
        for _ in range(arguments.rounds):
            rates["ours"].append(call_s / core_seconds(partial(through_spark, spark, partitions)))
            print(f"ours {rates['ours'][-1]:,.0f}", flush=True)

    samples = list(sample_calls())
    corpora = {"sample_calls": samples}
    if arguments.speech:
        corpora["speech"] = list(speech_data(arguments.speech))
    agreements = {name: agreement(recordings, sequence) for name, recordings in corpora.items()}
    medians = {name: statistics.median(values) for name, values in rates.items()}
    result = {
        "benchmark": "etl",
        "ours": medians["ours"],
        "peer": medians["sequence"],
        "ratio": medians["ours"] / medians["sequence"],
        "unit": "call-seconds per core-second",
        "ours_no_spark": medians["ours_no_spark"],
        "start_up_core_s": start_up_core_s,
        "peer_streaming": medians["streaming"],
        "ratio_streaming": medians["ours"] / medians["streaming"],
        "frame_f1": min(frames for frames, _ in agreements.values()),
        "frame_f1_spans": min(kept for _, kept in agreements.values()),
        "agreement": {name: {"frames": frames, "spans": kept} for name, (frames, kept) in agreements.items()},
        "turns": against_turns(samples, sequence),
        "cross_talk": cross_talk(samples),
        "silent_share": silent,
        "call_s": call_s,
        "peak_memory_mib": memory,
        "peak_memory_no_spark_mib": {f"{each_s * n / 60:.0f} min": peak_memory_mib(n) for n in (1, 12, 48)},
        "long_call": [long_call(hours) for hours in (1, 3, 9)],
        "num_rounds": arguments.rounds,
    }
    print(json.dumps(_rounded(result)))


def _rounded(value: object) -> object:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()
