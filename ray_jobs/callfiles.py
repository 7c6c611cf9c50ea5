"""One call as files for people and players: JSON, WebVTT, SubRip and plain text."""

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from html import escape
from itertools import chain
from typing import Any

from ray_jobs.records import SCHEMA_VERSION, Insight, Transcript, Utterance, Word

MAX_LINE_CHARS = 42
MAX_LINES = 2
MAX_CUE_MS = 7000
"""A cue's limits, as broadcasters' subtitle guides put them."""

_BLANKS = re.compile(r"[\s\x00-\x1f\x7f-\x9f]+")
# Scripts written without blanks (Han, kana, full-width forms) may be cut after any character, others only at blanks.
_WIDE = r"\u3000-\u9fff\uf900-\ufaff\uff00-\uffef"
_PIECE = re.compile(rf"[{_WIDE}]|[^ {_WIDE}]{{1,{MAX_LINE_CHARS}}}")


def render(transcript: Transcript, insights: Sequence[Insight]) -> dict[str, bytes]:
    """File extension to content (UTF-8) of one call's files: json, vtt, srt, txt.

    The same input gives the same bytes. Subtitles show each utterance's text in cues of at most MAX_LINES lines and
    MAX_CUE_MS milliseconds, timed by its words; cues are in order of start, and a cue never starts after it ends.
    """
    cues = _transcript_cues(transcript)
    files = {
        "json": _json(transcript, insights),
        "vtt": "WEBVTT\n" + "".join(f"\n{_vtt_cue(cue)}\n" for cue in cues),
        "srt": "\n".join(f"{number}\n{_srt_cue(cue)}\n" for number, cue in enumerate(cues, start=1)),
        "txt": "".join(f"[{_minutes(u.start_s)}] {_clean(u.role)}: {_clean(u.text)}\n" for u in transcript.utterances),
    }
    # A language model can write half a surrogate pair; that becomes a question mark, not a lost call.
    return {extension: text.encode("utf-8", "replace") for extension, text in files.items()}


# ------------------------------------------------------------------------------------------------------------- JSON


def _json(transcript: Transcript, insights: Sequence[Insight]) -> str:
    fields = asdict(transcript)
    del fields["uri"]  # a recording's path can hold a telephone number; the Parquet files keep it
    document = {
        "schema_version": SCHEMA_VERSION,
        **fields,
        "insights": {insight.task: _answer(insight) for insight in insights},
    }
    return json.dumps(_tidy(document), ensure_ascii=False, allow_nan=False) + "\n"


def _answer(insight: Insight) -> dict[str, Any]:
    origin = {"model": insight.model, "prompt_version": insight.prompt_version}
    value = {"value": json.loads(insight.value_json)} if insight.answered else {}
    error = {"error": insight.error} if insight.error else {}
    return {"status": insight.status, **value, **error, **origin}


