"""Looks at prompt files, and tries them on past calls.

python -m ray_jobs.prompts list                                  every version and its content hash
python -m ray_jobs.prompts show NAME/vN                          the file
python -m ray_jobs.prompts diff NAME/vN NAME/vM                  what changed
python -m ray_jobs.prompts test NAME/vN [--labels a,b] [--transcript FILE]
                                                                 what the model would be sent
python -m ray_jobs.prompts test NAME/vN --output OUT [--against NAME/vM] [--labels a,b] [--spec S] [--judge judge/v1]
                                                                 its answers on OUT's transcripts beside the old ones

Wherever NAME/vN stands, the path of a YAML file or mlflow:NAME/VERSION may, too.
"""

import argparse
import difflib
import json
import sys
from pathlib import Path

from ray_jobs import prompts
from ray_jobs.errors import PipelineError, SpecError

SAMPLE = """\
agent: Thank you for calling, how can I help?
customer: My name is [PERSON_1]. I was charged twice for the same order.
agent: I am sorry, I can see it. I have refunded the second charge; it will be with you in five days.
customer: Lovely, thank you."""


def main(arguments: list[str] | None = None) -> None:
    parsed = _parser().parse_args(arguments)
    try:
        {"list": _list, "show": _show, "diff": _diff, "test": _test}[parsed.command](parsed)
    except PipelineError as error:
        sys.exit(f"error: {error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ray_jobs.prompts", description="Look at prompt files.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="every version and its content hash")
    commands.add_parser("show", help="the file").add_argument("version", metavar="NAME/vN")
    diff = commands.add_parser("diff", help="what changed between two versions")
    diff.add_argument("old", metavar="NAME/vN")
    diff.add_argument("new", metavar="NAME/vM")
    test = commands.add_parser(
        "test", help="what the model would be sent; with --output, what it answers on past calls"
    )
    test.add_argument("version", metavar="NAME/vN")
    test.add_argument("--labels", default="", help="comma-separated, for prompts that choose among labels")
    test.add_argument(
        "--transcript", type=Path, help="a text file, one `role: words` per line; default: a short sample"
    )
    past = test.add_argument_group("on past calls")
    past.add_argument("--output", metavar="URI", help="a run's output, whose stored transcripts are asked about")
    past.add_argument("--against", metavar="NAME/vM", help="the old prompt; default: the version before")
    past.add_argument("--spec", type=Path, help="run spec whose llm section says who answers; default: the defaults")
    past.add_argument("--judge", metavar="NAME/vN", help="a judge's prompt, to score both sides' answers by")
    past.add_argument("--calls", type=int, default=50, metavar="N", help="calls to ask about; default: 50")
    past.add_argument("--to", type=Path, default=Path("comparison"), metavar="FOLDER", help="default: comparison")
    return parser


def _list(_: argparse.Namespace) -> None:
    for version in prompts.available():
        print(f"{prompts.load(version).content_hash}  {version}")


def _show(parsed: argparse.Namespace) -> None:
    print(_text(parsed.version), end="")


def _diff(parsed: argparse.Namespace) -> None:
    old, new = (_text(version).splitlines() for version in (parsed.old, parsed.new))
    print("\n".join(difflib.unified_diff(old, new, parsed.old, parsed.new, lineterm="")) or "no difference")


def _test(parsed: argparse.Namespace) -> None:
    prompt = prompts.parse(parsed.version, _text(parsed.version).encode())
    labels = tuple(label.strip() for label in parsed.labels.split(",") if label.strip())
    if prompt.wants_labels and not labels:
        raise SpecError(f"prompt {prompt.version} chooses among labels; pass --labels a,b")
    if parsed.output:
        _test_on_past_calls(parsed, labels)
        return
    rendered = prompt.render(transcript=_transcript(parsed.transcript), labels=labels)
    print(
        f"--- system\n{rendered.system}\n--- user\n{rendered.user}\n--- schema\n{json.dumps(rendered.schema, indent=2)}"
    )


def _test_on_past_calls(parsed: argparse.Namespace, labels: tuple[str, ...]) -> None:
    """Asks both versions about the same calls and writes how they differ."""
    from ray_jobs.compare import Side, compare, describe, sample, write
    from ray_jobs.spec import JudgeSpec, TaskSpec, load_spec

    llm = load_spec(parsed.spec, {"input.uri": "unused"}).llm

    def side(reference: str) -> Side:
        task = TaskSpec(name="answer", prompt=reference, prompt_text=_text(reference), labels=labels)
        judges = tuple(
            JudgeSpec(name="judge", task=task.name, prompt=judge, prompt_text=_text(judge))
            for judge in (parsed.judge,)
            if judge
        )
        return Side(label=reference, llm=llm.model_copy(update={"tasks": (task,), "judges": judges}))

    old, new = side(parsed.against or _version_before(parsed.version)), side(parsed.version)
    comparison = compare(sample(parsed.output, parsed.calls), old, new)
    page = write(comparison, parsed.to)
    print(describe(comparison))
    print(f"page: {page}")


def _version_before(version: str) -> str:
    """The next older released version of the same prompt."""
    versions = prompts.available()
    place = versions.index(version) if version in versions else 0
    if not place or versions[place - 1].partition("/")[0] != version.partition("/")[0]:
        raise SpecError(f"prompt {version}: there is no version before it; pass --against")
    return versions[place - 1]


def _text(reference: str) -> str:
    if prompts.is_released(reference):
        return prompts.path(reference).read_text(encoding="utf-8")
    return prompts.read(reference, Path())


def _transcript(path: Path | None) -> str:
    if path is None:
        return SAMPLE
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"--transcript {path}: cannot be read as text ({error})") from None


if __name__ == "__main__":
    main()
