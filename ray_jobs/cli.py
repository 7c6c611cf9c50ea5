"""The command line that the jobs share: options to a validated spec, errors to one line and an exit code."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import yaml

from ray_jobs.errors import PipelineError, SpecError
from ray_jobs.spec import RunSpec, load_spec


class Job(Protocol):
    """What a command line starts; returns the exit code."""

    def __call__(self, spec: RunSpec, *, dry_run: bool, retry_failed: bool) -> int: ...


def run_job(job: Job, module: str, description: str, arguments: Sequence[str] | None = None) -> int:
    """Read the options, run the job. Exit codes: what the job says; 1 it died; 2 a wrong spec; 130 interrupted."""
    options = _parser(module, description).parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        spec = load_spec(options.spec, _overrides(options))
        return job(spec, dry_run=options.dry_run, retry_failed=options.retry_failed)
    except SpecError as error:
        print(error, file=sys.stderr)
        return 2
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the next run goes on after the last committed partition", file=sys.stderr)
        return 130


def _parser(module: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        epilog="exit codes: 0 done, 1 calls are unaccounted for or all failed or the run died, 2 the spec is wrong",
    )
    parser.add_argument("--spec", type=Path, metavar="FILE", help="the run specification, YAML or JSON; see README")
    parser.add_argument(
        "--input", metavar="URI", help="recordings: a folder or s3:// prefix (over input.uri of the spec)"
    )
    parser.add_argument("--output", metavar="URI", help="where results go: a folder or s3:// prefix (over output.uri)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any other key of the spec, as in --set asr.model=whisper-small; the value is YAML; may be repeated",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan and touch nothing")
    parser.add_argument("--retry-failed", action="store_true", help="also retry calls that failed for good")
    return parser


def _overrides(options: argparse.Namespace) -> dict[str, Any]:
    given = [("input.uri", options.input), ("output.uri", options.output)]
    return dict([pair for pair in given if pair[1] is not None] + [_setting(text) for text in options.set])


def _setting(assignment: str) -> tuple[str, Any]:
    key, equals, value = assignment.partition("=")
    if not (key and equals):
        raise SpecError(f"--set {assignment}: write KEY=VALUE, as in --set asr.model=whisper-small")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError:
        raise SpecError(f"--set {key}: {value!r} is not YAML; put it in quotes of its own") from None
