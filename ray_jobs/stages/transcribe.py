"""The ASR stage: one partition's speech in, one transcript or failure per call out.

The speech of each channel goes to the engine in packed windows, and the words that come back are placed on the call's
own clock again. Engines know neither calls nor channels; this module knows no tensors.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise

import numpy as np

from ray_jobs.engines.asr import AsrEngine, Segment, Window, WindowText, WindowWord
from ray_jobs.engines.text import join_words
from ray_jobs.errors import PipelineError
from ray_jobs.records import CallAudio, Failure, Outcome, Transcript, Utterance, Word, failed
from ray_jobs.spec import AsrSpec, ChannelSpec
from ray_jobs.stages.packing import PackedWindow, Piece, pack

STAGE = "asr"

MIN_PAUSE_S = 0.6
MIN_SENTENCE_PAUSE_S = 0.3
"""A silence at least this long ends an utterance: in mid-sentence, and at the end of a sentence."""

MAX_SNAP_S = 0.5
"""The first and last word of a span are moved to where its sound starts and ends, if they lie this near: a model's
alignment is some 0.15 s early at the end of a word before a pause. Farther off, the model has left words out."""

_SENTENCE_ENDS = (".", "?", "!", "。", "？", "！")


def transcribe(
    rows: Sequence[CallAudio | Failure], engine: AsrEngine, asr: AsrSpec, channels: ChannelSpec
) -> list[Outcome]:
    """One outcome per row, in order; failures pass through.

    All windows of the partition go to the engine at once. If it raises, they go call by call: a call it raises on
    again becomes the failure asr_error, unless the engine cannot even read a second of silence; then its exception,
    like any PipelineError, is the caller's. A call in which the engine finds no words is the failure no_speech, as one
    without speech is in ETL: a transcript has words. A duplicate has its original's outcome.

    Where the engine has to detect the language, a channel speaks the one that most of its speech was taken for, and
    its windows that were taken for another are read again in it.
    """
    own = originals(rows)
    packed = [[] if isinstance(row, Failure) else pack(row, row.language or asr.language) for row in own]
    heard = _hear(packed, engine)
    if asr.language is None:
        heard = _agree_on_languages(packed, heard, engine)
    outcomes = [
        row if isinstance(row, Failure) else _outcome(row, windows, texts, engine.model_name, channels)
        for row, windows, texts in zip(own, packed, heard, strict=True)
    ]
    return with_duplicates(rows, outcomes)


def originals(rows: Sequence[CallAudio | Failure]) -> list[CallAudio | Failure]:
    """The rows but for duplicates, which have nothing to transcribe."""
    return [row for row in rows if isinstance(row, Failure) or row.duplicate_of is None]


def with_duplicates(rows: Sequence[CallAudio | Failure], outcomes: Sequence[Outcome]) -> list[Outcome]:
    """One outcome per row, in order, from those of the rows' originals."""
    known = {outcome.call_id: outcome for outcome in outcomes}
    return [
        known[row.call_id]
        if isinstance(row, Failure) or row.duplicate_of is None
        else _copied(row, known[row.duplicate_of])
        for row in rows
    ]


def _copied(row: CallAudio, original: Outcome) -> Outcome:
    if isinstance(original, Failure):
        return failed(row, code=original.code, stage=original.stage, reason=original.reason)
    return replace(
        original,
        call_id=row.call_id,
        uri=row.uri,
        missing_roles=row.missing_roles,
        metadata=row.metadata,
        duplicate_of=row.duplicate_of,
    )


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


def _agree_on_languages(
    calls: Sequence[Sequence[PackedWindow]], heard: Sequence[list[WindowText] | Exception], engine: AsrEngine
) -> list[list[WindowText] | Exception]:
    """What was heard, with one language per channel."""
    strays = [
        {} if isinstance(texts, Exception) else _strays(windows, texts)
        for windows, texts in zip(calls, heard, strict=True)
    ]
    again = _hear([list(call.values()) for call in strays], engine)
    return [_merged(texts, list(call), new) for texts, call, new in zip(heard, strays, again, strict=True)]


def _strays(windows: Sequence[PackedWindow], texts: Sequence[WindowText]) -> dict[int, PackedWindow]:
    """Windows to read again, by their place in the call: each with its channel's language set.

    A channel's windows with words vote, by their length and by how sure the engine is.
    """
    votes: dict[int, dict[str, float]] = {}
    for packed, text in zip(windows, texts, strict=True):
        weight = packed.speech_samples * text.language_prob if text.segments else 0.0
        channel = votes.setdefault(packed.channel, {})
        channel[text.language] = channel.get(text.language, 0.0) + weight
    languages = {channel: max(weights, key=weights.__getitem__) for channel, weights in votes.items()}
    return {
        place: replace(packed, window=replace(packed.window, language=languages[packed.channel]))
        for place, (packed, text) in enumerate(zip(windows, texts, strict=True))
        if text.segments and text.language != languages[packed.channel]
    }


