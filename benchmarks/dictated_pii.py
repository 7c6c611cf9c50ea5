"""Makes short call passages in which people dictate what is private: a second generator, by a stranger to the first.

Written from how contact-centre calls go, before its author had read the recognisers or the first generator's phrases
(`benchmarks.spoken_pii`): values are grouped in fours or pairs, doubled and tripled, hesitated over, corrected, cut
over turns, repeated back in other words than they were said in, spelled with phonetic words, and written the way ASR
writes them, lost and added digits included. Every third template holds no secret: totals, percentages, delivery dates,
times, models, parts, error codes, quantities.

A value that is broken by other words ("four nine two, um, one three") makes a secret per unbroken stretch, so each
must be found. The halves "dev" and "heldout" share no template, name, street or town; they share the ways of saying a
number, of which there are only so many.
"""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.spoken_pii import Passage, Secret, Split

_OPEN, _CLOSE = "⟨", "⟩"  # mark a secret's stretch until the line is whole

_SECRETIVE = {
    "CREDIT_CARD": [
        "A: Whenever you're ready with the long card number.\nC: Right, {card}.",
        "A: So which card are we using today?\nC: The Mastercard. {card}",
        "A: Read me the digits across the front, please.\nC: Okay so {card.a}\nA: Yep.\nC: {card.b}",
        "A: And the sixteen digit number?\nC: {card.a}\nA: {card.a=}.\nC: Yes. {card.b}\nA: And {card.b=}, perfect.",
        "C: Can you put it on my visa, {card}, please?",
        "A: Okay, go on, I'm ready for the card.\nC: {card}\nA: Let me read that back. {card=}. Is that correct?\n"
        "C: It is.",
        "C: You've still got my old card on there. The new one is {card}.",
        "A: Which number did they charge?\nC: It says here card number {card}.",
        "A: I'll need the full card number again, I'm afraid, the system timed out.\nC: Seriously? Fine. {card}.",
        "C: It's an American Express, {amex}.\nA: Thanks.",
        "A: Go ahead with the card details.\nC: {card}, expires {expiry}, and the back says {cvv}.",
        "A: Just the last four of the card will do.\nC: That'd be {last4}.",
        "C: The charge was on the card that ends in {last4}, not the other one.",
        "A: And may I take your debit card number?\nC: Hang on, let me find my purse. Okay. {card.a}\n"
        "A: Mm hmm.\nC: {card.b}.\nA: Thank you.",
    ],
    "CVV": [
        "A: And what are the three numbers on the back?\nC: {cvv}.",
        "A: Now turn it over for me, there's a security code by your signature.\nC: Okay, {cvv}.",
        "A: C V V?\nC: {cvv}.",
        "A: And the C V C code?\nC: Um, {cvv}.\nA: {cvv=}?\nC: Yeah.",
        "C: And the code on the back is {cvv}.",
        "A: Last thing, the verification code.\nC: It's, let me see, {cvv}.",
        "A: For the Amex it's the four digits on the front.\nC: Oh okay, {cvv4}.",
        "A: The three digit number on the reverse?\nC: I can hardly read it. {cvv}, I believe.",
    ],
    "EXPIRY": [
        "A: When's it good through?\nC: {expiry}.",
        "A: Expiration?\nC: {expiry}",
        "A: And the expiry on that one?\nC: That's {expiry}.\nA: {expiry=}, lovely.",
        "C: It runs out {expiry}.",
        "A: What month and year does the card expire?\nC: Says {expiry}.",
        "A: Can you read me the valid thru date?\nC: {expiry}.",
        "C: Sorry, the expiration date is {expiry}, not what I said before.",
        "A: And the date on the front of the card, month and year?\nC: {expiry}.",
    ],
    "SSN": [
        "A: Can I get your social?\nC: {ssn}.",
        "A: And your Social Security number, for the credit check.\nC: Sure. {ssn.a}\nA: Okay.\nC: {ssn.b}.",
        "A: Verify the last four of your social for me.\nC: {ssn4}.",
        "C: My social is {ssn}, if that helps you find me.",
        "A: I'm showing a social ending {ssn4}, is that you?\nC: That's me.",
        "A: What's the social on the account?\nC: It's my husband's, {ssn}.\nA: {ssn=}?\nC: Right.",
        "A: Your tax ID or social, please.\nC: Social is {ssn}.",
        "A: Full nine digits of the social security number, please.\nC: {ssn}",
    ],
    "DOB": [
        "A: And your date of birth?\nC: {dob}.",
        "A: When were you born, sir?\nC: {dob}.",
        "A: Birth date, please.\nC: {dob}\nA: {dob=}, thank you.",
        "C: I was born on {dob}.",
        "A: Can you verify the patient's birthday for me?\nC: She was born {dob}.",
        "A: D O B?\nC: {dob}.",
        "A: And for security, your date of birth?\nC: Yeah, it's {dob}.",
        "C: His date of birth is {dob} and mine is {dob2}.",
        "A: What's the date of birth on the policy?\nC: Should be {dob}.",
        "A: I just need to confirm the birthday we have on file.\nC: Of course, {dob}.",
    ],
    "PHONE": [
        "A: What number can we call you back on?\nC: {phone}.",
        "A: And a contact number?\nC: {phone.a}\nA: Uh huh.\nC: {phone.b}\nA: So {phone=}?\nC: Yes.",
        "C: If I don't pick up try my wife's cell, that's {phone}.",
        "A: Is this still your number, {phone}?\nC: It is, yes.",
        "C: Text it to {phone} please.",
        "A: What's your cell?\nC: {phone}",
        "C: My landline's {phone} but I'm never home.",
        "A: I see you're calling from {phone}.\nC: Yes, that's the office.",
        "A: Best daytime telephone?\nC: Let's use {phone}.",
        "C: You people keep ringing {phone}, and that's not even me.",
        "A: Could I have a mobile number for the courier?\nC: Yep, {phone}.",
        "C: The fax number over here is {phone}.",
        "A: Please call our specialist team directly on {phone}.\nC: Thanks, got it.",
        "C: It's registered under the phone number {phone}, I think.",
    ],
    "EMAIL": [
        "A: What email should I send that to?\nC: {email}.",
        "A: Could you spell the email for me?\nC: Sure, {email}.",
        "C: My email's {email}, all lower case.",
        "A: I've got {email} here, is that current?\nC: No, use {email2} instead.",
        "A: And your email address?\nC: {email}\nA: Was that {email=}?\nC: Yes.",
        "C: Just send the invoice to {email}.",
        "C: I never got the message. The address is {email}.",
        "A: The login is your email. What is it?\nC: It'd be {email}, I guess.",
        "C: Drop me a line at {email} when it's done.",
        "A: I'll email you the form.\nC: Great, it's {email}.",
    ],
    "ADDRESS": [
        "A: Where should we ship it?\nC: {address}.",
        "A: Can you confirm the service address?\nC: Yes, {address}.",
        "C: We moved. The new address is {address}.",
        "A: I have you at {address}, still right?\nC: Still right.",
        "A: And your home address including the zip?\nC: {address}.",
        "C: I live at {address}.",
        "A: What's the first line of your address?\nC: {street}.",
        "A: And the postcode there?\nC: {postcode}.",
        "A: What's the zip code?\nC: {zip}.",
        "C: The driver went to {street} again, and I'm at {street2}.",
        "A: Billing address for that card?\nC: Same as always, {address}.",
        "C: Send the cheque to {pobox}.",
    ],
    "ACCOUNT_NUMBER": [
        "A: Do you have your account number handy?\nC: Yes, {account}.",
        "C: Account number {account}. I'd like to know my balance.",
        "A: What's your policy number?\nC: {policy}.",
        "A: And the membership number on your card?\nC: It reads {account}.",
        "A: Could I have the sort code and the account number?\nC: Sort code is {sortcode}, account is {account8}.",
        "C: The routing number is {routing} and the account is {account}.",
        "A: Your customer number starts with a letter.\nC: Here it is, {policy}.",
        "A: Member ID?\nC: {policy}\nA: {policy=}?\nC: That's it.",
        "A: Account number, please.\nC: {account.a}\nA: Go on.\nC: {account.b}.",
        "C: It's for account {account}, the one in my mother's name.",
    ],
    "PERSON": [
        "A: Who am I talking to?\nC: This is {name}.",
        "A: You're through to {first}, how can I help?\nC: Hi {first=}.",
        "C: Hello, {name} here, I called yesterday.",
        "A: Can I have your name?\nC: {name}. The surname is {spelled}.",
        "A: First and last name, please.\nC: {name}.",
        "A: How do you spell your last name?\nC: {spelled}.",
        "A: How's that spelled?\nC: {phonetic}.",
        "C: I spoke with {first} on Monday and then with {first2}.",
        "A: Am I speaking with {title}?\nC: Speaking.",
        "C: I'm calling on behalf of my mother, {name}.",
        "A: Thanks so much, {first}. Have a good one.",
        "C: Could you put me through to {name}, please?",
        "A: And whose name is on the account?\nC: My husband's, {name}.",
        "C: My name is {name}, {phonetic}.",
        "A: {title}, are you still there?\nC: Yes, sorry.",
    ],
}

