"""Redaction of transcripts: text, words and times together, before anything is stored.

Where words carry a secret, one word with the placeholder and the secret's times takes their place, so that text, words
and subtitles always agree. A call whose redaction fails becomes a Failure: unredacted text never passes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from ray_jobs.engines.conversation import Line
from ray_jobs.engines.pii import PiiSpan
from ray_jobs.records import Failure, Outcome, Redaction, Transcript, Utterance, Word
from ray_jobs.spec import RedactSpec


class SpanFinder(Protocol):
    """What this stage asks of `ray_jobs.engines.pii.Redactor`."""

    spec: RedactSpec

    def find(self, lines: Sequence[Line]) -> list[PiiSpan]: ...


def redact(outcomes: Sequence[Outcome], redactor: SpanFinder) -> list[Outcome]:
    """One outcome per input, in order; Failures pass through.

    With the mode store_unredacted transcripts pass as they are, `redacted` False. A call whose redaction raises comes
    back as the Failure redaction_error, whose reason names the error's kind and nothing of the text.
    """
    if redactor.spec.mode == "store_unredacted":
        return list(outcomes)
    return [_redact_one(outcome, redactor) if isinstance(outcome, Transcript) else outcome for outcome in outcomes]


def _redact_one(transcript: Transcript, redactor: SpanFinder) -> Outcome:
    try:
        return redact_transcript(transcript, redactor)
    except Exception as error:  # whatever it is, the text must not pass; its message may quote the text
        return Failure(
            call_id=transcript.call_id,
            uri=transcript.uri,
            code="redaction_error",
            stage="redact",
            reason=f"redaction raised {type(error).__name__}; the transcript was withheld",
        )


def redact_transcript(transcript: Transcript, redactor: SpanFinder) -> Transcript:
    """The transcript with its secrets replaced. Raises whatever the redactor raises."""
    spans = redactor.find([Line(speaker=u.channel, text=u.text) for u in transcript.utterances])
    utterances, redactions = [], []
    for index, utterance in enumerate(transcript.utterances):
        of_line = [span for span in spans if span.line == index]
        utterances.append(_replace_spans(utterance, of_line) if of_line else utterance)
        redactions += [_redaction(utterance, span) for span in of_line]
    return replace(transcript, redacted=True, utterances=tuple(utterances), redactions=tuple(redactions))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Piece:
    """Some words of an utterance and the characters of its text they cover."""

    start: int
    end: int
    words: tuple[Word, ...]


def _replace_spans(utterance: Utterance, spans: Sequence[PiiSpan]) -> Utterance:
    pieces = _join_touched(_align(utterance), spans)
    words = tuple(_merged(piece, utterance.text, spans) for piece in pieces)
    return replace(utterance, text=_render(utterance.text, 0, len(utterance.text), spans), words=tuple(w for w in words if w.text))


def _align(utterance: Utterance) -> list[_Piece]:
    """Where each word stands in the text; empty if they do not agree, so that no word outlives its redaction."""
    pieces, position = [], 0
    for word in utterance.words:
        start = utterance.text.find(word.text, position)
        if start < 0 or utterance.text[position:start].strip():
            return []
        position = start + len(word.text)
        pieces.append(_Piece(start=start, end=position, words=(word,)))
    return [] if utterance.text[position:].strip() else pieces


def _join_touched(pieces: Sequence[_Piece], spans: Sequence[PiiSpan]) -> list[_Piece]:
    """Pieces that one span touches become one."""
    joined: list[_Piece] = []
    for piece in pieces:
        last = joined[-1] if joined else None
        if last is not None and any(span.start < last.end and piece.start < span.end for span in spans):
            joined[-1] = _Piece(start=last.start, end=piece.end, words=last.words + piece.words)
        else:
            joined.append(piece)
    return joined


def _merged(piece: _Piece, text: str, spans: Sequence[PiiSpan]) -> Word:
    first, last = piece.words[0], piece.words[-1]
    return Word(
        text=_render(text, piece.start, piece.end, spans).strip(),
        start_s=first.start_s,
        end_s=last.end_s,
        probability=min(word.probability for word in piece.words),
    )


def _render(text: str, start: int, end: int, spans: Sequence[PiiSpan]) -> str:
    """`text[start:end]` with placeholders; every span lies inside the stretch or outside it."""
    parts, position = [], start
    for span in spans:
        if start <= span.start and span.end <= end:
            parts += [text[position : span.start], span.placeholder]
            position = span.end
    return "".join([*parts, text[position:end]])


def _redaction(utterance: Utterance, span: PiiSpan) -> Redaction:
    """The span's record; its times are those of the words it touches, or the utterance's where words are missing."""
    touched = [piece.words[0] for piece in _align(utterance) if piece.start < span.end and span.start < piece.end]
    return Redaction(
        entity=span.entity,
        placeholder=span.placeholder,
        channel=utterance.channel,
        start_s=touched[0].start_s if touched else utterance.start_s,
        end_s=touched[-1].end_s if touched else utterance.end_s,
        recogniser=span.recogniser,
        score=span.score,
    )
