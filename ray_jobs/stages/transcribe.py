"""The ASR stage: one partition's speech in, one transcript or failure per call out.

The speech of a channel is packed into windows of the engine's length, and the words that come back are placed on the
call's own clock again. Engines know neither calls nor channels; this module knows no tensors.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice, pairwise

import numpy as np
import numpy.typing as npt

from ray_jobs.engines.asr import MAX_WINDOW_S, AsrEngine, Segment, Window, WindowText, WindowWord
from ray_jobs.engines.text import join_words
from ray_jobs.errors import PipelineError
from ray_jobs.records import CallAudio, Failure, Outcome, Span, Transcript, Utterance, Word
from ray_jobs.spec import AsrSpec, ChannelSpec

STAGE = "asr"

MIN_JOIN_S = 0.05
"""Room kept between two spans of one window, which carry some silence themselves."""

MAX_JOIN_S = 0.5
"""Silence put there where the window has room for it: sentences stay apart, and words do not merge."""

MIN_PAUSE_S = 0.6
"""A silence at least this long ends an utterance; a shorter one does where a sentence ends at a span's end."""

_SENTENCE_ENDS = (".", "?", "!", "。", "？", "！")


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A stretch of speech in a window, in samples: where it starts there and in the call, and its length."""

    window_start: int
    call_start: int
    num_samples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedWindow:
    """A window for the engine, and where its pieces, in order, come from."""

    channel: int
    pieces: tuple[Piece, ...]
    window: Window

    @property
    def speech_samples(self) -> int:
        return sum(piece.num_samples for piece in self.pieces)


def transcribe(
    rows: Sequence[CallAudio | Failure], engine: AsrEngine, asr: AsrSpec, channels: ChannelSpec
) -> list[Outcome]:
    """One outcome per row, in order; failures pass through.

    All windows of the partition go to the engine at once. If it raises, they go call by call: a call it raises on
    again becomes the failure asr_error, unless the engine cannot even read a second of silence; then its exception,
    like any PipelineError, is the caller's. A call in which the engine finds no words is the failure no_speech, as one
    without speech is in ETL: a transcript has words.
    """
    packed = [[] if isinstance(row, Failure) else pack(row, asr.language) for row in rows]
    heard = _hear(packed, engine)
    return [
        row if isinstance(row, Failure) else _outcome(row, windows, texts, engine.model_name, channels)
        for row, windows, texts in zip(rows, packed, heard, strict=True)
    ]


# ----------------------------------------------------------------------------------------------------------- packing


def pack(audio: CallAudio, language: str | None) -> list[PackedWindow]:
    """The speech of a call in windows of one channel each, with silence between two spans.

    Every sample of speech is in exactly one window. A span longer than a window is cut into equal parts.
    """
    return [
        _window(group, audio.sample_rate_hz, language)
        for _, parts in groupby(_parts(audio), key=lambda part: part.span.channel)
        for group in _fill(list(parts), audio.sample_rate_hz)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """A span that fits a window, with its samples: int16, shape (num_samples,)."""

    span: Span
    samples: npt.NDArray[np.int16]


def _parts(audio: CallAudio) -> Iterator[_Part]:
    limit = int(MAX_WINDOW_S * audio.sample_rate_hz)
    for span, samples in audio.iter_speech():
        num_parts = -(-span.num_samples // limit)
        edges = [span.num_samples * i // num_parts for i in range(num_parts + 1)] if num_parts else []
        for start, end in pairwise(edges):
            part = Span(channel=span.channel, start_sample=span.start_sample + start, num_samples=end - start)
            yield _Part(span=part, samples=samples[start:end])


def _fill(parts: Sequence[_Part], rate_hz: int) -> list[list[_Part]]:
    """One channel's parts in few windows, and in order of time where that costs no window more."""
    in_order, best = _next_fit(parts, rate_hz), _best_fit(parts, rate_hz)
    return in_order if len(in_order) <= len(best) else best


def _next_fit(parts: Sequence[_Part], rate_hz: int) -> list[list[_Part]]:
    groups: list[list[_Part]] = []
    room = 0
    for part in parts:
        if part.span.num_samples > room:
            groups.append([])
            room = int(MAX_WINDOW_S * rate_hz)
        groups[-1].append(part)
        room -= part.span.num_samples + round(MIN_JOIN_S * rate_hz)
    return groups