_HARMLESS = [
    "A: Your total comes to {money}.\nC: Okay.",
    "A: So that's {money} a month, and {money2} up front.\nC: Hmm, that's steep.",
    "C: I was charged {money} twice.",
    "A: I can refund {money} of that today.\nC: That would help.",
    "A: It'll be with you on {day} between {clock} and {clock2}.\nC: Great.",
    "A: The engineer can come on {day}.\nC: Any earlier?\nA: There's {day2}, at {clock}.",
    "C: I ordered it on {day} and it still isn't here.",
    "A: That plan went up by {percent} in {year}.\nC: Wow.",
    "A: You'd get {percent} off if you stay another year.\nC: {percent=}? Hmm.",
    "C: The screen says error code {code}.\nA: Alright.",
    "C: It's the {model}, the big one.\nA: I know it.",
    "A: The part number is {code}. We have {small} left.\nC: I'll take two.",
    "C: My router is a {model} and the light's been red for {small} days.",
    "A: You've got {bignum} points, worth {money}.\nC: Nice.",
    "A: We've been open since {year}, and we're still at it.\nC: I know.",
    "C: I've been a customer for {small} years, since {year}.",
    "A: You're number {small} in the queue, the wait is about {small} minutes.\nC: Alright.",
    "C: I'm getting {small} down and {small} up, and I pay for {bignum}.\nA: Let me run a test.",
    "C: The meter says {bignum} and last month it was {bignum2}.\nA: Noted.",
    "A: Your bag allowance is {small} kilos.\nC: Mine's {small} kilos exactly.",
    "A: Our hours are {clock} to {clock2}, Monday to Friday.\nC: And weekends?",
    "C: I drove {bignum} miles with it.\nA: That's within warranty.",
    "A: Press one for billing, two for support, or three to hear this again.\nC: Two.",
    "A: The deductible is {money} and it covers up to {bignum} dollars.\nC: I see.",
    "C: They said {small} to {small} business days and it's been three weeks.\nA: I'm sorry.",
    "A: Your next payment of {money} is due {day}.\nC: I'll pay it then.",
    "C: I need a size {small}, the {small} is too tight.\nA: We can swap it.",
    "A: I'd have to charge you {money} for the call out.\nC: Forget it then.",
    "C: The flight leaves at {clock} on {day}.\nA: Let me look.",
    "A: We're running about {small} minutes behind.\nC: No problem.",
    "C: It was May or June, I don't remember, maybe {year}.\nA: That's fine.",
    "A: May I put you on hold for a minute?\nC: Sure.",
    "C: Will you let Grace Bank know or should I?\nA: You should.",
    "A: Channel {small} and channel {small} are part of the sports pack.\nC: Good.",
    "C: I'd like four of the blue and six of the green, so ten altogether.\nA: Ten it is.",
    "A: Turn it off, count to ten, one two three and so on, then turn it on.\nC: Okay.",
    "C: One one is free, right? Buy one get one?\nA: That's the offer.",
    "A: It's a one off fee of {money}, one time only.\nC: Okay then.",
    "A: Interest is {percent}, and the term is {small} months.\nC: Right.",
    "C: At the end of the day I just want it to work.\nA: Of course.",
    "A: I'm looking at it right now, and it's at the depot.\nC: Good.",
    "C: We're on the main street by the market, you can't miss it.\nA: Okay.",
    "A: The show starts at {clock}, doors at {clock2}.\nC: Row {small}, seats {small} and {small}?",
    "A: That warranty ran out in {year}.\nC: I thought it was longer.",
    "C: The temperature was {small} degrees in there.\nA: Goodness.",
]

