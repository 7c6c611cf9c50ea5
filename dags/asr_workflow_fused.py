"""Airflow DAG: recordings to transcripts and analyses as one Ray job on a cluster of its own.

The stages run side by side, a few partitions apart; their progress is in the log of the task `run`.
"""

from asr_factory import RAY, speech_dag, verify

from kuberay.operators import RayJobOperator

with speech_dag("asr_workflow_fused", "Transcribe, redact and analyse calls in one Ray job", __doc__):
    run = RayJobOperator(
        task_id="run",
        entrypoint="{{ command('ray_jobs.run', params) }}",
        cluster="{{ params.profile }}",
        **RAY,
    )
    run >> verify("{{ params.output }}")
