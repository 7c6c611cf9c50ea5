"""What KubeRay 1.7's controller enforces after the API server has accepted an object.

The CRDs' schema lets these through; the controller then marks a RayJob ValidationFailed, or leaves a RayCluster
unreconciled with an event nobody reads. `refusals` lists every broken rule with its reason, before anything is sent.
It reads plain manifests, so it holds for hand-written ones as well. Sources: `ray-operator/controllers/ray/utils/
validation.go` of v1.7.0; the rules under "leaks" and "entrypoint" are our own, from what its controllers do.
"""

import json
import re
import shlex
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import yaml

from kuberay.names import MAX_NAME_LENGTH

Manifest = dict[str, Any]

QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
ELASTIC_ANNOTATION = "kueue.x-k8s.io/elastic-job"

_DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_TOKEN_AUTH_SINCE = (2, 52)
_PRIORITY_SINCE = (2, 56)
_AUTOSCALER_ENV = "RAY_enable_autoscaler_v2"
_DELETION_ORDER = ("DeleteWorkers", "DeleteCluster", "DeleteSelf")
# Behind feature gates that are off by default: the operator refuses the whole cluster when it sees them.
_GATED_FIELDS = ("networkPolicy", "tlsOptions", "historyServerOptions")


def refusals(manifest: Manifest) -> list[str]:
    """One line per broken rule of a RayJob or RayCluster manifest; empty when the controller would take it."""
    check = {"RayJob": _job, "RayCluster": _cluster}.get(manifest.get("kind", ""))
    if check is None:
        return [f"kind {manifest.get('kind')!r} is neither RayJob nor RayCluster"]
    return [*_metadata(manifest), *check(manifest)]


def _metadata(manifest: Manifest) -> Iterator[str]:
    metadata = manifest.get("metadata", {})
    name = metadata.get("name", "")
    if len(name) > MAX_NAME_LENGTH:
        yield f"metadata.name {name!r} has {len(name)} characters; KubeRay cuts or refuses more than {MAX_NAME_LENGTH}"
    if not _DNS_1035.fullmatch(name):
        yield f"metadata.name {name!r} is not a DNS-1035 label: [a-z0-9-], starting with a letter"
    for key, value in metadata.get("labels", {}).items():
        if not _LABEL_VALUE.fullmatch(value):
            yield f"label {key}={value!r} is not a valid label value: at most 63 characters of [-A-Za-z0-9_.]"


# --- RayCluster -------------------------------------------------------------------------------------------------


def _cluster(manifest: Manifest) -> Iterator[str]:
    yield from _cluster_spec(manifest["spec"])
    annotations = manifest["metadata"].get("annotations", {})
    yield from _elastic(manifest["metadata"].get("labels", {}), annotations, manifest["spec"])


def _cluster_spec(spec: Manifest) -> Iterator[str]:
    for check in (_gated, _groups, _replicas, _fault_tolerance, _autoscaling, _authentication):
        yield from check(spec)


def _gated(spec: Manifest) -> Iterator[str]:
    for field in _GATED_FIELDS:
        if field in spec:
            yield f"{field} needs a feature gate of the KubeRay operator that is off by default; leave it out"


def _groups(spec: Manifest) -> Iterator[str]:
    names = [group.get("groupName", "") for group in spec.get("workerGroupSpecs", [])]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"worker group name {name!r} is used twice; pods of both groups would be counted together"
    for name, group in _named_groups(spec):
        params = group.get("rayStartParams", {})
        if not _containers(group):
            yield f"{name} needs at least one container"
        if group.get("resources") and any(params.get(key) for key in ("num-cpus", "num-gpus", "memory", "resources")):
            yield f"{name} sets resources both in rayStartParams and in its resources field; use one of them"
        if "labels" in params:
            yield f"{name} sets labels in rayStartParams, which KubeRay refuses; use the group's labels field"


def _replicas(spec: Manifest) -> Iterator[str]:
    for group in spec.get("workerGroupSpecs", []):
        name = f"worker group {group.get('groupName')!r}"
        least, most = group.get("minReplicas", 0), group.get("maxReplicas")
        if least < 0 or (most is not None and most < 0):
            yield f"{name} has a negative minReplicas or maxReplicas"
        if most is None:
            yield f"{name} has no maxReplicas; KubeRay would take 2147483647"
        elif least > most:
            yield f"{name} has minReplicas {least} above maxReplicas {most}"
        if not least <= group.get("replicas", least) <= (most if most is not None else group.get("replicas", least)):
            yield f"{name} has replicas {group['replicas']} outside minReplicas..maxReplicas"
        if group.get("suspend") and spec.get("enableInTreeAutoscaling"):
            yield f"{name} is suspended, which the autoscaler does not support"