_FIRST = {
    "dev": "Aisha Diego Siobhan Tomasz Mei Kwame Ingrid Rajesh Chloe Dmitri Latoya Hamish Yuki Fatima Brandon Carmen",
    "heldout": "Priyanka Mateo Niamh Piotr Lin Chidi Astrid Sanjay Zoe Sergei Shanice Angus Kenji Leila Tyler Rosa",
}
_LAST = {
    "dev": "Okafor Kowalczyk Nguyen MacLeod Gutierrez Lindqvist Banerjee O'Leary Tanaka Haddad Whitfield Moreau "
    "Castillo",
    "heldout": "Adeyemi Nowak Tran Mackenzie Herrera Sorensen Chatterjee O'Connor Suzuki Mansour Thornbury Leclerc "
    "Ramos",
}
_STREETS = {
    "dev": "Sycamore|Old Mill|Harrison|Kingfisher|Larch|Fifth|Pleasant View|St Mary's|Washington|Beech Hollow",
    "heldout": "Magnolia|Quarry|Jefferson|Heron|Hawthorn|Ninth|Prospect|St John's|Lincoln|Willow Creek",
}
_TOWNS = {
    "dev": "Dayton, Ohio|Boise, Idaho|Macon, Georgia|Tulsa, Oklahoma|Reno, Nevada|Fargo, North Dakota",
    "heldout": "Akron, Ohio|Provo, Utah|Mobile, Alabama|Salem, Oregon|Yuma, Arizona|Concord, New Hampshire",
}
_UK_TOWNS = {"dev": "Leeds|Norwich|Swansea|Stirling", "heldout": "Derby|Exeter|Cardiff|Paisley"}
_POSTCODES = {
    "dev": "LS6 3HN|NR2 1TB|SA1 8QE|FK8 2NP|M14 5TQ",
    "heldout": "DE1 2PL|EX4 6RW|CF10 3AT|PA1 1JN|B29 7XD",
}


def _words(text: str) -> list[str]:
    return text.split()


