"""The spec's ASR engine alone: `python -m benchmarks.bare_engine SPEC.yaml OUT` writes OUT/bare.json.

All calls are prepared and packed into windows first, in the ETL's way; then the engine reads them, partition by
partition of the plan's size, with nothing beside it. What it takes for that is the bound of the whole pipeline.
"""

import json
import sys
import time
from pathlib import Path

from ray_jobs import storage
from ray_jobs.engines.load_asr import load_asr
from ray_jobs.ledger import Ledger
from ray_jobs.records import CallAudio
from ray_jobs.spec import load_spec
from ray_jobs.stages.packing import pack
from spark_etl.job import open_part
from spark_etl.plan import make_plan
from spark_etl.prepare import prepare_partition


def main() -> None:
    spec_path, out = map(Path, sys.argv[1:])
    spec = load_spec(spec_path, {"output.uri": str(out)})
    plan = make_plan(spec, Ledger(storage.normalise(spec.output.uri)))
    partitions = []
    audio_s = 0.0
    for partition in plan.partitions:
        rows = prepare_partition(partition.calls, spec.etl, open_part)
        heard = [row for row in rows if isinstance(row, CallAudio)]
        audio_s += sum(row.duration_s for row in heard)
        partitions.append([packed.window for row in heard for packed in pack(row, spec.asr.language)])
    engine = load_asr(spec.asr, num_threads=max(1, round(spec.asr.actors.num_cpus)))
    began = time.perf_counter()
    for windows in partitions:
        engine.transcribe(windows)
    engine_s = time.perf_counter() - began
    out.mkdir(parents=True, exist_ok=True)
    document = {"bare_call_s_per_s": audio_s / engine_s, "engine_s": engine_s}
    (out / "bare.json").write_text(json.dumps(document))


if __name__ == "__main__":
    main()
