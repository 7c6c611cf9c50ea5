"""python -m kuberay render|check|diff|gc: manifests without a cluster, and a look at a live one."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from kuberay.backend import Backend, blocking, collect, utc_now
from kuberay.cluster import profile_names, resolve_cluster
from kuberay.errors import KubeRayError
from kuberay.rayjob import make_job
from kuberay.rules import Manifest, refusals


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 fine, 1 differences or refusals found, 2 an error."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.command(options)
    except KubeRayError as error:
        print(error, file=sys.stderr)
        return 2
    return status


def _render(options: argparse.Namespace) -> int:
    print(yaml.safe_dump(_manifest(options), sort_keys=False, width=120), end="")
    return 0


def _check(options: argparse.Namespace) -> int:
    found = [
        f"{path}: {reason}"
        for path in options.files
        for document in yaml.safe_load_all(path.read_text(encoding="utf-8"))
        for reason in refusals(document)
    ]
    print("\n".join(found) or "nothing to refuse")
    return 1 if found else 0


def _diff(options: argparse.Namespace) -> int:
    from kuberay.client import KubernetesBackend

    ours = _manifest(options)

    async def read() -> Manifest | None:
        async with KubernetesBackend(options.namespace) as backend:
            return await backend.read(ours["kind"], options.name)

    live = blocking(read())
    if live is None:
        print(f"there is no {ours['kind']} {options.namespace}/{options.name}")
        return 1
    found = list(differences(ours["spec"], live["spec"], "spec"))
    print("\n".join(found) or "no difference")
    return 1 if found else 0


def _gc(options: argparse.Namespace) -> int:
    from kuberay.client import KubernetesBackend
    from kuberay.local import LocalBackend, LocalSettings

    async def sweep() -> int:
        backend: Backend = KubernetesBackend(options.namespace)
        if options.backend == "local":
            backend = LocalBackend(LocalSettings.from_environment())
        async with backend:
            found = await collect(backend, utc_now(), dry_run=options.dry_run)
        for leftover in found:
            print(
                f"{'would delete' if options.dry_run else 'deleted'} {leftover.kind} {leftover.name}: {leftover.reason}"
            )
        return 0

    return blocking(sweep())


def differences(ours: Any, live: Any, path: str) -> Iterator[str]:
    """One line for each place where the live object is not as rendered; what only the server filled in is left out."""
    if isinstance(ours, dict) and isinstance(live, dict):
        for key, value in ours.items():
            yield from differences(value, live.get(key), f"{path}.{key}")
    elif isinstance(ours, list) and isinstance(live, list) and len(ours) == len(live):
        for index, (mine, theirs) in enumerate(zip(ours, live, strict=True)):
            yield from differences(mine, theirs, f"{path}[{index}]")
    elif ours != live:
        yield f"{path}: live {live!r}, rendered {ours!r}"


def _manifest(options: argparse.Namespace) -> Manifest:
    cluster = resolve_cluster(options.spec or options.profile)
    if options.entrypoint is None:
        return cluster.to_k8s(options.name, options.namespace, {}, {})
    return make_job(entrypoint=options.entrypoint, cluster=cluster).to_k8s(options.name, options.namespace, {}, {})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m kuberay", description="Ray clusters on Kubernetes for Airflow.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    render = commands.add_parser("render", help="print the manifest of a cluster, or of a job with its own cluster")
    render.set_defaults(command=_render)
    diff = commands.add_parser("diff", help="compare what render prints with the live object of that name")
    diff.set_defaults(command=_diff)
    for command in (render, diff):
        _cluster_options(command)
    check = commands.add_parser("check", help="say what the KubeRay controller would refuse in manifests")
    check.add_argument("files", nargs="+", type=Path, metavar="FILE")
    check.set_defaults(command=_check)
    gc = commands.add_parser("gc", help="delete jobs and clusters of ours that are past their expiry")
    gc.add_argument("--dry-run", action="store_true", help="only say what would be deleted")
    gc.add_argument("--backend", choices=("kubernetes", "local"), default="kubernetes")
    gc.add_argument("--namespace", default="default")
    gc.set_defaults(command=_gc)
    return parser


def _cluster_options(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--profile", metavar="NAME", help=f"one of {', '.join(profile_names())}")
    source.add_argument("--spec", metavar="FILE.yaml", help="a cluster spec")
    parser.add_argument("--name", default="ray", help="name of the object (default: ray)")
    parser.add_argument("--namespace", default="default")
    parser.add_argument("--entrypoint", metavar="COMMAND", help="a RayJob that runs this command, not a RayCluster")


if __name__ == "__main__":
    sys.exit(main())
