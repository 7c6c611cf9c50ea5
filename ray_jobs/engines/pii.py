"""Finds what must not be stored in the text of a conversation. Knows text and speakers; never calls, audio or storage.

How a secret is found:

1. Lines become turns: utterances of one speaker with only an "okay" or echoed digits of the other between them are
   one text (`conversation`), for ASR cuts a card number wherever the caller breathes.
2. E-mails and addresses are told by their form (`pii_emails`, `pii_addresses`), people by phrases that introduce
   them, a spaCy model and a list of given names (`pii_people`).
3. What is left of digits, spoken ("double seven") or written ("4-1-1-1."), is classified by shape and by the nearest
   words that name a number (`pii_cues`), in the same turn or in the other party's question (`pii_numbers`).
4. Presidio's recognisers for written card numbers, phone numbers and IBANs add what the above has missed, and a run's
   own patterns what only it knows (`pii_written`).
5. Where a run has one, a language model's suggestions are added (`stages.suggest`).
6. Overlapping matches become one under the strongest; the same secret has the same placeholder all through the call.

Not secrets: amounts of money, durations, times, dates other than of birth, towns without a street, organisations,
order and reference numbers. English only. Nothing here reaches the network.
"""

import hashlib
import hmac
import importlib.util
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ray_jobs.engines.conversation import Line, Match, Turn, turns_of
from ray_jobs.engines.lean_imports import imported_without
from ray_jobs.engines.pii_addresses import find_addresses, street_of
from ray_jobs.engines.pii_cues import cues_of
from ray_jobs.engines.pii_emails import find_emails
from ray_jobs.engines.pii_numbers import find_numbers
from ray_jobs.engines.pii_people import NamedEntity, cased, find_people
from ray_jobs.engines.pii_written import Patterns, PresidioRecognisers
from ray_jobs.errors import SpecError
from ray_jobs.spec import RedactSpec

if TYPE_CHECKING:
    from spacy.language import Language

Style = Literal["mask", "hash", "drop"]
"""What stands in a secret's place: [PERSON_1], counted per call; [PERSON_9f86d081], a keyed hash that is the same in
every call of a run; nothing."""

_WITHOUT = ("tagger", "parser", "attribute_ruler", "lemmatizer", "senter")  # components that entities do not need
_TORCH = ("torch", "transformers")
"""What spaCy and Presidio import where it is there: three of four CPU-seconds and 390 of 620 MiB, for other models."""

_HASH_DIGITS = 12
_HOLD_OTHERS = frozenset({"EMAIL", "ADDRESS"})
_MIN_SUGGESTED_CHARS = 2
_SUGGESTED_SCORE = 0.4  # below what the recognisers give, whose name for a place goes first


@dataclass(frozen=True, slots=True, kw_only=True)
class PiiSpan:
    """`lines[line].text[start:end]` is to be replaced with `placeholder`.

    A secret that runs over several lines is one span in each of them, all with one placeholder.
    """

    line: int
    start: int
    end: int
    entity: str
    placeholder: str
    recogniser: str
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """What somebody else, a language model say, takes for a secret: the words of the conversation, and their kind."""

    entity: str
    text: str


class Redactor:
    """The recognisers, loaded: one per actor. Constructing it loads spaCy's model and Presidio (about a second)."""

    def __init__(
        self, spec: RedactSpec, *, style: Style = "mask", key: bytes = b"", patterns: Mapping[str, str] | None = None
    ) -> None:
        """`key` is the secret of the style hash; `patterns` are a run's own entities (see `pii_written.Patterns`).

        Raises SpecError where the spec's `ner_model` is not there, a pattern is no regular expression or the key is
        missing.
        """
        if style == "hash" and not key:
            raise SpecError("redaction by hash needs a key: without one anybody could try out names and numbers")
        self.spec = spec
        self._style: Style = style
        self._key = key
        self._patterns = Patterns(patterns or {})
        self._entities = frozenset(spec.entities) | self._patterns.entities
        ner_model = None if spec.mode == "store_unredacted" else spec.ner_model
        check_ner_model(ner_model)
        with imported_without(*(_TORCH if ner_model is None or not _reads_with_torch(ner_model) else ())):
            self._presidio = PresidioRecognisers()
            self._model = None if ner_model is None else _load_spacy(ner_model)

    def find(self, lines: Sequence[Line], suggestions: Sequence[Suggestion] = ()) -> list[PiiSpan]:
        """The spans to replace, by line and place, without overlaps; `lines` are in time order.

        `suggestions` are added wherever their words stand; those that stand nowhere are left alone.
        """
        turns = turns_of([replace(line, text=cased(line.text)) for line in lines])
        cues = cues_of(turns)
        emails = find_emails(turns, cues)
        addresses = find_addresses(turns, cues)
        matches = [
            *emails,
            *addresses,
            *_repeated_streets(turns, addresses),
            *find_numbers(turns, cues, [*emails, *addresses]),
            *find_people(turns, cues, self._named_entities(turns)),
            *self._presidio.find(turns),
            *self._patterns.find(turns),
        ]
        wanted = [match for match in matches if match.entity in self._entities and match.score >= self.spec.min_score]
        wanted += _suggested(turns, suggestions)
        placeholders = _Placeholders(style=self._style, key=self._key)
        pieces = [
            piece
            for match in _without_overlaps(wanted)
            for piece in _pieces(turns[match.turn], match, placeholders.of(match))
        ]
        return sorted(pieces, key=lambda piece: (piece.line, piece.start))

    def _named_entities(self, turns: Sequence[Turn]) -> list[list[NamedEntity]]:
        if self._model is None:
            return [[] for _ in turns]
        documents = self._model.pipe(turn.text for turn in turns)
        return [
            [NamedEntity(start=e.start_char, end=e.end_char, label=e.label_) for e in document.ents]
            for document in documents
        ]


