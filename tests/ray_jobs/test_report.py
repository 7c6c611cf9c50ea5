"""The report: accounting by sets of call ids, rates from events, and a page that shows and escapes what it is given."""

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from ray_jobs.records import Failure, Insight, Redaction, StageEvent, StartUp, Transcript
from ray_jobs.report import MAX_ROWS, RunFacts, TranscriptSummary, build_report, render_html, render_json
from ray_jobs.spec import PriceSpec


def stored(call_id: str, *, redacted: bool = True, **redactions: int) -> TranscriptSummary:
    return TranscriptSummary(
        call_id=call_id,
        duration_s=60.0,
        speech_s=30.0,
        language="en",
        num_utterances=4,
        redacted=redacted,
        redactions=redactions,
    )


def failure(call_id: str, code: str = "truncated", reason: str = "half the samples are missing") -> Failure:
    return Failure(call_id=call_id, uri=f"s3://recordings/{call_id}.wav", code=code, stage="etl", reason=reason)


def insight(call_id: str, task: str, *, value_json: str = "", error: str = "") -> Insight:
    return Insight(
        call_id=call_id,
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


def startup(phase: str, start_s: float, end_s: float) -> StartUp:
    return StartUp(phase=phase, start_unix_s=1000 + start_s, end_unix_s=1000 + end_s)


def event(partition_id: str, stage: str, start_s: float, end_s: float, **changes: object) -> StageEvent:
    fields = {"num_calls": 2, "num_failed": 0, "audio_s": 120.0, "speech_s": 60.0, "worker": f"{stage} 1", **changes}
    return StageEvent(
        partition_id=partition_id, stage=stage, start_unix_s=1000 + start_s, end_unix_s=1000 + end_s, **fields
    )


def facts(planned: str = "", **changes: object) -> RunFacts:
    """A run of 100 s over the calls named in `planned`."""
    fields: dict[str, object] = {
        "run_id": "run_1",
        "started_unix_s": 1000.0,
        "ended_unix_s": 1100.0,
        "spec": {"input": {"uri": "calls"}},
        "fingerprints": {"etl": "0123456789abcdef"},
        "versions": {"ray": "2.60.0"},
        "planned": frozenset(planned.split()),
        "transcripts": [],
        "failures": [],
        "insights": [],
        "num_skipped": 0,
        "events": [],
        "warnings": [],
        "startups": [],
        "peak_memory_bytes": None,
        "call_files": True,
    }
    return RunFacts(**(fields | changes))


def page(run: RunFacts) -> str:
    return render_html(build_report(run)).decode()


# -------------------------------------------------------------------------------------------------------- accounting


def test_each_planned_call_with_one_outcome_is_accounted_for():
    report = build_report(facts("a b c", transcripts=[stored("a"), stored("b")], failures=[failure("c")]))
    assert report.accounted
    assert (report.num_calls, report.num_ok, report.num_failed) == (3, 2, 1)


def test_missing_unexpected_and_duplicated_calls_are_named():
    report = build_report(
        facts("a b c", transcripts=[stored("a"), stored("b"), stored("x")], failures=[failure("b")], num_skipped=7)
    )
    assert not report.accounted
    assert (report.missing, report.unexpected, report.duplicated) == (("c",), ("x",), ("b",))


def test_a_call_stored_twice_is_not_accounted_for():
    assert build_report(facts("a", transcripts=[stored("a"), stored("a")])).duplicated == ("a",)


def test_a_duplicate_recording_is_a_call_like_any_other_and_counted():
    same = [replace(stored("b"), duplicate_of="a"), replace(failure("d"), duplicate_of="c")]
    run = facts("a b c d", transcripts=[stored("a"), same[0]], failures=[failure("c"), same[1]])
    report = build_report(run)
    assert report.accounted
    assert json.loads(render_json(report))["num_duplicate_recordings"] == 2
    assert "2 with the recording of another" in page(run)
    assert "= a</span>" in page(run)


def test_what_was_found_and_not_selected_is_said():
    run = facts("a", transcripts=[stored("a")], left_out={"input.sample": 1234})
    assert json.loads(render_json(build_report(run)))["left_out"] == {"input.sample": 1234}
    assert "1,234 more were left out by input.sample." in page(run)


IDS = st.lists(st.sampled_from("abcdefgh"), max_size=8)


@given(planned=IDS, ok=IDS, failed=IDS)
def test_accounted_means_the_outcomes_are_the_plan(planned: list[str], ok: list[str], failed: list[str]):
    run = facts(" ".join(planned), transcripts=[stored(i) for i in ok], failures=[failure(i) for i in failed])
    assert build_report(run).accounted == (sorted(ok + failed) == sorted(set(planned)))


def test_a_summary_counts_a_transcript_s_redactions_by_entity():
    removed = [("PERSON", "[PERSON_1]"), ("PERSON", "[PERSON_2]"), ("PHONE", "[PHONE_1]")]
    redactions = tuple(
        Redaction(entity=e, placeholder=p, channel=0, start_s=0.0, end_s=1.0, recogniser="ner", score=0.9)
        for e, p in removed
    )
    transcript = Transcript(
        call_id="a",
        uri="",
        duration_s=60.0,
        speech_s=30.0,
        num_channels=2,
        language="en",
        asr_model="whisper-base",
        redacted=True,
        utterances=(),
        redactions=redactions,
    )
    summary = TranscriptSummary.of(transcript)
    assert summary.redactions == {"PERSON": 2, "PHONE": 1}
    assert summary.num_redactions == 3


# ---------------------------------------------------------------------------------------------------- tokens and scores


def judged(call_id: str, score: int) -> Insight:
    return insight(call_id, "quality", value_json=json.dumps({"reason": "It is short.", "score": score}))


def test_a_judge_s_mean_score_stands_with_the_task_it_judges():
    run = facts(
        "a b c",
        transcripts=[stored(call_id) for call_id in "abc"],
        insights=[judged("a", 2), judged("b", 5), insight("c", "quality", error="no answer to judge")],
        judges={"quality": "summary"},
    )
    document = json.loads(render_json(build_report(run)))["insights"]["quality"]
    assert (document["judges"], document["mean_score"], document["num_ok"], document["num_failed"]) == (
        "summary",
        3.5,
        2,
        1,
    )
    assert "judges summary" in page(run)
    assert ">3.50<" in page(run)


def test_an_answer_that_was_cut_off_is_shown_and_counted_apart():
    cut = insight("a", "summary", value_json='{"summary": "They plan to ["}', error="summary was cut off")
    run = facts("a", transcripts=[stored("a")], insights=[replace(cut, status="truncated")])
    document = json.loads(render_json(build_report(run)))["insights"]["summary"]
    assert (document["num_ok"], document["num_truncated"], document["num_failed"]) == (0, 1, 0)
    assert 'They plan to [ <span class="pill note" title="summary was cut off">cut off</span>' in page(run)


def test_a_judge_without_a_score_has_no_mean():
    run = facts("a", transcripts=[stored("a")], insights=[insight("a", "quality", error="e")], judges={"quality": "s"})
    assert json.loads(render_json(build_report(run)))["insights"]["quality"]["mean_score"] is None


def test_cost_is_tokens_by_price_failed_answers_included_and_unknown_without_one():
    run = facts(
        "a b",
        transcripts=[stored("a"), stored("b")],
        insights=[insight("a", "summary", value_json='{"s": "x"}'), insight("b", "summary", error="e")],
    )
    (unpriced,) = build_report(run).tasks
    (priced,) = build_report(replace(run, prices={"smollm2": PriceSpec(prompt_usd=100.0, completion_usd=1000.0)})).tasks
    assert (priced.prompt_tokens, priced.completion_tokens) == (20, 10)
    assert (unpriced.cost_usd, priced.cost_usd) == (None, 0.012)


# ------------------------------------------------------------------------------------------------------------- rates


def test_rates_are_audio_over_wall_time_and_per_stage_over_busy_time():
    events = [
        event("p0", "etl", 10, 20),
        event("p1", "etl", 20, 30, worker="etl 2"),
        event("p0", "asr", 20, 50, num_failed=1),
        event("p1", "asr", 50, 80),
    ]
    report = build_report(facts("a b c d", events=events))
    assert (report.overall.audio_s, report.overall.real_time_factor, report.overall.calls_per_min) == (240, 2.4, 2.4)
    etl, asr = report.stages
    assert (etl.stage, etl.num_workers, etl.work.work_s, etl.work.real_time_factor) == ("etl", 2, 20, 12)
    assert (asr.stage, asr.num_workers, asr.work.work_s, asr.work.num_failed) == ("asr", 1, 60, 1)


def test_a_partition_redone_in_pieces_counts_once_in_the_run_s_audio():
    pieces = [
        event("p0", "asr", 20, 30, num_calls=1, audio_s=60.0),
        event("p0", "asr", 30, 40, num_calls=1, audio_s=60.0),
    ]
    assert build_report(facts(events=[event("p0", "etl", 0, 10), *pieces])).overall.audio_s == 120


def test_skew_is_the_most_speech_of_a_partition_over_the_mean():
    events = [event("p1", "etl", 0, 10, speech_s=90.0), event("p1", "asr", 10, 20, speech_s=90.0)]
    events.append(event("p2", "etl", 0, 10, speech_s=30.0))
    run = facts("a", transcripts=[stored("a")], events=events, planned_skew=1.25)
    assert build_report(run).skew == 1.5
    assert json.loads(render_json(build_report(run)))["skew"] == {"planned": 1.25, "measured": 1.5}
    assert "skew 1.50" in page(run)


def test_a_run_with_nothing_to_do_has_no_rates_and_says_so():
    report = build_report(facts("a", transcripts=[stored("a")], num_skipped=1))
    assert report.overall.real_time_factor == 0
    assert "Nothing was left to do" in render_html(report).decode()


# -------------------------------------------------------------------------------------------------------------- JSON


def test_report_json_has_the_documented_keys():
    run = facts(
        "a b",
        transcripts=[stored("a", PERSON=2, PHONE=1)],
        failures=[failure("b")],
        insights=[insight("a", "summary", value_json='{"summary": "x"}'), insight("a", "mood", error="not JSON")],
        events=[event("p0", "etl", 1, 2), event("p0", "asr", 2, 4)],
        warnings=["channel 1 is silent"],
        startups=[startup("ray", 0, 12.5)],
    )
    document = json.loads(render_json(build_report(run)))
    assert document["schema_version"] == 2
    assert [document[k] for k in ("num_calls", "num_ok", "num_failed", "num_skipped")] == [2, 1, 1, 0]
    assert document["accounted"] is True
    assert document["failures"] == {"truncated": 1}
    spent = {"num_truncated": 0, "num_broken": 0, "prompt_tokens": 10, "completion_tokens": 5, "cost_usd": None}
    assert document["insights"] == {
        "summary": {"num_ok": 1, "num_failed": 0, **spent},
        "mood": {"num_ok": 0, "num_failed": 1, **spent},
    }
    assert document["redactions"] == {"PERSON": 2, "PHONE": 1}
    assert document["rates"]["wall_s"] == 100
    assert document["rates"]["stages"]["asr"]["real_time_factor"] == 60
    assert document["startup_s"] == {"ray": 12.5}
    [partition] = document["partitions"]
    assert [(s["stage"], s["start_s"], s["end_s"]) for s in partition["stages"]] == [("etl", 1, 2), ("asr", 2, 4)]


# -------------------------------------------------------------------------------------------------------------- HTML


class Balanced(HTMLParser):
    """Collects links and checks that what has to be closed is closed."""

    LOOSE = frozenset({"meta", "th", "td", "tr", "tbody", "thead", "dt", "dd", "li"})  # closing tag optional, or none

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]
        if tag not in self.LOOSE:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.LOOSE:
            assert self.open.pop() == tag


