"""Versioned prompt files: NAME/vN.yaml beside this module, immutable once released.

A file holds `system` and `user` templates ({{transcript}} and {{labels}} are filled in) and the JSON `schema` of the answer.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ray_jobs.errors import SpecError

_FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptFile:
    """One prompt version; `version` reads NAME/vN, `content_hash` is 16 hex digits of the file's sha256."""

    version: str
    content_hash: str
    system: str
    user: str
    schema: dict[str, Any]


def load(version: str) -> PromptFile:
    """The prompt file of NAME/vN. Raises SpecError naming the versions there are."""
    path = _FOLDER / f"{version}.yaml"
    if not path.is_file():
        raise SpecError(f"no prompt {version}; there are {', '.join(available()) or 'none'}")
    content = path.read_bytes()
    document = yaml.safe_load(content)
    return PromptFile(version=version, content_hash=hashlib.sha256(content).hexdigest()[:16], **document)


def available() -> list[str]:
    """Every NAME/vN there is, sorted."""
    return sorted(str(path.relative_to(_FOLDER).with_suffix("")) for path in _FOLDER.glob("*/v*.yaml"))
