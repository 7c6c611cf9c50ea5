"""Puts two specs' answers to one task side by side, for a person to read: other prompts, or other models.

python -m ray_jobs.vibe A.yaml B.yaml --task summary --output OUT [--referee C.yaml] [--calls N] [--to FOLDER]

A and B are run specs: each side asks with its own `llm` section. OUT is the output whose stored transcripts are read;
nothing is written there. The referee's model is shown every pair of answers in both orders.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ray_jobs.compare import Referee, Side, compare, describe, sample, write
from ray_jobs.errors import PipelineError, SpecError
from ray_jobs.spec import JudgeSpec, LlmSpec, load_spec

RUBRIC = str(JudgeSpec.model_fields["rubric"].default)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Exit codes: 0 done; 1 an engine gave up; 2 a spec is wrong."""
    parsed = _parser().parse_args(arguments)
    try:
        a, b = (Side(label=str(path), llm=_only(_llm(path), parsed.task, path)) for path in (parsed.a, parsed.b))
        referee = Referee(llm=_llm(parsed.referee), rubric=parsed.rubric) if parsed.referee else None
        comparison = compare(sample(parsed.output, parsed.calls), a, b, referee)
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, SpecError) else 1
    page = write(comparison, parsed.to)
    print(describe(comparison))
    print(f"page: {page}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ray_jobs.vibe", description="Two specs' answers, side by side.")
    parser.add_argument("a", type=Path, metavar="A.yaml", help="run spec of one side; its llm section is used")
    parser.add_argument("b", type=Path, metavar="B.yaml", help="run spec of the other side")
    parser.add_argument("--task", required=True, help="name of the task, in both specs")
    parser.add_argument("--output", required=True, metavar="URI", help="a run's output, whose transcripts are read")
    parser.add_argument(
        "--referee", type=Path, metavar="C.yaml", help="run spec whose model prefers one of two answers"
    )
    parser.add_argument("--rubric", default=RUBRIC, help=f"what the referee goes by; default: {RUBRIC}")
    parser.add_argument("--calls", type=int, default=20, metavar="N", help="calls to ask about; default: 20")
    parser.add_argument("--to", type=Path, default=Path("comparison"), metavar="FOLDER", help="default: comparison")
    return parser


def _llm(path: Path) -> LlmSpec:
    llm = load_spec(path, {"input.uri": "unused"}).llm
    if llm.engine == "none":
        raise SpecError(f"{path}: llm.engine is none; name the engine that answers")
    return llm


def _only(llm: LlmSpec, task: str, path: Path) -> LlmSpec:
    """The section with that task alone, and the first judge of it."""
    tasks = tuple(t for t in llm.tasks if t.name == task)
    if not tasks:
        raise SpecError(f"{path}: has no task {task}; there are {', '.join(t.name for t in llm.tasks)}")
    judges = tuple(judge for judge in llm.judges if judge.task == task)[:1]
    return llm.model_copy(update={"tasks": tasks, "judges": judges})


if __name__ == "__main__":
    sys.exit(main())
