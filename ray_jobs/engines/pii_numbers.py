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

from ray_jobs.engines.conversation import Cue, Match, Turn
from ray_jobs.engines.spoken_dates import SpokenDate, dates
from ray_jobs.engines.spoken_numbers import DigitString, digit_strings
from ray_jobs.pii_names import passes_luhn

RECOGNISER = "spoken_number"
MIN_ECHO_DIGITS = 4
_LOOK_BACK_TURNS = 6
_LOOK_BACK_SHORT_TURNS = 3  # a three-digit number far from the question is more likely a count
_SHORT_DIGITS = 5
_NEARNESS_PER_TURN = 0.93
_OVERRULED = 0.6
_COMPLETE = 0.85
_CUE_AFTER = re.compile(r"[\s,]*(?:is|was|'s|that's|are|as)?\s*(?:my|the|your|our|for my|for the|on the|of my|of the)?\s*\Z", re.IGNORECASE)
_LETTERS_BEFORE = re.compile(r"(?:\b[A-Za-z](?:[\s,.-]+)|\b[A-Z]{1,4}[\s-]?)+\Z")
_LETTERS_AFTER = re.compile(r"(?:[\s,-]*\b[B-HJ-Z]\b)+|[A-Z]{1,2}\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    turn: int
    start: int
    end: int
    digits: str
    groups: tuple[str, ...]
    date: SpokenDate | None = None


def find_numbers(turns: Sequence[Turn], cues: Sequence[Cue], taken: Sequence[Match] = ()) -> list[Match]:
    """CREDIT_CARD, CVV, EXPIRY, SSN, DOB, PHONE, ACCOUNT_NUMBER and postcodes (ADDRESS) of a conversation.

    `taken` are places other recognisers hold (house numbers, e-mails); digits inside them are left alone.
    """
    answers: dict[Cue, tuple[int, int]] = {}
    matches, unnamed = [], []
    for candidate in _candidates(turns, taken):
        named = _by_cue(turns, candidate, [cue for cue in cues if not _is_answered(cue, candidate, answers)])
        if named is None:
            unnamed.append(candidate)
            continue
        cue, entity, score = named
        if fit(cue.entity, candidate.digits, candidate.date)[1] >= _COMPLETE:
            answers[cue] = (candidate.turn, candidate.end)
        if entity:
            matches.append(_match(turns, candidate, entity, score))
    known = {match.secret: match for match in matches}
    for candidate in unnamed:
        original = _repeated(candidate, known)
        entity, score = (original.entity, original.score) if original is not None else _by_shape(candidate)
        if entity:
            matches.append(_match(turns, candidate, entity, score, secret=original.secret if original is not None else ""))
    return matches


def _candidates(turns: Sequence[Turn], taken: Sequence[Match]) -> list[_Candidate]:
    found = []
    for index, turn in enumerate(turns):
        places = [(match.start, match.end) for match in taken if match.turn == index]
        for date in dates(turn.text):
            if not _overlaps(date.start, date.end, places):
                places.append((date.start, date.end))
                found.append(_Candidate(turn=index, start=date.start, end=date.end, digits="", groups=(), date=date))
        # What is taken is blanked out, so that digits on both sides of it do not join.
        text = turn.text
        for start, end in places:
            text = text[:start] + "|" * (end - start) + text[end:]
        found += [_of_digits(index, string) for string in digit_strings(text)]
    return sorted(found, key=lambda candidate: (candidate.turn, candidate.start))


def _of_digits(turn: int, string: DigitString) -> _Candidate:
    groups = string.groups
    half = len(string.digits) // 2
    if half >= 7 and string.digits[:half] == string.digits[half:]:  # said twice in one breath, or by both on one channel
        return _Candidate(turn=turn, start=string.start, end=string.end, digits=string.digits[:half], groups=())
    return _Candidate(turn=turn, start=string.start, end=string.end, digits=string.digits, groups=groups)


def _is_answered(cue: Cue, candidate: _Candidate, answers: dict[Cue, tuple[int, int]]) -> bool:
    return cue in answers and (candidate.turn, candidate.start) >= answers[cue]


def _by_cue(turns: Sequence[Turn], candidate: _Candidate, cues: Sequence[Cue]) -> tuple[Cue, str, float] | None:
    """The cue that fits best and nearest, with the entity it names and the score."""
    fitting = []
    for cue in cues:
        entity, shape = fit(cue.entity, candidate.digits, candidate.date)
        if shape > 0 and not (_is_bare_year(turns, candidate) and entity not in ("DOB", "EXPIRY")):
            nearness = _nearness(turns, candidate, cue)
            if nearness > 0:
                fitting.append((cue, entity, nearness * shape))
    if not fitting:
        return None
    nearest_before = max((cue for cue, _, _ in fitting if _is_before_in_turn(cue, candidate)), key=lambda cue: cue.end, default=None)
    # What a number is called in its own sentence counts for more than what was asked or named before.
    weighed = [
        (cue, entity, score if nearest_before in (None, cue) or cue.start >= candidate.end else score * _OVERRULED)
        for cue, entity, score in fitting
        if cue.turn == candidate.turn or not _followed_in_turn(cue, fitting)
    ]
    return max(weighed, key=lambda row: (row[2], row[0].turn, row[0].end))


def _is_before_in_turn(cue: Cue, candidate: _Candidate) -> bool:
    return cue.turn == candidate.turn and cue.end <= candidate.start


def _followed_in_turn(cue: Cue, fitting: Sequence[tuple[Cue, str, float]]) -> bool:
    """Whether a cue that names no secret is followed by one that does, in a turn before the number's."""
    return cue.entity == "" and any(other.turn == cue.turn and other.start > cue.start for other, _, _ in fitting)


def _is_bare_year(turns: Sequence[Turn], candidate: _Candidate) -> bool:
    """Whether a number is the year in "we opened in 1994"."""
    digits = candidate.digits
    before = turns[candidate.turn].text[: candidate.start]
    return len(digits) == 4 and digits[:2] in ("19", "20") and re.search(r"\b(?:in|since|of|until)\s\Z", before) is not None


def _nearness(turns: Sequence[Turn], candidate: _Candidate, cue: Cue) -> float:
    distance = candidate.turn - cue.turn
    if distance == 0 and cue.start >= candidate.end:
        return 0.95 if _CUE_AFTER.match(turns[cue.turn].text[candidate.end : cue.start]) else 0.0
    look_back = _LOOK_BACK_SHORT_TURNS if len(candidate.digits) <= _SHORT_DIGITS else _LOOK_BACK_TURNS
    return _NEARNESS_PER_TURN**distance if 0 <= distance <= look_back else 0.0


def fit(entity: str, digits: str, date: SpokenDate | None = None) -> tuple[str, float]:
    """The entity that a cue makes of digits (or of a date), and how well they have its shape, in [0, 1]."""
    if entity == "NUMBER":
        return _any_number(digits) if date is None else ("", 0.0)
    return entity, _fit_date(entity, date) if date is not None else _fit_digits(entity, digits)


def _fit_date(entity: str, date: SpokenDate) -> float:
    if entity == "DOB":
        return 1.0 if date.has_year and date.has_day else 0.8
    return 0.9 if entity == "EXPIRY" else 0.0


def _fit_digits(entity: str, digits: str) -> float:
    count = len(digits)
    match entity:
        case "CREDIT_CARD":
            return 1.0 if count >= 12 and passes_luhn(digits) else 0.9 if count >= 12 else 0.6 if count >= 4 else 0.0
        case "CVV":
            return {3: 0.95, 4: 0.85}.get(count, 0.0)
        case "EXPIRY":
            return 0.95 if count in (3, 4, 5, 6) and _is_expiry(digits) else 0.0
        case "SSN":
            return 1.0 if count == 9 else 0.8 if 7 <= count <= 11 else 0.7 if count == 4 else 0.0
        case "DOB":
            return 0.9 if _is_birth_date(digits) else 0.0
        case "PHONE":
            return 0.95 if count in (7, 10, 11) else 0.8 if 6 <= count <= 15 else 0.0
        case "ACCOUNT_NUMBER":
            return 0.85 if 5 <= count <= 20 else 0.7 if count == 4 else 0.0
        case "ADDRESS":
            return 0.85 if count in (5, 9) else 0.0
        case "":
            return 0.9 if count <= 12 else 0.4
    return 0.0


def _any_number(digits: str) -> tuple[str, float]:
    """What "the number" is when nobody says which."""
    count = len(digits)
    if count >= 12:
        return "CREDIT_CARD", 0.7
    if count in (7, 10, 11):
        return "PHONE", 0.7
    return ("ACCOUNT_NUMBER", 0.6) if count >= 5 else ("", 0.0)


def _by_shape(candidate: _Candidate) -> tuple[str, float]:
    count = len(candidate.digits)
    lengths = tuple(map(len, candidate.groups))
    if count >= 13:
        return "CREDIT_CARD", 0.8 if passes_luhn(candidate.digits) else 0.6
    if lengths == (3, 2, 4):
        return "SSN", 0.6
    if count in (7, 10, 11):
        return "PHONE", 0.5
    if count >= 8:
        return "ACCOUNT_NUMBER", 0.45
    return "", 0.0


def _is_expiry(digits: str) -> bool:
    """MMYY, MYY, MMYYYY or MYYYY."""
    for length in (1, 2):
        month, year = digits[:length], digits[length:]
        if month.isdigit() and 1 <= int(month) <= 12 and (len(year) == 2 or (len(year) == 4 and year.startswith("20"))):
            return True
    return False


def _is_birth_date(digits: str) -> bool:
    """A year alone, or day and month (one or two digits each) with a year of two or four digits."""
    if len(digits) == 4 and digits[:2] in ("19", "20"):
        return True
    year_lengths = (2, 4) if 4 <= len(digits) <= 8 else ()
    return any(_is_day_and_month(digits[:-length]) for length in year_lengths)


def _is_day_and_month(digits: str) -> bool:
    return any(
        1 <= int(digits[:cut]) <= 31 and 1 <= int(digits[cut:]) <= 31
        for cut in range(1, len(digits))
        if len(digits) <= 4 and cut <= 2 and len(digits) - cut <= 2
    )


def _repeated(candidate: _Candidate, known: dict[str, Match]) -> Match | None:
    """The secret that a string of digits or a date says again, whole or in part."""
    if candidate.date is not None:
        date = candidate.date.value
        return next((match for secret, match in known.items() if secret == date or secret.startswith(date)), None)
    if candidate.digits in known:
        return known[candidate.digits]
    if len(candidate.digits) < MIN_ECHO_DIGITS:
        return None
    return next((match for secret, match in known.items() if secret.isdigit() and candidate.digits in secret), None)


def _match(turns: Sequence[Turn], candidate: _Candidate, entity: str, score: float, secret: str = "") -> Match:
    start, end, text = candidate.start, candidate.end, turns[candidate.turn].text
    if entity == "ACCOUNT_NUMBER":
        letters = _LETTERS_BEFORE.search(text[:start])
        start = letters.start() if letters else start
        following = _LETTERS_AFTER.match(text, end)
        end = following.end() if following else end
    secret = secret or (candidate.date.value if candidate.date else candidate.digits)
    return Match(turn=candidate.turn, start=start, end=end, entity=entity, secret=secret, recogniser=RECOGNISER, score=round(score, 3))


def _overlaps(start: int, end: int, places: Sequence[tuple[int, int]]) -> bool:
    return any(start < other_end and other_start < end for other_start, other_end in places)
