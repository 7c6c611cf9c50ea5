"""Finds people's names: where somebody is introduced, asked for or greeted, and where a named-entity model sees one.

The model alone is not enough on calls: it takes "Thanks, Marcus" for a place and "Larkfield Mobile" for a person. So
phrases that introduce a person count as much as it does, and names of organisations are told by the words beside them
("thank you for calling Larkfield Mobile"). A name found once is found everywhere in the call, its parts too, in any
case, so that [PERSON_1] is the same person throughout.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from ray_jobs.engines.conversation import Cue, Match, Turn
from ray_jobs.engines.given_names import GIVEN_NAMES
from ray_jobs.engines.spoken_numbers import NUMBER_WORDS

_NAME = r"(?:[A-Z](?:[a-z]+|['’][A-Z][a-z]+)(?:['’-][A-Z]?[a-z]+)*|Mc[A-Z][a-z]+|Mac[A-Z][a-z]+|De[A-Z][a-z]+)"
_FULL_NAME = rf"(?P<name>{_NAME}(?:\s+(?:[A-Z]\.?\s+)?(?:(?:de|la|van|von|der|bin|al|del|da|di)\s+)*{_NAME}){{0,3}})"
_STRONG = re.compile(
    r"\b(?i:my (?:full |first |last |sur|given |middle )?name(?: is|'s)|(?:first|last|full|sur|given|maiden|middle) ?name(?: is|'s)?|name's|name is|the name(?: on \w+ \w+)? is|this is|"
    r"(?:speaking|talking|spoke|spoken|talked) (?:with|to)|mister|missus|mr\.?|mrs\.?|ms\.?|miss|dr\.?|doctor|professor|ask(?:ed)? for|(?:put|get) me (?:through|on) to|through to|transfer(?:red)? (?:me )?to|named|called|call me|"
    r"under(?: the name(?: of)?)?|(?:my|his|her|your|our) (?:husband|wife|partner|son|daughter|mother|father|mom|mum|dad|brother|sister|colleague|"
    r"manager|boss|friend|assistant|neighbou?r|aunt|uncle|cousin|fianc[eé]e?|roommate|supervisor|teammate|nephew|niece|grandson|granddaughter)),?\s+(?:is\s+|to\s+|named\s+|called\s+)?"
    + _FULL_NAME
)
_WEAK = re.compile(
    r"\b(?i:hi|hello|hey|hiya|thanks|thank you(?: so much| very much)?|sorry|bye|goodbye|bye bye|sure|okay|ok|alright|great|perfect|wonderful|welcome|morning|afternoon|evening|"
    r"there|set|day|please|yes|no|well|right|cheers|lovely|care|now|pleasure|it's|i'm|i am|it is|that's|absolutely|certainly|course|worries|problem|understood|understand|again),?\s+"
    + _FULL_NAME
    + r"(?=[\s]*[,.!?]|\s*\Z|\s+(?:here|speaking|calling)\b)"
)
_HERE = re.compile(_FULL_NAME + r"(?:,)?\s+(?i:speaking|here|calling|on the line|is my name)\b")
_AND = re.compile(r"\s*(?:,|and|or|and my \w+)\s+" + _FULL_NAME)
_ANSWER = re.compile(
    r"\A\W*(?:(?i:yes|yeah|sure|okay|ok|um|uh|er|hi|hello|certainly|of course|it's|it is|its|that's|that is|that would be|my name is|this is|under|"
    r"the name is|i'm|well|so|absolutely|right|yep|no problem|thanks|thank you|first name|name is)\W+)*" + _FULL_NAME
)
_PLAIN_ANSWER = re.compile(r"\A\W*(?:(?i:yes|yeah|sure|okay|ok|um|uh)\W+)*(?i:it's|it is|my name is|the name is)\s+(?P<name>[^\W\d_][\w'’-]+(?:\s+[a-z][\w'’-]+)?)(?=[.,?!]|\Z)")
_LOWER_INTRODUCTION = re.compile(
    r"\b(?:my (?:full |first |last )?name(?: is|'s)|(?:first|last|full) name is|(?:speaking|talking|spoke|speak|talk) (?:with|to)|through to|(?:it's|is) under|mister|mrs|missus|mr|dr|doctor)\.?\s+([a-z][a-z'’-]+)(?:\s+([a-z][a-z'’-]+))?"
)
_LOWER_GIVEN_NAME = re.compile(r"\b([a-z]+)(?:\s+([a-z][a-z'’-]+))?")
_ORGANISATION = re.compile(
    rf"\b(?i:(?:for )?calling|(?:welcome|through|got through) to|you(?:'ve| have) reached|reached|here at|from|with|at|by|behalf of)\s+(?:the\s+)?"
    rf"(?P<name>{_NAME}(?:(?:\s+(?:and|of|&)\s+|\s+){_NAME})*)"
)
_ORGANISATION_WORDS = frozenset(
    "support insurance clinic bank fitness dental mobile fiber fibre energy furniture services service group inc llc ltd limited company "
    "hotel hotels airlines airways telecom wireless broadband internet utilities electric water gas hospital pharmacy university college school "
    "credit union financial finance capital motors auto health healthcare medical care store shop market foods travel cruises media systems "
    "software solutions technologies labs logistics express delivery couriers post mutual savings trust building society council department "
    "customer sales billing team desk helpdesk office centre center line network networks cable power street avenue road lane drive court "
    "close way boulevard place terrace crescent parkway square garden gardens hill grove row mews highway circle county city town park airport station".split()
)
_NOT_NAMES = frozenset(
    "i i'm i've i'll i'd monday tuesday wednesday thursday friday saturday sunday january february march april may june july august september october "
    "november december yes no okay ok sir madam ma'am miss mister mrs mr dr doctor professor god english spanish french german google windows mac apple "
    "android iphone wi-fi wifi internet christmas easter thanksgiving visa mastercard amex paypal amazon netflix facebook zoom outlook gmail it's its it that that's the this my your our "
    "we you he she they and but so because if when what where why how who which please thanks thank hello hi hey goodbye bye sorry sure great good "
    "right alright well let can could would will do does did is are was were have has had not don't can't all any some just now then there here "
    "perfect lovely wonderful brilliant excellent absolutely certainly one two three four five six seven eight nine ten for to from with at by in on "
    "of as oh um uh er ah hmm mm also maybe really actually currently mom mum dad morning afternoon evening night today tomorrow yesterday "
    "express street support billing customer account security social date phone email email's agent hold calling speaking whats what's who's let's there's here's "
    "we're you're they're won't didn't isn't wasn't doesn't give take set put get got go going see say says said make nobody everyone someone windows "
    "speaking back again about after before under still her his their him them me us through number code zip expiry "
    "address name card cvv cvc ssn dob pin order ticket invoice refund router modem correct european british american irish scottish canadian australian indian chinese".split()
)
_PLACE_BEFORE = re.compile(r"\b(?i:in|at|near|leaves|leaving|around|outside|via)\s+\Z")
_SPELLED = re.compile(r"\b[A-Za-z](?:(?:\s*[-,.]\s*|\s+)[A-Za-z]\b){2,}|\b[A-Z](?:-[A-Z]){2,}\b")
_ASKED_WITHIN_TURNS = 2
_MIN_UNCASED_LETTERS = 4
_NAMES_AND_VERBS = frozenset({"will", "may", "april", "june", "august"})
_COMMON_AS_WORDS = frozenset(
    "will mark grace hope joy faith rose may june april dawn art bill frank grant rich drew chase pat sue summer angel ray gene miles "
    "dale glen max mercy don sunny hunter carter mason cooper taylor page paige jean guy dean earl duke king penny violet ivy iris lily daisy ruby pearl "
    "amber crystal jade olive ginger sage basil cliff lane brook brooks forest heath stone young long short brown green white black gray grey "
    "small little price love day best rush park field woods hill lake rivers banks church bishop pope wise strong swift bush moon star west "
    "north case cash cook baker singer walker fisher porter butler ward wells winters".split()
)


def find_people(turns: Sequence[Turn], cues: Sequence[Cue], entities: Sequence[Sequence[tuple[int, int, str]]]) -> list[Match]:
    """PERSON matches of a conversation, repetitions included.

    `entities[i]`: what a named-entity model found in turn i, as (start, end, label); empty where there is no model.
    """
    organisations = _organisations(turns)
    seeds = [
        match
        for index, turn in enumerate(turns)
        for match in _seeds(index, turn.text, cues, entities[index])
        if not _is_organisation(turn.text, match, organisations)
    ]
    return _everywhere(turns, _best_of_overlapping(seeds))


def _organisations(turns: Sequence[Turn]) -> frozenset[str]:
    """Names that are an organisation's: who is being called, and what ends in such a word."""
    names: set[str] = set()
    for turn in turns:
        for match in _ORGANISATION.finditer(turn.text):
            words = match["name"].split()
            introduced = re.match(r"(?i)(?:for )?calling|.*reached|.*welcome|here at", match.group())
            following = re.match(r"\s+([A-Za-z]+)", turn.text[match.end() :])
            if introduced or words[-1].lower() in _ORGANISATION_WORDS or (following and following[1].lower() in _ORGANISATION_WORDS):
                names.add(match["name"].lower())
    return frozenset(names)


