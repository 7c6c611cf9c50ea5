"""A conversation as recognisers read it: who said which line, joined into turns, and which question is still open.

ASR cuts speech at pauses, so a card number arrives as four utterances with an "okay" of the other party between them.
Lines of one speaker that only such acknowledgements or echoed digits interrupt are joined into one turn; recognisers
work on turns and never see the cuts. An entity is often named by the other party ("and the security code?"): cues are
the words that name one, and a number is classified by the cues around it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ray_jobs.engines.spoken_numbers import NUMBER_WORDS

MAX_INTERRUPTIONS = 3
"""Most acknowledging lines in a row that leave the other party's turn open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One utterance: `speaker` is its channel."""

    speaker: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """Lines of one speaker joined by blanks; `starts[i]` is where line `lines[i]` begins in `text`."""

    speaker: int
    text: str
    lines: tuple[int, ...]
    starts: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A secret found in `turns[turn].text[start:end]`.

    `secret` is the normalised value (digits, lower-case letters) by which repetitions are known to be the same.
    """

    turn: int
    start: int
    end: int
    entity: str
    secret: str
    recogniser: str
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Cue:
    """Words that name an entity; "NUMBER" is any number of somebody's, "" one that is nobody's secret (an order's)."""

    turn: int
    start: int
    end: int
    entity: str


_ACKNOWLEDGEMENTS = frozenset(
    "ok okay yes yeah yep yup uh huh um mm mhm hmm right sure got it great thanks thank you perfect lovely alright all "
    "and then next go ahead on carry continue please sorry again the rest keep going i see that's so good cool "
    "ready fine brilliant excellent now i'm with noted correct".split()
)

_CUES = (
    ("CREDIT_CARD", r"card(?:'s)? (?:number|is|ending|details)|(?:credit|debit|bank|payment|the|my|your|that|this) card\b(?!')|long number|"
     r"(?:sixteen|16)[ -]digits?|visa|master ?card|amex|american express|number (?:on|across) (?:the )?(?:front|card)"),
    ("CVV", r"security (?:code|number|digits?)|c[. ]?v[. ]?[vc]\b|cv2|card verification|verification (?:value|number)|"
     r"(?:code|digits|numbers?) (?:on|from|at) the back|(?:three|four|3|4)[ -]digits?\b(?! of\b)|code is\b|the code\b|code\?|signature strip|back of (?:the|your|my) card"),
    ("EXPIRY", r"expir(?:y|ation|e|es|ing)\b|exp(?:\.| date)|valid (?:until|thru|through|to|till)|good (?:until|thru|through)|runs? out"),
    ("SSN", r"social(?: security)?(?: number)?|s[. ]?s[. ]?n\b\.?|national insurance(?: number)?|tax(?:payer)? id\w*"),
    ("DOB", r"date of birth|d[. ]?o[. ]?b\b\.?|born|birth\w*"),
    ("PHONE", r"(?:tele)?phone|mobile(?: number)?|cell(?:phone| number)?|landline|call ?back|(?:contact|best|daytime|work|home|fax) number|number to (?:call|reach|ring|text)|"
     r"(?:reach|call|ring|text|phone|get|contact|dial|whatsapp) (?:me|you|us|him|her|them)|your (?:name and )?number|call(?:ing)? (?:from|on)|fax|dial"),
    ("ACCOUNT_NUMBER", r"(?<!on the )(?<!on your )(?<!on my )(?<!on that )account(?: number| no\b| id)?|account number|(?:membership|member|policy|customer|client|patient|"
     r"subscriber|loyalty|passport|licen[cs]e|driver'?s licen[cs]e|user|employee|meter|insurance|medical record|group|contract|plan|health) (?:number|id|no\b|is)|"
     r"(?:membership|policy|member id|customer id)\b|routing(?: number)?|sort code|i\.?ban\b|passport|pin\b|pass ?code"),
    ("ADDRESS", r"(?<!mail )(?<!ip )address|zip(?: ?code)?|post ?code|postal code|where (?:do|are) you (?:live|living|based)|(?:i|we) live (?:at|in|on)|"
     r"living at|(?:ship|deliver|send|sent|mail|post)(?:ed|ing)? (?:it |that |them |this )?to\b|moved to|house number"),
    ("EMAIL", r"e-?mail(?: address)?|mail address"),
    ("PERSON", r"(?<!user)(?<!user )(?<!company )(?<!file )name\b|who (?:am i|i am|i'm|is this) (?:speaking|talking)|who(?:'s| is) (?:calling|this|speaking)|"
     r"(?:speaking|talking) (?:with|to)|how (?:do you|is that|is it) spell\w*|spell"),
    ("", r"(?:order|reference|ticket|case|confirmation|tracking|invoice|model|serial|version|error|flight|booking|claim|part|item|product|"
     r"extension|build|gate|room|channel|promo\w*|discount|incident|job|work order|complaint|area) (?:number|code|id|is|no\b)|(?:order|reference|ticket|ref)\b"),
    ("NUMBER", r"(?:the|my|that|her|his|their|our) number\b"),
)  # fmt: skip

_CUE = re.compile("|".join(rf"(?P<c{i}>\b(?:{pattern}))" for i, (_, pattern) in enumerate(_CUES)), re.IGNORECASE)
_NUMBER_WORD = rf"(?:\d+|(?:{'|'.join(sorted(NUMBER_WORDS))})\b)"
_ANY_NUMBER = re.compile(rf"\b{_NUMBER_WORD}", re.IGNORECASE)
_ENDS_IN_NUMBER = re.compile(rf"{_NUMBER_WORD}\W*\Z", re.IGNORECASE)
_STARTS_WITH_NUMBER = re.compile(rf"\W*(?:(?:and|then|um|uh)\W+)*{_NUMBER_WORD}", re.IGNORECASE)
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


def turns_of(lines: Sequence[Line]) -> list[Turn]:
    """Join the lines (in time order) into turns, in order of their first lines.

    On one channel nothing tells the parties apart: there a turn is a line, and the lines that read on its digits.
    """
    if len({line.speaker for line in lines}) == 1:
        return _turns_of_one_channel(lines)
    members: list[list[int]] = []
    open_turn: dict[int, int] = {}  # speaker -> the turn that may go on
    interruptions: dict[int, int] = {}
    for index, line in enumerate(lines):
        position = open_turn.get(line.speaker)
        if position is None:
            position = open_turn[line.speaker] = len(members)
            members.append([])
        members[position].append(index)
        interruptions[line.speaker] = 0
        for other in [speaker for speaker in open_turn if speaker != line.speaker]:
            interruptions[other] += 1
            last_text = lines[members[open_turn[other]][-1]].text
            if interruptions[other] > MAX_INTERRUPTIONS or not _leaves_open(last_text, line.text):
                del open_turn[other]
    return [_join(lines, indices) for indices in members]


def _leaves_open(said: str, interruption: str) -> bool:
    """Whether the other party's words let a speaker go on: an "okay", or digits repeated while a number is read out."""
    has_number = _ANY_NUMBER.search(interruption) is not None
    return is_acknowledgement(interruption) and (not has_number or _ENDS_IN_NUMBER.search(said) is not None)


def _turns_of_one_channel(lines: Sequence[Line]) -> list[Turn]:
    members: list[list[int]] = []
    for index, line in enumerate(lines):
        if members and _ENDS_IN_NUMBER.search(lines[index - 1].text) and _STARTS_WITH_NUMBER.match(line.text):
            members[-1].append(index)
        else:
            members.append([index])
    return [_join(lines, indices) for indices in members]


def is_acknowledgement(text: str) -> bool:
    """Whether a line only acknowledges or echoes digits: it asks nothing and adds nothing."""
    words = [word.lower().replace("’", "'") for word in _WORD.findall(text)]
    return all(word in _ACKNOWLEDGEMENTS or word in NUMBER_WORDS or word.isdigit() for word in words)


def cues_of(turns: Sequence[Turn]) -> list[Cue]:
    """Every cue of the conversation, in order."""
    return [
        Cue(turn=index, start=match.start(), end=match.end(), entity=_CUES[int((match.lastgroup or "c0")[1:])][0])
        for index, turn in enumerate(turns)
        for match in _CUE.finditer(turn.text)
    ]


def _join(lines: Sequence[Line], indices: Sequence[int]) -> Turn:
    starts, position = [], 0
    for index in indices:
        starts.append(position)
        position += len(lines[index].text) + 1
    text = " ".join(lines[index].text for index in indices)
    return Turn(speaker=lines[indices[0]].speaker, text=text, lines=tuple(indices), starts=tuple(starts))
