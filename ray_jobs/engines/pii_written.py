"""Secrets told by their form alone: Presidio's recognisers for written numbers, and a run's own patterns."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from ray_jobs.engines.conversation import Match, Turn
from ray_jobs.engines.spoken_numbers import digit_strings
from ray_jobs.errors import SpecError

if TYPE_CHECKING:
    from presidio_analyzer import LocalRecognizer

_ENTITIES = {"CREDIT_CARD": "CREDIT_CARD", "PHONE_NUMBER": "PHONE", "IBAN_CODE": "ACCOUNT_NUMBER"}
_PHONE_REGIONS = ("US", "GB")


class PresidioRecognisers:
    """Those of Presidio that need neither a model nor the network (its e-mail recogniser downloads a list)."""

    def __init__(self) -> None:
        from presidio_analyzer.predefined_recognizers import CreditCardRecognizer, IbanRecognizer, PhoneRecognizer

        self._recognisers: tuple[LocalRecognizer, ...] = (
            CreditCardRecognizer(),
            IbanRecognizer(),
            PhoneRecognizer(supported_regions=_PHONE_REGIONS),
        )

    def find(self, turns: Sequence[Turn]) -> Iterator[Match]:
        """CREDIT_CARD, PHONE and ACCOUNT_NUMBER matches."""
        for index, turn in enumerate(turns):
            for recogniser in self._recognisers:
                for result in recogniser.analyze(turn.text, recogniser.supported_entities, None):  # type: ignore[arg-type]
                    yield Match(
                        turn=index,
                        start=result.start,
                        end=result.end,
                        entity=_ENTITIES[result.entity_type],
                        secret=re.sub(r"\W", "", turn.text[result.start : result.end]).lower(),
                        recogniser="presidio",
                        score=result.score,
                    )


class Patterns:
    """A run's own secrets: entity name to regular expression, in any case of letters.

    A pattern is held against the text as written and, whole, against digits read out: `[0-9]{8}` finds "four one one
    ..." too.
    """

    def __init__(self, patterns: Mapping[str, str]) -> None:
        """Raises SpecError naming the pattern that is no regular expression."""
        self._patterns = {entity: _compiled(entity, pattern) for entity, pattern in patterns.items()}

    @property
    def entities(self) -> frozenset[str]:
        return frozenset(self._patterns)

    def find(self, turns: Sequence[Turn]) -> Iterator[Match]:
        """Matches under the patterns' names."""
        for index, turn in enumerate(turns):
            for entity, pattern in self._patterns.items():
                written = ((match.start(), match.end(), match.group().lower()) for match in pattern.finditer(turn.text))
                read_out = ((s.start, s.end, s.digits) for s in digit_strings(turn.text) if pattern.fullmatch(s.digits))
                for start, end, secret in (*written, *read_out):
                    if start < end:
                        yield Match(
                            turn=index,
                            start=start,
                            end=end,
                            entity=entity,
                            secret=secret,
                            recogniser="pattern",
                            score=1.0,
                        )


def _compiled(entity: str, pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern, re.IGNORECASE)
    except re.error as error:
        raise SpecError(f"redact.patterns.{entity} is no regular expression: {error}") from None
