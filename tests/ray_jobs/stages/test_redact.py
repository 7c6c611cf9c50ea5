import base64
import json
from collections.abc import Sequence
from dataclasses import asdict, replace

import pytest

from ray_jobs.engines.conversation import Line
from ray_jobs.engines.pii import PiiSpan, Redactor, Suggestion
from ray_jobs.records import Failure, Transcript, Utterance, Word, outcomes_to_table
from ray_jobs.spec import RedactSpec
from ray_jobs.stages.redact import redact
from tests.ray_jobs.engines.fake_llm import FakeLlm

FAILURE = Failure(call_id="b", uri="b.wav", code="truncated", stage="etl", reason="cut short")


class FindsText:
    """A redactor that finds given texts and names them [SECRET_1]."""

    def __init__(self, *secrets: str) -> None:
        self.spec = RedactSpec()
        self._secrets = secrets

    def find(self, lines: Sequence[Line], suggestions: Sequence[Suggestion] = ()) -> list[PiiSpan]:
        spans = [
            PiiSpan(
                line=index,
                start=start,
                end=start + len(secret),
                entity="SECRET",
                placeholder="[SECRET_1]",
                recogniser="fake",
                score=1.0,
            )
            for index, line in enumerate(lines)
            for secret in (*self._secrets, *(suggestion.text for suggestion in suggestions))
            if (start := line.text.find(secret)) >= 0
        ]
        return sorted(spans, key=lambda span: (span.line, span.start))


def utterance(text: str, words: Sequence[str] | None = None, *, channel: int = 0, start_s: float = 0.0) -> Utterance:
    """Each word takes half a second."""
    timed = [
        Word(text=word, start_s=start_s + i / 2, end_s=start_s + (i + 1) / 2, probability=0.9)
        for i, word in enumerate(text.split() if words is None else words)
    ]
    return Utterance(
        channel=channel,
        role="agent" if channel == 0 else "customer",
        start_s=start_s,
        end_s=start_s + len(timed) / 2,
        text=text,
        language="en",
        avg_logprob=-0.1,
        no_speech_prob=0.0,
        words=tuple(timed),
    )


def transcript(*utterances: Utterance, call_id: str = "a") -> Transcript:
    return Transcript(
        call_id=call_id,
        uri=f"{call_id}.wav",
        duration_s=60.0,
        speech_s=30.0,
        num_channels=2,
        language="en",
        asr_model="fake",
        redacted=False,
        utterances=utterances,
    )


def redacted(*utterances: Utterance, secrets: Sequence[str]) -> Transcript:
    (outcome,) = redact([transcript(*utterances)], FindsText(*secrets))
    assert isinstance(outcome, Transcript)
    return outcome


def test_one_outcome_per_input_in_order_and_failures_pass() -> None:
    outcomes = redact([transcript(utterance("hello"), call_id="a"), FAILURE, transcript(call_id="c")], FindsText())
    assert [outcome.call_id for outcome in outcomes] == ["a", "b", "c"]
    assert outcomes[1] is FAILURE
    assert all(outcome.redacted for outcome in outcomes if isinstance(outcome, Transcript))


def test_a_secret_over_several_words_becomes_one_word_with_its_times() -> None:
    call = redacted(utterance("My name is Helen Abernathy, hello."), secrets=["Helen Abernathy"])
    assert call.utterances[0].text == "My name is [SECRET_1], hello."
    words = call.utterances[0].words
    assert [word.text for word in words] == ["My", "name", "is", "[SECRET_1],", "hello."]
    assert (words[3].start_s, words[3].end_s) == (1.5, 2.5)
    (redaction,) = call.redactions
    assert (redaction.start_s, redaction.end_s, redaction.channel) == (1.5, 2.5, 0)
    assert (redaction.entity, redaction.placeholder, redaction.recogniser) == ("SECRET", "[SECRET_1]", "fake")


def test_words_that_asr_cut_inside_a_number_go_with_it() -> None:
    call = redacted(utterance("It's 4-1-1-1.", ["It's", "4", "-1", "-1", "-1."]), secrets=["4-1-1-1"])
    assert [word.text for word in call.utterances[0].words] == ["It's", "[SECRET_1]."]


def test_part_of_a_word_is_redacted_inside_it() -> None:
    call = redacted(utterance("Owen's bill"), secrets=["Owen"])
    assert call.utterances[0].text == "[SECRET_1]'s bill"
    assert [word.text for word in call.utterances[0].words] == ["[SECRET_1]'s", "bill"]


def test_two_secrets_in_one_word_leave_neither() -> None:
    call = redacted(utterance("Owen/Helen called"), secrets=["Owen", "Helen"])
    assert [word.text for word in call.utterances[0].words] == ["[SECRET_1]/[SECRET_1]", "called"]


def test_words_that_do_not_agree_with_the_text_are_dropped_with_the_secret() -> None:
    call = redacted(utterance("call Helen now", ["call", "Hellen", "now"]), secrets=["Helen"])
    assert call.utterances[0].words == ()
    assert (call.redactions[0].start_s, call.redactions[0].end_s) == (0.0, 1.5)


def test_an_utterance_without_a_secret_stays_as_it_was() -> None:
    said = utterance("nothing here", ["nothing", "else"])
    assert redacted(said, secrets=["Helen"]).utterances == (said,)


