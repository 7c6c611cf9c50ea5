"""How well engines read calls, and how well they time them: `python -m benchmarks.wer [--engines E ...] [--model M]`.

The eight sample calls, and, where CALLMILL_SPEECH_DATA names a folder of recordings that are not the project's to give
away, its four real bank calls. Speech is found by the product's own ETL and packed by its own ASR stage.

wer                  word errors per reference word, channel by channel, English normaliser
wer_digits           the same with every run of digits split into digits: "4-1-1-1" and "four one one one" agree
wer_digits_unpacked  wer_digits with every span of speech in a window of its own
turn_start, turn_end distance from a turn's first and last word to the reference's times (exact on the samples)
padding_share        of the windows' 30 s; the optimum has as few windows per channel as its speech could fill
"""

import argparse
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import jiwer
import numpy as np
from whisper_normalizer.english import EnglishTextNormalizer

from ray_jobs.engines.asr import MAX_WINDOW_S, AsrEngine
from ray_jobs.engines.load_asr import load_asr
from ray_jobs.records import Call, CallAudio, Failure, Transcript, Word
from ray_jobs.spec import AsrSpec, ChannelSpec, EtlSpec
from ray_jobs.stages.packing import pack
from ray_jobs.stages.transcribe import transcribe
from spark_etl.job import open_part
from spark_etl.prepare import prepare_partition

SAMPLES = Path(__file__).parents[1] / "tests" / "data" / "sample_calls"
AUDIO_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg")

normalise = EnglishTextNormalizer()


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    channel: int
    start_s: float
    end_s: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A recording and what is said in it, turns in order of start."""

    path: Path
    turns: tuple[Turn, ...]


@dataclass(slots=True)
class Errors:
    num_errors: int = 0
    num_words: int = 0

    def count(self, reference: str, hypothesis: str) -> None:
        self.num_words += len(reference.split())
        if reference:
            result = jiwer.process_words(reference, hypothesis)
            self.num_errors += result.substitutions + result.deletions + result.insertions
        else:
            self.num_errors += len(hypothesis.split())


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Word errors, plain and with runs of digits split, and each turn's errors in seconds: of a call, or of several."""

    plain: Errors = field(default_factory=Errors)
    digits: Errors = field(default_factory=Errors)
    start_errors_s: list[float] = field(default_factory=list)
    end_errors_s: list[float] = field(default_factory=list)

    def count(self, turns: Sequence[Turn], words: Sequence[Word]) -> None:
        """Add one channel."""
        self.count_text(" ".join(turn.text for turn in turns), " ".join(word.text for word in words))
        for turn, inside in zip(turns, _by_turn(turns, words), strict=True):
            if inside:
                self.start_errors_s.append(abs(inside[0].start_s - turn.start_s))
                self.end_errors_s.append(abs(inside[-1].end_s - turn.end_s))

    def count_text(self, said: str, heard: str) -> None:
        """Add one channel's words alone, as they are written."""
        said, heard = normalise(said), normalise(heard)
        self.plain.count(said, heard)
        self.digits.count(_split_digits(said), _split_digits(heard))

    def word_errors(self) -> dict[str, float]:
        """Errors per reference word: wer and wer_digits."""
        return {
            "wer": self.plain.num_errors / self.plain.num_words,
            "wer_digits": self.digits.num_errors / self.digits.num_words,
        }

    def summary(self) -> dict[str, float]:
        starts_s, ends_s = (np.quantile(errors, (0.5, 0.9)) for errors in (self.start_errors_s, self.end_errors_s))
        figures = {
            **self.word_errors(),
            "turn_start_median_s": starts_s[0],
            "turn_start_p90_s": starts_s[1],
            "turn_end_median_s": ends_s[0],
            "turn_end_p90_s": ends_s[1],
        }
        return {name: round(float(figure), 4) for name, figure in figures.items()}


def sample_calls() -> Iterator[Reference]:
    for path in sorted(SAMPLES.iterdir()):
        if path.suffix in AUDIO_SUFFIXES:
            turns = json.loads(path.with_suffix(".json").read_text())["turns"]
            keys = ("channel", "start_s", "end_s", "text")
            yield Reference(path=path, turns=tuple(Turn(**{key: turn[key] for key in keys}) for turn in turns))


def bank_calls(folder: Path) -> Iterator[Reference]:
    """Real calls of HarperValleyBank (CC BY 4.0): agent left, caller right; turn times to a few tenths of a second."""
    for name, dialogue in json.loads((folder / "hv_dialogues.json").read_text()).items():
        turns = [
            Turn(
                channel=("agent", "caller").index(turn["role"]),
                start_s=turn["start"],
                end_s=turn["end"],
                text=re.sub(r"\[\w+\]|<\w+>", "", turn["text"]),
            )
            for turn in dialogue["turns"]
        ]
        spoken = tuple(turn for turn in turns if turn.text.strip())
        yield Reference(path=folder / "hv_calls" / f"{name}_stereo.flac", turns=spoken)


