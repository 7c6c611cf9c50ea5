"""What a person sees while a run goes on: live bars in a terminal, a plain line now and then in a log."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import rich.progress
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from ray_jobs.records import StageEvent
from ray_jobs.report import Report


@dataclass(slots=True, kw_only=True)
class _Tally:
    """What one stage has done so far; `line_*` is how far its last line in a log told."""

    num_planned: int
    num_calls: int = 0
    num_failed: int = 0
    audio_s: float = 0.0
    started_unix_s: float = float("inf")
    ended_unix_s: float = float("-inf")
    line_num_calls: int = 0
    line_unix_s: float = float("-inf")

    def add(self, event: StageEvent) -> None:
        self.num_calls += event.num_calls
        self.num_failed += event.num_failed
        self.audio_s += event.audio_s
        self.started_unix_s = min(self.started_unix_s, event.start_unix_s)
        self.ended_unix_s = max(self.ended_unix_s, event.end_unix_s)


class Progress:
    """Follows a run by the events of its stages; a context manager, safe to use from several threads.

    On a terminal there is one bar per stage, redrawn in place, with warnings above. Elsewhere (an Airflow log, CI)
    each stage writes a line when it got on, at most one every `interval_s` seconds and one when it is through.
    `audio_s` is the plan's estimate of the audio to come, `num_analyse_only` the number of calls that come on top for
    the analyse stage, from transcripts of an earlier run; `startup_s` collects the seconds each phase took.
    """

    def __init__(
        self,
        stages: Sequence[str],
        *,
        num_calls: int,
        num_partitions: int,
        audio_s: float,
        num_analyse_only: int = 0,
        interval_s: float = 15.0,
        console: Console | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.startup_s: dict[str, float] = {}
        self._headline = f"{num_calls:,} calls, about {_hours(audio_s)} of audio, in {num_partitions:,} partitions"
        if num_analyse_only:
            self._headline += f"; {num_analyse_only:,} stored calls to analyse"
        self._interval_s = interval_s
        self._console = console or Console(stderr=True)
        self._live = self._console.is_interactive
        self._clock = clock
        extra = {"analyse": num_analyse_only}
        self._tallies = {stage: _Tally(num_planned=num_calls + extra.get(stage, 0)) for stage in stages}
        self._warned: set[str] = set()
        self._bars = _bars(self._console)
        self._tasks = {
            stage: self._bars.add_task(
                stage, total=tally.num_planned, calls="", detail="", visible=tally.num_planned > 0
            )
            for stage, tally in self._tallies.items()
        }
        self._note = self._bars.add_task("", total=None, calls="", detail="", visible=False)

    def __enter__(self) -> Self:
        self.say(self._headline)
        if self._live:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._show_note("")
        if self._live:
            self._bars.stop()
        for stage, tally in self._tallies.items():
            self._log(stage, tally, interval_s=0)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Shows a part of the start-up (ray, spark, models) while it lasts and keeps its seconds in `startup_s`."""
        started = self._clock()
        self._show_note(f"starting {name}")
        if not self._live:
            self.say(f"starting {name}")
        yield
        self.startup_s[name] = self._clock() - started
        self._show_note("")
        self.say(f"{name} ready after {self.startup_s[name]:.1f} s")

    def update(self, events: Iterable[StageEvent], in_flight: Mapping[str, int] | None = None, note: str = "") -> None:
        """Adds what was done since the last update.

        `in_flight`: stage to the number of partitions it holds now; `note`: what the run waits for, if anything.
        """
        for event in events:
            if event.stage in self._tallies:  # the ETL of partitions that an earlier job prepared is not this job's
                self._tallies[event.stage].add(event)
        for stage, tally in self._tallies.items():
            num_in_flight = (in_flight or {}).get(stage, 0)
            detail = self._detail(tally) + (f"  {num_in_flight} in flight" if num_in_flight else "")
            self._bars.update(
                self._tasks[stage], completed=tally.num_calls, calls=self._calls(tally), detail=detail.strip()
            )
            self._log(stage, tally, interval_s=self._interval_s)
        self._show_note(note)

    def say(self, line: str | Text) -> None:
        """Prints a line, above the bars where there are any."""
        # Whatever a warning quotes is text, not rich's markup, and a log's line is not folded at 80 columns.
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def warn(self, message: str) -> None:
        """One line, once however often it is given."""
        line = " ".join(message.split())
        if line not in self._warned:
            self._warned.add(line)
            self.say(Text.assemble(("warning: ", "yellow"), line))

    def _log(self, stage: str, tally: _Tally, *, interval_s: float) -> None:
        """A log's line, where there is news and the last line is long enough ago or this is the stage's last."""
        now, through = self._clock(), tally.num_calls >= tally.num_planned
        news = tally.num_calls > tally.line_num_calls and not self._live
        if news and (through or now - tally.line_unix_s >= interval_s):
            tally.line_num_calls, tally.line_unix_s = tally.num_calls, now
            self.say(f"{stage} {self._calls(tally)}  {self._detail(tally)}")

    def _calls(self, tally: _Tally) -> str:
        return f"{tally.num_calls:,}/{tally.num_planned:,} calls"

    def _detail(self, tally: _Tally) -> str:
        if not tally.num_calls:
            return ""
        elapsed_s = max(tally.ended_unix_s - tally.started_unix_s, 1e-3)
        parts = [f"{_hours(tally.audio_s)} audio", f"x{tally.audio_s / elapsed_s:.0f} real time"]
        num_left = tally.num_planned - tally.num_calls
        if num_left > 0:
            left_s = elapsed_s * num_left / tally.num_calls - (self._clock() - tally.ended_unix_s)
            parts.append(f"eta {_clock_time(max(left_s, 0))}")
        if tally.num_failed:
            parts.append(f"{tally.num_failed:,} failed")
        return "  ".join(parts)

    def _show_note(self, note: str) -> None:
        self._bars.update(self._note, detail=note, visible=bool(note))


