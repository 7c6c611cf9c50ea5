"""Classifies strings of digits and dates: whose number is it, and is it a secret?

Every string of digits is weighed against the cues around it. The score of an entity is how well the digits fit its
shape times how near its cue is; the best score wins, and a string without a cue is judged by its shape alone. Shapes
are loose on purpose: ASR adds and drops digits, so a card number is any 12 digits and more, and a valid Luhn sum only
raises the score. A question is closed by an answer that fits well, so that a date of birth asked for once does not
make every later date one. Digits known to be a secret are found again wherever either party repeats them.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ray_jobs.engines.conversation import Match, Turn
from ray_jobs.engines.pii_cues import ANY_NUMBER, NO_SECRET, Cue
from ray_jobs.engines.spoken_dates import SpokenDate, dates, dates_of_digits, readings
from ray_jobs.engines.spoken_numbers import NUMBER, DigitString, digit_strings
from ray_jobs.pii_names import passes_luhn

MIN_REPEATED_DIGITS = 4
"""Fewer digits than this are a repetition only of the whole secret."""

_LOOK_BACK_TURNS = 6
_LOOK_BACK_SHORT_TURNS = 3  # a three-digit number far from the question is more likely a count
_SHORT_DIGITS = 5
_NEARNESS_PER_TURN = 0.93
_NEARNESS_BEHIND = 0.95  # "... is my account number"
_OVERRULED = 0.6
_COMPLETE_FIT = 0.85
_MIN_SAID_TWICE_DIGITS = 7
_MIN_CARD_DIGITS = 12
_CARD_DATE_WITHIN_TURNS = 4
_CARD_YEARS = range(20, 46)
_FIRST_BIRTH_YEAR = 46  # of 1900; below it two digits may be a year of this century
_MAX_DAY = 31
_MAX_LETTERS = 6
_LETTER_CHARS = 8

_CUE_BEHIND = re.compile(
    r"[\s,]*(?:is|was|'s|that's|are|as)?\s*(?:my|the|your|our|for my|for the|on the|of my|of the)?\s*\Z", re.IGNORECASE
)
_YEAR_OF_SOMETHING = re.compile(r"(?<!ending )(?<!ends )\b(?:in|since|of|until)\s\Z", re.IGNORECASE)
_LETTERS_BEFORE = re.compile(r"(?<![\w'’])(?:[A-Zb-hj-z]|[A-Z]{2,4})[\s,.-]*\Z")
_UNCASED_LETTERS_BEFORE = re.compile(
    r"\b(?!(?:is|it|my|or|no|to|at|on|in|of|by|so|um|uh|er|ok|am|an|as|be|do|go|he|hi|if|me|oh|up|us|we|id|mm)\b)"
    r"[a-z]{2}\s+\Z"
)
_PLUS_BEFORE = re.compile(r"(?:\+|\bplus)\s*\Z", re.IGNORECASE)
_EXTENSION = re.compile(rf"[\s,.]*\b(?:extension|ext|x)\b\.?\s*{NUMBER}(?:[\s,-]*{NUMBER})*", re.IGNORECASE)
_LETTERS_AFTER = re.compile(r"(?:[\s,-]*\b[B-HJ-Z]\b)+|[A-Z]{1,2}\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    """A string of digits, or a date (then `digits` is empty), in `turns[turn].text[start:end]`.

    `corrected` are the digits after the last "no, sorry"; `international` follows a plus.
    """

    turn: int
    start: int
    end: int
    digits: str = ""
    groups: tuple[str, ...] = ()
    corrected: str = ""
    international: bool = False
    date: SpokenDate | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reading:
    """What one cue makes of a candidate."""

    cue: Cue
    entity: str
    score: float


def find_numbers(turns: Sequence[Turn], cues: Sequence[Cue], taken: Sequence[Match] = ()) -> list[Match]:
    """CREDIT_CARD, CVV, EXPIRY, SSN, DOB, PHONE, ACCOUNT_NUMBER and postcodes (ADDRESS) of a conversation.

    `taken` are places other recognisers hold (house numbers, e-mails); digits inside them are left alone.
    """
    answers: dict[Cue, tuple[int, int]] = {}
    matches, unnamed = [], []
    for candidate in _candidates(turns, taken):
        reading = _best_reading(turns, candidate, [cue for cue in cues if not _is_answered(cue, candidate, answers)])
        if reading is None or (reading.entity != NO_SECRET and reading.score < _by_shape(candidate)[1]):
            unnamed.append(candidate)
            continue
        if _fit_candidate(reading.cue.entity, candidate)[1] >= _COMPLETE_FIT:
            answers[reading.cue] = (candidate.turn, candidate.end)
        if reading.entity != NO_SECRET:
            matches.append(_match(turns, candidate, reading.entity, reading.score))
    known = {match.secret: match for match in matches}
    for candidate in unnamed:
        original = _repeated(candidate, known)
        if original is not None:
            matches.append(_match(turns, candidate, original.entity, original.score, secret=original.secret))
            continue
        entity, score = _by_shape(candidate)
        if entity == NO_SECRET and _is_card_date(candidate) and _follows_card(candidate, matches):
            entity, score = "EXPIRY", 0.6
        if entity != NO_SECRET:
            matches.append(_match(turns, candidate, entity, score))
    return matches


def fit(entity: str, digits: str, date: SpokenDate | None = None) -> tuple[str, float]:
    """The entity that a cue makes of digits (or of a date), and how well they have its shape, in [0, 1]."""
    if date is not None:
        return entity, _fit_date(entity, date)
    return _any_number(digits) if entity == ANY_NUMBER else (entity, _fit_digits(entity, digits))


# -------------------------------------------------------------------------------------------------------- candidates


def _candidates(turns: Sequence[Turn], taken: Sequence[Match]) -> list[_Candidate]:
    found = []
    for index, turn in enumerate(turns):
        places = [(match.start, match.end) for match in taken if match.turn == index]
        for date in dates(turn.text):
            if not any(date.start < end and start < date.end for start, end in places):
                found.append(_Candidate(turn=index, start=date.start, end=date.end, date=date))
        places += [(candidate.start, candidate.end) for candidate in found if candidate.turn == index]
        # What is taken is blanked out, so that digits on both sides of it do not join.
        text = turn.text
        for start, end in places:
            text = text[:start] + "|" * (end - start) + text[end:]
        found += [_of_digits(index, string, text) for string in digit_strings(text)]
    return sorted(found, key=lambda candidate: (candidate.turn, candidate.start))


def _of_digits(turn: int, string: DigitString, text: str) -> _Candidate:
    digits, groups = string.digits, string.groups
    plus = _PLUS_BEFORE.search(text[: string.start])
    half = len(digits) // 2
    if half >= _MIN_SAID_TWICE_DIGITS and digits[:half] == digits[half:]:  # in one breath, or by both on one channel
        digits, groups = digits[:half], ()
    return _Candidate(
        turn=turn,
        start=plus.start() if plus is not None else string.start,
        end=string.end,
        digits=digits,
        groups=groups,
        corrected=string.corrected,
        international=plus is not None,
    )


# ------------------------------------------------------------------------------------------------------ cues, weighed


def _is_answered(cue: Cue, candidate: _Candidate, answers: dict[Cue, tuple[int, int]]) -> bool:
    return cue in answers and (candidate.turn, candidate.start) >= answers[cue]


def _best_reading(turns: Sequence[Turn], candidate: _Candidate, cues: Sequence[Cue]) -> _Reading | None:
    readings = [reading for cue in cues if (reading := _read(turns, candidate, cue)) is not None]
    if not readings:
        return None
    named_here = [r.cue.end for r in readings if r.cue.turn == candidate.turn and r.cue.end <= candidate.start]

    def weighed(reading: _Reading) -> tuple[float, int, int]:
        # What a number is called in its own sentence counts for more than what was asked or named before.
        overruled = bool(named_here) and (reading.cue.turn, reading.cue.end) < (candidate.turn, max(named_here))
        return reading.score * (_OVERRULED if overruled else 1.0), reading.cue.turn, reading.cue.end

    best = max((r for r in readings if not _is_superseded(r.cue, readings, candidate)), key=weighed)
    return _Reading(cue=best.cue, entity=best.entity, score=weighed(best)[0])


def _read(turns: Sequence[Turn], candidate: _Candidate, cue: Cue) -> _Reading | None:
    nearness = _nearness(turns, candidate, cue)
    entity, shape = _fit_candidate(cue.entity, candidate) if nearness else (NO_SECRET, 0.0)
    if not shape or (entity not in ("DOB", "EXPIRY") and _is_year_of_something(turns, candidate)):
        return None
    return _Reading(cue=cue, entity=entity, score=nearness * shape)


def _fit_candidate(entity: str, candidate: _Candidate) -> tuple[str, float]:
    """The better fit of all its digits and of those that a correction left."""
    readings = [fit(entity, candidate.digits, candidate.date)]
    if candidate.corrected:
        readings.append(fit(entity, candidate.corrected))
    return max(readings, key=lambda reading: reading[1])


def _nearness(turns: Sequence[Turn], candidate: _Candidate, cue: Cue) -> float:
    distance = candidate.turn - cue.turn
    if distance == 0 and cue.start >= candidate.end:
        between = turns[cue.turn].text[candidate.end : cue.start]
        return _NEARNESS_BEHIND if _CUE_BEHIND.match(between) else 0.0
    look_back = _LOOK_BACK_SHORT_TURNS if len(candidate.digits) <= _SHORT_DIGITS else _LOOK_BACK_TURNS
    if cue.entity == NO_SECRET:  # in doubt a number is a secret
        look_back = 1
    return _NEARNESS_PER_TURN**distance if 0 <= distance <= look_back else 0.0


def _is_superseded(cue: Cue, readings: Sequence[_Reading], candidate: _Candidate) -> bool:
    """Whether a cue that names no secret is followed by one that does, in a turn before the number's."""
    return (
        cue.entity == NO_SECRET
        and cue.turn < candidate.turn
        and any(other.cue.turn == cue.turn and other.cue.start > cue.start for other in readings)
    )


