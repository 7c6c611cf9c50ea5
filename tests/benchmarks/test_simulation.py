"""The simulated scheduler: what it must conserve, and what must slow it down."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.simulation import Rates, Site, measured_rates, partitions_of, simulate
from ray_jobs.spec import RunSpec, parse_spec

RATES = Rates(etl=(1 / 500,), asr=(1 / 100,), redact=(1 / 10_000,), start_s={"spark": 10.0, "asr": 20.0})
CALLS_S = [300.0] * 400


def a_spec(num_actors: int, cores: int, **more: Any) -> RunSpec:
    return parse_spec(
        {
            "input": {"uri": "calls"},
            "etl": {"spark": {"num_executors": cores}, "partition": {"max_speech_s": 2400.0}},
            "asr": {"actors": {"min_actors": 1, "max_actors": num_actors}},
            **more,
        }
    )


def test_one_engine_takes_the_sum_of_its_partitions_and_the_start() -> None:
    spec = a_spec(1, 1)
    outcome = simulate(partitions_of(CALLS_S, spec), spec, RATES, Site(), seed=0)
    work_s = sum(CALLS_S) / 100
    assert outcome.work_s == pytest.approx(work_s, rel=0.01)
    assert outcome.wall_s == pytest.approx(work_s + 20.0, rel=0.02)
    assert outcome.asr_busy == pytest.approx(1.0, abs=0.01)


@given(num_actors=st.integers(1, 12), cores=st.integers(1, 12), seed=st.integers(0, 3))
@settings(deadline=None, max_examples=30)
def test_no_cluster_does_more_than_its_engines_can(num_actors: int, cores: int, seed: int) -> None:
    spec = a_spec(num_actors, cores)
    outcome = simulate(partitions_of(CALLS_S, spec), spec, RATES, Site(reclaims_per_h=20.0), seed=seed)
    assert outcome.work_s >= sum(CALLS_S) / 100 / num_actors * 0.999
    assert 0 < outcome.asr_busy <= 1.0001
    assert all(0 <= share <= 1.0001 for share in outcome.busy.values())
    assert 0 <= outcome.tail_s <= outcome.wall_s


def test_a_second_wave_ahead_keeps_engines_from_waiting_for_spark() -> None:
    one_wave = a_spec(4, 16, partitions_ahead=2 * 4 + 16)
    two_waves = a_spec(4, 16)
    slow_etl = replace(RATES, etl=(1 / 35,))
    first, second = (
        simulate(partitions_of(CALLS_S * 3, spec), spec, slow_etl, Site(), seed=0) for spec in (one_wave, two_waves)
    )
    assert first.asr_busy < 0.9 < second.asr_busy


def test_reclaimed_nodes_cost_time_and_lose_nothing() -> None:
    spec = a_spec(4, 4)
    partitions = partitions_of(CALLS_S, spec)
    calm, rough = (
        simulate(partitions, spec, RATES, Site(node_delay_s=60.0, reclaims_per_h=rate), seed=1) for rate in (0.0, 40.0)
    )
    assert calm.num_redone == 0 < rough.num_redone
    assert rough.wall_s > calm.wall_s


@pytest.mark.parametrize(
    ("site", "fullest"),
    [
        (Site(driver_s=60.0), "driver"),
        (Site(store_bytes_per_s=200_000.0), "object store"),
        (Site(store_gets_per_s=0.05), "object store"),
    ],
)
def test_the_fullest_resource_is_the_one_that_is_short(site: Site, fullest: str) -> None:
    spec = a_spec(4, 4)
    busy = simulate(partitions_of(CALLS_S, spec), spec, RATES, site, seed=0).busy
    assert max(busy, key=lambda name: busy[name]) == fullest


def test_a_partition_that_waited_at_its_actor_costs_what_was_spent_on_it() -> None:
    def event(start_s: float, end_s: float) -> dict[str, Any]:
        return {"stage": "asr", "worker": "a", "start_s": start_s, "end_s": end_s, "audio_s": 100.0}

    report = {
        "partitions": [{"stages": [event(0.0, 10.0)]}, {"stages": [event(2.0, 16.0)]}, {"stages": [event(20.0, 25.0)]}],
        "startup_s": {"spark": 5.0, "asr": 7.0},
    }
    assert measured_rates(report).asr == (0.1, 0.06, 0.05)