def _best_fit(parts: Sequence[_Part], rate_hz: int) -> list[list[_Part]]:
    """Best fit decreasing: the longest part first, each where it leaves the least room."""
    groups: list[list[_Part]] = []
    rooms: list[int] = []
    for part in sorted(parts, key=lambda part: -part.span.num_samples):
        fitting = [index for index, room in enumerate(rooms) if room >= part.span.num_samples]
        if fitting:
            index = min(fitting, key=rooms.__getitem__)
        else:
            index = len(groups)
            groups.append([])
            rooms.append(int(MAX_WINDOW_S * rate_hz))
        groups[index].append(part)
        rooms[index] -= part.span.num_samples + round(MIN_JOIN_S * rate_hz)
    for group in groups:
        group.sort(key=lambda part: part.span.start_sample)
    return sorted(groups, key=lambda group: group[0].span.start_sample)


def _window(parts: Sequence[_Part], rate_hz: int, language: str | None) -> PackedWindow:
    pieces: list[Piece] = []
    chunks: list[npt.NDArray[np.int16]] = []
    position = 0
    for part, join in zip(parts, [0, *_joins(parts, rate_hz)], strict=True):
        position += join
        pieces.append(
            Piece(window_start=position, call_start=part.span.start_sample, num_samples=part.span.num_samples)
        )
        position += part.span.num_samples
        chunks += [np.zeros(join, np.int16), part.samples]
    window = Window(pcm=np.concatenate(chunks), sample_rate_hz=rate_hz, language=language)
    return PackedWindow(channel=parts[0].span.channel, pieces=tuple(pieces), window=window)


