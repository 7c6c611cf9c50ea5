"""Finds people's names: where somebody is introduced, asked for or greeted, and where a named-entity model sees one.

The model alone is not enough on calls: it takes "Thanks, Marcus" for a place and "Larkfield Mobile" for a person. So
phrases that introduce a person count as much as it does, and organisations are told by the words beside them ("thank
you for calling Larkfield Mobile"). A name found once is found everywhere in the call, its parts too, in any case, so
that [PERSON_1] is the same person throughout.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ray_jobs.engines.conversation import Match, Turn
from ray_jobs.engines.pii_cues import Cue
from ray_jobs.engines.pii_vocabulary import (
    GIVEN_NAMES,
    NAMES_AND_VERBS,
    NAMES_AND_WORDS,
    NOT_NAMES,
    ORGANISATION_WORDS,
)
from ray_jobs.engines.spoken_numbers import NUMBER_WORDS

_ASKED_WITHIN_TURNS = 2
_MAX_NAME_WORDS = 4
_MIN_UNCASED_LETTERS = 4
_SURE_SCORE = 0.75

_NAME = r"(?:(?:Mc|Mac|De)[A-Z][a-z]+|[A-Z](?:[a-z]+|['’][A-Z][a-z]+)(?:['’-][A-Z]?[a-z]+)*)"
_PARTICLE = r"(?:(?:de|la|van|von|der|bin|al|del|da|di)\s+)*"
_FULL_NAME = rf"(?P<name>{_NAME}(?:\s+(?:[A-Z]\.?\s+)?{_PARTICLE}{_NAME}){{0,3}})"
_RELATIVE = (
    "husband|wife|partner|son|daughter|mother|father|mom|mum|dad|brother|sister|colleague|manager|boss|friend|"
    "assistant|neighbou?r|aunt|uncle|cousin|fianc[eé]e?|roommate|supervisor|teammate|nephew|niece|grandson|granddaughter"
)
_TITLE = r"(?:mister|missus|mr|mrs|ms|miss|dr|doctor|prof|professor)\b\.?"
_INTRODUCTIONS = (
    r"(?:first|last|full|sur|given|maiden|middle) ?name(?: is|'s)?|name(?: on \w+ \w+)?(?:'s| is)|named|called|call me",
    r"(?:speaking|talking|spoke|spoken|talked|speak|talk) (?:with|to)|ask(?:ed)? for",
    r"this is|under(?: the name(?: of)?)?",
    r"(?:(?:put|get) me (?:through|on)|through|transfer(?:red)?(?: me)?) to",
    _TITLE,
    rf"(?:my|his|her|your|our) (?:{_RELATIVE})(?:'s)?",
)
_INTRODUCTION = re.compile(
    rf"\b(?i:{'|'.join(_INTRODUCTIONS)}),?\s+(?i:(?:is|to|named|called)\s+)?(?:(?i:{_TITLE})\s+)?{_FULL_NAME}",
)
_GREETINGS = (
    r"hi|hello|hey|hiya|welcome|morning|afternoon|evening|bye|goodbye|thanks|thank you(?: so much| very much)?|cheers",
    r"sorry|please",
    r"sure|okay|ok|alright|great|perfect|wonderful|lovely|yes|no|well|right|absolutely|certainly|course|understood|understand",
    r"there|set|day|care|now|pleasure|worries|problem|again|it's|i'm|i am|it is|that's",
)
_GREETING = re.compile(
    rf"\b(?i:{'|'.join(_GREETINGS)}),?\s+{_FULL_NAME}(?=\s*[,.!?]|\s*\Z|\s+(?i:here|speaking|calling)\b)"
)
_SIGNATURE = re.compile(rf"{_FULL_NAME},?\s+(?i:speaking|here|calling|on the line|is my name)\b")
_SECOND_NAME = re.compile(rf"\s*(?:,|and|or|and my \w+)\s+{_FULL_NAME}")
_ANSWER_OPENINGS = (
    r"yes|yeah|yep|sure|okay|ok|um|uh|er|hi|hello|certainly|of course|absolutely|right|well|so|no problem",
    r"thanks|thank you",
    r"it's|it is|its|that's|that is|that would be|i'm|this is|under|(?:my |the |first )?name is",
)
_ANSWER = re.compile(rf"\A\W*(?:(?i:{'|'.join(_ANSWER_OPENINGS)})\W+)*{_FULL_NAME}")
_MISHEARD_ANSWER = re.compile(  # "it's oh-interrent" for "it's Owen Tarrant"
    r"\A\W*(?:(?i:yes|yeah|sure|okay|ok|um|uh)\W+)*(?i:it's|it is|my name is|the name is)\s+"
    r"(?P<name>[^\W\d_][\w'’-]+(?:\s+[a-z][\w'’-]+)?)(?=[.,?!]|\Z)"
)
_UNCASED_INTRODUCTION = re.compile(
    r"\b(?:name(?: is|'s)|(?:speaking|talking|spoke|speak|talk) (?:with|to)|through to|(?:it's|is) under|"
    r"mister|mrs|missus|miss|ms|mr|dr|doctor)\.?\s+(?:(?:mister|mrs|missus|miss|ms|mr|dr|doctor)\.?\s+)?"
    r"([a-z][a-z'’-]+)(?:\s+([a-z][a-z'’-]+))?"
)
_UNCASED_PAIR = re.compile(r"\b([a-z]+)\b(?=(?:\s+([a-z][a-z'’-]+))?)")
_ORGANISATION = re.compile(
    r"\b(?P<how>(?i:calling|(?:welcome|got through) to|you(?:'ve| have) reached|here at|from|with|at|by|behalf of))\s+"
    rf"(?i:the\s+)?(?P<name>{_NAME}(?:(?:\s+(?:and|of|&)\s+|\s+){_NAME})*)"
)
_LINKS_TO_ORGANISATION = frozenset({"from", "with", "at", "by", "behalf of"})
_PLACE_BEFORE = re.compile(r"\b(?i:in|at|near|leaves|leaving|around|outside|via)\s+\Z")
_NEXT_WORD = re.compile(r"\s+(?:and\s+\w+\s+)?([A-Za-z]+)")
_SPELLED = re.compile(r"(?<![\w'’])[A-Za-z](?:(?:\s*[-,.]\s*|\s+)[A-Za-z]\b){2,}")
_AS_IN = r"([a-z])\s+(?:as\s+in|for|like)\s+\1[a-z-]+"
_LETTERS_BETWEEN = r"\W+(?:and\s+)?(?:[a-z]\W+(?:and\s+)?)*"
_PHONETIC = re.compile(  # two at least: "I like it" is none
    rf"(?<![\w'’]){_AS_IN}(?:{_LETTERS_BETWEEN}{_AS_IN.replace('1', '2')})"
    rf"(?:{_LETTERS_BETWEEN}{_AS_IN.replace('1', '3')})*"
    r"(?:\W+[a-z]\b(?!['’]))*",
    re.IGNORECASE,
)
_ACRONYMS = frozenset(
    {"usa", "atm", "pin", "dob", "cvv", "cvc", "ssn", "ibm", "ups", "usb", "faq", "bbc", "vip", "sms"}
)
_NAME_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_INITIALS = re.compile(r"[A-Z]{1,3}[\d-]*|[A-Za-z](?:[\s.]+[A-Za-z])*\.?")
_SPELLING_BEFORE = re.compile(
    r"(?:name(?:'s| is)?|\bspell\w*|\bspelt|\bthat's|\bthat is),?\s+(?:(?:it's|is|that's)\s+)?\Z", re.IGNORECASE
)
_OPENS_SENTENCE = re.compile(r"(?:\A|[.?!])\s*\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedEntity:
    """What a named-entity model found in a turn's text; `label` is the model's (PERSON, GPE, ...)."""

    start: int
    end: int
    label: str


def find_people(turns: Sequence[Turn], cues: Sequence[Cue], entities: Sequence[Sequence[NamedEntity]]) -> list[Match]:
    """PERSON matches of a conversation, repetitions included; `entities[i]` are turn i's, none without a model."""
    organisations = _organisations(turns)
    seeds = [
        seed
        for index, turn in enumerate(turns)
        for seed in _seeds(index, turn.text, cues, entities[index])
        if not _is_organisation(turn.text, seed, organisations)
    ]
    return _everywhere(turns, _longest(seeds))