def _merged(
    texts: list[WindowText] | Exception, places: Sequence[int], new: list[WindowText] | Exception
) -> list[WindowText] | Exception:
    """One call's texts, those at `places` replaced."""
    if isinstance(texts, Exception) or isinstance(new, Exception):
        return texts if isinstance(texts, Exception) else new
    by_place = dict(zip(places, new, strict=True))
    return [by_place.get(place, text) for place, text in enumerate(texts)]


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
        reason = f"{type(texts).__name__}: {' '.join(str(texts).split())}"[:300]
        return failed(audio, code="asr_error", stage=STAGE, reason=reason)
    by_channel: dict[int, list[_Heard]] = {}
    speech_by_language: Counter[str] = Counter()
    for packed, text in zip(windows, texts, strict=True):
        words = list(_place(packed, text, audio))
        by_channel.setdefault(packed.channel, []).extend(words)
        speech_by_language[text.language] += packed.speech_samples if words else 0
    utterances = [
        _utterance(group, channel, _role(channel, audio, channels))
        for channel, words in by_channel.items()
        for group in _cut(sorted(words, key=lambda heard: heard.word.start_s))
    ]
    if not utterances:
        reason = f"the ASR model finds no words in {audio.speech_s:.1f} s of sound that passed for speech"
        return failed(audio, code="no_speech", stage=STAGE, reason=reason)
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
        missing_roles=audio.missing_roles,
        metadata=audio.metadata,
    )


def _role(channel: int, audio: CallAudio, channels: ChannelSpec) -> str:
    """What the call says of its own channel goes before what the spec says of all calls."""
    own = audio.roles[channel] if audio.roles else ""
    return own or channels.role(channel, audio.num_channels)


def _place(packed: PackedWindow, text: WindowText, audio: CallAudio) -> Iterator[_Heard]:
    """The window's words on the call's clock, each inside the sound of the piece it was said in."""
    rate_hz = audio.sample_rate_hz
    said: list[list[tuple[WindowWord, Segment]]] = [[] for _ in packed.pieces]
    index = 0
    for segment in text.segments:
        for word in segment.words:
            index = max(index, _piece_of(word, packed.pieces, rate_hz))  # words do not go back
            said[index].append((word, segment))
    for piece, words in zip(packed.pieces, said, strict=True):
        times_s = [_inside(word, piece, rate_hz) for word, _ in words]
        for (word, segment), (start_s, end_s) in zip(words, _snapped(times_s, piece, rate_hz), strict=True):
            placed = Word(
                text=word.text,
                start_s=_call_time(start_s, piece, audio),
                end_s=_call_time(end_s, piece, audio),
                probability=word.probability,
            )
            yield _Heard(word=placed, segment=segment, language=text.language)


def _inside(word: WindowWord, piece: Piece, rate_hz: int) -> tuple[float, float]:
    """A word's times from its piece's start, in seconds, kept where there is sound."""
    low_s, high_s, offset_s = (at / rate_hz for at in (piece.sound_start, piece.sound_end, piece.window_start))
    return min(max(word.start_s - offset_s, low_s), high_s), min(max(word.end_s - offset_s, low_s), high_s)


def _snapped(times_s: list[tuple[float, float]], piece: Piece, rate_hz: int) -> list[tuple[float, float]]:
    """The words' times, the first and the last edge moved to the sound's."""
    low_s, high_s = piece.sound_start / rate_hz, piece.sound_end / rate_hz
    if times_s and times_s[0][0] - low_s <= MAX_SNAP_S:
        times_s = [(low_s, times_s[0][1]), *times_s[1:]]
    if times_s and high_s - times_s[-1][1] <= MAX_SNAP_S:
        times_s = [*times_s[:-1], (times_s[-1][0], high_s)]
    return times_s


def _call_time(piece_s: float, piece: Piece, audio: CallAudio) -> float:
    """Seconds from a piece's start on the call's clock; whole milliseconds, whoever computes it."""
    return round(min(piece.call_start / audio.sample_rate_hz + piece_s, audio.duration_s), 3)


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
        min_pause_s = MIN_SENTENCE_PAUSE_S if before.word.text.endswith(_SENTENCE_ENDS) else MIN_PAUSE_S
        if after.word.start_s - before.word.end_s >= min_pause_s:
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
        repetition_cut=any(heard.segment.repetition_cut for heard in words),
    )
