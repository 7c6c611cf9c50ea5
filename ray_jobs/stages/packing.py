"""Speech packed into windows: a call's spans laid into few windows of an engine's length, and where each sample lies.

Whisper pads every window to 30 s and works as long on an empty one, so throughput is speech per window.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

import numpy as np
import numpy.typing as npt

from ray_jobs.engines.asr import MAX_WINDOW_S, Window
from ray_jobs.records import CallAudio, Span

MIN_JOIN_S = 0.05
"""Room kept between two spans of one window, which carry some silence themselves."""

MAX_JOIN_S = 0.5
"""Silence put there where the window has room for it: sentences stay apart, and words do not merge."""

_SOUND_LEVEL = 0.3
"""Of the way from a span's quietest frames to its speech, in dB. Measured: from 0.2 to 0.6 the starts of turns move by
10 ms; their ends are nearest to the truth at 0.3."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A stretch of speech in a window, in samples: where it starts there and in the call, and its length.

    `sound_start` and `sound_end` count from its own start: a span carries some silence on both sides.
    """

    window_start: int
    call_start: int
    num_samples: int
    sound_start: int
    sound_end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedWindow:
    """A window for the engine, and where its pieces, in order, come from."""

    channel: int
    pieces: tuple[Piece, ...]
    window: Window

    @property
    def speech_samples(self) -> int:
        return sum(piece.num_samples for piece in self.pieces)


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
        sound_start, sound_end = _sound(part.samples, rate_hz)
        piece = Piece(
            window_start=position,
            call_start=part.span.start_sample,
            num_samples=part.span.num_samples,
            sound_start=sound_start,
            sound_end=sound_end,
        )
        pieces.append(piece)
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


def _sound(samples: npt.NDArray[np.int16], rate_hz: int) -> tuple[int, int]:
    """Where the sound in a span starts and ends: its frames of 10 ms that are well above its quietest ones, in dB."""
    size = max(1, rate_hz // 100)
    num_frames = len(samples) // size
    if num_frames == 0:
        return 0, len(samples)
    frames = samples[: num_frames * size].astype(np.float32).reshape(num_frames, size)
    level_db = 10 * np.log10(np.mean(frames**2, axis=1) + 1)
    floor_db, speech_db = np.percentile(level_db, [5, 95])
    sounding = np.flatnonzero(level_db >= floor_db + _SOUND_LEVEL * (speech_db - floor_db))
    end = int(sounding[-1]) + 1
    return int(sounding[0]) * size, len(samples) if end == num_frames else end * size