def cased(text: str) -> str:
    """Text without any capital letter gets capitals where a name seems to be; other text stays as it is."""
    if text != text.lower():
        return text
    letters = list(text)
    named = (pair for pair in _UNCASED_PAIR.finditer(text) if pair[1] in GIVEN_NAMES)
    for match in (*_UNCASED_INTRODUCTION.finditer(text), *named):
        for group in (1, 2):
            word = match[group]
            if word is None or _plain(word) in NOT_NAMES or word in NUMBER_WORDS:
                break
            letters[match.start(group)] = letters[match.start(group)].upper()
            if word[1:2] in ("'", "’") and len(word) > 3:  # o'leary
                letters[match.start(group) + 2] = letters[match.start(group) + 2].upper()
    return "".join(letters)


# ------------------------------------------------------------------------------------------------------------- seeds


def _seeds(index: int, text: str, cues: Sequence[Cue], entities: Sequence[NamedEntity]) -> Iterator[Match]:
    asked = any(cue.entity == "PERSON" and 0 < index - cue.turn <= _ASKED_WITHIN_TURNS for cue in cues)
    found = [
        *(_seed(index, text, *match.span("name"), "introduction", 0.9) for match in _introductions(text)),
        *(_seed(index, text, *match.span("name"), "introduction", 0.85) for match in _SIGNATURE.finditer(text)),
        *(_seed(index, text, *match.span("name"), "greeting", 0.75) for match in _GREETING.finditer(text)),
        *(
            _seed(index, text, *answer.span("name"), "answer", 0.8)
            for answer in (_ANSWER.match(text), _MISHEARD_ANSWER.match(text))
            if asked and answer is not None
        ),
        *(
            _seed(index, text, entity.start, entity.end, "named_entity_model", 0.7)
            for entity in entities
            if entity.label == "PERSON"
            and not _PLACE_BEFORE.search(text[: entity.start])
            and not _INITIALS.fullmatch(text[entity.start : entity.end])
        ),
        *(_seed(index, text, start, end, "given_name", 0.6) for start, end in _with_given_name(text)),
    ]
    yield from (seed for seed in found if seed is not None)
    yield from _spelled_names(index, text, asked=asked)