def _is_organisation(text: str, match: Match, organisations: frozenset[str]) -> bool:
    if match.secret in organisations or match.secret.split()[-1] in _ORGANISATION_WORDS:
        return True
    following = re.match(r"\s+(?:and\s+\w+\s+)?([A-Za-z]+)", text[match.end :])
    return following is not None and following[1].lower() in _ORGANISATION_WORDS - {"care", "line", "here"}


def _seeds(index: int, text: str, cues: Sequence[Cue], entities: Sequence[tuple[int, int, str]]) -> Iterator[Match]:
    for pattern, score in ((_STRONG, 0.9), (_HERE, 0.85), (_WEAK, 0.75)):
        for match in pattern.finditer(text):
            found = _trimmed(index, text, match.start("name"), match.end("name"), "introduction", score)
            if found is None:
                continue
            yield found
            another = _AND.match(text, found.end) if pattern is _STRONG else None
            if another is not None and another["name"].split()[0].lower() in GIVEN_NAMES:
                yield from _optional(_trimmed(index, text, another.start("name"), another.end("name"), "introduction", score))
    asked = any(cue.entity == "PERSON" and 0 < index - cue.turn <= _ASKED_WITHIN_TURNS for cue in cues)
    for answer in (_ANSWER.match(text), _PLAIN_ANSWER.match(text)) if asked else ():
        if answer is not None:
            yield from _optional(_trimmed(index, text, answer.start("name"), answer.end("name"), "answer", 0.8))
    for start, end, label in entities:
        if label == "PERSON" and not _PLACE_BEFORE.search(text[:start]):
            yield from _optional(_trimmed(index, text, start, end, "named_entity_model", 0.7))
    for match in re.finditer(_FULL_NAME, text):
        for word in re.finditer(r"[^\W_]+", match.group()):
            if word.group().lower() in GIVEN_NAMES:
                start = match.start() + word.start()
                yield from _optional(_trimmed(index, text, start, match.end(), "given_name", 0.6))
                break


