"""Recordings to transcripts and analyses as one Ray job on a cluster of its own."""

from datetime import timedelta

from airflow.sdk import DAG, Asset
from asr_factory import COMMAND, FILTERS, RAY, form, verify

from kuberay.operators import RayJobOperator

with DAG(
    "asr_workflow_fused",
    description="Transcribe, redact and analyse calls in one Ray job",
    schedule=None,
    catchup=False,
    params=form(),
    user_defined_filters=FILTERS,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=1)},
    tags=["speech"],
    doc_md=__doc__,
):
    run = RayJobOperator(task_id="run", entrypoint=COMMAND, cluster="{{ params.profile }}", **RAY)
    report = verify.override(task_id="verify", outlets=[Asset("transcripts")])("{{ params.output }}")
    run >> report