def _is_year_of_something(turns: Sequence[Turn], candidate: _Candidate) -> bool:
    """Whether a number is the year in "we opened in 1994"."""
    is_year = len(candidate.digits) == 4 and candidate.digits[:2] in ("19", "20")
    return is_year and _YEAR_OF_SOMETHING.search(turns[candidate.turn].text[: candidate.start]) is not None


# ------------------------------------------------------------------------------------------------------------ shapes


def _fit_date(entity: str, date: SpokenDate) -> float:
    if entity == "DOB":
        return 1.0 if date.has_year and date.has_day else 0.8
    return 0.9 if entity == "EXPIRY" else 0.0


def _fit_digits(entity: str, digits: str) -> float:
    count = len(digits)
    match entity:
        case "CREDIT_CARD":
            if count < _MIN_CARD_DIGITS:
                return 0.6 if count >= 4 else 0.0
            return 1.0 if passes_luhn(digits) else 0.9
        case "CVV":
            return {2: 0.5, 3: 0.95, 4: 0.85}.get(count, 0.0)  # "ninety seven" may be 90 7
        case "EXPIRY":
            return 0.95 if _is_expiry(digits) else 0.0
        case "SSN":
            return 1.0 if count == 9 else 0.8 if 7 <= count <= 11 else 0.7 if count == 4 else 0.0
        case "DOB":
            return 0.9 if _is_birth_date(digits) else 0.5 if count == 2 and int(digits) > _MAX_DAY else 0.0
        case "PHONE":
            return 0.95 if count in (7, 10, 11) else 0.8 if 6 <= count <= 15 else 0.0
        case "ACCOUNT_NUMBER":
            return 0.85 if 5 <= count <= 20 else 0.7 if count == 4 else 0.0
        case "ADDRESS":
            return 0.85 if count in (5, 9) else 0.0
        case _ if entity == NO_SECRET:
            return 0.9 if count <= _MIN_CARD_DIGITS else 0.4
    return 0.0


