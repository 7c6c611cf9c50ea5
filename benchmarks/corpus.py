"""Call corpora of any size, with references: `python -m benchmarks corpus --hours 1`.

Two parties take turns on two channels at 8 kHz, G.711 mu-law, as a recorder writes them. A call's length is drawn from
a lognormal distribution around six minutes, cut to 20 s .. 1 h; the share of time a channel is silent from 40-60 %;
what is said is taken turn by turn from the sample calls and, where a folder of recordings is given, from single
sentences there. Beside every CALL.wav lies a CALL.json with its turns, as beside the sample calls.

The same arguments and sources give the same corpus; it is made once and kept.
"""

import csv
import hashlib
import json
import math
import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

from benchmarks.wer import SAMPLES, Turn
from spark_etl.helper import Decoder
from spark_etl.recording import Recording

RATE_HZ = 8000
MEDIAN_CALL_S, CALL_SIGMA = 360.0, 0.6
MIN_CALL_S, MAX_CALL_S = 20.0, 3600.0
SILENT_SHARE = (0.4, 0.6)
MARGIN_S = 0.08
"""Cut around a turn, so that neither its first nor its last sound is lost."""

NOISE = 6.0
"""Root mean square of the line's noise, in steps of a 16-bit sample: no channel of a real call is digitally silent."""

SENTENCES = ("ljspeech", "librispeech")
FACTS_FILE = "corpus.json"
CACHE = Path.home() / ".cache" / "callmill" / "corpora"
VERSION = 1
"""Raised when the same arguments come to give other calls."""