def _fault_tolerance(spec: Manifest) -> Iterator[str]:
    options = spec.get("gcsFaultToleranceOptions")
    env = _env(spec["headGroupSpec"])
    params = spec["headGroupSpec"].get("rayStartParams", {})
    if "REDIS_USERNAME" in env or params.get("redis-username"):
        yield "the head sets a Redis user name itself; use gcsFaultToleranceOptions.redisUsername"
    if options is None:
        if "RAY_REDIS_ADDRESS" in env:
            yield "the head sets RAY_REDIS_ADDRESS without gcsFaultToleranceOptions; set the options instead"
        return
    for name in ("RAY_REDIS_ADDRESS", "REDIS_PASSWORD"):
        if name in env:
            yield f"the head sets {name} beside gcsFaultToleranceOptions; keep only the options"
    if params.get("redis-password"):
        yield "the head sets redis-password in rayStartParams; use gcsFaultToleranceOptions.redisPassword"
    if options.get("backend", "redis") == "rocksdb":
        yield "gcsFaultToleranceOptions.backend rocksdb needs a feature gate that is off by default; use redis"
    elif "storage" in options:
        yield "gcsFaultToleranceOptions.storage belongs to the rocksdb backend; leave it out with redis"


def _autoscaling(spec: Manifest) -> Iterator[str]:
    enabled = bool(spec.get("enableInTreeAutoscaling"))
    options = spec.get("autoscalerOptions", {})
    env = _env(spec["headGroupSpec"])
    switched_on = env.get(_AUTOSCALER_ENV) in ("1", "true")
    if switched_on and not enabled:
        yield f"the head sets {_AUTOSCALER_ENV} while autoscaling is off; set enableInTreeAutoscaling"
    if enabled and "version" in options and _AUTOSCALER_ENV in env:
        yield f"both autoscalerOptions.version and {_AUTOSCALER_ENV} are set; keep only the former"
    if options.get("idleTimeoutSeconds", 0) < 0:
        yield "autoscalerOptions.idleTimeoutSeconds is negative"
    if any(variable["name"] == "KUBERAY_GEN_AUTOSCALER_START_CMD" for variable in options.get("env", [])):
        yield "autoscalerOptions.env sets KUBERAY_GEN_AUTOSCALER_START_CMD, which KubeRay manages itself"
    version_2 = enabled and (options.get("version") == "v2" or switched_on)
    for name, group in _named_groups(spec) if version_2 else ():
        policy = group["template"]["spec"].get("restartPolicy", "Never")
        if policy != "Never":
            yield f"{name} has restartPolicy {policy}; autoscaler v2 needs Never or none"
    for group in spec.get("workerGroupSpecs", []):
        name = f"worker group {group.get('groupName')!r}"
        if group.get("idleTimeoutSeconds", 0) < 0:
            yield f"{name} has a negative idleTimeoutSeconds"
        if group.get("idleTimeoutSeconds") is not None and not version_2:
            yield f"{name} sets idleTimeoutSeconds, which needs autoscaler v2"
        if group.get("priority") and not version_2:
            yield f"{name} sets a priority, which needs autoscaler v2"
        if group.get("priority") and _version(spec) < _PRIORITY_SINCE:
            yield f"{name} sets a priority, which needs rayVersion 2.56 or later"


def _authentication(spec: Manifest) -> Iterator[str]:
    options = spec.get("authOptions")
    if options is not None and "mode" not in options:
        yield "authOptions without a mode does not switch authentication on; set mode: token or mode: disabled"
    if (options or {}).get("mode") == "token" and _version(spec) < _TOKEN_AUTH_SINCE:
        yield f"token authentication needs rayVersion 2.52 or later, got {spec.get('rayVersion')!r}"
    if (options or {}).get("enableK8sTokenAuth"):
        yield "authOptions.enableK8sTokenAuth is not supported for a RayJob; use mode: token"


# --- RayJob -----------------------------------------------------------------------------------------------------