def _any_number(digits: str) -> tuple[str, float]:
    """What "the number" is when nobody says which."""
    count = len(digits)
    if count >= _MIN_CARD_DIGITS:
        return "CREDIT_CARD", 0.7
    if count in (7, 10, 11):
        return "PHONE", 0.7
    return ("ACCOUNT_NUMBER", 0.6) if count >= 5 else (NO_SECRET, 0.0)


def _by_shape(candidate: _Candidate) -> tuple[str, float]:
    """What digits or a date are that no cue names. A full date of the last century is a birthday, as calls go."""
    if candidate.date is not None:
        is_birthday = candidate.date.has_day and int(candidate.date.value[-2:].strip("-") or 0) >= _FIRST_BIRTH_YEAR
        return ("DOB", 0.5) if is_birthday else (NO_SECRET, 0.0)
    count = len(candidate.digits)
    if candidate.international and 9 <= count <= 15:  # E.164 allows 15
        return "PHONE", 0.75
    if count > _MIN_CARD_DIGITS:
        return "CREDIT_CARD", 0.8 if passes_luhn(candidate.digits) else 0.6
    if tuple(map(len, candidate.groups)) == (3, 2, 4):
        return "SSN", 0.6
    if count in (7, 10, 11):
        return "PHONE", 0.5
    return ("ACCOUNT_NUMBER", 0.45) if count >= 8 else (NO_SECRET, 0.0)


