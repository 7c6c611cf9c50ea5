"""The per-call files: strict readers of our own read back whatever is written, for wild transcripts too."""

import html
import json
import re
from dataclasses import dataclass, replace
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from ray_jobs.callfiles import MAX_CUE_MS, MAX_LINE_CHARS, MAX_LINES, render
from ray_jobs.records import Insight, Redaction, Transcript, Utterance, Word, table_to_transcripts, transcripts_to_table


def utterance(
    text: str, start_s: float, end_s: float, *, role: str = "agent", words: tuple[Word, ...] = ()
) -> Utterance:
    return Utterance(
        channel=0 if role == "agent" else 1,
        role=role,
        start_s=start_s,
        end_s=end_s,
        text=text,
        language="en",
        avg_logprob=-0.25,
        no_speech_prob=0.01,
        words=words,
    )


def spoken(text: str, start_s: float, word_s: float = 0.4, *, role: str = "agent") -> Utterance:
    """An utterance whose words follow each other evenly."""
    words = tuple(
        Word(text=word, start_s=start_s + i * word_s, end_s=start_s + (i + 1) * word_s, probability=0.9)
        for i, word in enumerate(text.split())
    )
    return utterance(text, start_s, start_s + len(words) * word_s, role=role, words=words)


def transcript(*utterances: Utterance) -> Transcript:
    return Transcript(
        call_id="call_1",
        uri="s3://recordings/+15550100.wav",
        duration_s=60.0,
        speech_s=30.0,
        num_channels=2,
        language="en",
        asr_model="whisper-base",
        redacted=True,
        utterances=utterances,
        redactions=(
            Redaction(
                entity="PHONE",
                placeholder="[PHONE_1]",
                channel=1,
                start_s=1.0,
                end_s=2.0,
                recogniser="digits",
                score=0.8,
            ),
        ),
    )


def insight(task: str, *, value_json: str = "", error: str = "") -> Insight:
    return Insight(
        call_id="call_1",
        task=task,
        status="failed" if error else "ok",
        value_json=value_json,
        error=error,
        model="smollm2",
        prompt_version=f"{task}/v1",
        prompt_hash="0" * 16,
        prompt_tokens=10,
        completion_tokens=5,
    )


# ----------------------------------------------------------------------------------------------------------- readers


@dataclass(frozen=True)
class Cue:
    start_ms: int
    end_ms: int
    role: str
    lines: tuple[str, ...]


TIME = r"(\d{2,}):([0-5]\d):([0-5]\d)%s(\d{3})"


def read_times(line: str, decimal_mark: str) -> tuple[int, int]:
    time = TIME % re.escape(decimal_mark)
    match = re.fullmatch(f"{time} --> {time}", line)
    assert match, f"not a timing line: {line!r}"
    h1, m1, s1, f1, h2, m2, s2, f2 = map(int, match.groups())
    return ((h1 * 60 + m1) * 60 + s1) * 1000 + f1, ((h2 * 60 + m2) * 60 + s2) * 1000 + f2


def read_vtt(content: bytes) -> list[Cue]:
    head, *blocks = content.decode("utf-8").removesuffix("\n").split("\n\n")
    assert head == "WEBVTT"
    return [read_vtt_block(block) for block in blocks]


def read_vtt_block(block: str) -> Cue:
    timing, payload = block.split("\n", 1)
    assert "-->" not in payload
    match = re.fullmatch(r"<v ([^\n<>]+)>([^<>]*)", payload, re.DOTALL)
    assert match, f"not one voice span: {payload!r}"
    role, text = match.groups()
    assert not re.search(r"&(?!(amp|lt|gt);)", role + text), f"bare ampersand: {payload!r}"
    return Cue(*read_times(timing, "."), html.unescape(role), tuple(html.unescape(text).split("\n")))


def read_srt(content: bytes) -> list[Cue]:
    if not content:
        return []
    cues = []
    for expected, block in enumerate(content.decode("utf-8").removesuffix("\n").split("\n\n"), start=1):
        number, timing, *lines = block.split("\n")
        assert number == str(expected)
        cues.append(Cue(*read_times(timing, ","), "", tuple(lines)))
    return cues


