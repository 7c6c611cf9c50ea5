"""Which of the calls found a run takes: by date, by sample, up to a limit."""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_jobs.errors import SpecError
from ray_jobs.records import Call
from ray_jobs.spec import InputSpec, parse_spec
from ray_jobs.storage import ObjectInfo
from spark_etl.selection import Selection, date_in, select_calls

ROOT = "s3://calls"


def a_call(path: str, *, duration_s: float = 60.0, **metadata: str) -> Call:
    uri = f"{ROOT}/{path}"
    speech_s = duration_s * 0.8
    return Call(
        call_id=path, uri=uri, source=uri, size_bytes=1, version="1", expected_speech_s=speech_s, metadata=metadata
    )


def spec_of(**keys: object) -> InputSpec:
    return parse_spec({"input": {"uri": ROOT, **keys}, "output": {"uri": "out"}}).input


def select(calls: Iterable[Call], *, modified: dict[str, str] | None = None, **keys: object) -> Selection:
    """What a spec with these keys below `input` takes; `modified` has times by path."""
    listed = {
        f"{ROOT}/{path}": ObjectInfo(
            uri=f"{ROOT}/{path}",
            size_bytes=1,
            version="1",
            modified_unix_s=datetime.fromisoformat(time).replace(tzinfo=UTC).timestamp(),
        )
        for path, time in (modified or {}).items()
    }
    return select_calls(list(calls), ROOT, listed, spec_of(**keys))


def taken(calls: Iterable[Call], *, modified: dict[str, str] | None = None, **keys: object) -> Sequence[str]:
    return [call.call_id for call in select(calls, modified=modified, **keys).calls]


class TestDates:
    DAYS = ("2026/11/23/a.wav", "2026/11/24/a.wav", "2026/11/25/a.wav")

    def test_by_path_take_calls_from_since_on_and_before_before(self):
        dates = {"pattern": "%Y/%m/%d", "since": "2026-11-24", "before": "2026-11-25"}
        selection = select(map(a_call, self.DAYS), dates=dates)
        assert [call.call_id for call in selection.calls] == ["2026/11/24/a.wav"]
        assert selection.left_out == {"input.dates": 2}

    def test_of_a_spec_in_yaml_are_dates_without_quotes_too(self):
        dates = {"pattern": "%Y/%m/%d", "since": datetime(2026, 11, 25).date()}
        assert taken(map(a_call, self.DAYS), dates=dates) == ["2026/11/25/a.wav"]

    def test_by_modified_take_the_objects_time(self):
        modified = {"a": "2026-11-24T23:59:59", "b": "2026-11-25T00:00:00"}
        dates = {"by": "modified", "since": "2026-11-25"}
        assert taken(map(a_call, modified), modified=modified, dates=dates) == ["b"]

    def test_by_modified_keep_a_planned_call_that_has_gone(self):
        dates = {"by": "modified", "since": "2026-11-25"}
        assert taken([a_call("gone")], dates=dates) == ["gone"]

    def test_by_started_at_take_what_metadata_says_and_know_zones(self):
        calls = [
            a_call("a", started_at="2026-11-25T00:30:00+02:00"),
            a_call("b", started_at="2026-11-25T00:30:00"),
            a_call("c"),
        ]
        assert taken(calls, dates={"by": "started_at", "since": "2026-11-25"}) == ["b"]

    @pytest.mark.parametrize(
        ("path", "pattern", "expected"),
        [
            ("20261125/a.wav", "%Y%m%d", datetime(2026, 11, 25, tzinfo=UTC)),
            ("q1/rec-2026-11-25T14-05-09.wav", "%Y-%m-%dT%H-%M-%S", datetime(2026, 11, 25, 14, 5, 9, tzinfo=UTC)),
            ("year=2026/month=11/a.wav", "year=%Y/month=%m", datetime(2026, 11, 1, tzinfo=UTC)),
            ("9920261125.wav", "%Y%m%d", datetime(2026, 11, 25, tzinfo=UTC)),  # 9920-26-11 is no date
            ("2026/13/25/a.wav", "%Y/%m/%d", None),
            ("a.wav", "%Y", None),
        ],
    )
    def test_the_first_stretch_that_is_a_date_counts(self, path, pattern, expected):
        assert date_in(path, pattern) == expected

    @pytest.mark.parametrize(
        ("dates", "message"),
        [
            (
                {"pattern": "%Y-%m-%d", "since": "2026-11-25"},
                "%Y-%m-%d is in none of the 3 paths, such as 2026/11/23/a",
            ),
            ({"by": "started_at", "since": "2026-11-25"}, "none of the 3 calls, such as 2026/11/23/a.wav, has an ISO"),
            ({"pattern": "%Y/%m/%d", "since": "2027-01-01"}, "input.dates takes none of the 3 calls below s3://calls"),
        ],
    )
    def test_that_select_nothing_are_refused_with_what_to_change(self, dates, message):
        with pytest.raises(SpecError, match=message):
            select(map(a_call, self.DAYS), dates=dates)

    @pytest.mark.parametrize(
        ("dates", "message"),
        [
            ({}, "needs since, before, or both"),
            ({"since": "2026-11-25"}, "by path needs pattern"),
            ({"by": "modified", "pattern": "%Y", "since": "2026-11-25"}, "pattern is for by: path"),
            ({"pattern": "%Y/%j", "since": "2026-11-25"}, "%j is not known"),
            ({"pattern": "%m/%d", "since": "2026-11-25"}, "has to hold %Y"),
        ],
    )
    def test_that_make_no_sense_are_refused_in_the_spec(self, dates, message):
        with pytest.raises(SpecError, match=message):
            spec_of(dates=dates)