def cased(text: str) -> str:
    """Text without any capital letter, with capitals on what looks like a name; other text as it is. Places stay."""
    if text != text.lower():
        return text
    names = [*_LOWER_INTRODUCTION.finditer(text), *(m for m in _LOWER_GIVEN_NAME.finditer(text) if m[1] in GIVEN_NAMES)]
    letters = list(text)
    for match in names:
        for group in (1, 2):
            word = match[group]
            if word is None or word.replace("’", "'") in _NOT_NAMES or word in NUMBER_WORDS:
                break
            letters[match.start(group)] = letters[match.start(group)].upper()
    return "".join(letters)


def _trimmed(index: int, text: str, start: int, end: int, recogniser: str, score: float) -> Match | None:
    """A match without the greeting before it, the title, the possessive; None where no name is left."""
    words = [(start + word.start(), start + word.end()) for word in re.finditer(r"[^\W\d_]+(?:['’-][^\W\d_]+)*", text[start:end])]
    while words and _is_no_name(text, words):
        words.pop(0)
    for position, (word_start, word_end) in enumerate(words[1:], start=1):
        if text[word_start:word_end].lower().replace("’", "'") in _NOT_NAMES:
            words = words[:position]
            break
    if not words or len(words) > 4:
        return None
    start, end = words[0][0], words[-1][1]
    end -= 2 if text[start:end].lower().endswith(("'s", "’s")) else 0
    if end - start < 2:
        return None
    secret = " ".join(text[start:end].lower().replace("’", "'").split())
    return Match(turn=index, start=start, end=end, entity="PERSON", secret=secret, recogniser=recogniser, score=score)


