"""A whole run with everything on S3, through a store that is slow and throttles: as if nothing were."""

from collections.abc import Iterator
from io import BytesIO

import pyarrow.parquet as pq
import pytest

from ray_jobs import storage
from tests.e2e.runs import SAMPLES, run_job
from tests.fault_proxy import FaultProxy
from tests.s3 import bucket_behind_faults, running_s3

pytestmark = pytest.mark.integration

CALLS = ["02_card_payment", "06_voicemail"]
INPUT, OUTPUT = "s3://runs/in", "s3://runs/out"


@pytest.fixture(scope="module")
def proxy() -> Iterator[FaultProxy]:
    """What the run reaches S3 through: 30 ms for each request, and every sixth is turned away."""
    with (
        running_s3() as url,
        pytest.MonkeyPatch.context() as patch,
        bucket_behind_faults("runs", url, patch, latency_s=0.03, throttle=6) as proxy,
    ):
        for name in CALLS:
            storage.write_bytes(f"{INPUT}/{name}.wav", (SAMPLES / f"{name}.wav").read_bytes())
        yield proxy


def test_input_output_and_ledger_on_a_slow_throttling_store(proxy: FaultProxy) -> None:
    arguments = ("--input", INPUT, "--output", OUTPUT, "--set", "llm.engine=none")
    code, text = run_job(*arguments)
    assert code == 0, text
    assert proxy.done["throttled"] >= 5, "it was a bad store"
    written = [info.uri for info in storage.list_objects(OUTPUT)]
    files = [storage.read_bytes(uri) for uri in written if uri.startswith(f"{OUTPUT}/transcripts/")]
    rows = [row for file in files for row in pq.read_table(BytesIO(file)).to_pylist()]
    assert sorted(row["call_id"] for row in rows) == CALLS
    assert any(uri.startswith(f"{OUTPUT}/_callmill/markers/transcripts/") for uri in written)
    code, text = run_job(*arguments, timeout_s=120)
    assert code == 0
    assert "nothing to do: all 2 calls are done" in text