def check_ner_model(name: str | None) -> None:
    """Cheap check that a spaCy model is there, without loading it. Raises SpecError in one line where it is not."""
    if name is None or Path(name, "config.cfg").is_file():
        return
    if re.fullmatch(r"\w+", name) and importlib.util.find_spec(name) is not None:
        return
    raise SpecError(
        f"redact.ner_model {name}: no installed spaCy model package and no folder with a config.cfg has that name; "
        "install the package, give the folder, or set it to null to go without the names that no phrase gives away"
    )


def _reads_with_torch(name: str) -> bool:
    """Whether a spaCy model's configuration names an architecture of PyTorch's, as those of transformers do."""
    package = None if Path(name, "config.cfg").is_file() else importlib.util.find_spec(name)
    folder = Path(name) if package is None or package.origin is None else Path(package.origin).parent
    return any(re.search("torch|transformer", path.read_text(), re.IGNORECASE) for path in folder.rglob("config.cfg"))


def _load_spacy(name: str) -> "Language":
    import spacy

    return spacy.load(name, exclude=list(_WITHOUT))


def _repeated_streets(turns: Sequence[Turn], addresses: Sequence[Match]) -> Iterator[Match]:
    """A known address's street where it is said again without its number."""
    for address in addresses:
        street = street_of(turns[address.turn].text[address.start : address.end])
        if not street:
            continue
        for index, turn in enumerate(turns):
            for place in re.finditer(rf"\b{re.escape(street)}\b", turn.text, re.IGNORECASE):
                yield replace(address, turn=index, start=place.start(), end=place.end(), recogniser="repetition")


def _suggested(turns: Sequence[Turn], suggestions: Sequence[Suggestion]) -> Iterator[Match]:
    for suggestion in suggestions:
        words = re.findall(r"\w+", suggestion.text)
        if len("".join(words)) < _MIN_SUGGESTED_CHARS:
            continue
        pattern = re.compile(r"(?<!\w)" + r"[\W_]+".join(map(re.escape, words)) + r"(?!\w)", re.IGNORECASE)
        for index, turn in enumerate(turns):
            for place in pattern.finditer(turn.text):
                yield Match(
                    turn=index,
                    start=place.start(),
                    end=place.end(),
                    entity=suggestion.entity,
                    secret=" ".join(words).lower(),
                    recogniser="language_model",
                    score=_SUGGESTED_SCORE,
                )


def _without_overlaps(matches: Sequence[Match]) -> list[Match]:
    """Overlapping matches as one, from the first character of any to the last, named after the strongest.

    An e-mail or an address counts as stronger than the name or number inside it.
    """
    merged: list[Match] = []
    for match in sorted(matches, key=lambda m: (m.turn, m.start, -m.end)):
        last = merged[-1] if merged else None
        if last is None or last.turn != match.turn or match.start >= last.end:
            merged.append(match)
            continue
        strongest = max(last, match, key=lambda m: (m.entity in _HOLD_OTHERS, m.score, m.end - m.start))
        merged[-1] = replace(strongest, start=last.start, end=max(last.end, match.end))
    return merged


@dataclass(slots=True, kw_only=True)
class _Placeholders:
    """Gives out the placeholders of one call."""

    style: Style
    key: bytes
    _numbers: dict[str, dict[str, int]] = field(default_factory=dict)  # entity -> secret -> number

    def of(self, match: Match) -> str:
        if self.style == "drop":
            return ""
        if self.style == "hash":
            digest = hmac.new(self.key, f"{match.entity}:{match.secret}".encode(), hashlib.sha256).hexdigest()
            return f"[{match.entity}_{digest[:_HASH_DIGITS]}]"
        known = self._numbers.setdefault(match.entity, {})
        return f"[{match.entity}_{known.setdefault(match.secret, len(known) + 1)}]"


def _pieces(turn: Turn, match: Match, placeholder: str) -> Iterator[PiiSpan]:
    """A match cut at the turn's line ends."""
    ends = [*(start - 1 for start in turn.starts[1:]), len(turn.text)]
    for line, line_start, line_end in zip(turn.lines, turn.starts, ends, strict=True):
        start, end = max(match.start, line_start), min(match.end, line_end)
        while start < end and not turn.text[end - 1].isalnum():  # a full stop at the line's end is no part of it
            end -= 1
        if start < end:
            yield PiiSpan(
                line=line,
                start=start - line_start,
                end=end - line_start,
                entity=match.entity,
                placeholder=placeholder,
                recogniser=match.recogniser,
                score=match.score,
            )