def _spelled_names(index: int, text: str, *, asked: bool) -> Iterator[Match]:
    """Names read out letter by letter: "B as in boy, R as in Romeo" always, "O-K-A" where a name is awaited."""
    for phonetic in _PHONETIC.finditer(text):
        letters = "".join(re.findall(r"(?<![\w'’])[A-Za-z](?![\w'’])", phonetic.group())).lower()
        yield _spelled_match(index, phonetic.span(), letters, 0.8)
    for spelled in _SPELLED.finditer(text):
        letters = "".join(re.findall(r"[A-Za-z]", spelled.group())).lower()
        introduced = _SPELLING_BEFORE.search(text[: spelled.start()]) is not None
        if (asked or introduced) and letters not in _ACRONYMS:
            yield _spelled_match(index, spelled.span(), letters, 0.7)


def _spelled_match(index: int, span: tuple[int, int], letters: str, score: float) -> Match:
    start, end = span
    return Match(turn=index, start=start, end=end, entity="PERSON", secret=letters, recogniser="spelled", score=score)


def _introductions(text: str) -> Iterator[re.Match[str]]:
    """Names that a phrase introduces, and a second one joined to it ("under Anna and Paul Byrne")."""
    for match in _INTRODUCTION.finditer(text):
        yield match
        second = _SECOND_NAME.match(text, match.end("name"))
        if second is not None and second["name"].split()[0].lower() in GIVEN_NAMES:
            yield second


def _with_given_name(text: str) -> Iterator[tuple[int, int]]:
    """Capitalised words from a given name on."""
    for match in re.finditer(_FULL_NAME, text):
        given = next((word for word in _NAME_WORD.finditer(match.group()) if word.group().lower() in GIVEN_NAMES), None)
        if given is not None:
            yield match.start() + given.start(), match.end()


def _seed(index: int, text: str, start: int, end: int, recogniser: str, score: float) -> Match | None:
    """A match without the greeting before it, the title, the possessive; None where no name is left."""
    spans = [(start + word.start(), start + word.end()) for word in _NAME_WORD.finditer(text[start:end])]
    while spans and _is_no_name(text, spans):
        spans.pop(0)
    common = (i for i, span in enumerate(spans) if i > 0 and _plain(text[slice(*span)]) in NOT_NAMES)
    spans = spans[: next(common, len(spans))]
    if not 0 < len(spans) <= _MAX_NAME_WORDS:
        return None
    start, end = spans[0][0], spans[-1][1]
    end -= 2 if _plain(text[start:end]).endswith("'s") else 0
    if end - start < 2:
        return None
    secret = " ".join(_plain(text[start:end]).split())
    return Match(turn=index, start=start, end=end, entity="PERSON", secret=secret, recogniser=recogniser, score=score)