# ------------------------------------------------------------------------------------------------------------- tests


def test_a_call_reads_as_it_was_spoken():
    call = transcript(
        spoken("Thanks for calling, how can I help?", 0.5),
        spoken("My number is [PHONE_1].", 3661.0, role="customer"),
    )
    files = render(call, [])
    assert files["txt"].decode() == (
        "[00:00] agent: Thanks for calling, how can I help?\n[1:01:01] customer: My number is [PHONE_1].\n"
    )
    assert files["vtt"].decode() == (
        "WEBVTT\n\n00:00:00.500 --> 00:00:03.300\n<v agent>Thanks for calling, how can I help?\n\n"
        "01:01:01.000 --> 01:01:02.600\n<v customer>My number is [PHONE_1].\n"
    )
    assert files["srt"].decode() == (
        "1\n00:00:00,500 --> 00:00:03,300\nagent: Thanks for calling, how can I help?\n\n"
        "2\n01:01:01,000 --> 01:01:02,600\ncustomer: My number is [PHONE_1].\n"
    )


def test_json_holds_words_redactions_and_every_answer():
    call = transcript(spoken("Hello there.", 0.0))
    answers = [
        insight("summary", value_json='{"summary": "They said hello."}'),
        insight("disposition", error="not JSON"),
    ]
    document = json.loads(render(call, answers)["json"])
    assert document["schema_version"] == 2
    assert (document["call_id"], document["duration_s"], document["language"]) == ("call_1", 60.0, "en")
    assert [word["text"] for word in document["utterances"][0]["words"]] == ["Hello", "there."]
    assert document["redactions"][0]["placeholder"] == "[PHONE_1]"
    assert document["insights"]["summary"]["value"] == {"summary": "They said hello."}
    assert document["insights"]["disposition"]["error"] == "not JSON"


def test_json_says_which_answer_was_cut_off_and_keeps_it():
    cut = insight("summary", value_json='{"summary": "They plan to ["}', error="summary was cut off at 400 characters")
    document = json.loads(render(transcript(spoken("Hello.", 0.0)), [replace(cut, status="truncated")])["json"])
    answer = document["insights"]["summary"]
    assert (answer["status"], answer["value"]) == ("truncated", {"summary": "They plan to ["})
    assert answer["error"] == "summary was cut off at 400 characters"


def test_no_file_holds_the_path_of_the_recording():
    files = render(transcript(spoken("Hello.", 0.0)), [])
    assert not any(b"15550100" in content for content in files.values())


def test_a_long_utterance_is_cut_at_a_sentence_and_timed_by_its_words():
    text = (
        "I checked the account and the charge was made in error. So I will refund it today. Is that all right with you?"
    )
    cues = read_vtt(render(transcript(spoken(text, 10.0, word_s=0.25)), [])["vtt"])
    assert [cue.lines for cue in cues] == [
        ("I checked the account and the charge was", "made in error."),
        ("So I will refund it today. Is that all", "right with you?"),
    ]
    assert [(cue.start_ms, cue.end_ms) for cue in cues] == [(10_000, 12_750), (12_750, 15_750)]


def test_slow_speech_is_cut_by_time():
    cues = read_vtt(render(transcript(spoken("one two three four five six", 0.0, word_s=3.0)), [])["vtt"])
    assert [" ".join(cue.lines) for cue in cues] == ["one two", "three four", "five six"]


def test_words_that_do_not_spell_the_text_are_neither_shown_nor_trusted_for_times():
    words = (Word(text="4111", start_s=0.0, end_s=9.0, probability=0.9),)
    files = render(transcript(utterance("[CREDIT_CARD_1] thanks", 0.0, 2.2, words=words)), [])
    assert read_vtt(files["vtt"]) == [Cue(0, 2200, "agent", ("[CREDIT_CARD_1] thanks",))]
    assert b"4111" not in files["srt"] + files["txt"]


