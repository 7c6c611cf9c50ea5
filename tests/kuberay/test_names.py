"""Names tell attempts apart, and are valid whatever a DAG is called."""

import re
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from kuberay.names import MAX_NAME_LENGTH, Claim

CLAIM = Claim(dag_id="asr_workflow", run_id="manual__2026-11-22", task_id="transcribe")


def test_the_same_attempt_has_the_same_name():
    assert CLAIM.name == replace(CLAIM).name
    assert CLAIM.name.startswith("asr-workflow-transcribe-")


def test_another_run_task_map_index_or_attempt_has_another_name():
    others = [
        replace(CLAIM, run_id="b"),
        replace(CLAIM, task_id="b"),
        replace(CLAIM, map_index=0),
        replace(CLAIM, attempt=2),
    ]
    assert len({CLAIM.name, *(other.name for other in others)}) == 5


def test_attempts_of_one_task_instance_share_a_label_and_others_do_not():
    assert replace(CLAIM, attempt=2).task_key == CLAIM.task_key
    assert replace(CLAIM, map_index=0).task_key != CLAIM.task_key


@given(st.text(max_size=80), st.text(max_size=250), st.integers(-1, 10_000))
def test_any_ids_give_a_valid_name_and_labels(dag_id, task_id, map_index):
    claim = Claim(dag_id=dag_id, run_id=task_id, task_id=task_id, map_index=map_index)
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", claim.name)
    assert len(claim.name) <= MAX_NAME_LENGTH
    assert all(re.fullmatch(r"[A-Za-z0-9]{1,63}", value) for value in claim.labels.values())
