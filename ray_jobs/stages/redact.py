"""Redaction of transcripts: text, words and times together, before anything is stored.

Where words carry a secret, one word with the placeholder and the secret's times takes their place, so that text,
words and subtitles always agree. A call whose redaction fails becomes a Failure: unredacted text never passes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from ray_jobs.engines.conversation import Line
from ray_jobs.engines.llm import LlmEngine
from ray_jobs.engines.pii import PiiSpan, Suggestion
from ray_jobs.records import Outcome, Redaction, Transcript, Utterance, Word, failed
from ray_jobs.spec import RedactSpec
from ray_jobs.stages.suggest import suggest


class SpanFinder(Protocol):
    """What this stage asks of `ray_jobs.engines.pii.Redactor`."""

    spec: RedactSpec

    def find(self, lines: Sequence[Line], suggestions: Sequence[Suggestion] = ()) -> list[PiiSpan]: ...


def redact(outcomes: Sequence[Outcome], redactor: SpanFinder, reader: LlmEngine | None = None) -> list[Outcome]:
    """One outcome per input, in order; Failures pass through. A `reader` adds to what the redactor finds.

    With the mode store_unredacted transcripts pass as they are, `redacted` False. A call whose redaction raises, or
    about which the reader gave no valid answer, comes back as the Failure redaction_error, whose reason names nothing
    of the text. Raises what the reader raises where it answers for no call.
    """
    if redactor.spec.mode == "store_unredacted":
        return list(outcomes)
    transcripts = [outcome for outcome in outcomes if isinstance(outcome, Transcript)]
    read = suggest(transcripts, reader, redactor.spec.entities) if reader is not None else {}
    return [
        _redact_one(outcome, redactor, read.get(outcome.call_id, [])) if isinstance(outcome, Transcript) else outcome
        for outcome in outcomes
    ]


def _redact_one(transcript: Transcript, redactor: SpanFinder, suggestions: Sequence[Suggestion] | None) -> Outcome:
    if suggestions is None:
        return _withheld(transcript, "the language model gave no valid answer")
    try:
        return _redact_transcript(transcript, redactor, suggestions)
    except Exception as error:  # whatever it is, the text must not pass; and its message may quote the text
        return _withheld(transcript, f"redaction raised {type(error).__name__}")


def _withheld(transcript: Transcript, why: str) -> Outcome:
    return failed(transcript, code="redaction_error", stage="redact", reason=f"{why}; the transcript was withheld")


def _redact_transcript(transcript: Transcript, redactor: SpanFinder, suggestions: Sequence[Suggestion]) -> Transcript:
    spans = redactor.find([Line(speaker=u.channel, text=u.text) for u in transcript.utterances], suggestions)
    utterances: list[Utterance] = []
    redactions: list[Redaction] = []
    for index, utterance in enumerate(transcript.utterances):
        of_line = [span for span in spans if span.line == index]
        pieces = _align(utterance)
        utterances.append(_replace_spans(utterance, pieces, of_line) if of_line else utterance)
        redactions += [_record(utterance, pieces, span) for span in of_line]
    return replace(transcript, redacted=True, utterances=tuple(utterances), redactions=tuple(redactions))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Piece:
    """Words of an utterance and the characters of its text they cover."""

    start: int
    end: int
    words: tuple[Word, ...]


def _align(utterance: Utterance) -> list[_Piece]:
    """Where each word stands in the text; nothing if they do not agree, so that no word outlives its redaction."""
    pieces, position = [], 0
    for word in utterance.words:
        start = utterance.text.find(word.text, position)
        if start < 0 or utterance.text[position:start].strip():
            return []
        position = start + len(word.text)
        pieces.append(_Piece(start=start, end=position, words=(word,)))
    return pieces if not utterance.text[position:].strip() else []


def _replace_spans(utterance: Utterance, pieces: Sequence[_Piece], spans: Sequence[PiiSpan]) -> Utterance:
    text = _render(utterance.text, 0, len(utterance.text), spans)
    words = [_merge(piece, utterance.text, spans) for piece in _join_touched(pieces, spans)]
    return replace(utterance, text=text, words=tuple(word for word in words if word.text))


def _join_touched(pieces: Sequence[_Piece], spans: Sequence[PiiSpan]) -> list[_Piece]:
    """Pieces that one span touches become one."""
    joined: list[_Piece] = []
    for piece in pieces:
        if joined and any(span.start < joined[-1].end and piece.start < span.end for span in spans):
            last = joined.pop()
            joined.append(_Piece(start=last.start, end=piece.end, words=last.words + piece.words))
        else:
            joined.append(piece)
    return joined


def _merge(piece: _Piece, text: str, spans: Sequence[PiiSpan]) -> Word:
    return Word(
        text=_render(text, piece.start, piece.end, spans),
        start_s=piece.words[0].start_s,
        end_s=piece.words[-1].end_s,
        probability=min(word.probability for word in piece.words),
    )


def _render(text: str, start: int, end: int, spans: Sequence[PiiSpan]) -> str:
    """`text[start:end]` with placeholders; every span lies inside the stretch or outside it."""
    parts, position = [], start
    for span in spans:
        if start <= span.start and span.end <= end:
            parts += [text[position : span.start], span.placeholder]
            position = span.end
    return " ".join("".join([*parts, text[position:end]]).split())


def _record(utterance: Utterance, pieces: Sequence[_Piece], span: PiiSpan) -> Redaction:
    """The span's audit row; its times are those of the words it touches, or the utterance's where words are missing."""
    touched = [piece.words[0] for piece in pieces if piece.start < span.end and span.start < piece.end]
    return Redaction(
        entity=span.entity,
        placeholder=span.placeholder,
        channel=utterance.channel,
        start_s=touched[0].start_s if touched else utterance.start_s,
        end_s=touched[-1].end_s if touched else utterance.end_s,
        recogniser=span.recogniser,
        score=span.score,
    )