def test_text_without_blanks_is_cut_between_characters():
    text = "お電話ありがとうございます。" * 8
    cues = read_vtt(render(transcript(utterance(text, 0.0, 30.0)), [])["vtt"])
    assert "".join("".join(cue.lines) for cue in cues) == text
    assert len(cues) > 3


def test_markup_in_the_text_stays_text():
    cues = read_vtt(render(transcript(spoken("AT&T <b> --> &amp;", 0.0)), [])["vtt"])
    assert cues[0].lines == ("AT&T <b> --> &amp;",)


def test_half_a_surrogate_pair_from_the_model_does_not_lose_the_call():
    document = json.loads(render(transcript(), [insight("summary", value_json=r'{"summary": "\ud83d"}')])["json"])
    assert document["insights"]["summary"]["value"] == {"summary": "?"}


def test_a_call_without_utterances_has_all_its_files():
    files = render(transcript(), [])
    assert (files["vtt"], files["srt"], files["txt"]) == (b"WEBVTT\n", b"", b"")


# --------------------------------------------------------------------------------------------------- wild transcripts

TIMES = st.floats(min_value=-5, max_value=4 * 3600)
AWKWARD = ["yes", "[CARD_1]", "a&b", "-->", "<v x>", "é", "好", "x" * 90, "no.", "7"]
TEXTS = st.text(max_size=300) | st.lists(st.sampled_from(AWKWARD)).map(" ".join)


@st.composite
def utterances(draw: st.DrawFn) -> Utterance:
    text = draw(TEXTS)
    texts = text.split() if draw(st.booleans()) else draw(st.lists(TEXTS, max_size=4))
    words = tuple(Word(text=t, start_s=draw(TIMES), end_s=draw(TIMES), probability=0.5) for t in texts)
    role = draw(st.sampled_from(["agent", "customer", "R&D <x>"]))
    return utterance(text, draw(TIMES), draw(TIMES), role=role, words=words)


def shown(text: str) -> str:
    """The characters a reader is to see; blanks may move, control characters count as blanks."""
    return "".join(re.split(r"[\s\x00-\x1f\x7f-\x9f]+", text))


@settings(max_examples=200, deadline=None)
@given(st.lists(utterances(), max_size=5))
def test_any_transcript_reads_back(spoken_utterances: list[Utterance]):
    call = transcript(*spoken_utterances)
    files = render(call, [])
    vtt, srt = read_vtt(files["vtt"]), read_srt(files["srt"])

    assert [(c.start_ms, c.end_ms) for c in vtt] == [(c.start_ms, c.end_ms) for c in srt]
    assert [c.start_ms for c in vtt] == sorted(c.start_ms for c in vtt)
    for cue, subtitle in zip(vtt, srt, strict=True):
        assert 0 <= cue.start_ms < cue.end_ms <= cue.start_ms + MAX_CUE_MS
        assert len(cue.lines) <= MAX_LINES
        assert all(0 < len(line) <= MAX_LINE_CHARS for line in cue.lines)
        assert subtitle.lines == (f"{cue.role}: {cue.lines[0]}", *cue.lines[1:])

    characters = sorted(shown("".join(u.text for u in spoken_utterances)))
    assert sorted(shown("".join("".join(cue.lines) for cue in vtt))) == characters
    assert len(files["txt"].decode().split("\n")) == len(spoken_utterances) + 1
    document = json.loads(files["json"])
    assert [u["text"] for u in document["utterances"]] == [u.text for u in spoken_utterances]


@settings(max_examples=100, deadline=None)
@given(utterances())
def test_an_utterance_keeps_its_order(one: Utterance):
    cues = read_vtt(render(transcript(one), [])["vtt"])
    assert shown("".join("".join(cue.lines) for cue in cues)) == shown(one.text)
    assert all(a.end_ms <= b.start_ms for a, b in pairwise(cues))


def test_a_call_read_back_from_parquet_gives_the_same_bytes():
    call = transcript(spoken("Hello, this is a call.", 0.1))
    [stored] = table_to_transcripts(transcripts_to_table([call]))
    answers = [insight("summary", value_json='{"summary": "x"}')]
    assert render(call, answers) == render(stored, answers)