def print_summary(report: Report, output_uri: str, console: Console | None = None) -> None:
    """The run in a few lines: calls, audio, time, and where the outputs are."""
    work = report.overall
    table = Table.grid(padding=(0, 2))
    table.add_row("calls", Text(_outcomes(report)))
    rate = ""
    if report.facts.events:
        table.add_row("audio", f"{_hours(work.audio_s)}, {_hours(work.speech_s)} of it speech")
        rate = f", x{work.real_time_factor:.1f} real time"
    table.add_row("wall time", f"{_clock_time(work.work_s)}{rate}")
    table.add_row("report", Text(f"{output_uri.rstrip('/')}/report.html"))
    (console or Console(stderr=True)).print(table, highlight=False, soft_wrap=True)


def _outcomes(report: Report) -> str:
    parts = [f"{report.num_ok:,} ok", f"{report.num_failed:,} failed", f"{report.facts.num_skipped:,} done before"]
    wrong = {"missing": report.missing, "unexpected": report.unexpected, "duplicated": report.duplicated}
    return ", ".join(parts + [f"{len(call_ids):,} {name.upper()}" for name, call_ids in wrong.items() if call_ids])


def _bars(console: Console) -> rich.progress.Progress:
    return rich.progress.Progress(
        rich.progress.SpinnerColumn(finished_text="✓"),
        rich.progress.TextColumn("{task.description}", markup=False),
        rich.progress.BarColumn(bar_width=24),
        rich.progress.TextColumn("{task.fields[calls]}", markup=False, justify="right"),
        rich.progress.TextColumn("{task.fields[detail]}", markup=False, table_column=Column(no_wrap=True)),
        console=console,
        refresh_per_second=4,
    )


def _hours(seconds: float) -> str:
    """Hours, and minutes where hours would read 0.0."""
    return f"{seconds / 3600:,.1f} h" if seconds >= 360 else f"{seconds / 60:.1f} min"


def _clock_time(seconds: float) -> str:
    """mm:ss, and h:mm:ss from an hour on."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute:02d}:{second:02d}"