def _tidy(value: Any) -> Any:
    """Floats to six decimals (what float32 columns give back reads as written), null for what JSON cannot say."""
    if isinstance(value, dict):
        return {key: _tidy(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_tidy(item) for item in value]
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value


# --------------------------------------------------------------------------------------------------------- subtitles


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cue:
    """What stands on the screen at one time."""

    role: str
    start_ms: int
    end_ms: int
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Piece:
    """Text that is not cut; `blank` separates it from the piece before."""

    text: str
    blank: str
    start_ms: int
    end_ms: int


def _transcript_cues(transcript: Transcript) -> list[_Cue]:
    # WebVTT wants cues in order of start; the sort is stable and keeps an utterance's own cues in order.
    cues = chain.from_iterable(_utterance_cues(utterance) for utterance in transcript.utterances)
    return sorted(cues, key=lambda cue: cue.start_ms)


def _utterance_cues(utterance: Utterance) -> list[_Cue]:
    role = _clean(utterance.role)
    cues: list[_Cue] = []
    for piece in _pieces(utterance):
        lines = _lines_with(cues[-1], piece) if cues else None
        if lines is not None:
            cues[-1] = replace(cues[-1], end_ms=piece.end_ms, lines=lines)
        else:
            end_ms = min(piece.end_ms, piece.start_ms + MAX_CUE_MS)
            cues.append(_Cue(role=role, start_ms=piece.start_ms, end_ms=end_ms, lines=(piece.text,)))
    return cues


def _lines_with(cue: _Cue, piece: _Piece) -> tuple[str, ...] | None:
    """The cue's lines with the piece added, or None where the piece has to open the next cue."""
    *above, line = cue.lines
    if piece.end_ms - cue.start_ms > MAX_CUE_MS or (above and line.endswith((".", "?", "!", "。"))):
        return None
    longer = f"{line}{piece.blank}{piece.text}"
    if len(longer) <= MAX_LINE_CHARS:
        return (*above, longer)
    return (*cue.lines, piece.text) if len(cue.lines) < MAX_LINES else None


def _pieces(utterance: Utterance) -> Iterator[_Piece]:
    """The utterance's text in pieces of at most MAX_LINE_CHARS, each after the one before and at least 1 ms long."""
    text = _clean(utterance.text)
    times = _character_times(text, utterance)
    num_seen, text_end, end_ms = 0, 0, 0
    for match in _PIECE.finditer(text):
        first_s, _ = times[num_seen]
        num_seen += len(match[0])
        _, last_s = times[num_seen - 1]
        start_ms = max(end_ms, _ms(first_s))
        end_ms = max(start_ms + 1, _ms(last_s))
        yield _Piece(text=match[0], blank=text[text_end : match.start()], start_ms=start_ms, end_ms=end_ms)
        text_end = match.end()


def _character_times(text: str, utterance: Utterance) -> list[tuple[float, float]]:
    """Start and end in seconds of each character of `text` that is not a blank: its share of its word's time.

    The text is what is shown; where the words do not spell it (a redactor rewrote one and not the other) they are
    not trusted for times either, and the characters share the utterance's time evenly.
    """
    whole = Word(text=text, start_s=utterance.start_s, end_s=utterance.end_s, probability=1.0)
    spelled = [(_clean(word.text).replace(" ", ""), word) for word in utterance.words]
    if "".join(letters for letters, _ in spelled) != text.replace(" ", ""):
        spelled = [(text.replace(" ", ""), whole)]
    return [share for letters, word in spelled for share in _shares(len(letters), word, utterance)]


def _shares(num_characters: int, word: Word, utterance: Utterance) -> Iterator[tuple[float, float]]:
    start_s = min(max(word.start_s, utterance.start_s), utterance.end_s)
    end_s = min(max(word.end_s, start_s), utterance.end_s)
    step_s = (end_s - start_s) / max(num_characters, 1)
    return ((start_s + index * step_s, start_s + (index + 1) * step_s) for index in range(num_characters))


def _vtt_cue(cue: _Cue) -> str:
    """See https://www.w3.org/TR/webvtt1/, sections 4.1 (cue timings) and 4.2.2 (voice spans and escapes)."""
    text = "\n".join(escape(line, quote=False) for line in cue.lines)
    voice = f"<v {escape(cue.role, quote=False)}>" if cue.role else ""
    return f"{_clock(cue.start_ms, '.')} --> {_clock(cue.end_ms, '.')}\n{voice}{text}"


def _srt_cue(cue: _Cue) -> str:
    text = "\n".join(cue.lines)
    return f"{_clock(cue.start_ms, ',')} --> {_clock(cue.end_ms, ',')}\n{cue.role}: {text}"


# ------------------------------------------------------------------------------------------------------ text and time


def _clean(text: str) -> str:
    """One line: runs of blanks and control characters become one blank."""
    return _BLANKS.sub(" ", text).strip()


def _ms(seconds: float) -> int:
    return max(0, round(seconds * 1000))


def _clock(time_ms: int, decimal_mark: str) -> str:
    seconds, milliseconds = divmod(time_ms, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}{decimal_mark}{milliseconds:03d}"


def _minutes(seconds: float) -> str:
    """mm:ss, and h:mm:ss from an hour on."""
    minutes, second = divmod(int(max(0.0, seconds)), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute:02d}:{second:02d}"