Samples = npt.NDArray[np.int16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """One thing somebody said: int16, shape (num_samples,), at RATE_HZ. `channel` is the party's; None suits either."""

    pcm: Samples
    text: str
    channel: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """A finished corpus. `silent_share` is over all channels' time."""

    folder: str
    num_calls: int
    audio_s: float
    silent_share: float
    seed: int


def make_corpus(*, hours: float, seed: int, speech_folder: Path | None = None, cache: Path = CACHE) -> Corpus:
    """The corpus of at least `hours` of calls, made now or found in the cache.

    `speech_folder` holds a manifest.tsv (file, group, reference) beside its recordings. Raises FileNotFoundError where
    it does not.
    """
    manifest = (speech_folder / "manifest.tsv").read_bytes() if speech_folder else b""
    key = json.dumps([VERSION, hours, seed, hashlib.sha256(manifest).hexdigest()])
    folder = cache / f"{hours:g}h-seed{seed}-{hashlib.sha256(key.encode()).hexdigest()[:10]}"
    facts = folder / FACTS_FILE
    if not facts.exists():
        unfinished = folder.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        corpus = _write(unfinished, folder, hours * 3600, random.Random(seed), list(_clips(speech_folder)), seed)
        (unfinished / FACTS_FILE).write_text(json.dumps(asdict(corpus), indent=1))
        unfinished.rename(folder)
    return Corpus(**json.loads(facts.read_text()))


def lengths_s(corpus: Corpus) -> list[float]:
    """Seconds of each call, in the order of their names."""
    sizes = [path.stat().st_size for path in sorted(Path(corpus.folder).glob("call-*.wav"))]
    return [size / (2 * RATE_HZ) for size in sizes]


def write_manifest(path: Path, num_calls: int, seed: int) -> None:
    """A CSV of `num_calls` calls that need not exist, to plan with: uri, size_bytes, started_at, agent, queue."""
    chance = random.Random(seed)
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["uri", "size_bytes", "started_at", "agent", "queue"])
        for number in range(num_calls):
            size_bytes = 58 + int(call_length_s(chance) * RATE_HZ) * 2
            day, hour = divmod(number * 24 // max(1, num_calls // 30), 24)
            started_at = f"2026-10-{day % 30 + 1:02}T{hour:02}:00:00Z"
            uri = f"calls/{number:06}.wav"
            rows.writerow(
                [
                    uri,
                    size_bytes,
                    started_at,
                    f"agent-{chance.randrange(200)}",
                    chance.choice(("sales", "help", "bills")),
                ]
            )


def _write(
    folder: Path, final_folder: Path, wanted_s: float, chance: random.Random, clips: Sequence[Clip], seed: int
) -> Corpus:
    audio_s = silent_s = 0.0
    num_calls = 0
    while audio_s < wanted_s:
        pcm, turns = _call(chance, clips, min(call_length_s(chance), max(MIN_CALL_S, wanted_s - audio_s)))
        name = f"call-{num_calls:05}"
        (folder / f"{name}.wav").write_bytes(mu_law_wav(pcm))
        (folder / f"{name}.json").write_text(json.dumps({"turns": [asdict(turn) for turn in turns]}))
        duration_s = pcm.shape[1] / RATE_HZ
        audio_s += duration_s
        silent_s += 2 * duration_s - sum(turn.end_s - turn.start_s for turn in turns)
        num_calls += 1
    return Corpus(
        folder=str(final_folder),
        num_calls=num_calls,
        audio_s=round(audio_s, 3),
        silent_share=round(silent_s / (2 * audio_s), 3),
        seed=seed,
    )


def call_length_s(chance: random.Random) -> float:
    """Seconds, as calls of a contact centre last: lognormal around MEDIAN_CALL_S."""
    return min(MAX_CALL_S, max(MIN_CALL_S, chance.lognormvariate(math.log(MEDIAN_CALL_S), CALL_SIGMA)))


def _call(chance: random.Random, clips: Sequence[Clip], wanted_s: float) -> tuple[Samples, list[Turn]]:
    """Turn by turn until the call is long enough: int16, shape (2, num_samples), and its turns in order of start."""
    silent_share = chance.uniform(*SILENT_SHARE)
    stride = 1 / (2 * (1 - silent_share))  # a turn's time with its pause; below 1 the parties talk over each other
    by_channel = [[clip for clip in clips if clip.channel in (channel, None)] for channel in (0, 1)]
    placed: list[tuple[int, int, Clip]] = []
    at_s, channel = 0.5, 0
    while at_s < wanted_s:
        clip = chance.choice(by_channel[channel])
        placed.append((channel, int(at_s * RATE_HZ), clip))
        at_s += len(clip.pcm) / RATE_HZ * stride * chance.uniform(0.8, 1.2)
        channel = 1 - channel if chance.random() < 0.9 else channel
    num_samples = max(start + len(clip.pcm) for _, start, clip in placed) + RATE_HZ // 2
    noise = np.random.default_rng(chance.getrandbits(32)).normal(0, NOISE, (2, num_samples))
    free_from = [0, 0]
    turns = []
    for channel, wanted_start, clip in placed:
        start = max(wanted_start, free_from[channel])  # nobody says two things at once
        end = start + len(clip.pcm)
        if end > num_samples:
            continue
        noise[channel, start:end] += clip.pcm
        free_from[channel] = end + RATE_HZ // 5
        margin = round(MARGIN_S * RATE_HZ)
        turns.append(
            Turn(
                channel=channel,
                start_s=round((start + margin) / RATE_HZ, 3),
                end_s=round((end - margin) / RATE_HZ, 3),
                text=clip.text,
            )
        )
    pcm = np.clip(np.rint(noise), -32768, 32767).astype(np.int16)
    return pcm, sorted(turns, key=lambda turn: (turn.start_s, turn.channel))


def _clips(speech_folder: Path | None) -> Iterator[Clip]:
    """What can be said, in a fixed order."""
    with Decoder(max_s=MAX_CALL_S, timeout_s=60) as decoder:
        yield from _sample_turns(decoder)
        if speech_folder is not None:
            yield from _sentences(speech_folder, decoder)


def _sample_turns(decoder: Decoder) -> Iterator[Clip]:
    for path in sorted(SAMPLES.glob("0*.json")):
        document = json.loads(path.read_text())
        if len(document["channels"]) == 2:
            pcm = at_8khz(SAMPLES / document["file"], decoder)
            for turn in document["turns"]:
                start, end = (round(turn[key] * RATE_HZ) for key in ("start_s", "end_s"))
                margin = round(MARGIN_S * RATE_HZ)
                cut = pcm[turn["channel"], max(0, start - margin) : end + margin]
                yield Clip(pcm=cut, text=turn["text"], channel=turn["channel"])


def _sentences(folder: Path, decoder: Decoder) -> Iterator[Clip]:
    with (folder / "manifest.tsv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            if row["group"] in SENTENCES:
                yield Clip(pcm=at_8khz(folder / row["file"], decoder)[0], text=row["reference"], channel=None)


def at_8khz(path: Path, decoder: Decoder) -> Samples:
    """A recording as int16, shape (num_channels, num_samples), at RATE_HZ."""
    with Recording(path.open("rb")) as recording:
        blocks = list(decoder.decode(recording))
    return resample(np.concatenate([block.pcm for block in blocks], axis=1), blocks[0].sample_rate_hz)


def resample(pcm: Samples, sample_rate_hz: int) -> Samples:
    """int16 samples, shape (1 or 2, num_samples), at RATE_HZ."""
    if sample_rate_hz == RATE_HZ:
        return pcm
    layout = "mono" if len(pcm) == 1 else "stereo"
    resampler = av.AudioResampler(format="s16p", layout=layout, rate=RATE_HZ)
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(pcm), format="s16p", layout=layout)
    frame.sample_rate = sample_rate_hz
    resampled = [f.to_ndarray() for f in (*resampler.resample(frame), *resampler.resample(None))]
    return np.concatenate(resampled, axis=1)


def mu_law_wav(pcm: Samples) -> bytes:
    """A WAV file, G.711 mu-law at RATE_HZ, of int16 samples, shape (2, num_samples)."""
    file = BytesIO()
    with av.open(file, "w", format="wav") as container:
        stream = container.add_stream("pcm_mulaw", rate=RATE_HZ, layout="stereo")
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(pcm.T).reshape(1, -1), format="s16", layout="stereo")
        frame.sample_rate = RATE_HZ
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()