def _job(manifest: Manifest) -> Iterator[str]:
    spec = manifest["spec"]
    for check in (_target, _deadlines, _deletion, _submission, _entrypoint, _leaks):
        yield from check(spec)
    labels, annotations = (manifest["metadata"].get(key, {}) for key in ("labels", "annotations"))
    yield from _kueue(labels, spec)
    if "rayClusterSpec" in spec:
        yield from _cluster_spec(spec["rayClusterSpec"])
        yield from _elastic(labels, annotations, spec["rayClusterSpec"])
        if "upgradeStrategy" in spec["rayClusterSpec"]:
            yield "upgradeStrategy is refused on a cluster that a RayJob creates"


def _target(spec: Manifest) -> Iterator[str]:
    selector = spec.get("clusterSelector")
    if selector is None and "rayClusterSpec" not in spec:
        yield "a RayJob needs rayClusterSpec (its own cluster) or clusterSelector (an existing one)"
    if selector is not None and not selector.get("ray.io/cluster"):
        yield "clusterSelector needs a cluster name under the key ray.io/cluster"
    if selector and "rayClusterSpec" in spec:
        yield "clusterSelector and rayClusterSpec are both set; the latter would be ignored"
    if selector and spec.get("backoffLimit", 0) > 0:
        yield "backoffLimit above 0 does not go with clusterSelector"
    if selector and spec.get("suspend"):
        yield "suspend does not go with clusterSelector"
    if spec.get("suspend") and not spec.get("shutdownAfterJobFinishes"):
        yield "suspend needs shutdownAfterJobFinishes"


def _deadlines(spec: Manifest) -> Iterator[str]:
    for field in ("activeDeadlineSeconds", "preRunningDeadlineSeconds"):
        if spec.get(field, 1) <= 0:
            yield f"{field} must be above 0"
    for field in ("backoffLimit", "ttlSecondsAfterFinished"):
        if spec.get(field, 0) < 0:
            yield f"{field} must not be negative"
    if spec.get("ttlSecondsAfterFinished", 0) > 0 and not spec.get("shutdownAfterJobFinishes"):
        yield "ttlSecondsAfterFinished needs shutdownAfterJobFinishes"


def _deletion(spec: Manifest) -> Iterator[str]:
    strategy = spec.get("deletionStrategy")
    if strategy is None:
        return
    rules = strategy.get("deletionRules", [])
    if not rules:
        yield "deletionStrategy needs deletionRules; onSuccess and onFailure are the deprecated form"
    if rules and spec.get("shutdownAfterJobFinishes"):
        yield "deletionRules and shutdownAfterJobFinishes exclude each other"
    autoscaling = spec.get("rayClusterSpec", {}).get("enableInTreeAutoscaling")
    ttls: dict[tuple[str, str], dict[str, int]] = {}
    for index, rule in enumerate(rules):
        policy, condition = rule["policy"], rule.get("condition", {})
        keys = [key for key in ("jobStatus", "jobDeploymentStatus") if key in condition]
        if len(keys) != 1:
            yield f"deletionRules[{index}] needs exactly one of jobStatus and jobDeploymentStatus"
            continue
        if spec.get("clusterSelector") and policy in ("DeleteCluster", "DeleteWorkers"):
            yield f"deletionRules[{index}]: {policy} does not go with clusterSelector"
        if autoscaling and policy == "DeleteWorkers":
            yield f"deletionRules[{index}]: DeleteWorkers does not go with autoscaling"
        of_condition = ttls.setdefault((keys[0], condition[keys[0]]), {})
        if policy in of_condition:
            yield f"deletionRules[{index}] repeats {policy} for {keys[0]} {condition[keys[0]]}"
        of_condition[policy] = condition.get("ttlSeconds", 0)
        if of_condition[policy] < 0:
            yield f"deletionRules[{index}] has a negative ttlSeconds"
    for (_, status), by_policy in ttls.items():
        ordered = [(policy, by_policy[policy]) for policy in _DELETION_ORDER if policy in by_policy]
        for (earlier, first_s), (later, then_s) in pairwise(ordered):
            if then_s < first_s:
                yield f"on {status}, {later} ({then_s} s) comes before {earlier} ({first_s} s)"


