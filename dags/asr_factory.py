"""What the speech DAGs share: their form in the UI, the command of a run, and the check of its report.

Settings of the deployment come from the environment of Airflow's processes: KUBERAY_BACKEND (kubernetes or local),
KUBERAY_NAMESPACE, CALLMILL_INPUT and CALLMILL_OUTPUT (what the form proposes).
"""

import json
import os
import shlex
from typing import Any

from airflow.sdk import ObjectStoragePath, Param, task

from kuberay.cluster import profile_names

URI = r"^(s3://|file://|/).+"

RAY: dict[str, Any] = {
    "backend": os.environ.get("KUBERAY_BACKEND", "kubernetes"),
    "namespace": os.environ.get("KUBERAY_NAMESPACE", "default"),
}
"""Where the operators run their work."""

FILTERS = {"quote": shlex.quote}
"""For templates of commands: what a user types stays one word."""

SPEC_OPTION = "{% if params.spec %} --spec {{ params.spec | quote }}{% endif %}"

COMMAND = "python -m ray_jobs.run --input {{ params.input | quote }} --output {{ params.output | quote }}" + SPEC_OPTION


def form(**more: Param) -> dict[str, Param]:
    """The parameters every speech DAG asks for, then its own."""
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
        "spec": Param(
            None,
            type=["null", "string"],
            title="Run specification",
            description="Path, in the cluster's image, of a YAML file: model, engine, prompts. Empty: defaults.",
        ),
        "profile": Param(
            "small" if RAY["backend"] == "local" else "standard",
            type="string",
            title="Cluster",
            description=f"Profile ({', '.join(profile_names())}) or path of a cluster spec in YAML.",
        ),
        **more,
    }


@task
def verify(output: str) -> dict[str, Any]:
    """The run's report without its timeline, for XCom. Fails where a planned call has not exactly one outcome."""
    report: dict[str, Any] = json.loads((ObjectStoragePath(output) / "report.json").read_text())
    unaccounted = {key: report[key] for key in ("missing", "unexpected", "duplicated") if report.get(key)}
    if unaccounted:
        raise ValueError(f"calls without exactly one outcome: {unaccounted}")
    return {key: value for key, value in report.items() if key != "partitions"}
