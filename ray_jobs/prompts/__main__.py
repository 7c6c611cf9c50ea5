"""Looks at prompt files.

python -m ray_jobs.prompts list                                  every version and its content hash
python -m ray_jobs.prompts show NAME/vN                          the file
python -m ray_jobs.prompts diff NAME/vN NAME/vM                  what changed
python -m ray_jobs.prompts test NAME/vN [--labels a,b] [--transcript FILE]
                                                                 what the model would be sent
"""

import argparse
import difflib
import json
import sys
from pathlib import Path

from ray_jobs import prompts
from ray_jobs.errors import SpecError

SAMPLE = """\
agent: Thank you for calling, how can I help?
customer: My name is [PERSON_1]. I was charged twice for the same order.
agent: I am sorry, I can see it. I have refunded the second charge; it will be with you in five days.
customer: Lovely, thank you."""


def main(arguments: list[str] | None = None) -> None:
    parsed = _parser().parse_args(arguments)
    try:
        {"list": _list, "show": _show, "diff": _diff, "test": _test}[parsed.command](parsed)
    except SpecError as error:
        sys.exit(f"error: {error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ray_jobs.prompts", description="Look at prompt files.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="every version and its content hash")
    commands.add_parser("show", help="the file").add_argument("version", metavar="NAME/vN")
    diff = commands.add_parser("diff", help="what changed between two versions")
    diff.add_argument("old", metavar="NAME/vN")
    diff.add_argument("new", metavar="NAME/vM")
    test = commands.add_parser("test", help="what the model would be sent")
    test.add_argument("version", metavar="NAME/vN")
    test.add_argument("--labels", default="", help="comma-separated, for prompts that choose among labels")
    test.add_argument(
        "--transcript", type=Path, help="a text file, one `role: words` per line; default: a short sample"
    )
    return parser


def _list(_: argparse.Namespace) -> None:
    for version in prompts.available():
        print(f"{prompts.load(version).content_hash}  {version}")


def _show(parsed: argparse.Namespace) -> None:
    print(prompts.path(parsed.version).read_text(encoding="utf-8"), end="")


def _diff(parsed: argparse.Namespace) -> None:
    old, new = (prompts.path(version).read_text(encoding="utf-8").splitlines() for version in (parsed.old, parsed.new))
    print("\n".join(difflib.unified_diff(old, new, parsed.old, parsed.new, lineterm="")) or "no difference")


def _test(parsed: argparse.Namespace) -> None:
    prompt = prompts.load(parsed.version)
    labels = tuple(label.strip() for label in parsed.labels.split(",") if label.strip())
    if prompt.wants_labels and not labels:
        raise SpecError(f"prompt {prompt.version} chooses among labels; pass --labels a,b")
    rendered = prompt.render(transcript=_transcript(parsed.transcript), labels=labels)
    print(
        f"--- system\n{rendered.system}\n--- user\n{rendered.user}\n--- schema\n{json.dumps(rendered.schema, indent=2)}"
    )


def _transcript(path: Path | None) -> str:
    if path is None:
        return SAMPLE
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"--transcript {path}: cannot be read as text ({error})") from None


if __name__ == "__main__":
    main()
