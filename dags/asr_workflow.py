"""Airflow DAG: recordings to transcripts and analyses in three Ray jobs, one after the other, on one cluster.

Each stage is a task that may be retried or cleared alone; what it leaves lies under the output. `asr_workflow_fused`
does the same in one job, with the stages side by side, and is quicker.
"""

from asr_factory import RAY, speech_dag, verify

from kuberay.operators import DeleteRayClusterOperator, RayClusterOperator, RayJobOperator

with speech_dag("asr_workflow", "Transcribe, redact and analyse calls stage by stage", __doc__):
    setup = RayClusterOperator(task_id="setup_cluster", cluster="{{ params.profile }}", **RAY).as_setup()
    teardown = DeleteRayClusterOperator(task_id="teardown_cluster", created_by="setup_cluster", **RAY)
    preprocess, transcribe, postprocess = (
        RayJobOperator(
            task_id=stage,
            entrypoint=f"{{{{ command('ray_jobs.{stage}', params) }}}}",
            cluster_name=setup.output,
            **RAY,
        )
        for stage in ("preprocess", "transcribe", "postprocess")
    )
    report = verify("{{ params.output }}")
    setup >> preprocess >> transcribe >> postprocess >> report >> teardown.as_teardown(setups=setup)
