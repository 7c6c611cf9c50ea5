"""Names and labels of what one Airflow task attempt owns.

A name is a function of dag, run, task, map index and attempt, so the same attempt finds its object again (create, and
on 409 adopt) and another attempt never takes it over by accident: after a clear, the next try's `execute` runs before
the previous try's `on_kill`. Earlier attempts of the same task instance are found by label.
"""

import hashlib
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

Metadata = dict[str, Any]
"""A manifest's metadata: `labels` and `annotations` are what is read here."""

RunEnded = Callable[[str, str], Awaitable[bool]]
"""Whether the DAG run (dag_id, run_id) is over."""

MAX_NAME_LENGTH = 44
"""KubeRay accepts 47 (RayJob) and 53 (RayCluster); it cuts Secret names at 50, and appends six characters itself."""

PREFIX = "airflow-kuberay"
MANAGED_LABEL = f"{PREFIX}/managed"
TASK_LABEL = f"{PREFIX}/task"
ATTEMPT_LABEL = f"{PREFIX}/attempt"
DAG_ANNOTATION = f"{PREFIX}/dag-id"
RUN_ANNOTATION = f"{PREFIX}/run-id"
CLEARED_ANNOTATION = f"{PREFIX}/times-cleared"
SPEC_ANNOTATION = f"{PREFIX}/spec-hash"
EXPIRY_ANNOTATION = f"{PREFIX}/expires-at"
LOG_ANNOTATION = f"{PREFIX}/log-position"

MANAGED_SELECTOR = f"{MANAGED_LABEL}=true"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The task attempt an object belongs to.

    `map_index` is -1 for an unmapped task; `attempt` is Airflow's try_number, from 1; `times_cleared` is the DAG run's
    count of clears, which tells a retry after a crash (same count: adopt) from a rerun somebody asked for.
    """

    dag_id: str
    run_id: str
    task_id: str
    map_index: int = -1
    attempt: int = 1
    times_cleared: int = 0

    @property
    def task_key(self) -> str:
        """Hash of the task instance without its attempt (16 hex digits)."""
        return _digest([self.dag_id, self.run_id, self.task_id, self.map_index])

    @property
    def name(self) -> str:
        """A DNS-1035 label of at most MAX_NAME_LENGTH characters: readable front, hashed end."""
        digest = _digest([self.task_key, self.attempt])[:10]
        front = re.sub(r"[^a-z0-9]+", "-", f"{self.dag_id}-{self.task_id}".lower()).strip("-")
        front = front if front[:1].isalpha() else f"ray-{front}"
        return f"{front[: MAX_NAME_LENGTH - 11].rstrip('-')}-{digest}"

    @property
    def labels(self) -> dict[str, str]:
        return {MANAGED_LABEL: "true", TASK_LABEL: self.task_key, ATTEMPT_LABEL: str(self.attempt)}

    @property
    def annotations(self) -> dict[str, str]:
        return {
            DAG_ANNOTATION: self.dag_id,
            RUN_ANNOTATION: self.run_id,
            CLEARED_ANNOTATION: str(self.times_cleared),
        }


def annotations(claim: Claim, spec: dict[str, Any], expires_at: datetime) -> dict[str, str]:
    """What an object made for a claim is annotated with; `spec` is the rendered one."""
    return {
        **claim.annotations,
        SPEC_ANNOTATION: _digest(spec),
        EXPIRY_ANNOTATION: expires_at.isoformat(timespec="seconds"),
    }


def same_work(theirs: Metadata, ours: Metadata) -> bool:
    """Whether two objects are the same task instance's, with the same spec and no clear in between: fit to adopt."""
    labels, noted = theirs.get("labels", {}), theirs.get("annotations", {})
    return labels.get(TASK_LABEL) == ours["labels"][TASK_LABEL] and all(
        noted.get(key) == ours["annotations"][key] for key in (SPEC_ANNOTATION, CLEARED_ANNOTATION)
    )


async def why_leftover(metadata: Metadata, now: datetime, run_ended: RunEnded | None) -> str:
    """Why an object should no longer exist; "" where it should."""
    noted = metadata.get("annotations", {})
    expiry = noted.get(EXPIRY_ANNOTATION)
    if expiry and datetime.fromisoformat(expiry) < now:
        return f"expired at {expiry}"
    dag_id, run_id = noted.get(DAG_ANNOTATION), noted.get(RUN_ANNOTATION)
    if run_ended and dag_id and run_id and await run_ended(dag_id, run_id):
        return f"run {run_id} of DAG {dag_id} has ended"
    return ""


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