def _is_card_date(candidate: _Candidate) -> bool:
    """Whether this may be the date that is read out after a card's number: month and year, nothing else."""
    if candidate.date is not None:
        return candidate.date.has_year and not candidate.date.has_day
    month, year = candidate.digits[:-2], candidate.digits[-2:]
    return len(month) == 2 and 1 <= int(month) <= 12 and int(year) in _CARD_YEARS


def _follows_card(candidate: _Candidate, matches: Sequence[Match]) -> bool:
    """Whether a whole card number was read out in this turn or shortly before."""
    return any(
        match.entity == "CREDIT_CARD"
        and len(match.secret) >= _MIN_CARD_DIGITS
        and 0 <= candidate.turn - match.turn <= _CARD_DATE_WITHIN_TURNS
        and (match.turn, match.start) < (candidate.turn, candidate.start)
        for match in matches
    )


def _is_expiry(digits: str) -> bool:
    """MMYY, MYY, MMYYYY or MYYYY."""
    splits = ((digits[:length], digits[length:]) for length in (1, 2))
    return any(
        1 <= int(month) <= 12 and (len(year) == 2 or (len(year) == 4 and year.startswith("20")))
        for month, year in splits
        if year
    )


def _is_birth_date(digits: str) -> bool:
    """A year alone, or day and month (one or two digits each) with a year of two or four digits."""
    if len(digits) == 4 and digits[:2] in ("19", "20"):
        return True
    return 4 <= len(digits) <= 8 and any(_is_day_and_month(digits[:-length]) for length in (2, 4))


def _is_day_and_month(digits: str) -> bool:
    cuts = (cut for cut in (1, 2) if 0 < len(digits) - cut <= 2)
    return any(1 <= int(digits[:cut]) <= _MAX_DAY and 1 <= int(digits[cut:]) <= _MAX_DAY for cut in cuts)


# ----------------------------------------------------------------------------------------------------------- matches


def _repeated(candidate: _Candidate, known: dict[str, Match]) -> Match | None:
    """The secret that a string of digits or a date says again, whole or in part."""
    if candidate.digits in known:
        return known[candidate.digits]
    date = candidate.date
    own_dates = dates_of_digits(candidate.digits) if date is None else readings(date.value)
    for secret, match in known.items():
        if own_dates & _dates_of(match) or (date is not None and secret.startswith(date.value)):
            return match
    if len(candidate.digits) < MIN_REPEATED_DIGITS:
        return None
    return next((match for secret, match in known.items() if secret.isdecimal() and candidate.digits in secret), None)


def _dates_of(match: Match) -> frozenset[str]:
    """What a known date of birth or expiry may be when it is said in another way."""
    if match.entity not in ("DOB", "EXPIRY"):
        return frozenset()
    return dates_of_digits(match.secret) if match.secret.isdecimal() else readings(match.secret)


def _match(turns: Sequence[Turn], candidate: _Candidate, entity: str, score: float, secret: str = "") -> Match:
    start, end, text = candidate.start, candidate.end, turns[candidate.turn].text
    if entity == "ACCOUNT_NUMBER":  # "A B one two three", "QQ123456C"
        for _ in range(_MAX_LETTERS):
            before = _LETTERS_BEFORE.search(text, max(0, start - _LETTER_CHARS), start)
            start = before.start() if before is not None else start
        if text == text.lower() and (before := _UNCASED_LETTERS_BEFORE.search(text, 0, start)) is not None:
            start = before.start()
        after = _LETTERS_AFTER.match(text, end)
        end = after.end() if after is not None else end
    if entity == "PHONE" and (extension := _EXTENSION.match(text, end)) is not None:
        end = extension.end()
    return Match(
        turn=candidate.turn,
        start=start,
        end=end,
        entity=entity,
        secret=secret or (candidate.date.value if candidate.date is not None else candidate.digits),
        recogniser="spoken_number",
        score=round(score, 3),
    )
