"""Deletes Ray jobs and clusters that nobody waits for any more: expired ones, and those of DAG runs that have ended."""

from datetime import timedelta

from airflow.sdk import DAG
from asr_factory import RAY

from kuberay.operators import CollectRayOperator

with DAG(
    "ray_collect",
    description="Collect Ray clusters that were left behind",
    schedule=timedelta(minutes=15),
    catchup=False,
    max_active_runs=1,
    tags=["ray"],
    doc_md=__doc__,
):
    CollectRayOperator(task_id="collect", **RAY)