def _is_no_name(text: str, words: Sequence[tuple[int, int]]) -> bool:
    """Whether the first word is a common one; "Will" is not where a surname follows within a sentence."""
    first = text[slice(*words[0])].lower().replace("’", "'")
    if first not in _NOT_NAMES:
        return False
    second = text[slice(*words[1])].lower() if len(words) > 1 else ""
    opens_sentence = re.search(r"(?:\A|[.?!])\s*\Z", text[: words[0][0]]) is not None
    return first not in _NAMES_AND_VERBS or opens_sentence or not second or second in _NOT_NAMES


def _optional(match: Match | None) -> Iterator[Match]:
    if match is not None:
        yield match


def _best_of_overlapping(matches: Sequence[Match]) -> list[Match]:
    kept: list[Match] = []
    for match in sorted(matches, key=lambda m: (m.start - m.end, -m.score)):
        if not any(other.turn == match.turn and match.start < other.end and other.start < match.end for other in kept):
            kept.append(match)
    return kept


def _everywhere(turns: Sequence[Turn], seeds: Sequence[Match]) -> list[Match]:
    """The seeds and every other place where one of their words stands, each carrying its person's fullest name."""
    fullest = _people(seeds)
    parts = {part: person for person, words in fullest.items() for part in words}
    matches = [replace(seed, secret=parts.get(seed.secret.split()[0], seed.secret)) for seed in seeds]
    taken = {(match.turn, position) for match in matches for position in range(match.start, match.end)}
    for index, turn in enumerate(turns):
        for word in re.finditer(r"[^\W\d_]+(?:-[^\W\d_]+)*", turn.text):
            person = _person_of(word.group(), parts)
            if person and (index, word.start()) not in taken:
                matches.append(
                    Match(turn=index, start=word.start(), end=word.end(), entity="PERSON", secret=person, recogniser="repetition", score=0.7)
                )
        for spelled in _SPELLED.finditer(turn.text):
            letters = "".join(re.findall(r"[A-Za-z]", spelled.group())).lower()
            if letters in parts:
                matches.append(
                    Match(turn=index, start=spelled.start(), end=spelled.end(), entity="PERSON", secret=parts[letters], recogniser="spelled", score=0.9)
                )
    return matches


def _people(seeds: Sequence[Match]) -> dict[str, set[str]]:
    """Full name to the words of it: names that share a word are one person, under the first of the longest."""
    people: dict[str, set[str]] = {}
    for seed in sorted(seeds, key=lambda m: (-len(m.secret.split()), m.turn, m.start)):
        words = set(seed.secret.split())
        # ASR hears "Owens" for "Owen".
        person = next((name for name, known in people.items() if words & (known | {f"{word}s" for word in known})), None)
        if person is None:
            people[seed.secret] = words
        else:
            people[person] |= words
    return people


def _person_of(word: str, parts: dict[str, str]) -> str:
    lower = word.lower()
    for form in (lower, lower.removesuffix("s")):
        if form not in parts or len(form) < 2:
            continue
        cased = word[0].isupper()
        if cased or (len(form) >= _MIN_UNCASED_LETTERS and form not in _COMMON_AS_WORDS):
            return parts[form]
    return ""
