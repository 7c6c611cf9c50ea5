"""What the speech DAGs share: their form in the UI, the command of a job, and the check of its report.

Settings of the deployment come from the environment of Airflow's processes: KUBERAY_BACKEND (kubernetes or local),
KUBERAY_NAMESPACE, CALLMILL_INPUT and CALLMILL_OUTPUT (what the form proposes).
"""

import json
import os
import shlex
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, get_args

from airflow.sdk import DAG, Asset, Param, task

from kuberay.cluster import profile_names
from ray_jobs import storage
from ray_jobs.spec import AsrSpec

RAY: dict[str, Any] = {
    "backend": os.environ.get("KUBERAY_BACKEND", "kubernetes"),
    "namespace": os.environ.get("KUBERAY_NAMESPACE", "default"),
}
"""Where the operators run their work."""

URI = r"^(s3://|file://|/).+"

ENGINES = get_args(AsrSpec.model_fields["engine"].annotation)

TRANSCRIPTS = Asset("transcripts")
"""Updated by every checked run; the event's extra names the output and its number of calls."""


def speech_dag(dag_id: str, description: str, doc: str | None, **more: Param) -> DAG:
    """A DAG started by hand with the common form and `more`; its templates may call `command`."""
    return DAG(
        dag_id,
        description=description,
        schedule=None,
        catchup=False,
        params={**_form(), **more},
        user_defined_macros={"command": command},
        default_args={"retries": 2, "retry_delay": timedelta(minutes=1)},
        tags=["speech"],
        doc_md=doc,
    )


def command(module: str, params: Mapping[str, Any]) -> str:
    """The command line of a job for what the form holds; whatever a user typed stays one word."""
    words = ["python", "-m", module]
    for option in ("input", "output", "spec"):
        words += [f"--{option}", params[option]] if params[option] else []
    for key in ("engine", "model"):
        words += ["--set", f"asr.{key}={json.dumps(params[key])}"] if params[key] else []
    return shlex.join(words)


@task(outlets=[TRANSCRIPTS])
def verify(output: str, *, outlet_events: Any = None) -> dict[str, Any]:
    """The run's report without its timeline, for XCom. Fails where a planned call has not exactly one outcome."""
    report: dict[str, Any] = json.loads(storage.read_bytes(storage.join(storage.normalise(output), "report.json")))
    unaccounted = {key: report[key] for key in ("missing", "unexpected", "duplicated") if report.get(key)}
    if unaccounted:
        raise ValueError(f"calls without exactly one outcome: {unaccounted}")
    outlet_events[TRANSCRIPTS].extra = {"output": output, "num_ok": report["num_ok"]}
    return {key: value for key, value in report.items() if key != "partitions"}


def _form() -> dict[str, Param]:
    return {
        "input": Param(
            os.environ.get("CALLMILL_INPUT", "s3://my-bucket/recordings/"),
            type="string",
            pattern=URI,
            title="Recordings",
            description="Folder or s3:// prefix of the calls; read recursively.",
        ),
        "output": Param(
            os.environ.get("CALLMILL_OUTPUT", "s3://my-bucket/transcripts/"),
            type="string",
            pattern=URI,
            title="Results",
            description="Folder or s3:// prefix. A run on the same output finishes what an earlier one left.",
        ),
        "engine": Param(
            None,
            type=["null", "string"],
            enum=[None, *ENGINES],
            title="Speech engine",
            description=f"One of {', '.join(ENGINES)}. Empty: the specification's.",
        ),
        "model": Param(
            None,
            type=["null", "string"],
            title="Speech model",
            description="A packaged name (whisper-base), a folder, an s3:// prefix or a hub id. Empty: the "
            "specification's.",
        ),
        "spec": Param(
            None,
            type=["null", "string"],
            title="Run specification",
            description="Path, in the cluster's image, of a YAML file: prompts, redaction, actors. Empty: defaults.",
        ),
        "profile": Param(
            "small" if RAY["backend"] == "local" else "standard",
            type="string",
            title="Cluster",
            description=f"Profile ({', '.join(profile_names())}) or path of a cluster spec in YAML.",
        ),
    }