def parsed(html: str) -> Balanced:
    parser = Balanced()
    parser.feed(html)
    assert parser.open == []
    return parser


def test_the_page_links_to_the_calls_and_to_nothing_else():
    run = facts("call#1 b", transcripts=[stored("call#1")], failures=[failure("b")])
    assert parsed(page(run)).links == ["calls/call%231.txt", "calls/call%231.json"]
    without_call_files = facts("call#1 b", transcripts=[stored("call#1")], failures=[failure("b")], call_files=False)
    assert parsed(page(without_call_files)).links == []


def test_what_a_caller_or_a_model_said_is_text_on_the_page():
    attack = "<script>alert(1)</script>"
    run = facts(
        "a b",
        transcripts=[stored("a")],
        failures=[failure("b", reason=attack)],
        insights=[insight("a", "summary", value_json=json.dumps({"summary": attack}))],
        warnings=[attack],
        spec={"input": {"uri": attack}},
        events=[event(attack, "asr", 0, 1, worker=attack)],
    )
    html = page(run)
    assert attack not in html
    assert parsed(html).tags.count("script") == 1


def test_answers_read_as_a_person_would_write_them():
    run = facts(
        "a",
        transcripts=[stored("a")],
        insights=[
            insight("a", "summary", value_json='{"summary": "Paid by [CREDIT_CARD_1]."}'),
            insight("a", "scores", value_json='{"tone": 3, "script": 5}'),
            insight("a", "mood", error="cut at 64 tokens"),
        ],
    )
    html = page(run)
    assert re.search(r">Paid by \[CREDIT_CARD_1\]\.\s*<", html)
    assert "&#34;tone&#34;: 3" in html
    assert 'title="cut at 64 tokens">failed<' in html


