"""Whole commands measured from outside, everything they start included."""

import sys

import pytest

from benchmarks.harness import CommandFailedError, Contestant, alternate, measure, paired_ratio, spread

BURN = "import time\nend = time.process_time() + 0.4\nwhile time.process_time() < end: pass"


def a_contestant(script: str, name: str = "a") -> Contestant:
    return Contestant(
        name=name, command=lambda _number: [sys.executable, "-c", script], read=lambda _number: {"wer": 1.0}
    )


def test_processor_time_of_an_orphan_is_its_commands() -> None:
    orphan = f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {BURN!r}], start_new_session=True)"
    reading = measure(a_contestant(orphan), 0)
    assert reading.cpu_s >= 0.4
    assert reading.facts == {"wer": 1.0}


def test_so_is_that_of_a_process_nobody_waits_for() -> None:
    burn = BURN.replace("0.4", "2.5")  # longer than a sample takes
    careless = (
        "import signal, subprocess, sys, time\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        f"child = subprocess.Popen([sys.executable, '-c', {burn!r}])\nwhile child.poll() is None: time.sleep(0.1)"
    )
    assert measure(a_contestant(careless), 0).cpu_s >= 1.0


def test_a_command_that_fails_is_named_with_what_it_said() -> None:
    with pytest.raises(CommandFailedError, match=r"(?s)a ended with status 3.*no such thing"):
        measure(a_contestant("import sys; print('no such thing'); sys.exit(3)"), 0)


def test_rounds_alternate_and_warm_ups_are_not_counted() -> None:
    said: list[str] = []
    both = [a_contestant("pass", "a"), a_contestant("pass", "b")]
    readings = alternate(both, num_rounds=2, num_warmups=1, say=said.append)
    assert {name: len(runs) for name, runs in readings.items()} == {"a": 2, "b": 2}
    assert ["".join(line.split()[:3]) for line in said] == [
        "warm-up0a",
        "warm-up0b",
        "round1b",
        "round1a",
        "round2a",
        "round2b",
    ]


def test_ratios_are_paired_round_by_round() -> None:
    assert spread([3.0, 1.0, 2.0]) == {"min": 1.0, "median": 2.0, "max": 3.0}
    assert paired_ratio([2.0, 8.0], [1.0, 2.0]) == {"min": 2.0, "median": 3.0, "max": 4.0}