def _joins(parts: Sequence[_Part], rate_hz: int) -> list[int]:
    """Samples of silence before each part but the first: its true pause, as far as there is room and it helps."""
    room = int(MAX_WINDOW_S * rate_hz) - sum(part.span.num_samples for part in parts)
    share = min(round(MAX_JOIN_S * rate_hz), room // max(1, len(parts) - 1))
    pauses = [
        after.span.start_sample - before.span.start_sample - before.span.num_samples
        for before, after in pairwise(parts)
    ]
    return [min(pause, share) for pause in pauses]


# ------------------------------------------------------------------------------------------------------- the engine


def _hear(calls: Sequence[Sequence[PackedWindow]], engine: AsrEngine) -> list[list[WindowText] | Exception]:
    """What the engine reads in each call's windows, or what it raises on them."""
    try:
        texts = iter(_read([window for windows in calls for window in windows], engine))
        return [list(islice(texts, len(windows))) for windows in calls]
    except PipelineError:
        raise
    except Exception as error:
        heard = [_hear_alone(windows, engine) for windows in calls]
        if all(isinstance(result, Exception) for result in heard if result):
            _check_alive(engine, error)
        return heard


def _hear_alone(windows: Sequence[PackedWindow], engine: AsrEngine) -> list[WindowText] | Exception:
    try:
        return _read(windows, engine)
    except PipelineError:
        raise
    except Exception as error:
        return error


def _check_alive(engine: AsrEngine, error: Exception) -> None:
    """Raise `error` unless the engine still reads a second of silence."""
    try:
        engine.transcribe([Window(pcm=np.zeros(16_000, np.int16), sample_rate_hz=16_000, language="en")])
    except Exception:
        raise error from None


def _read(windows: Sequence[PackedWindow], engine: AsrEngine) -> list[WindowText]:
    if not windows:
        return []
    texts = engine.transcribe([packed.window for packed in windows])
    if len(texts) != len(windows):
        raise RuntimeError(f"{engine.model_name} gave {len(texts)} results for {len(windows)} windows")
    return texts


# ----------------------------------------------------------------------------------------------------- the transcript


@dataclass(frozen=True, slots=True, kw_only=True)
class _Heard:
    """A word on the call's clock, with what is known of its surroundings."""

    word: Word
    piece: Piece
    segment: Segment
    language: str


def _outcome(
    audio: CallAudio,
    windows: Sequence[PackedWindow],
    texts: list[WindowText] | Exception,
    model_name: str,
    channels: ChannelSpec,
) -> Outcome:
    if isinstance(texts, Exception):
        reason = f"{type(texts).__name__}: {' '.join(str(texts).split())}"
        return Failure(call_id=audio.call_id, uri=audio.uri, code="asr_error", stage=STAGE, reason=reason)
    by_channel: dict[int, list[_Heard]] = {}
    speech_by_language: Counter[str] = Counter()
    for packed, text in zip(windows, texts, strict=True):
        words = list(_place(packed, text, audio))
        by_channel.setdefault(packed.channel, []).extend(words)
        speech_by_language[text.language] += packed.speech_samples if words else 0
    utterances = [
        _utterance(group, channel, channels.role(channel, audio.num_channels))
        for channel, words in by_channel.items()
        for group in _cut(sorted(words, key=lambda heard: heard.word.start_s))
    ]
    if not utterances:
        reason = f"the ASR model finds no words in {audio.speech_s:.1f} s of sound that passed for speech"
        return Failure(call_id=audio.call_id, uri=audio.uri, code="no_speech", stage=STAGE, reason=reason)
    return Transcript(
        call_id=audio.call_id,
        uri=audio.uri,
        duration_s=audio.duration_s,
        speech_s=audio.speech_s,
        num_channels=audio.num_channels,
        language=speech_by_language.most_common(1)[0][0],
        asr_model=model_name,
        redacted=False,
        utterances=tuple(sorted(utterances, key=lambda u: (u.start_s, u.end_s, u.channel))),
    )


def _place(packed: PackedWindow, text: WindowText, audio: CallAudio) -> Iterator[_Heard]:
    """The window's words on the call's clock, each inside the piece it was said in, to the millisecond."""
    index = 0
    for segment in text.segments:
        for word in segment.words:
            index = max(index, _piece_of(word, packed.pieces, audio.sample_rate_hz))  # words do not go back
            piece = packed.pieces[index]
            placed = Word(
                text=word.text,
                start_s=_call_time(word.start_s, piece, audio),
                end_s=_call_time(word.end_s, piece, audio),
                probability=word.probability,
            )
            yield _Heard(word=placed, piece=piece, segment=segment, language=text.language)


def _call_time(window_s: float, piece: Piece, audio: CallAudio) -> float:
    """A window's time, kept inside the piece, on the call's clock; whole milliseconds, whoever computes it."""
    offset = min(max(window_s * audio.sample_rate_hz - piece.window_start, 0), piece.num_samples)
    return round(min((piece.call_start + offset) / audio.sample_rate_hz, audio.duration_s), 3)


def _piece_of(word: WindowWord, pieces: Sequence[Piece], rate_hz: int) -> int:
    """The piece that holds most of the word, the nearest one if none does."""
    start, end = word.start_s * rate_hz, word.end_s * rate_hz

    def overlap(index: int) -> float:
        piece = pieces[index]
        return min(end, piece.window_start + piece.num_samples) - max(start, piece.window_start)

    return max(range(len(pieces)), key=overlap)


def _cut(words: Sequence[_Heard]) -> Iterator[list[_Heard]]:
    """The words of one channel, in order, as utterances."""
    if not words:
        return
    group = [words[0]]
    for before, after in pairwise(words):
        pause_s = after.word.start_s - before.word.end_s
        sentence_ends = before.word.text.endswith(_SENTENCE_ENDS)
        if pause_s >= MIN_PAUSE_S or (sentence_ends and after.piece != before.piece):
            yield group
            group = []
        group.append(after)
    yield group


def _utterance(words: Sequence[_Heard], channel: int, role: str) -> Utterance:
    language = words[0].language
    return Utterance(
        channel=channel,
        role=role,
        start_s=words[0].word.start_s,
        end_s=words[-1].word.end_s,
        text=join_words([heard.word.text for heard in words], language),
        language=language,
        avg_logprob=float(np.mean([heard.segment.avg_logprob for heard in words])),
        no_speech_prob=float(np.mean([heard.segment.no_speech_prob for heard in words])),
        words=tuple(heard.word for heard in words),
    )