def _submission(spec: Manifest) -> Iterator[str]:
    mode = spec.get("submissionMode", "K8sJobMode")
    if mode == "SidecarMode":
        if spec.get("clusterSelector"):
            yield "SidecarMode does not go with clusterSelector"
        for field in ("submitterPodTemplate", "submitterConfig"):
            if field in spec:
                yield f"SidecarMode does not take {field}"
        head = spec.get("rayClusterSpec", {}).get("headGroupSpec")
        if head and head["template"]["spec"].get("restartPolicy", "Never") != "Never":
            yield "SidecarMode needs the head's restartPolicy to be Never or none"
    if mode == "InteractiveMode" and spec.get("backoffLimit", 0) > 0:
        yield "backoffLimit above 0 does not go with InteractiveMode"
    yield from _parses("entrypointResources", spec.get("entrypointResources"), json.loads, "a JSON object in a string")
    yield from _parses("runtimeEnvYAML", spec.get("runtimeEnvYAML"), yaml.safe_load, "a YAML mapping in a string")


def _parses(field: str, text: str | None, parse: Callable[[str], Any], expected: str) -> Iterator[str]:
    if text is None:
        return
    try:
        good = isinstance(parse(text), dict)
    except (ValueError, yaml.YAMLError):
        good = False
    if not good:
        yield f"{field} must be {expected}"


def _entrypoint(spec: Manifest) -> Iterator[str]:
    """The submitter pastes the entrypoint into a bash line, so an operator in it would run in the submitter's pod."""
    entrypoint = spec.get("entrypoint", "")
    lexer = shlex.shlex(entrypoint, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    try:
        words = list(lexer)
    except ValueError as error:
        yield f"entrypoint does not parse as a command: {error}"
        return
    operators = [word for word in words if word and set(word) <= set("();<>|&")]
    if "\n" in entrypoint.strip():
        yield "entrypoint holds a line break; only its first line would reach the Ray job"
    if operators:
        yield f"entrypoint holds {operators[0]!r}, which the submitter's shell would act on; give a plain command"
    if not words and spec.get("submissionMode") != "InteractiveMode":
        yield "entrypoint is empty"


def _leaks(spec: Manifest) -> Iterator[str]:
    if "activeDeadlineSeconds" not in spec:
        yield "activeDeadlineSeconds is not set; a stuck job would hold its cluster for ever"
    if "rayClusterSpec" not in spec or spec.get("shutdownAfterJobFinishes"):
        return
    frees = {
        condition.get("jobStatus") or condition.get("jobDeploymentStatus")
        for rule in spec.get("deletionStrategy", {}).get("deletionRules", [])
        if rule["policy"] in ("DeleteCluster", "DeleteSelf")
        for condition in [rule["condition"]]
    }
    if not {"SUCCEEDED", "Failed"} <= frees:
        yield (
            "nothing deletes the cluster in every case: set shutdownAfterJobFinishes, or deletion rules "
            "for jobStatus SUCCEEDED and for jobDeploymentStatus Failed (a deadline matches only the latter)"
        )


def _kueue(labels: dict[str, str], spec: Manifest) -> Iterator[str]:
    if QUEUE_LABEL not in labels:
        return
    if not spec.get("shutdownAfterJobFinishes"):
        yield "a queued RayJob needs shutdownAfterJobFinishes"
    if spec.get("clusterSelector"):
        yield "Kueue ignores a RayJob with clusterSelector; put the queue on the RayCluster"


def _elastic(labels: dict[str, str], annotations: dict[str, str], cluster: Manifest) -> Iterator[str]:
    elastic = annotations.get(ELASTIC_ANNOTATION) == "true"
    if QUEUE_LABEL in labels and cluster.get("enableInTreeAutoscaling") and not elastic:
        yield f"Kueue admits an autoscaling cluster only with the annotation {ELASTIC_ANNOTATION}: 'true'"


# --- reading manifests ------------------------------------------------------------------------------------------


def _named_groups(spec: Manifest) -> Iterator[tuple[str, Manifest]]:
    yield "the head group", spec["headGroupSpec"]
    for group in spec.get("workerGroupSpecs", []):
        yield f"worker group {group.get('groupName')!r}", group


def _containers(group: Manifest) -> list[Manifest]:
    containers: list[Manifest] = group["template"]["spec"].get("containers", [])
    return containers


def _env(group: Manifest) -> dict[str, str | None]:
    """Environment of the Ray container, which is the first one; the value is None where it comes from elsewhere."""
    variables = (_containers(group) or [{}])[0].get("env", [])
    return {variable["name"]: variable.get("value") for variable in variables}


def _version(spec: Manifest) -> tuple[int, ...]:
    """rayVersion as numbers; () where it is missing or not a version, which is below every requirement."""
    match = re.match(r"(\d+)\.(\d+)", spec.get("rayVersion", ""))
    return tuple(int(part) for part in match.groups()) if match else ()