CALLS = [a_call(f"{queue}/{number:03}", queue=queue) for queue in ("vip", "sales") for number in range(200)]


class TestSample:
    def test_a_fraction_is_about_that_share_and_the_same_in_any_order(self):
        sample = {"fraction": 0.25}
        first = taken(CALLS, sample=sample)
        assert 70 < len(first) < 130
        assert taken(reversed(CALLS), sample=sample) == first

    @settings(deadline=None)
    @given(st.sets(st.integers(0, 399)))
    def test_a_call_s_place_in_a_fraction_depends_on_no_other_call(self, numbers):
        whole = set(taken(CALLS, sample={"fraction": 0.5}))
        some = [a_call(call.call_id) for number, call in enumerate(CALLS) if number in numbers or call.call_id in whole]
        assert set(taken(some, sample={"fraction": 0.5})) == whole

    def test_another_seed_is_another_sample(self):
        assert taken(CALLS, sample={"count": 20}) != taken(CALLS, sample={"count": 20, "seed": 1})

    def test_a_count_is_taken_of_every_stratum_and_all_of_a_small_one(self):
        calls = [*CALLS, a_call("rare/001", queue="rare")]
        queues = Counter(path.partition("/")[0] for path in taken(calls, sample={"count": 5, "by": ["queue"]}))
        assert queues == {"vip": 5, "sales": 5, "rare": 1}

    def test_a_sample_grows_by_newcomers_and_changes_by_nothing_else(self):
        before = set(taken(CALLS[:300], sample={"count": 50}))
        after = set(taken(CALLS, sample={"count": 50}))
        newcomers = {call.call_id for call in CALLS[300:]}
        assert after - newcomers <= before

    def test_strata_may_be_folders_and_durations_together(self):
        calls = [
            a_call(f"{folder}/{length}-{number}", duration_s=length)
            for folder in "ab"
            for length in (30, 100, 2000)
            for number in range(4)
        ]
        sample = {"count": 1, "by": ["folder", "duration"]}
        found = Counter(path.partition("-")[0] for path in taken(calls, sample=sample))
        assert found == {f"{folder}/{length}": 1 for folder in "ab" for length in (30, 100, 2000)}

    def test_calls_without_a_key_are_a_stratum_of_their_own(self):
        calls = [a_call("a", queue="vip"), a_call("b"), a_call("c")]
        assert len(taken(calls, sample={"count": 1, "by": ["queue"]})) == 2

    def test_a_key_no_call_has_is_refused_with_those_there_are(self):
        with pytest.raises(SpecError, match="no call has quue in its metadata; known are duration, folder, queue"):
            select(CALLS, sample={"count": 1, "by": ["quue"]})

    @pytest.mark.parametrize(
        ("sample", "message"),
        [
            ({}, "needs either fraction or count"),
            ({"fraction": 0.5, "count": 3}, "needs either fraction or count"),
            ({"fraction": 0.5, "by": ["queue"]}, "by needs count"),
            ({"fraction": 1.5}, "less than or equal to 1"),
        ],
    )
    def test_a_sample_that_makes_no_sense_is_refused_in_the_spec(self, sample, message):
        with pytest.raises(SpecError, match=message):
            spec_of(sample=sample)


def test_the_limit_is_on_what_the_sample_takes():
    selection = select(CALLS, sample={"count": 20}, limit=5)
    assert len(selection.calls) == 5
    assert selection.left_out == {"input.sample": 380, "input.limit": 15}


def test_without_a_selection_every_call_is_taken_in_order_of_location():
    selection = select(reversed(CALLS))
    assert [call.uri for call in selection.calls] == sorted(call.uri for call in CALLS)
    assert selection.left_out == {}
