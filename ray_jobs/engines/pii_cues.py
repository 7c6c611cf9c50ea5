"""Cues: the words that say what a number, a name or an address is, in the same turn or in the other party's
question."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ray_jobs.engines.conversation import Turn

ANY_NUMBER = "NUMBER"
"""The entity of a cue that says a number is somebody's, not which."""

NO_SECRET = ""
"""The entity of a cue that says a number is nobody's secret: an order number, a ticket."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cue:
    """`turns[turn].text[start:end]` names `entity`."""

    turn: int
    start: int
    end: int
    entity: str


# Where two begin at one place the earlier counts; "sort code" is never read as "code", which begins later.
_CUES = {
    "CREDIT_CARD": (
        r"card(?:'s)? (?:number|is|ending|details)",
        r"(?:credit|debit|bank|payment|the|my|your|that|this) card\b(?!')",
        r"long number",
        r"(?:sixteen|16)[ -]digits?",
        r"visa|master ?card|amex|american express",
        r"number (?:on|across) (?:the )?(?:front|card)",
    ),
    "CVV": (
        r"security (?:code|number|digits?)",
        r"c[. ]?v[. ]?[vc]\b|cv2",
        r"(?:card )?verification (?:value|number|code)|card verification",
        r"(?:code|digits|numbers?) (?:on|from|at) the back|back of (?:the|your|my) card",
        r"(?:three|four|3|4)[ -]digits?\b(?! of\b)",
        r"signature strip|(?:on )?the (?:back|reverse) (?:says|reads|is)\b|on the (?:back|reverse)\b",
        r"code is\b|the code\b|code\?",
    ),
    "EXPIRY": (
        r"expir(?:y|ation|e|es|ing)\b|exp(?:\.| date)",
        r"(?:valid|good) (?:until|thru|through|to|till)",
        r"runs? out|(?:run|running) until|laps(?:e|es|ing)\b|end date|how long (?:is|are) \w+(?: card)? (?:valid|good)",
        r"month,? (?:and|then) (?:the )?year|dates? on (?:it\b|the (?:card|front)|(?:your|that|this) card)",
    ),
    "SSN": (
        r"social(?: security)?(?: number)?",
        r"s[. ]?s[. ]?n\b\.?",
        r"national insurance(?: number)?",
        r"tax(?:payer)? id\w*",
    ),
    "DOB": (
        r"date of birth",
        r"d[. ]?o[. ]?b\b\.?",
        r"born",
        r"birth\w*",
        r"(?:day|date),? (?:and )?(?:the )?month\b|month,? (?:and )?(?:the )?day\b",
    ),
    "PHONE": (
        r"(?:tele)?phone|mobile(?: number)?|cell(?:phone| number)?|landline|fax|call ?back",
        r"(?:contact|best|daytime|work|home|fax) number|number to (?:call|reach|ring|text)",
        r"your (?:name and )?number",
        r"(?:reach|call|ring|text|phone|get|contact|dial|whatsapp) (?:me|you|us|him|her|them)",
        r"call(?:ing)? (?:from|on)|dial|ringing|directly on\b|text (?:it|that|this|them) to\b",
    ),
    "ACCOUNT_NUMBER": (
        r"(?<!on the )(?<!on your )(?<!on my )(?<!on that )account(?: number| no\b| id)?|account number",
        r"(?:membership|member|policy|customer|client|patient|subscriber|loyalty|passport|licen[cs]e|user|employee|meter|insurance|"
        r"medical record|group|contract|plan|health) (?:number|id|no\b|is)",
        r"membership\b|policy\b|passport",
        r"routing(?: number)?|sort code|i\.?ban\b",
        r"pin\b|pass ?code",
    ),
    "ADDRESS": (
        r"(?<!mail )(?<!ip )address|house number",
        r"zip(?: ?code)?|post ?code|postal code",
        r"where (?:do|are) you (?:live|living|based)|(?:i|we) live (?:at|in|on)|living at|moved to",
        r"resid(?:e|es|ing) (?:at|in|on)|(?:what|which|the|your) street\b|street (?:name|address)|first line",
        r"located at|property (?:is|at)",
        r"(?:ship|deliver|send|sent|mail|post)(?:ed|ing)? (?:it |that |them |this )?to\b",
    ),
    "EMAIL": (r"e-?mail(?: address)?|mail address",),
    "PERSON": (
        r"(?<!user)(?<!user )(?<!company )(?<!file )name\b",
        r"who (?:am i|i am|i'm|is this) (?:speaking|talking)|who(?:'s| is) (?:calling|this|speaking)",
        r"(?:speaking|talking) (?:with|to)",
        r"spell",
    ),
    NO_SECRET: (
        r"(?:order|reference|ticket|case|confirmation|tracking|invoice|model|serial|version|error|flight|booking|claim|"
        r"part|item|product|build|gate|room|channel|promo\w*|discount|incident|job|work order|complaint|area)"
        r" (?:number|code|id|is|no\b)",
        r"(?:order|reference|ticket|ref)\b",
    ),
    ANY_NUMBER: (r"(?:the|my|that|her|his|their|our) number\b",),
}
_ENTITIES = tuple(_CUES)
_CUE = re.compile(
    "|".join(rf"(?P<cue{i}>\b(?:{'|'.join(patterns)}))" for i, patterns in enumerate(_CUES.values())), re.IGNORECASE
)


def cues_of(turns: Sequence[Turn]) -> list[Cue]:
    """Every cue of the conversation, in order."""
    return [
        Cue(turn=index, start=match.start(), end=match.end(), entity=_entity(match))
        for index, turn in enumerate(turns)
        for match in _CUE.finditer(turn.text)
    ]


def _entity(match: re.Match[str]) -> str:
    return next(entity for i, entity in enumerate(_ENTITIES) if match[f"cue{i}"] is not None)
