"""Progress as a person sees it: bars on a terminal, lines in a log, and the few lines at the end."""

import io
import re

import pytest
from rich.console import Console

from ray_jobs.progress import Progress, print_summary
from ray_jobs.records import Failure, StageEvent
from ray_jobs.report import RunFacts, TranscriptSummary, build_report


class Clock:
    """A clock that stands until it is set."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def log_console() -> Console:
    return Console(file=io.StringIO(), width=60, force_terminal=False)


def lines(console: Console) -> list[str]:
    return console.file.getvalue().splitlines()


def done(stage: str, start_s: float, end_s: float, *, num_calls: int = 10, num_failed: int = 0) -> StageEvent:
    return StageEvent(
        partition_id="p0",
        stage=stage,
        start_unix_s=1000 + start_s,
        end_unix_s=1000 + end_s,
        num_calls=num_calls,
        num_failed=num_failed,
        audio_s=72.0 * num_calls,
        speech_s=36.0 * num_calls,
        worker="w",
    )


def progress(console: Console, clock: Clock) -> Progress:
    return Progress(
        ["etl", "asr"], num_calls=40, num_partitions=4, audio_s=2880.0, interval_s=15, console=console, clock=clock
    )


# -------------------------------------------------------------------------------------------------------------- a log


def test_a_log_gets_a_line_with_calls_audio_speed_and_eta(clock: Clock):
    console = log_console()
    with progress(console, clock) as shown:
        clock.now = 1030
        shown.update([done("asr", 0, 30, num_failed=1)])
        assert lines(console) == [
            "40 calls, about 0.8 h of audio, in 4 partitions",
            "asr 10/40 calls  0.2 h audio  x24 real time  eta 01:30  1 failed",
        ]


def test_a_log_is_not_flooded_and_keeps_the_last_word(clock: Clock):
    console = log_console()
    with progress(console, clock) as shown:
        for second in range(1, 31):
            clock.now = 1000 + second
            shown.update([done("asr", second - 1, second, num_calls=1)])
            shown.update([])
    calls = [re.match(r"asr (\d+)/40", line)[1] for line in lines(console)[1:]]
    assert calls == ["1", "16", "30"]


def test_a_stage_that_is_through_says_so_at_once_and_only_once(clock: Clock):
    console = log_console()
    with progress(console, clock) as shown:
        for end_s in (1, 2, 3, 4):
            shown.update([done("etl", end_s - 1, end_s)])
        clock.now += 3600
        shown.update([])
    assert [line.split("  ")[0] for line in lines(console)[1:]] == ["etl 10/40 calls", "etl 40/40 calls"]


def test_start_up_phases_are_told_and_timed(clock: Clock):
    console = log_console()
    with progress(console, clock) as shown:
        with shown.phase("ray"):
            clock.now += 12.5
        assert shown.startup_s == {"ray": 12.5}
    assert lines(console)[1:] == ["starting ray", "ray ready after 12.5 s"]


def test_a_warning_is_one_line_and_comes_once(clock: Clock):
    console = log_console()
    with progress(console, clock) as shown:
        for _ in range(3):
            shown.warn("channel 1 of [06_voicemail]\n  is silent, which is more than sixty columns of text to say")
    assert lines(console)[1:] == [
        "warning: channel 1 of [06_voicemail] is silent, which is more than sixty columns of text to say"
    ]


def test_stored_calls_that_lack_an_analysis_count_for_that_stage_alone(clock: Clock):
    console = log_console()
    stages = ["asr", "analyse"]
    with Progress(
        stages, num_calls=10, num_partitions=1, audio_s=720.0, num_analyse_only=5, console=console, clock=clock
    ) as shown:
        shown.update([done("asr", 0, 10), done("analyse", 10, 20)])
    headline, asr, analyse = lines(console)
    assert headline == "10 calls, about 0.2 h of audio, in 1 partitions; 5 stored calls to analyse"
    assert asr.startswith("asr 10/10 calls")
    assert analyse.startswith("analyse 10/15 calls")


# --------------------------------------------------------------------------------------------------------- a terminal


def test_a_terminal_gets_one_bar_per_stage_and_warnings_above(clock: Clock):
    console = Console(file=io.StringIO(), width=120, force_terminal=True, color_system=None)
    with progress(console, clock) as shown:
        clock.now = 1030
        shown.update([done("etl", 0, 10), done("asr", 0, 30)], {"asr": 2}, note="loading models")
        shown.warn("channel 1 is silent")
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())
    *_, etl, asr, _ = text.split("\n")
    assert re.search(r"etl +\S+.* 10/40 calls", etl)
    assert re.search(r"asr +\S+.* 10/40 calls 0.2 h audio  x24 real time  eta 01:30  2 in flight", asr)
    assert text.index("warning: channel 1 is silent") < text.index(etl)


# ------------------------------------------------------------------------------------------------------------ the end


def summary_of(*, events: list[StageEvent]) -> list[str]:
    transcript = TranscriptSummary(
        call_id="a", duration_s=60.0, speech_s=30.0, language="en", num_utterances=1, redacted=True, redactions={}
    )
    run = RunFacts(
        run_id="run_1",
        started_unix_s=1000.0,
        ended_unix_s=1090.0,
        spec={},
        fingerprints={},
        versions={},
        planned=frozenset({"a", "b", "c"}),
        transcripts=[transcript],
        failures=[Failure(call_id="b", uri="", code="empty", stage="etl", reason="0 bytes")],
        insights=[],
        num_skipped=1,
        events=events,
        startups=[],
        peak_memory_bytes=None,
        call_files=True,
    )
    console = log_console()
    print_summary(build_report(run), "s3://results/[november]/", console)
    return [line.rstrip() for line in lines(console)]


def test_the_summary_says_what_came_out_and_where_it_is():
    assert summary_of(events=[done("asr", 0, 30)]) == [
        "calls      1 ok, 1 failed, 1 done before, 1 MISSING",
        "audio      0.2 h, 0.1 h of it speech",
        "wall time  01:30, x8.0 real time",
        "report     s3://results/[november]/report.html",
    ]


def test_the_summary_of_a_run_that_did_nothing_claims_no_speed():
    assert "wall time  01:30" in summary_of(events=[])