_KINDS = "Street Road Avenue Lane Drive Court Boulevard Terrace Close Way Place Crescent"
_MAILBOXES = "gmail.com yahoo.com outlook.com hotmail.co.uk icloud.com comcast.net btinternet.com fastmail.org"
_MONTHS = _words("January February March April May June July August September October November December")
_ORDINALS = _words(
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth "
    "sixteenth seventeenth eighteenth nineteenth twentieth twenty-first twenty-second twenty-third twenty-fourth "
    "twenty-fifth twenty-sixth twenty-seventh twenty-eighth twenty-ninth thirtieth thirty-first"
)
_ONES = _words(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_TENS = _words("zero ten twenty thirty forty fifty sixty seventy eighty ninety")
_PHONETIC = _words(
    "apple boy Charlie David Edward Frank George Harry India John king London Mary Nancy Oscar Peter queen Robert "
    "sugar Tom uncle Victor William x-ray yellow zebra"
)
_FILLERS = ("uh", "um", "let me see", "hold on", "sorry", "er", "and then", "okay")


def passages(num_passages: int, *, seed: int, split: Split) -> list[Passage]:
    """That many passages; every template of the half is used before one is used again."""
    rng = random.Random(seed)
    templates = [t for group in _SECRETIVE.values() for t in _half(group, split)] + _half(_HARMLESS, split)
    deck: list[str] = []
    made = []
    for _ in range(num_passages):
        if not deck:
            deck = rng.sample(templates, len(templates))
        made.append(_Caller(rng, split).fill(deck.pop()))
    return made


def _half(templates: list[str], split: Split) -> list[str]:
    return templates[0::2] if split == "dev" else templates[1::2]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Slot:
    """`{card}`, `{card.a}` and `{card.b}` its two halves, `{card=}` the same value in other words."""

    name: str
    half: str


_SLOT = re.compile(r"\{(?P<name>[a-z]+)(?P<number>\d*)(?:\.(?P<half>[ab]))?=?\}")
_ENTITIES = {
    "card": "CREDIT_CARD",
    "amex": "CREDIT_CARD",
    "last": "CREDIT_CARD",
    "cvv": "CVV",
    "expiry": "EXPIRY",
    "ssn": "SSN",
    "dob": "DOB",
    "phone": "PHONE",
    "email": "EMAIL",
    "address": "ADDRESS",
    "street": "ADDRESS",
    "postcode": "ADDRESS",
    "zip": "ADDRESS",
    "pobox": "ADDRESS",
    "account": "ACCOUNT_NUMBER",
    "policy": "ACCOUNT_NUMBER",
    "sortcode": "ACCOUNT_NUMBER",
    "routing": "ACCOUNT_NUMBER",
    "name": "PERSON",
    "first": "PERSON",
    "title": "PERSON",
    "spelled": "PERSON",
    "phonetic": "PERSON",
}


class _Caller:
    """One call's values, and ways of saying them."""

    def __init__(self, rng: random.Random, split: Split) -> None:
        self._rng = rng
        self._split = split
        self._zero = rng.choice(("zero", "oh"))
        self._values: dict[str, str] = {}
        self._surname = rng.choice(_LAST[split].split())

    def fill(self, template: str) -> Passage:
        """The template said once. One in six is written without capitals and punctuation."""
        bare = self._rng.random() < 1 / 6
        lines, secrets = [], []
        for row in template.split("\n"):
            marked, entities = self._say(row[3:])
            text, stretches = _unmark(_bare(marked) if bare else marked)
            for (start, end), entity in zip(stretches, entities, strict=True):
                secrets.append(Secret(line=len(lines), start=start, end=end, entity=entity))
            lines.append(("AC".index(row[0]), text))
        return Passage(lines=tuple(lines), secrets=tuple(secrets))

    def _say(self, row: str) -> tuple[str, list[str]]:
        entities: list[str] = []

        def said(slot: re.Match[str]) -> str:
            name, key = slot["name"], slot["name"] + slot["number"]
            spoken = _WAYS[key if key in _WAYS else name](self, self._value(key, name), slot["half"] or "")
            if name not in _ENTITIES:
                return spoken
            marked = spoken if _OPEN in spoken else f"{_OPEN}{spoken}{_CLOSE}"
            entities.extend([_ENTITIES[name]] * marked.count(_OPEN))
            return marked

        return _SLOT.sub(said, row), entities

    def _value(self, key: str, name: str) -> str:
        if key not in self._values:
            self._values[key] = _VALUES[key if key in _VALUES else name](self)
        return self._values[key]

    # -------------------------------------------------------------------------------------------------------- values

    def digits(self, count: int, first: str = "0123456789") -> str:
        rng = self._rng
        made = rng.choice(first) + "".join(rng.choice("0123456789") for _ in range(count - 1))
        if rng.random() < 0.3:  # runs of one digit are what "double" and "triple" are for
            at, run = rng.randrange(1, count - 1) if count > 2 else 0, rng.choice((2, 3))
            made = (made[:at] + made[at] * run + made[at + run :])[:count]
        return made

    def date(self, first_year: int, last_year: int) -> str:
        rng = self._rng
        return f"{rng.randint(first_year, last_year)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"

    def full_name(self) -> str:
        return f"{self._rng.choice(_FIRST[self._split].split())} {self._surname}"

    def mailbox(self) -> str:
        rng = self._rng
        first = rng.choice(_FIRST[self._split].split()).lower()
        last = self._surname.lower().replace("'", "")
        number = rng.choice(("", "", str(rng.randint(1, 99)), str(rng.randint(1960, 2004))))
        joint = rng.choice((".", "_", "-", "", "+"))
        local = rng.choice(
            (f"{first}{joint}{last}", f"{first[0]}{joint if joint != '+' else ''}{last}", f"{first}{joint}shop")
        )
        return f"{local}{number}@{rng.choice(_MAILBOXES.split())}"

    def street(self) -> str:
        rng = self._rng
        side = rng.choice(("", "", "", "North ", "West "))
        return (
            f"{rng.randint(2, 9899)} {side}{rng.choice(_STREETS[self._split].split('|'))} {rng.choice(_KINDS.split())}"
        )

    # ---------------------------------------------------------------------------------------------- ways of saying it

    def number(self, digits: str, groups: tuple[int, ...]) -> str:
        """A number in groups, as one of the things that are heard or written."""
        rng = self._rng
        parts = _cut(digits, groups)
        style = rng.choices(
            ("words", "pairs", "figures", "hyphens", "run", "mixed", "hesitant", "corrected"), (6, 2, 3, 2, 1, 2, 2, 1)
        )[0]
        if style == "run":
            return digits
        if style == "figures":
            return rng.choice((" ", "-", ", ", ". ")).join(parts)
        if style == "hyphens":
            return rng.choice((". ", ", ", " ")).join("-".join(part) for part in parts)
        if style == "pairs":
            return rng.choice((", ", " ")).join(self._in_pairs(part) for part in parts)
        if style == "mixed":
            return rng.choice((", ", " ")).join(rng.choice((part, self._one_by_one(part))) for part in parts)
        words = [self._one_by_one(part) for part in parts]
        if style == "words":
            return rng.choice((", ", " ", ". ", "... ")).join(words)
        stretches = [f"{_OPEN}{word}{_CLOSE}" for word in words]
        if style == "hesitant":
            return "".join(f"{stretch}, {rng.choice(_FILLERS)}, " for stretch in stretches[:-1]) + stretches[-1]
        wrong = self._one_by_one(self.digits(len(parts[-1])))
        sorry = rng.choice(("no sorry", "sorry, I mean", "no wait", "correction", "actually no, it's"))
        stretches.insert(len(parts) - 1, f"{_OPEN}{wrong}{_CLOSE}, {sorry}")
        return ", ".join(stretches)

    def _one_by_one(self, digits: str) -> str:
        """ "four nine double two"; half the time without the double."""
        doubling = self._rng.random() < 0.5
        said, i = [], 0
        while i < len(digits):
            run = len(digits[i:]) - len(digits[i:].lstrip(digits[i]))
            word = self._zero if digits[i] == "0" else _ONES[int(digits[i])]
            if doubling and run in (2, 3):
                said.append(("double ", "triple ")[run - 2] + word)
                i += run
            else:
                said.append(word)
                i += 1
        return " ".join(said)

    def _in_pairs(self, digits: str) -> str:
        """ "forty nine twenty two"; an odd group starts with one digit by itself."""
        if len(digits) == 4 and digits.endswith("00") and digits[0] != "0":
            return f"{_below_100(int(digits[:2]))} hundred"
        start = len(digits) % 2
        pairs = [digits[:start]] * start + [digits[i : i + 2] for i in range(start, len(digits), 2)]
        return " ".join(
            self._one_by_one(pair) if len(pair) == 1 or pair[0] == "0" else _below_100(int(pair)) for pair in pairs
        )

    def card(self, digits: str, half: str) -> str:
        digits = {"": digits, "a": digits[:8], "b": digits[8:]}[half]
        if not half and self._rng.random() < 0.15:
            return self._mangled(digits)
        return self.number(digits, (4,) * (len(digits) // 4))

    def _mangled(self, digits: str) -> str:
        """ASR stutters: a digit or five too many, or one lost."""
        rng = self._rng
        heard = list(digits)
        if rng.random() < 0.25:
            heard.pop(rng.randrange(1, len(heard)))
        else:
            for _ in range(rng.randint(1, 5)):
                at = rng.randrange(1, len(heard))
                heard.insert(at, heard[at - 1])
        figures = "".join(heard)
        return rng.choice(
            (
                figures,
                ". ".join("-".join(c) for c in _cut(figures, (4, 4, 4))) + ".",
                " ".join(_cut(figures, (4, 5, 4))),
            )
        )

    def phone(self, digits: str, half: str) -> str:
        rng = self._rng
        british = digits[0] == "0"
        if half:
            at = 5 if british else 3
            return self.number(digits[:at] if half == "a" else digits[at:], (3,))
        if british:
            return rng.choice(("", "", "plus four four " if digits[1] == "7" else "")) + self.number(digits, (5, 3, 3))
        area, exchange, line = digits[:3], digits[3:6], digits[6:]
        written = (
            f"({area}) {exchange}-{line}",
            f"{area}.{exchange}.{line}",
            f"+1 {area} {exchange} {line}",
            f"{area}-{exchange}{line}",
        )
        if rng.random() < 0.25:
            return rng.choice(written)
        spoken = self.number(digits, (3, 3, 4))
        if _OPEN not in spoken and rng.random() < 0.15:
            spoken += rng.choice((" extension ", " ext. ")) + self._one_by_one(self.digits(3))
        return spoken

    def expiry(self, value: str, half: str) -> str:
        year, month = value[2:4], int(value[5:7])
        spoken_month = self._one_by_one(f"{month:02}") if self._rng.random() < 0.6 else _below_100(month)
        return self._rng.choice(
            (
                f"{month:02}/{year}",
                f"{month}/{year}",
                f"{month:02} {year}",
                f"{month:02}-{year}",
                f"{spoken_month} {_below_100(int(year))}",
                f"{spoken_month}, {_below_100(int(year))}",
                f"{spoken_month} slash {_below_100(int(year))}",
                self._one_by_one(f"{month:02}{year}"),
                f"{_MONTHS[month - 1]} {_below_100(int(year))}",
                f"{_MONTHS[month - 1]} twenty {_below_100(int(year))}",
                f"{_MONTHS[month - 1]} 20{year}",
                f"{_MONTHS[month - 1]} of 20{year}",
                f"{_MONTHS[month - 1][:3]} {year}",
                f"the {_ORDINALS[month - 1]} month of twenty {_below_100(int(year))}",
                f"{month:02}, 20{year}",
                "-".join(f"{month:02}{year}"),
            )
        )

    def birthday(self, value: str, half: str) -> str:
        year, month, day = (int(part) for part in value.split("-"))
        name, ordinal = _MONTHS[month - 1], _ORDINALS[day - 1]
        short = year % 100
        spoken_year = self._year(year)
        return self._rng.choice(
            (
                f"{name} {ordinal}, {spoken_year}",
                f"{name} the {ordinal} {spoken_year}",
                f"the {ordinal} of {name}, {spoken_year}",
                f"{ordinal} {name} {spoken_year}",
                f"{name} {day}, {year}",
                f"{day} {name} {year}",
                f"{_numeral(day)} of {name} '{short:02}",
                f"{month}/{day}/{short:02}",
                f"{month:02}/{day:02}/{year}",
                f"{month:02}-{day:02}-{year}",
                f"{day:02}.{month:02}.{year}",
                f"{month} {day} {short:02}",
                f"{_below_100(month)} {_below_100(day)} {self._in_pairs(f'{short:02}')}",
                f"{self._one_by_one(f'{month:02}')} {self._one_by_one(f'{day:02}')} {spoken_year}",
                f"the {ordinal} of the {_ORDINALS[month - 1]}, {spoken_year}",
                f"{name} {_below_100(day)} {self._in_pairs(f'{short:02}')}",
                f"{month:02}{day:02}{year}",
                f"{name[:3]} {_numeral(day)} {year}",
            )
        )

    def _year(self, year: int) -> str:
        if year >= 2000:
            rest = year - 2000
            joint = self._rng.choice(
                ("two thousand and ", "two thousand ", "twenty oh " if 0 < rest < 10 else "two thousand ")
            )
            return f"{joint}{_below_100(rest)}" if rest else "two thousand"
        return self._rng.choice(("nineteen ", "nineteen ", "nineteen hundred and ")) + self._in_pairs(
            f"{year % 100:02}"
        )

    def email(self, value: str, half: str) -> str:
        rng = self._rng
        local, domain = value.split("@")
        style = rng.choice(("written", "at", "said", "said", "said", "said", "spelled"))
        if style == "written":
            return rng.choice((value, value.capitalize()))
        if style == "at":
            return rng.choice(
                (f"{local} at {domain}", f"{local.title()} at {domain}", f"{local} at {domain.replace('.', ' dot ')}")
            )
        names = {".": " dot ", "_": " underscore ", "-": rng.choice((" dash ", " hyphen ")), "+": " plus "}
        words = re.findall(r"[a-z]+|\d+|[._+-]", local)
        if style == "spelled":
            at = max(range(len(words)), key=lambda i: len(words[i]) if words[i].isalpha() else 0)
            words[at] = rng.choice(("-", " ")).join(words[at])
        said = [names.get(word) or (f" {self._numeric(word)} " if word.isdigit() else word) for word in words]
        text = re.sub(r" +", " ", "".join(said)).strip()
        return text + rng.choice((" at ", ", at ")) + domain.replace(".", " dot ")

    def _numeric(self, digits: str) -> str:
        return self._rng.choice((self._one_by_one, self._in_pairs))(digits)

    def street_line(self, value: str, half: str) -> str:
        house, street = value.split(" ", 1)
        return f"{self._rng.choice((house, house, self._in_pairs(house), self._one_by_one(house)))} {street}"

    def address(self, value: str, half: str) -> str:
        rng = self._rng
        line = self.street_line(value, half)
        if rng.random() < 0.3:
            town, code = rng.choice(_UK_TOWNS[self._split].split("|")), self.postcode("", "")
            return (
                rng.choice(("", f"flat {rng.randint(1, 30)}, ", f"Flat {rng.choice('ABC')}, "))
                + f"{line}, {town}, {code}"
            )
        unit = rng.choice(
            (
                "",
                "",
                f", apartment {rng.randint(1, 40)}",
                f", apt {rng.randint(1, 9)}B",
                f", unit {self._in_pairs('12')}",
            )
        )
        city = rng.choice(_TOWNS[self._split].split("|"))
        if rng.random() < 0.3:
            return f"{line}{unit}, {city}"
        zipcode = self.digits(5)
        return f"{line}{unit}, {city}" + rng.choice(
            (f" {zipcode}", f", {self._one_by_one(zipcode)}", f", zip {zipcode}")
        )

    def postcode(self, value: str, half: str) -> str:
        rng = self._rng
        code = rng.choice(_POSTCODES[self._split].split("|"))
        said = " ".join(c if c.isalpha() else _ONES[int(c)] for c in code.replace(" ", ""))
        return rng.choice((code, code.lower(), code.replace(" ", ""), said))

    def spelled(self, value: str, half: str) -> str:
        letters = [letter for letter in self._surname.upper() if letter.isalpha()]
        return self._rng.choice(("-".join(letters), " ".join(letters), ". ".join(letters), ", ".join(letters).lower()))

    def phonetic(self, value: str, half: str) -> str:
        joint = self._rng.choice((" as in ", " for ", " like "))
        letters = [letter for letter in self._surname.upper() if letter.isalpha()][:5]
        return ", ".join(f"{letter}{joint}{_PHONETIC[ord(letter) - 65]}" for letter in letters)

    def title(self, value: str, half: str) -> str:
        return f"{self._rng.choice(('Mr', 'Mrs', 'Ms', 'Mr.', 'Mrs.', 'Miss', 'Dr.'))} {_OPEN}{self._surname}{_CLOSE}"

    def policy(self, value: str, half: str) -> str:
        letters = value[:2]
        said = self.number(value[2:], (4, len(value) - 6))
        prefix = self._rng.choice((letters, " ".join(letters), "-".join(letters)))
        return said.replace(_OPEN, f"{_OPEN}{prefix} ", 1) if _OPEN in said else f"{prefix} {said}"

    def money(self, value: str, half: str) -> str:
        whole, cents = int(value[:-2]), int(value[-2:])
        unit, small = self._rng.choice((("dollars", "cents"), ("pounds", "pence")))
        return self._rng.choice(
            (
                f"${whole}.{cents:02}",
                f"£{whole}.{cents:02}",
                f"{_count(whole)} {unit} and {_below_100(cents)} {small}",
                f"{_count(whole)} {unit}",
                f"{whole} {unit}",
                f"{_count(whole)} {_below_100(cents)}" if whole < 100 and cents > 19 else f"${whole}",
            )
        )

    def day(self, value: str, half: str) -> str:
        _, month, day = (int(part) for part in value.split("-"))
        weekday = self._rng.choice(("Monday", "Tuesday", "Wednesday", "Thursday", "Friday"))
        return self._rng.choice(
            (
                f"{weekday} the {_ORDINALS[day - 1]}",
                f"{weekday}, {_MONTHS[month - 1]} {_numeral(day)}",
                f"the {_ORDINALS[day - 1]} of {_MONTHS[month - 1]}",
                f"{_MONTHS[month - 1]} {_ORDINALS[day - 1]}",
                f"{weekday}",
            )
        )

    def clock(self, value: str, half: str) -> str:
        hour, minute = int(value[0]) + 1, int(value[1]) % 4 * 15
        return self._rng.choice(
            (f"{hour}:{minute:02}", f"{_below_100(hour)} {_below_100(minute) if minute else 'o clock'}", f"{hour} pm")
        )

    def percent(self, value: str, half: str) -> str:
        return self._rng.choice(
            (f"{int(value)}%", f"{_below_100(int(value))} percent", f"{_below_100(int(value))} point five percent")
        )

    def small(self, value: str, half: str) -> str:
        return self._rng.choice((_below_100(int(value)), str(int(value))))

    def big(self, value: str, half: str) -> str:
        return self._rng.choice((_count(int(value)), f"{int(value):,}", str(int(value))))

    def year(self, value: str, half: str) -> str:
        return self._rng.choice((value, self._year(int(value))))

    def code(self, value: str, half: str) -> str:
        return self._rng.choice((value, self._one_by_one(value), f"{value[:1]}-{value[1:]}"))

    def model(self, value: str, half: str) -> str:
        letters = self._rng.choice(("XR", "TL", "HD", "GS"))
        return self._rng.choice(
            (f"{letters}{value}", f"{letters} {self._one_by_one(value)}", f"{' '.join(letters)} {value}")
        )


_Way = Callable[[_Caller, str, str], str]


def _grouped(*groups: int) -> _Way:
    def way(caller: _Caller, digits: str, half: str) -> str:
        middle = len(digits) // 2 if len(digits) != 9 else 5
        return caller.number({"": digits, "a": digits[:middle], "b": digits[middle:]}[half], groups)

    return way


def _as_is(caller: _Caller, value: str, half: str) -> str:
    return value


def _phone_number(caller: _Caller) -> str:
    if caller.digits(1) in "012":
        return "07" + caller.digits(9)
    return caller.digits(1, "23456789") + caller.digits(9)


_VALUES: dict[str, Callable[[_Caller], str]] = {
    "card": lambda c: c.digits(16, "45"),
    "amex": lambda c: "37" + c.digits(13),
    "last": lambda c: c.digits(4),
    "cvv": lambda c: c.digits(3),
    "cvv4": lambda c: c.digits(4),
    "expiry": lambda c: c.date(2026, 2032),
    "ssn": lambda c: c.digits(9),
    "ssn4": lambda c: c.digits(4),
    "dob": lambda c: c.date(1931, 2007),
    "phone": _phone_number,
    "email": _Caller.mailbox,
    "address": _Caller.street,
    "street": _Caller.street,
    "postcode": lambda c: "",
    "zip": lambda c: c.digits(5),
    "pobox": lambda c: c.digits(4, "123456789"),
    "account": lambda c: c.digits(9),
    "account8": lambda c: c.digits(8),
    "policy": lambda c: "".join(c.digits(1, "ABCDEFGHJKLMNPQRSTUVWXYZ") for _ in "12") + c.digits(7),
    "sortcode": lambda c: c.digits(6),
    "routing": lambda c: c.digits(9),
    "name": _Caller.full_name,
    "first": lambda c: c.full_name().split()[0],
    "spelled": lambda c: "",
    "phonetic": lambda c: "",
    "title": lambda c: "",
    "money": lambda c: c.digits(2, "123456789") + c.digits(2),
    "day": lambda c: c.date(2026, 2026),
    "clock": lambda c: c.digits(2),
    "percent": lambda c: c.digits(2, "123456"),
    "small": lambda c: c.digits(1, "123456789"),
    "bignum": lambda c: c.digits(4, "123456789"),
    "year": lambda c: c.date(1985, 2024)[:4],
    "code": lambda c: c.digits(4, "123456789"),
    "model": lambda c: c.digits(3, "123456789"),
}
_WAYS: dict[str, _Way] = {
    "card": _Caller.card,
    "amex": _grouped(4, 6, 5),
    "last": _grouped(4),
    "cvv": _grouped(3),
    "cvv4": _grouped(4),
    "expiry": _Caller.expiry,
    "ssn": _grouped(3, 2, 4),
    "ssn4": _grouped(4),
    "dob": _Caller.birthday,
    "phone": _Caller.phone,
    "email": _Caller.email,
    "address": _Caller.address,
    "street": _Caller.street_line,
    "postcode": _Caller.postcode,
    "zip": _grouped(5),
    "pobox": lambda c, value, half: c._rng.choice(
        (f"P.O. Box {value}", f"PO box {value}", f"P O box {c._in_pairs(value)}")
    ),
    "account": _grouped(3, 3, 3),
    "account8": _grouped(4, 4),
    "policy": _Caller.policy,
    "sortcode": _grouped(2, 2, 2),
    "routing": _grouped(3, 3, 3),
    "name": _as_is,
    "first": _as_is,
    "spelled": _Caller.spelled,
    "phonetic": _Caller.phonetic,
    "title": _Caller.title,
    "money": _Caller.money,
    "day": _Caller.day,
    "clock": _Caller.clock,
    "percent": _Caller.percent,
    "small": _Caller.small,
    "bignum": _Caller.big,
    "year": _Caller.year,
    "code": _Caller.code,
    "model": _Caller.model,
}


def _cut(digits: str, groups: tuple[int, ...]) -> list[str]:
    """Into groups of these sizes, the last taking what is left."""
    parts, at = [], 0
    for size in groups[:-1]:
        parts.append(digits[at : at + size])
        at += size
    return [part for part in (*parts, digits[at:]) if part]


def _below_100(number: int) -> str:
    if number < 20:
        return _ONES[number]
    return _TENS[number // 10] + (f" {_ONES[number % 10]}" if number % 10 else "")


def _count(number: int) -> str:
    """ "two thousand one hundred and four"."""
    thousands, rest = divmod(number, 1000)
    hundreds, rest = divmod(rest, 100)
    parts = [f"{_ONES[thousands]} thousand"] * bool(thousands) + [f"{_ONES[hundreds]} hundred"] * bool(hundreds)
    if rest or not parts:
        parts.append(f"and {_below_100(rest)}" if parts else _below_100(rest))
    return " ".join(parts)


def _numeral(day: int) -> str:
    suffix = "th" if day in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    return f"{day}{suffix}"


def _bare(marked: str) -> str:
    """Lower case, no commas, no stops but those inside a word or number."""
    return re.sub(r"[,?!]|\.(?![^\W_])|(?<![^\W_])\.", "", marked).lower()


def _unmark(marked: str) -> tuple[str, list[tuple[int, int]]]:
    text, stretches, start = "", [], 0
    for char in marked:
        if char == _OPEN:
            start = len(text)
        elif char == _CLOSE:
            stretches.append((start, len(text)))
        else:
            text += char
    return text, stretches
