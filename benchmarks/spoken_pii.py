"""Makes short call passages with known secrets, the way people say them and the way ASR writes them.

Written from a list of what callers do, apart from the recognisers: digits one by one, in pairs, with "oh" and "double";
numbers cut over turns, acknowledged in between, repeated back; e-mails dictated; years as pairs; ASR's hyphens, full
stops, lost and added digits; a tenth of the passages in lower case. A fifth of the templates hold no secret but look as
if they did: money, times, order numbers, towns, companies, dates.

Passages come in two halves that share no template and no name: "dev" may be looked at while recognisers are worked on;
"heldout" is what numbers are reported from, and its misses are not to be studied. Its names are drawn at random from
the most common ones of the United States census of 1990.
"""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Split = Literal["dev", "heldout"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """`lines[line].text[start:end]` is a secret of this kind."""

    line: int
    start: int
    end: int
    entity: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """`lines` are (speaker, text), 0 the agent and 1 the customer."""

    lines: tuple[tuple[int, str], ...]
    secrets: tuple[Secret, ...]


# Each passage: lines "A: ..." and "C: ...". {KIND} is a secret; {KIND/1} and {KIND/2} are the two halves of one;
# {KIND=} repeats the passage's first secret of that kind in the words it was said in; {name} in lower case is a decoy.
_TEMPLATES = [
    # card numbers
    "A: Can I have the long number on the front of your card?\nC: Yes, it's {CREDIT_CARD}.",
    "A: What's the card number please?\nC: {CREDIT_CARD}\nA: Thank you.",
    "C: I want to pay by Visa, the number is {CREDIT_CARD}, expiring {EXPIRY}.",
    "A: Go ahead with the card number.\nC: {CREDIT_CARD/1}\nA: Okay.\nC: {CREDIT_CARD/2}\nA: Got it, thank you.",
    "A: And your credit card number?\nC: Sure, one moment. Okay, it's {CREDIT_CARD/1}.\nA: Uh huh.\n"
    "C: And then {CREDIT_CARD/2}.",
    "A: Card number when you're ready.\nC: {CREDIT_CARD}.\nA: So that's {CREDIT_CARD=}?\nC: Correct.",
    "C: Somebody used my card ending in {CREDIT_CARD:last4} last night.",
    "C: My debit card is {CREDIT_CARD} and the three digits are {CVV}.",
    "A: I'll take the payment now.\nC: Do you want the card? It's {CREDIT_CARD}.",
    "A: May I have the sixteen digits across the front?\nC: {CREDIT_CARD}",
    "A: Please read me the card.\nC: um {CREDIT_CARD/1}\nA: Yes.\nC: uh {CREDIT_CARD/2}",
    "C: I already gave it to the other lady. {CREDIT_CARD}. Charge that one.",
    # security codes and expiry dates
    "A: And the three digit code on the back?\nC: {CVV}.",
    "A: The security code please.\nC: That's {CVV}.",
    "A: What's the C V V?\nC: It's {CVV}, I think.",
    "A: And the last three digits on the signature strip?\nC: {CVV}\nA: {CVV=}, thank you.",
    "C: The C V C is {CVV} by the way.",
    "A: I just need the security number from the back of the card.\nC: Hold on. {CVV}.",
    "A: And when does it expire?\nC: {EXPIRY}.",
    "A: The expiration date?\nC: It's {EXPIRY}.",
    "A: Expiry?\nC: {EXPIRY}.\nA: And the code on the back?\nC: {CVV}.",
    "C: It's valid until {EXPIRY}.",
    "C: The card expires {EXPIRY} and the code is {CVV}.",
    "A: What is the expiry date on that card?\nC: Uh, {EXPIRY}.\nA: Thanks. One moment.",
    # phones
    "A: What's the best number to reach you on?\nC: {PHONE}.",
    "C: You can call me back at {PHONE}.",
    "C: My mobile is {PHONE}, that's the quickest.",
    "A: I have {PHONE} as your phone number, is that right?\nC: Yes.",
    "A: Could you confirm your phone number?\nC: {PHONE/1}\nA: Mm hmm.\nC: {PHONE/2}\nA: Lovely.",
    "A: And a contact number?\nC: {PHONE}\nA: That was {PHONE=}.",
    "C: Leave a message for her on {PHONE}.",
    "C: I'm calling from {PHONE} if we get disconnected.",
    "A: Is there a landline as well?\nC: Yes. {PHONE}.",
    "C: Text me on {PHONE} when the driver is close.",
    # e-mails
    "A: And your email address?\nC: {EMAIL}.",
    "C: Send it to {EMAIL} please.",
    "C: My email is {EMAIL}.",
    "A: Is {EMAIL} still the right address for the invoice?\nC: It is.",
    "A: Can I take an email?\nC: Yes it's {EMAIL}\nA: {EMAIL=}, perfect.",
    "C: Try {EMAIL} instead, the other one bounces.",
    "A: Where shall I send the confirmation?\nC: To my work email, {EMAIL}.",
    "C: I log in with {EMAIL} and it says wrong password.",
    # addresses
    "A: What is the delivery address?\nC: {ADDRESS}.",
    "C: I moved, I'm now at {ADDRESS}.",
    "C: I live at {ADDRESS}.",
    "A: Can you confirm the first line of your address and postcode?\nC: Sure, {ADDRESS}.",
    "A: I've got {ADDRESS} on file.\nC: That's my old place.",
    "C: Please ship the replacement to {ADDRESS}.",
    "A: And the billing address?\nC: It's {ADDRESS}.\nA: Thank you, and the phone number?\nC: {PHONE}.",
    "A: And your zip code?\nC: {ADDRESS:zip}.",
    # social security numbers
    "A: Your social security number please?\nC: {SSN}.",
    "C: My social is {SSN}.",
    "A: I need to verify your social.\nC: Okay. {SSN/1}\nA: Yes.\nC: {SSN/2}",
    "A: Can you give me the last four of your social?\nC: {SSN:last4}.",
    "A: And the S S N?\nC: {SSN}\nA: I have {SSN=}.",
    "C: They asked for my social security number, which is {SSN}, and then hung up.",
    # dates of birth
    "A: And your date of birth?\nC: {DOB}.",
    "C: I was born on {DOB}.",
    "A: Could you verify your birthday for me?\nC: It's {DOB}.",
    "C: My date of birth is {DOB}.",
    "A: Date of birth for the patient?\nC: {DOB}\nA: {DOB=}, thanks.",
    "A: What year were you born?\nC: {DOB:year}.",
    "C: Her birthday is {DOB}, she's on my plan.",
    "A: D O B?\nC: {DOB}.",
    # account numbers
    "A: Can I have your account number?\nC: {ACCOUNT_NUMBER}.",
    "C: The account number is {ACCOUNT_NUMBER}.",
    "A: Do you have your membership number?\nC: Yes, {ACCOUNT_NUMBER}.",
    "C: My policy number is {ACCOUNT_NUMBER}, it's under my wife's name.",
    "A: And the customer number?\nC: {ACCOUNT_NUMBER/1}\nA: Okay.\nC: {ACCOUNT_NUMBER/2}",
    "C: It's account {ACCOUNT_NUMBER} with you.",
    "A: The bank account and the routing number?\nC: Account is {ACCOUNT_NUMBER}, routing {ACCOUNT_NUMBER:routing}.",
    "A: Account number?\nC: {ACCOUNT_NUMBER}\nA: {ACCOUNT_NUMBER=}. Got it.",
    "C: The sort code is {ACCOUNT_NUMBER:sort} and the account {ACCOUNT_NUMBER}.",
    "A: Let me look that up, what's your member ID?\nC: {ACCOUNT_NUMBER}.",
    # people
    "A: Thank you for calling {company}, my name is {PERSON:first}, how may I help?\n"
    "C: Hi {PERSON:first=}, it's {PERSON}.",
    "A: Who am I speaking with?\nC: {PERSON}.\nA: Thank you, {PERSON:first=of}.",
    "C: My name is {PERSON} and I have a question about my bill.",
    "A: {company}, {PERSON:first} speaking.",
    "C: Can you put me through to {PERSON}? She called me yesterday.",
    "C: I spoke to {PERSON:first} last week about this.",
    "A: May I have your name?\nC: Sure, it's {PERSON}.\nA: Is that {PERSON=}?\nC: Yes.",
    "C: My husband {PERSON} set up the account.",
    "C: This is {PERSON} from apartment twelve.",
    "A: Is this Mr. {PERSON:last}?\nC: Speaking.",
    "C: The appointment is with Doctor {PERSON:last} at {clock}.",
    "C: Please add {PERSON} as an authorised user.",
    "A: Good morning, {PERSON:first} here at {company}.\nC: Morning {PERSON:first=}.",
    "A: Thanks for holding, {PERSON:first}. I've fixed it.\nC: Great, thanks.",
    "C: It's under {PERSON}, and the number is {PHONE}.",
    "C: Tell {PERSON:first} that the parcel never came.",
    # nothing secret
    "A: The total comes to {money}.\nC: That's fine.",
    "C: You charged me {money} twice.",
    "A: Your new balance is {money} and it's due on {day}.",
    "A: Your order number is {order}.\nC: Thanks.",
    "C: The reference number is {order}.",
    "A: We can come on {day} between {clock} and {clock}.",
    "A: Does {day} at {clock} work?\nC: Yes.",
    "C: I've been a customer for {count} years.",
    "C: I'm in {town} this week, so {day} won't work.",
    "C: I was on hold for {count} minutes.",
    "C: I have {count} lines with {company}.",
    "A: Welcome to {company}. This call may be recorded.",
    "A: We opened a new branch in {town} in {year}.",
    "C: I bought it on {day} at the {town} store for {money}.",
    "A: That plan has {count} gigabytes for {money} a month.",
    "A: Your ticket is {order}, keep it for reference.",
    "C: The flight leaves {town} at {clock}.",
    "A: The refund takes {count} to {count} days.",
    "A: It should arrive on {day}.\nC: To the house or the office?",
    "C: The router shows error {count} and then restarts.",
    "A: It's a twelve month contract at {money}.\nC: And after that?\nA: It goes to {money}.",
    "C: I saw {money} on my statement from {company}.",
    "A: We're open from {clock} to {clock} on weekdays.",
    "A: The outage in {town} began at {clock} on {day}.",
]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_FIRST: dict[Split, tuple[str, ...]] = {
    "dev": _words(
        """
    Ngozi Siobhan Dmitri Helen Marcus Yolanda Kwame Ingrid Tomasz Aaliyah Grace Will Noor Harold Beatriz Jun
    Femi Lucy Priya Carlos Agnieszka Jamal Mei Roisin Walter Anneke Hugo Sunita Declan Paloma Ezra Wanjiru Theo
    Marguerite Bjorn Keisha Rupert Leilani Omar Dorothy Santiago Eleni Oluwaseun Patrick Zainab Clifford Renata
    Hamza Joyce Lorenzo
    """
    ),
    "heldout": _words(
        """
    Adela Amos Barbara Benny Betty Bill Candy Christina Claudine Conrad Corey Dale Dixie Dominique Donnie Eddie
    Edward Eileen Everett Frances Geoffrey Gerard Harlan Jason Joanne Joe Josie Juanita Karl Kellie Krista
    Laurie Lavonne Leon Lowell Mae Marcy Marlon Marshall Melody Misty Nannie Nelson Nick Norma Paige Pat Perry
    Rick Rodolfo Sasha Sherrie Shirley Sondra Teddy Tim Troy Wanda William
    """
    ),
}
_LAST: dict[Split, tuple[str, ...]] = {
    "dev": _words(
        """
    Okafor Kavanagh Volkov Abernathy Delacroix Mensah Lindqvist Kowalski Freeman Hopkins Nakamura Adeyemi
    Whitlock Sharma Ruiz Novak Jefferson Chen Gallagher Stein Vandermeer Castillo Patel Byrne Moreau Goldberg
    Kamau Featherstone Sorensen Baptiste Tanaka O'Connor Hussain Prescott Ferrari Mwangi Calloway Johansson
    Rahman Winterbourne
    """
    ),
    "heldout": _words(
        """
    Aiken Allison Arias Beaulieu Becker Billingsley Blair Boling Bowie Britt Bruner Busby Cardwell Carpenter
    Castellanos Clemens Correa England Esquivel Fortner Fraley Frazier German Giles Goff Goodson Griffith
    Guthrie Heath Hoover Jensen Kerns Kurtz Levy Littlefield Lombardi Maddox Madsen Mauldin Morton Neil Ott
    Parent Quinones Ratcliff Richmond Rowland Sadler Schaefer Schroeder Sewell Snow Solomon Soto South Swann
    Turpin Upton Wakefield Weiner
    """
    ),
}
_COMPANY = (
    "Northwind Energy", "Brightwater Bank", "Halcyon Telecom", "Bluebird Airlines", "Summit Mutual Insurance",
    "Acorn Broadband", "Fairview Dental", "Copperfield Motors",
)  # fmt: skip
_TOWN = (
    "Manchester", "Boston", "Portland", "Cardiff", "Denver", "Birmingham", "Phoenix", "Edinburgh", "Seattle",
    "Nottingham",
)  # fmt: skip
_STREET = (
    "Willow", "Harbour View", "Chestnut", "Saint James", "Old Mill", "Sycamore", "Kingfisher", "Prospect",
    "Maple", "Bramble", "Lakeshore", "Tenth", "Meadow", "Abbey",
)  # fmt: skip
_STREET_KIND = (
    "Road", "Street", "Avenue", "Lane", "Drive", "Close", "Court", "Boulevard", "Crescent", "Way", "Terrace",
    "Place",
)  # fmt: skip
_PLACE = (
    ("Springfield", "Illinois"), ("Austin", "Texas"), ("Tacoma", "Washington"), ("Dayton", "Ohio"),
    ("Albany", "New York"), ("Leeds", ""), ("Bristol", ""), ("Norwich", ""),
)  # fmt: skip
_UK_POSTCODES = (
    "LS6 2QT", "BS8 1TH", "NR2 4DX", "SW1A 2AA", "M14 5RX",
)  # fmt: skip
_MONTHS = _words(
    """
    January February March April May June July August September October November December
    """
)
_WEEKDAYS = _words(
    """
    Monday Tuesday Wednesday Thursday Friday Saturday Sunday
    """
)
_DIGIT_WORDS = _words(
    """
    zero one two three four five six seven eight nine
    """
)
_TEEN_WORDS = _words(
    """
    ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen
    """
)
_TEN_WORDS = _words(
    """
    _ _ twenty thirty forty fifty sixty seventy eighty ninety
    """
)
_ORDINAL_WORDS = _words(
    """
    first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth
    fifteenth sixteenth seventeenth eighteenth nineteenth twentieth
    """
)


def passages(num_passages: int, *, seed: int, split: Split) -> list[Passage]:
    """`num_passages` passages of one half of the templates, each template as often as the others."""
    half = [template for index, template in enumerate(_TEMPLATES) if (index % 2 == 0) == (split == "dev")]
    rng = random.Random(f"{split}-{seed}")
    return [_fill(half[index % len(half)], _Speaker(rng, split)) for index in range(num_passages)]


_SLOT = re.compile(r"\{(?P<kind>\w+)(?::(?P<form>\w+?))?(?:/(?P<half>[12]))?(?P<again>=(?:of)?)?\}")


def _fill(template: str, speaker: "_Speaker") -> Passage:
    lines: list[tuple[int, str]] = []
    secrets: list[Secret] = []
    said: dict[str, str] = {}
    lowered = speaker.rng.random() < 0.1
    for row in template.split("\n"):
        who, text = row.split(": ", 1)
        built, position = "", 0
        for slot in _SLOT.finditer(text):
            built += text[position : slot.start()]
            position = slot.end()
            value = _value(slot, speaker, said)
            if slot["kind"].isupper():
                end = len(built) + len(value)
                secrets.append(Secret(line=len(lines), start=len(built), end=end, entity=slot["kind"]))
            built += value
        built += text[position:]
        lines.append((0 if who == "A" else 1, built.lower() if lowered else built))
    return Passage(lines=tuple(lines), secrets=tuple(secrets))


def _value(slot: re.Match[str], speaker: "_Speaker", said: dict[str, str]) -> str:
    kind, form = slot["kind"], slot["form"] or ""
    if slot["again"] == "=of":
        return said[kind].split()[0]
    if slot["again"]:
        return said[f"{kind}:{form}"] if form else said[kind]
    if slot["half"] == "2":
        return said.pop(f"{kind}/2")
    value = speaker.say(kind, form)
    if slot["half"] == "1":
        value, said[f"{kind}/2"] = _cut(value)
    said.setdefault(kind, value)
    if form:
        said[f"{kind}:{form}"] = value
    return value


def _cut(value: str) -> tuple[str, str]:
    """Where a caller pauses: after about half of the groups, or of the words."""
    separator = next((s for s in (", ", ". ", "-", " ") if s in value), "")
    parts = value.split(separator) if separator else list(value)
    middle = len(parts) // 2
    return separator.join(parts[:middle]), separator.join(parts[middle:])


class _Speaker:
    """Says values of each kind the ways people and ASR do."""

    def __init__(self, rng: random.Random, split: Split) -> None:
        self.rng = rng
        self._first_names = _FIRST[split]
        self._last_names = _LAST[split]

    def say(self, kind: str, form: str) -> str:
        value: Callable[[str], str] = getattr(self, f"_{kind.lower()}")
        return value(form)

    # numbers -----------------------------------------------------------------------------------------------

    def _credit_card(self, form: str) -> str:
        if form == "last4":
            return self._digits((4,))
        amex = self.rng.random() < 0.15
        mangled = {0: 16, 1: 17, 2: 15}.get(self.rng.randrange(6), 16)
        groups = (4, 6, 5) if amex else (4, 4, 4, mangled - 12)
        return self._digits(groups, first=self.rng.choice("345" if amex else "456"))

    def _cvv(self, form: str) -> str:
        return self._digits((self.rng.choice((3, 3, 3, 4)),))

    def _phone(self, form: str) -> str:
        groups = self.rng.choice(((3, 3, 4), (3, 3, 4), (3, 4), (5, 6), (4, 3, 4)))
        return self._digits(groups, first="0" if sum(groups) == 11 else self.rng.choice("2345678"))

    def _ssn(self, form: str) -> str:
        return self._digits((4,) if form == "last4" else (3, 2, 4))

    def _account_number(self, form: str) -> str:
        if form == "routing":
            return self._digits((3, 3, 3))
        if form == "sort":
            return self._digits((2, 2, 2))
        letters = self.rng.random() < 0.15 and not form
        spoken = self._digits(self.rng.choice(((3, 3), (4, 4), (3, 3, 2), (5, 5), (8,))))
        return f"{self.rng.choice('BCDFHKLMNPRT')} {self.rng.choice('BCDFHKLMNPRT')} {spoken}" if letters else spoken

    def _digits(self, groups: tuple[int, ...], first: str = "") -> str:
        drawn = ["".join(self.rng.choice("0123456789") for _ in range(length)) for length in groups]
        drawn[0] = (first or drawn[0][0]) + drawn[0][1:]
        style = self.rng.choice(
            ("spoken", "spoken", "spoken", "doubles", "pairs", "figures", "hyphens", "stops", "run")
        )
        if style == "figures":
            return self.rng.choice((" ", "-", " ")).join(drawn)
        if style == "hyphens":  # "4-1-1-1-1-1-1-1"
            return "-".join("".join(drawn))
        if style == "stops":  # "4-1-1-1. 1-1-1-1"
            return ". ".join("-".join(group) for group in drawn)
        if style == "run":
            return "".join(drawn)
        zero = self.rng.choice(("zero", "oh"))
        say = {"spoken": self._one_by_one, "doubles": self._with_doubles, "pairs": self._in_pairs}[style]
        return self.rng.choice((", ", " ", ", ")).join(say(group, zero) for group in drawn)

    def _one_by_one(self, digits: str, zero: str) -> str:
        return " ".join(zero if digit == "0" else _DIGIT_WORDS[int(digit)] for digit in digits)

    def _with_doubles(self, digits: str, zero: str) -> str:
        words, position = [], 0
        while position < len(digits):
            same = len(digits[position:]) - len(digits[position:].lstrip(digits[position]))
            same = min(same, 3)
            word = self._one_by_one(digits[position], zero)
            words.append({1: word, 2: f"double {word}", 3: f"triple {word}"}[same])
            position += same
        return " ".join(words)

    def _in_pairs(self, digits: str, zero: str) -> str:
        pairs = [digits[position : position + 2] for position in range(0, len(digits), 2)]
        return " ".join(_two_digits(pair, zero) for pair in pairs)

    # dates -------------------------------------------------------------------------------------------------

    def _expiry(self, form: str) -> str:
        month, year = self.rng.randint(1, 12), self.rng.randint(26, 33)
        padded = f"{month:02d}"
        month_words = _two_digits(padded, self.rng.choice(("zero", "oh"))) if self.rng.random() < 0.6 else _count(month)
        return self.rng.choice(
            (
                f"{month_words} {_count(year)}",
                f"{month_words}, {_count(year)}",
                f"{month_words} slash {_count(year)}",
                f"{_MONTHS[month - 1]} twenty {_count(year)}",
                f"{_MONTHS[month - 1]} {2000 + year}",
                f"{padded}/{year}",
                f"{'-'.join(str(int(padded)))}-{year}",
                f"{month_words}, twenty {_count(year)}",
            )
        )

    def _dob(self, form: str) -> str:
        year, month, day = self.rng.randint(1935, 2006), self.rng.randint(1, 12), self.rng.randint(1, 28)
        spoken_year = self._year_words(year)
        if form == "year":
            return self.rng.choice((spoken_year, str(year)))
        name, ordinal = _MONTHS[month - 1], _ordinal(day)
        return self.rng.choice(
            (
                f"{name} {ordinal}, {spoken_year}",
                f"the {ordinal} of {name} {spoken_year}",
                f"{name} {day}, {year}",
                f"{ordinal} {name}, {spoken_year}",
                f"{day} {name} {year}",
                f"{_count(month)} {_count(day)} {spoken_year if year % 100 < 10 else _count(year % 100)}",
                f"{month:02d}/{day:02d}/{year}",
                f"{month}-{day}-{year % 100:02d}",
            )
        )

    def _year_words(self, year: int) -> str:
        if year >= 2000:
            return "two thousand" + (f" and {_count(year % 100)}" if year % 100 else "")
        return f"nineteen {_two_digits(f'{year % 100:02d}', 'oh')}"

    # words -------------------------------------------------------------------------------------------------

    def _email(self, form: str) -> str:
        first, last = (
            self.rng.choice(self._first_names).lower(),
            self.rng.choice(self._last_names).lower().replace("'", ""),
        )
        host = self.rng.choice(("example", "example", "mailbox", "gmail", "post office"))
        ending = self.rng.choice(("com", "org", "net"))
        number = self.rng.randint(2, 99)
        return self.rng.choice(
            (
                f"{first} dot {last} at {host} dot {ending}",
                f"{first} at {host} dot co dot uk",
                f"{first}.{last}@{host.replace(' ', '')}.{ending}",
                f"{first.capitalize()}.{last.capitalize()} at {host.replace(' ', '')}.{ending}",
                f"{first} underscore {last} at {host} dot {ending}",
                f"{first} {last} {_count(number)} at {host} dot {ending}",
                f"{' '.join(first[:4])} at {host} dot {ending}",
                f"{first[0]} dot {last} {number} at {host.replace(' ', '')}.{ending}",
                f"{first}{last} at {host} dot {ending}",
            )
        )

    def _address(self, form: str) -> str:
        zip_code = self._digits((5,))
        if form == "zip":
            return zip_code
        number = self.rng.randint(1, 1999)
        spoken = self.rng.choice((str(number), _house_number(number)))
        town, state = self.rng.choice(_PLACE)
        street = f"{spoken} {self.rng.choice(_STREET)} {self.rng.choice(_STREET_KIND)}"
        apartment, unit_number = _count(self.rng.randint(1, 20)), self.rng.randint(1, 40)
        unit = self.rng.choice(("", "", "", f", apartment {apartment}", ", flat B", f", unit {unit_number}"))
        if state:
            return f"{street}{unit}, {town}, {state}{self.rng.choice(('', ', ' + zip_code, ' ' + zip_code))}"
        return f"{street}{unit}, {town}{self.rng.choice(('', ', ' + self.rng.choice(_UK_POSTCODES)))}"

    def _person(self, form: str) -> str:
        first, last = self.rng.choice(self._first_names), self.rng.choice(self._last_names)
        return {"first": first, "last": last}.get(form, f"{first} {last}")

    # decoys ------------------------------------------------------------------------------------------------

    def _company(self, form: str) -> str:
        return self.rng.choice(_COMPANY)

    def _town(self, form: str) -> str:
        return self.rng.choice(_TOWN)

    def _money(self, form: str) -> str:
        amount, cents = self.rng.randint(3, 999), self.rng.randint(5, 99)
        return self.rng.choice(
            (
                f"{_house_number(amount)} dollars",
                f"{_count(amount % 100)} pounds {_count(cents)}",
                f"${amount}.{cents:02d}",
                f"£{amount}",
                f"{amount} dollars and {_count(cents)} cents",
            )
        )

    def _clock(self, form: str) -> str:
        hour, minute = self.rng.randint(1, 12), self.rng.choice((0, 15, 30, 45))
        if minute == 0:
            return self.rng.choice((f"{_count(hour)} o'clock", f"{hour} p.m.", f"{_count(hour)}"))
        return self.rng.choice((f"{_count(hour)} {_count(minute)}", f"{hour}:{minute}", f"{hour}.{minute}"))

    def _day(self, form: str) -> str:
        day, month = self.rng.randint(1, 28), self.rng.choice(_MONTHS)
        weekday, ordinal = self.rng.choice(_WEEKDAYS), _ordinal(day)
        return self.rng.choice((weekday, f"{month} {ordinal}", f"the {ordinal} of {month}", f"{month} {day}"))

    def _order(self, form: str) -> str:
        return self._digits(self.rng.choice(((3, 3), (6,), (4, 3))))

    def _count(self, form: str) -> str:
        number = self.rng.randint(2, 60)
        return self.rng.choice((_count(number), str(number)))

    def _year(self, form: str) -> str:
        year = self.rng.randint(1988, 2024)
        return self.rng.choice((self._year_words(year), str(year)))


def _count(number: int) -> str:
    """Words of a number below 100."""
    if number < 10:
        return _DIGIT_WORDS[number]
    if number < 20:
        return _TEEN_WORDS[number - 10]
    return _TEN_WORDS[number // 10] + (f" {_DIGIT_WORDS[number % 10]}" if number % 10 else "")


def _two_digits(pair: str, zero: str) -> str:
    if len(pair) == 1 or pair[0] == "0":
        return " ".join(zero if digit == "0" else _DIGIT_WORDS[int(digit)] for digit in pair)
    return _count(int(pair))


def _house_number(number: int) -> str:
    if number < 100:
        return _count(number)
    hundreds, rest = divmod(number, 100)
    if rest == 0:
        return f"{_count(hundreds)} hundred"
    return f"{_count(hundreds)} {_two_digits(f'{rest:02d}', 'oh')}"


def _ordinal(day: int) -> str:
    if day <= 20:
        return _ORDINAL_WORDS[day - 1]
    return f"twenty {_ORDINAL_WORDS[day - 21]}"