def test_store_unredacted_passes_transcripts_as_they_are() -> None:
    finder = FindsText("Helen")
    finder.spec = RedactSpec(mode="store_unredacted")
    call = transcript(utterance("I am Helen"))
    assert redact([call], finder) == [call]


def test_a_call_whose_redaction_raises_is_withheld_and_its_neighbours_pass() -> None:
    class Breaks(FindsText):
        def find(self, lines: Sequence[Line], suggestions: Sequence[Suggestion] = ()) -> list[PiiSpan]:
            if any("Helen" in line.text for line in lines):
                raise ValueError(f"cannot parse {lines}")
            return []

    outcomes = redact([transcript(utterance("I am Helen")), transcript(utterance("hi"), call_id="c")], Breaks())
    failure, neighbour = outcomes
    assert isinstance(failure, Failure)
    assert (failure.code, failure.stage, failure.transient) == ("redaction_error", "redact", False)
    assert "ValueError" in failure.reason
    assert "Helen" not in failure.reason
    assert isinstance(neighbour, Transcript)


def test_what_a_language_model_suggests_is_redacted_with_what_was_found() -> None:
    reader = FakeLlm(lambda _: '{"secrets": [{"kind": "PERSON", "text": "Zorro"}]}')
    (outcome,) = redact([transcript(utterance("call Zorro on 555"))], FindsText("555"), reader)
    assert isinstance(outcome, Transcript)
    assert outcome.utterances[0].text == "call [SECRET_1] on [SECRET_1]"


def test_a_call_the_language_model_gave_no_answer_about_is_withheld() -> None:
    reader = FakeLlm(lambda _: '{"secrets": "Zorro"}')
    (outcome,) = redact([transcript(utterance("call Zorro"))], FindsText(), reader)
    assert isinstance(outcome, Failure)
    assert (outcome.code, outcome.stage) == ("redaction_error", "redact")
    assert "the language model gave no valid answer" in outcome.reason
    assert "Zorro" not in outcome.reason


# ---------------------------------------------------------------------------------------- canaries, real recognisers

CANARIES = {
    "digits": "4929000000006482",
    "spoken": "seven three one, two zero nine, eight eight",
    "split": ("6-0-1-1.", "0-0-0-9.", "9-0-1-3.", "9-4-2-4."),
    "name": "Wilhelmina Featherstonehaugh",
    "email": "wilhelmina dot f at example dot com",
}


@pytest.fixture(scope="module")
def canary_call() -> Transcript:
    lines = [
        (0, "Thanks for calling. What is your name?"),
        (1, f"My name is {CANARIES['name']}."),
        (0, "Thank you, Wilhelmina. The card number, please?"),
        (1, f"It's {CANARIES['digits']}."),
        (0, f"So {CANARIES['digits']}, okay. And your account number?"),
        (1, f"{CANARIES['spoken']}."),
        (0, f"I heard {CANARIES['spoken']}. Do you have another card?"),
        (1, CANARIES["split"][0]),
        (0, "Okay."),
        *((1, part) for part in CANARIES["split"][1:]),
        (0, "And an email?"),
        (1, f"{CANARIES['email']}, call me WILHELMINA."),
    ]
    call = transcript(*(utterance(text, channel=c, start_s=10.0 * i) for i, (c, text) in enumerate(lines)))
    (outcome,) = redact([call], Redactor(RedactSpec()))
    assert isinstance(outcome, Transcript)
    return outcome


@pytest.mark.integration
@pytest.mark.parametrize("planted", ["digits", "spoken", "split", "name", "email"])
def test_no_canary_is_left_in_what_is_stored(canary_call: Transcript, planted: str) -> None:
    stored = json.dumps(outcomes_to_table([canary_call]).to_pylist()) + json.dumps(asdict(canary_call))
    canary = CANARIES[planted]
    forms = [canary] if isinstance(canary, str) else list(canary)
    forms += [
        word for form in forms for word in form.strip(".").split() if len(word) > 3 and planted in ("name", "split")
    ]
    for form in forms:
        assert form.lower() not in stored.lower()
        assert base64.b64encode(form.encode()).decode().rstrip("=") not in stored


@pytest.mark.integration
def test_the_audit_rows_say_where_every_canary_was(canary_call: Transcript) -> None:
    entities = {redaction.entity for redaction in canary_call.redactions}
    assert entities == {"PERSON", "CREDIT_CARD", "ACCOUNT_NUMBER", "EMAIL"}
    cards = [redaction for redaction in canary_call.redactions if redaction.entity == "CREDIT_CARD"]
    assert len({redaction.placeholder for redaction in cards}) == 2
    for redaction in canary_call.redactions:
        said_in = [
            u for u in canary_call.utterances if u.channel == redaction.channel and u.start_s <= redaction.start_s
        ]
        assert any(redaction.end_s <= u.end_s and redaction.placeholder in u.text for u in said_in)


@pytest.mark.integration
def test_text_and_words_agree_after_redaction(canary_call: Transcript) -> None:
    for said in canary_call.utterances:
        assert " ".join(word.text for word in said.words) == said.text
    assert replace(canary_call, redactions=()).redacted