def test_the_verdict_names_what_is_wrong():
    html = page(facts("a b", transcripts=[stored("a"), stored("x")]))
    assert "do not match the plan" in html
    assert "1 planned but missing: b" in html
    assert "1 stored but not planned: x" in html


def test_unredacted_transcripts_are_pointed_out():
    assert "stored unredacted" in page(facts("a", transcripts=[stored("a", redacted=False)]))
    assert "stored unredacted" not in page(facts("a", transcripts=[stored("a")]))


def test_the_timeline_places_stages_in_time():
    run = facts(
        "a b",
        startups=[startup("ray", 0, 10), startup("spark", 10, 30)],
        events=[event("p0", "etl", 30, 40), event("p0", "asr", 50, 100)],
    )
    svg = ET.fromstring(re.search(r"<svg.*</svg>", page(run), re.DOTALL)[0])
    bars = {rect.find("title").text: (float(rect.get("x")), float(rect.get("width"))) for rect in svg.iter("rect")}
    (ray_x, _), (spark_x, spark_width), (etl_x, etl_width), (asr_x, asr_width) = bars.values()
    assert ray_x < spark_x < etl_x < asr_x
    assert asr_x + asr_width <= float(svg.get("viewBox").split()[2])
    assert spark_width > etl_width
    assert asr_width > 4 * etl_width
    assert any("asr of p0" in tooltip and "asr 1" in tooltip for tooltip in bars)


def test_long_tables_say_where_the_rest_is():
    ids = [f"call_{i:06d}" for i in range(MAX_ROWS + 5)]
    html = page(facts(" ".join(ids), transcripts=[stored(i) for i in ids]))
    assert html.count("calls/call_") == 2 * MAX_ROWS
    assert "The first 1,000 of 1,005 calls by id; transcripts/*.parquet has all." in html


def test_a_very_long_run_still_has_a_picture():
    events = [event(f"p{i:05d}", "asr", i * 0.01, i * 0.01 + 5) for i in range(1000)]
    html = page(facts(events=events))
    assert html.count("<rect") == 240
    assert "The first 240 of 1,000 partitions" in html
