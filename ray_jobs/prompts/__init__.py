"""Versioned prompt files: NAME/vN.yaml beside this module, immutable once released; and files of your own.

A file holds `system` and `user` templates and the JSON `schema` of the answer; `kind` says what it asks (KINDS, a task
unless it says otherwise) and with that which {{variables}} its templates may use; `hints` may hold max_tokens, the
budget of an answer where a spec sets none. In the schema, the string "{{labels}}" stands for the list of labels. A new
wording is a new file: the content hash of the old one is in the fingerprint and beside every answer it gave.

All files begin with the same system text and put the transcript before the question, so that an engine with a prefix
cache reads each transcript once, however many tasks there are.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ray_jobs.errors import SpecError

CONDENSE = "condense/v1"
"""The prompt that turns a part of a transcript too long for the context into notes."""

SECRETS = "secrets/v1"
"""The prompt that asks which words of a transcript are to be redacted."""

KINDS = {
    # kind: the variables its user template must use, and those it may use
    "task": (("transcript",), ("labels",)),
    "judge": (("answer",), ("transcript", "rubric")),
    "preference": (("first", "second"), ("transcript", "rubric")),
}
"""What a prompt may ask: a question about a call, a score for an answer to one, which of two answers is better."""

DEFAULT_MAX_TOKENS = 256

_FOLDER = Path(__file__).parent
_VARIABLE = re.compile(r"\{\{\s*(.*?)\s*\}\}")
_LABELS = "{{labels}}"
_RELEASED = re.compile(r"[a-z][a-z0-9_]*/v[0-9]+")
_MLFLOW = "mlflow:"
_KEYS = {"system": str, "user": str, "schema": dict}
_OPTIONAL_KEYS = {"kind": str, "hints": dict}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """A prompt with its variables filled in."""

    system: str
    user: str
    schema: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptFile:
    """One prompt version.

    `version` reads NAME/vN, or names the file or registry entry as the spec does; `content_hash` is 16 hex digits of
    the file's sha256; `max_tokens` is the budget it asks for.
    """

    version: str
    content_hash: str
    system: str
    user: str
    schema: dict[str, Any]
    kind: str
    max_tokens: int

    @property
    def wants_labels(self) -> bool:
        return "labels" in _variables(self.system + self.user) or _LABELS in strings(self.schema)

    def render(self, *, labels: Sequence[str] = (), **texts: str) -> Rendered:
        """Fill the templates in one pass: braces in the transcript stay what they are, text.

        `texts` are the variables of the prompt's kind; those left out are empty.
        """
        values = {**dict.fromkeys(sum(KINDS[self.kind], ()), ""), **texts, "labels": ", ".join(labels)}
        return Rendered(
            system=_VARIABLE.sub(lambda found: values[found[1]], self.system),
            user=_VARIABLE.sub(lambda found: values[found[1]], self.user),
            schema=_with_labels(self.schema, list(labels)),
        )


def load(version: str) -> PromptFile:
    """The prompt file of NAME/vN. Raises SpecError: no such version (names those there are), or a wrong file."""
    return parse(version, path(version).read_bytes())


def path(version: str) -> Path:
    """Where NAME/vN lies. Raises SpecError naming the versions there are."""
    if version not in available():
        raise SpecError(f"no prompt {version}; there are {', '.join(available()) or 'none'}")
    return _FOLDER / f"{version}.yaml"


def is_released(reference: str) -> bool:
    """Whether a reference reads NAME/vN, so that every node has its file, if there is one."""
    return _RELEASED.fullmatch(reference) is not None


def read(reference: str, folder: Path) -> str:
    """The content of a prompt file that no other node has: a path, relative to `folder`, or mlflow:NAME/VERSION.

    Raises SpecError where it cannot be read.
    """
    if reference.startswith(_MLFLOW):
        from ray_jobs.prompts.registry import read_entry

        return read_entry(reference.removeprefix(_MLFLOW))
    try:
        return (folder / reference).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SpecError(
            f"prompt {reference}: cannot be read ({reason}); a prompt is the path of a YAML file, mlflow:NAME/VERSION, "
            f"or one of {', '.join(available())}"
        ) from None


def parse(version: str, content: bytes) -> PromptFile:
    """The prompt file in `content`. Raises SpecError, one line that names the file and what is wrong with it."""
    try:
        document = yaml.safe_load(content)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SpecError(f"prompt {version}: is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict) or not _KEYS.keys() <= document.keys() <= {**_KEYS, **_OPTIONAL_KEYS}.keys():
        raise SpecError(f"prompt {version}: must hold {', '.join(_KEYS)} and nothing else but kind and hints")
    if not all(isinstance(document[key], kind) for key, kind in _KEYS.items()):
        raise SpecError(f"prompt {version}: system and user are texts, schema is a mapping")
    kind, hints = document.get("kind", "task"), document.get("hints", {})
    if not isinstance(kind, str) or kind not in KINDS:
        raise SpecError(f"prompt {version}: kind {kind} is none of {', '.join(KINDS)}")
    if not isinstance(hints, dict) or hints.keys() - {"max_tokens"}:
        raise SpecError(f"prompt {version}: hints may hold max_tokens and nothing else")
    max_tokens = hints.get("max_tokens", DEFAULT_MAX_TOKENS)
    if type(max_tokens) is not int or max_tokens < 1:
        raise SpecError(f"prompt {version}: hints.max_tokens {max_tokens} is not a number of tokens")
    _check_variables(version, kind, document["system"], document["user"])
    return PromptFile(
        version=version,
        content_hash=hashlib.sha256(content).hexdigest()[:16],
        **{key: document[key] for key in _KEYS},
        kind=kind,
        max_tokens=max_tokens,
    )


def _check_variables(version: str, kind: str, system: str, user: str) -> None:
    needed, optional = KINDS[kind]
    known = (*needed, *optional)
    unknown = _variables(system + user) - set(known)
    if unknown:
        raise SpecError(
            f"prompt {version}: unknown variable {', '.join(sorted(unknown))}; "
            f"there are {', '.join(known[:-1])} and {known[-1]}"
        )
    for name in needed:
        if name not in _variables(user):
            raise SpecError(f"prompt {version}: user does not use {{{{{name}}}}}, so it would ask about nothing")


def available() -> list[str]:
    """Every NAME/vN there is, by name and number."""
    files = sorted(_FOLDER.glob("*/v[0-9]*.yaml"), key=lambda file: (file.parent.name, int(file.stem[1:])))
    return [f"{file.parent.name}/{file.stem}" for file in files]


def _variables(template: str) -> set[str]:
    return set(_VARIABLE.findall(template))


def strings(document: Any) -> list[str]:
    """Every string in a JSON document, names of members included."""
    if isinstance(document, dict):
        document = [*document, *document.values()]
    if isinstance(document, list):
        return [text for item in document for text in strings(item)]
    return [document] if isinstance(document, str) else []


def _with_labels(schema: Any, labels: list[str]) -> Any:
    if isinstance(schema, dict):
        return {key: _with_labels(value, labels) for key, value in schema.items()}
    if isinstance(schema, list):
        return [_with_labels(item, labels) for item in schema]
    return labels if schema == _LABELS else schema
