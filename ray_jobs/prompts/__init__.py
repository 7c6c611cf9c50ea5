"""Versioned prompt files: NAME/vN.yaml beside this module, immutable once released.

A file holds `system` and `user` templates and the JSON `schema` of the answer. Templates may use {{transcript}} and
{{labels}} (comma-separated); in the schema, the string "{{labels}}" stands for the list of labels. A new wording is a
new file: the content hash of the old one is in the fingerprint and beside every answer it gave.

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

_FOLDER = Path(__file__).parent
_VARIABLE = re.compile(r"\{\{\s*(.*?)\s*\}\}")
_LABELS = "{{labels}}"
_KEYS = {"system": str, "user": str, "schema": dict}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """A prompt with its variables filled in."""

    system: str
    user: str
    schema: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptFile:
    """One prompt version; `version` reads NAME/vN, `content_hash` is 16 hex digits of the file's sha256."""

    version: str
    content_hash: str
    system: str
    user: str
    schema: dict[str, Any]

    @property
    def wants_labels(self) -> bool:
        return "labels" in _variables(self.system + self.user) or _LABELS in _strings(self.schema)

    def render(self, *, transcript: str, labels: Sequence[str] = ()) -> Rendered:
        """Fill the templates in one pass: braces in the transcript stay what they are, text."""
        values = {"transcript": transcript, "labels": ", ".join(labels)}
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


def parse(version: str, content: bytes) -> PromptFile:
    """The prompt file in `content`. Raises SpecError, one line that names the file and what is wrong with it."""
    try:
        document = yaml.safe_load(content)
    except yaml.YAMLError as error:
        raise SpecError(f"prompt {version}: is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict) or sorted(document) != sorted(_KEYS):
        raise SpecError(f"prompt {version}: must hold {', '.join(_KEYS)} and nothing else")
    if not all(isinstance(document[key], kind) for key, kind in _KEYS.items()):
        raise SpecError(f"prompt {version}: system and user are texts, schema is a mapping")
    unknown = _variables(document["system"] + document["user"]) - {"transcript", "labels"}
    if unknown:
        raise SpecError(
            f"prompt {version}: unknown variable {', '.join(sorted(unknown))}; there are transcript and labels"
        )
    if "transcript" not in _variables(document["user"]):
        raise SpecError(f"prompt {version}: user does not use {{{{transcript}}}}, so it would ask about nothing")
    return PromptFile(version=version, content_hash=hashlib.sha256(content).hexdigest()[:16], **document)


def available() -> list[str]:
    """Every NAME/vN there is, by name and number."""
    files = sorted(_FOLDER.glob("*/v[0-9]*.yaml"), key=lambda file: (file.parent.name, int(file.stem[1:])))
    return [f"{file.parent.name}/{file.stem}" for file in files]


def _variables(template: str) -> set[str]:
    return set(_VARIABLE.findall(template))


def _strings(schema: Any) -> list[str]:
    """Every string value in a JSON document."""
    if isinstance(schema, dict):
        schema = list(schema.values())
    if isinstance(schema, list):
        return [text for item in schema for text in _strings(item)]
    return [schema] if isinstance(schema, str) else []


def _with_labels(schema: Any, labels: list[str]) -> Any:
    if isinstance(schema, dict):
        return {key: _with_labels(value, labels) for key, value in schema.items()}
    if isinstance(schema, list):
        return [_with_labels(item, labels) for item in schema]
    return labels if schema == _LABELS else schema
