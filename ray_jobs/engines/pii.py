"""Finds what must not be stored in the text of a conversation. Knows text and speakers; never calls, audio or storage.

How a secret is found:

1. Lines become turns: utterances of one speaker with only an "okay" or echoed digits of the other between them are one
   text (`conversation`), for ASR cuts a card number wherever the caller breathes.
2. E-mails and addresses are told by their form (`pii_emails`, `pii_addresses`), people by phrases that introduce them,
   a spaCy model and a list of given names (`pii_people`).
3. What is left of digits, spoken ("double seven") or written ("4-1-1-1."), is classified by shape and by the nearest
   words that name a number, in the same turn or in the other party's question (`pii_numbers`).
4. Presidio's recognisers for written card numbers, phone numbers and IBANs add what the above has missed, and run the
   spec's own patterns.
5. Overlapping matches become one span under the strongest; the same secret gets the same placeholder, [PERSON_1], all
   through the call.

Not secrets: amounts of money, durations, times, dates other than of birth, towns without a street, organisations, order
and reference numbers. English only; nothing here reaches the network.
"""

import importlib.util
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ray_jobs.engines.conversation import Line, Match, Turn, cues_of, turns_of
from ray_jobs.engines.pii_addresses import find_addresses, street_of
from ray_jobs.engines.pii_emails import find_emails
from ray_jobs.engines.pii_numbers import find_numbers
from ray_jobs.engines.pii_people import cased, find_people
from ray_jobs.errors import SpecError
from ray_jobs.spec import RedactSpec

if TYPE_CHECKING:
    from presidio_analyzer import EntityRecognizer

_PRESIDIO_ENTITIES = {"CREDIT_CARD": "CREDIT_CARD", "PHONE_NUMBER": "PHONE", "IBAN_CODE": "ACCOUNT_NUMBER"}
_PHONE_REGIONS = ("US", "GB")
_NOT_FOR_ENTITIES = ("tagger", "parser", "attribute_ruler", "lemmatizer", "senter")
_WITH_PERSON_INSIDE = frozenset({"EMAIL", "ADDRESS"})


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


class Redactor:
    """The recognisers, loaded: one per actor. Constructing it loads spaCy's model (about a second) and Presidio's code."""

    def __init__(self, spec: RedactSpec) -> None:
        """Raises SpecError where the spec's `ner_model` cannot be found."""
        self.spec = spec
        self._model = None
        self._written: list[EntityRecognizer] = []
        if spec.mode != "store_unredacted":
            if spec.ner_model is not None:
                self._model = _load_spacy(spec.ner_model)
            self._written = _presidio_recognisers()

    def find(self, lines: Sequence[Line]) -> list[PiiSpan]:
        """The spans to replace, by line and then by place, without overlaps; `lines` are in time order."""
        turns = turns_of([replace(line, text=cased(line.text)) for line in lines])
        cues = cues_of(turns)
        emails = find_emails(turns, cues)
        addresses = find_addresses(turns, cues)
        numbers = find_numbers(turns, cues, [*emails, *addresses])
        people = find_people(turns, cues, self._named_entities(turns)) if "PERSON" in self.spec.entities else []
        matches = [*emails, *addresses, *_repeated_streets(turns, addresses), *numbers, *people, *self._written_forms(turns)]
        wanted = [match for match in matches if match.entity in self.spec.entities and match.score >= self.spec.min_score]
        return list(_to_lines(turns, _without_overlaps(wanted)))

    def _named_entities(self, turns: Sequence[Turn]) -> list[list[tuple[int, int, str]]]:
        if self._model is None:
            return [[] for _ in turns]
        documents = self._model.pipe(turn.text for turn in turns)
        return [[(e.start_char, e.end_char, e.label_) for e in document.ents] for document in documents]

    def _written_forms(self, turns: Sequence[Turn]) -> Iterator[Match]:
        for index, turn in enumerate(turns):
            for recogniser in self._written:
                for result in recogniser.analyze(turn.text, recogniser.supported_entities, None):
                    entity = _PRESIDIO_ENTITIES[result.entity_type]
                    secret = re.sub(r"\W", "", turn.text[result.start : result.end]).lower()
                    yield Match(
                        turn=index,
                        start=result.start,
                        end=result.end,
                        entity=entity,
                        secret=secret,
                        recogniser=recogniser.name,
                        score=result.score,
                    )


def check_ner_model(name: str | None) -> None:
    """Cheap check that a spaCy model is there, without loading it. Raises SpecError in one line where it is not."""
    if name is None or Path(name, "config.cfg").is_file():
        return
    if re.fullmatch(r"\w+", name) and importlib.util.find_spec(name) is not None:
        return
    raise SpecError(
        f"redact.ner_model {name}: no installed spaCy model package and no folder with a config.cfg has that name; "
        "install the package, give the folder, or set it to null to go without names the phrases do not give away"
    )


def _load_spacy(name: str):  # type: ignore[no-untyped-def]  # spacy.Language: spaCy is imported only here
    check_ner_model(name)
    import spacy

    return spacy.load(name, exclude=list(_NOT_FOR_ENTITIES))


def _presidio_recognisers() -> list["EntityRecognizer"]:
    """Those that need neither a model nor the network (the e-mail recogniser fetches a list of domains: left out)."""
    from presidio_analyzer.predefined_recognizers import CreditCardRecognizer, IbanRecognizer, PhoneRecognizer

    return [CreditCardRecognizer(), IbanRecognizer(), PhoneRecognizer(supported_regions=_PHONE_REGIONS)]


def _repeated_streets(turns: Sequence[Turn], addresses: Sequence[Match]) -> Iterator[Match]:
    """A known address's street where it is said again without its number."""
    for address in addresses:
        street = street_of(turns[address.turn].text[address.start : address.end])
        if not street:
            continue
        for index, turn in enumerate(turns):
            for place in re.finditer(rf"\b{re.escape(street)}\b", turn.text, re.IGNORECASE):
                yield replace(address, turn=index, start=place.start(), end=place.end(), recogniser="repetition")


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
        strongest = max(last, match, key=lambda m: (m.entity in _WITH_PERSON_INSIDE, m.score, m.end - m.start))
        merged[-1] = replace(strongest, start=last.start, end=max(last.end, match.end))
    return merged


def _to_lines(turns: Sequence[Turn], matches: Sequence[Match]) -> Iterator[PiiSpan]:
    placeholders: dict[tuple[str, str], str] = {}
    counts: dict[str, int] = {}
    spans = []
    for match in matches:
        key = (match.entity, match.secret)
        if key not in placeholders:
            counts[match.entity] = counts.get(match.entity, 0) + 1
            placeholders[key] = f"[{match.entity}_{counts[match.entity]}]"
        spans += _pieces(turns[match.turn], match, placeholders[key])
    yield from sorted(spans, key=lambda span: (span.line, span.start))


def _pieces(turn: Turn, match: Match, placeholder: str) -> Iterator[PiiSpan]:
    """A match cut at the turn's line ends."""
    ends = [*(start - 1 for start in turn.starts[1:]), len(turn.text)]
    for line, line_start, line_end in zip(turn.lines, turn.starts, ends, strict=True):
        start, end = max(match.start, line_start), min(match.end, line_end)
        while start < end and not turn.text[end - 1].isalnum():
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