def _is_no_name(text: str, spans: Sequence[tuple[int, int]]) -> bool:
    """Whether the first word is a common one; "Will" is not where a surname follows within a sentence."""
    first, *others = [_plain(text[slice(*span)]) for span in spans]
    if first not in NOT_NAMES:
        return False
    surname_follows = bool(others) and others[0] not in NOT_NAMES
    return (
        first not in NAMES_AND_VERBS or not surname_follows or _OPENS_SENTENCE.search(text[: spans[0][0]]) is not None
    )


def _plain(text: str) -> str:
    return text.lower().replace("’", "'")


def _longest(matches: Sequence[Match]) -> list[Match]:
    """Of overlapping matches the longest, then the surest."""
    kept: list[Match] = []
    for match in sorted(matches, key=lambda m: (m.start - m.end, -m.score)):
        if not any(other.turn == match.turn and match.start < other.end and other.start < match.end for other in kept):
            kept.append(match)
    return kept


# ----------------------------------------------------------------------------------------------------- organisations


def _organisations(turns: Sequence[Turn]) -> frozenset[str]:
    """Names that are an organisation's: who is being called, and what ends in a word like Bank."""
    return frozenset(
        _plain(match["name"])
        for turn in turns
        for match in _ORGANISATION.finditer(turn.text)
        if match["how"].lower() not in _LINKS_TO_ORGANISATION
        or _has_organisation_word(turn.text, match["name"], match.end())
    )


def _is_organisation(text: str, seed: Match, organisations: frozenset[str]) -> bool:
    return seed.secret in organisations or _has_organisation_word(text, seed.secret, seed.end)


def _has_organisation_word(text: str, name: str, end: int) -> bool:
    following = _NEXT_WORD.match(text, end)
    return name.split()[-1].lower() in ORGANISATION_WORDS or (
        following is not None and following[1].lower() in ORGANISATION_WORDS
    )


# ------------------------------------------------------------------------------------------------------- repetitions


def _everywhere(turns: Sequence[Turn], seeds: Sequence[Match]) -> list[Match]:
    """The seeds and every other place where one of their words stands, each carrying its person's fullest name."""
    people = _people(seeds)
    parts = {part: person for person, known in people.items() for part in known}
    sure = {
        part
        for seed in seeds
        if seed.score >= _SURE_SCORE or seed.recogniser == "given_name"
        for part in seed.secret.split()
    }
    matches = [replace(seed, secret=parts[seed.secret.split()[0]]) for seed in seeds]
    taken = {(match.turn, position) for match in matches for position in range(match.start, match.end)}
    for index, turn in enumerate(turns):
        for start, end, person, recogniser in (*_said_again(turn.text, parts, sure), *_spelled(turn.text, parts)):
            if (index, start) not in taken:
                matches.append(
                    Match(
                        turn=index,
                        start=start,
                        end=end,
                        entity="PERSON",
                        secret=person,
                        recogniser=recogniser,
                        score=0.7,
                    )
                )
    return matches


def _people(seeds: Sequence[Match]) -> dict[str, set[str]]:
    """Full name to the words of it: names that share a word are one person, under the longest."""
    people: dict[str, set[str]] = {}
    for seed in sorted(seeds, key=lambda m: (-len(m.secret.split()), m.turn, m.start)):
        parts = set(seed.secret.split())
        # ASR hears "Owens" for "Owen".
        person = next(
            (name for name, known in people.items() if parts & (known | {f"{part}s" for part in known})), None
        )
        people.setdefault(person or seed.secret, set()).update(parts)
    return people


def _said_again(text: str, parts: dict[str, str], sure: set[str]) -> Iterator[tuple[int, int, str, str]]:
    for word in re.finditer(r"[^\W\d_]+(?:-[^\W\d_]+)*", text):
        lower = word.group().lower()
        form = lower if lower in parts else lower.removesuffix("s")
        uncased = len(form) >= _MIN_UNCASED_LETTERS and form in sure and form not in NAMES_AND_WORDS
        if len(form) > 1 and form in parts and (word.group()[0].isupper() or uncased):
            yield word.start(), word.end(), parts[form], "repetition"


def _spelled(text: str, parts: dict[str, str]) -> Iterator[tuple[int, int, str, str]]:
    for spelled in _SPELLED.finditer(text):
        letters = "".join(re.findall(r"[A-Za-z]", spelled.group())).lower()
        if letters in parts:
            yield spelled.start(), spelled.end(), parts[letters], "spelled"