def prepare(references: Sequence[Reference]) -> list[CallAudio]:
    calls = [
        Call(
            call_id=reference.path.stem,
            uri=str(reference.path),
            source=str(reference.path),
            size_bytes=reference.path.stat().st_size,
            version="",
            expected_speech_s=0.0,
        )
        for reference in references
    ]
    rows = prepare_partition(calls, EtlSpec(), open_part)
    audio = [row for row in rows if isinstance(row, CallAudio)]
    if len(audio) < len(rows):
        raise SystemExit(f"error: {[row for row in rows if isinstance(row, Failure)]}")
    return audio


def read(audio: Sequence[CallAudio], engine: AsrEngine, asr: AsrSpec) -> list[list[tuple[int, Word]]]:
    """Each call's words with their channels, in time order."""
    outcomes = transcribe(audio, engine, asr, ChannelSpec())
    utterances = [outcome.utterances if isinstance(outcome, Transcript) else () for outcome in outcomes]
    return [[(u.channel, word) for u in call for word in u.words] for call in utterances]


def span_by_span(audio: CallAudio) -> list[CallAudio]:
    """The call as one call per span, so that no window holds two."""
    return [
        replace(audio, call_id=f"{audio.call_id}-{n}", spans=(span,), pcm=samples.tobytes())
        for n, (span, samples) in enumerate(audio.iter_speech())
    ]


def score(references: Sequence[Reference], heard: Sequence[Sequence[tuple[int, Word]]]) -> Score:
    """The calls' score, channel by channel."""
    total = Score()
    for reference, words in zip(references, heard, strict=True):
        for channel in {turn.channel for turn in reference.turns} | {channel for channel, _ in words}:
            turns = [turn for turn in reference.turns if turn.channel == channel]
            total.count(turns, [word for at, word in words if at == channel])
    return total


def _split_digits(text: str) -> str:
    """Of "4111" makes "4 1 1 1", so that it does not matter how a number is written."""
    return re.sub(r"(?<=\d)(?=\d)", " ", text)


def _by_turn(turns: Sequence[Turn], words: Sequence[Word]) -> list[list[Word]]:
    """Each turn's words: a word belongs to the turn nearest to its middle."""
    inside: list[list[Word]] = [[] for _ in turns]
    for word in words:
        middle = (word.start_s + word.end_s) / 2
        distances = [max(turn.start_s - middle, middle - turn.end_s, 0.0) for turn in turns]
        if distances:
            inside[int(np.argmin(distances))].append(word)
    return inside


def padding_shares(audio: Sequence[CallAudio]) -> tuple[float, float]:
    """The share of all windows' 30 s that is not speech, as packed and at best."""
    num_windows = sum(len(pack(call, None)) for call in audio)
    speech_s = sum(call.speech_s for call in audio)
    by_channel = [
        sum(span.num_samples for span in call.spans if span.channel == channel) / call.sample_rate_hz
        for call in audio
        for channel in {span.channel for span in call.spans}
    ]
    num_best = sum(-(-channel_s // MAX_WINDOW_S) for channel_s in by_channel)
    return 1 - speech_s / (num_windows * MAX_WINDOW_S), 1 - speech_s / (num_best * MAX_WINDOW_S)


def measure(references: Sequence[Reference], engine: AsrEngine, asr: AsrSpec) -> dict[str, float]:
    audio = prepare(references)
    heard = read(audio, engine, asr)
    for reference, words in zip(references, heard, strict=True):
        figures = score([reference], [words]).summary()
        print(f"{reference.path.stem:24s} " + " ".join(f"{name} {figure:.3f}" for name, figure in figures.items()))
    alone = [[pair for span in read(span_by_span(call), engine, asr) for pair in span] for call in audio]
    padding, best_padding = padding_shares(audio)
    return {
        **score(references, heard).summary(),
        "wer_digits_unpacked": score(references, alone).summary()["wer_digits"],
        "padding_share": round(padding, 4),
        "padding_share_best": round(best_padding, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.wer", description="Word errors and turn times.")
    parser.add_argument("--engines", nargs="+", default=["whisper_torch"], help="keys of asr.engine")
    parser.add_argument("--model", default="whisper-base")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    folder = os.environ.get("CALLMILL_SPEECH_DATA")
    sets = {"samples": list(sample_calls()), "bank_calls": list(bank_calls(Path(folder))) if folder else []}
    results = {}
    for name in options.engines:
        asr = AsrSpec(engine=name, model=options.model)
        engine = load_asr(asr, options.threads)
        results[name] = {key: measure(references, engine, asr) for key, references in sets.items() if references}
    print(json.dumps({"benchmark": "wer", "model": options.model, **results}))


if __name__ == "__main__":
    main()
