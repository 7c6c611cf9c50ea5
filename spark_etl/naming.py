"""What a recording is called in every output: an id that is unique, safe as a file name, and stays with it."""

import functools
import hashlib
import re
from collections.abc import Mapping
from pathlib import PurePosixPath

from ray_jobs import storage
from ray_jobs.pii_names import looks_personal

MAX_CALL_ID = 120


class Names:
    """Gives out ids; `owners` are those given before, with the locations that have them."""

    def __init__(self, owners: Mapping[str, str]) -> None:
        self._by_uri = {uri: call_id for call_id, uri in owners.items()}
        self._taken = dict(owners)

    def of_path(self, path: str, uri: str) -> str:
        """The id of a recording that has only its name."""
        call_id = self._by_uri.get(uri) or _call_id(path)
        if self._taken.get(call_id, uri) != uri:
            call_id = f"{call_id}-{_digest(uri)}"
        self._taken[call_id] = uri
        return call_id

    def of_key(self, key: str, uri: str) -> str:
        """The id of a call that a file name or a manifest gives one: the same whatever else there is."""
        call_id = f"call-{_digest(key)}" if looks_personal(key) else _safe(key)
        if call_id != key:
            call_id = f"{call_id.removesuffix('-' + _digest(key))}-{_digest(key)}"
        self._taken[call_id] = uri
        return call_id


def source_of(root: str, path: str, uri: str, call_id: str) -> str:
    """The location as outputs show it: without a name that is personal."""
    return storage.join(root, call_id + PurePosixPath(path).suffix) if _is_personal(path) else uri


def _call_id(path: str) -> str:
    """The path without its extension, made safe: folders joined by `__`, anything unusual replaced by `_`."""
    if _is_personal(path):
        return f"call-{_digest(path)}"
    return _safe(re.sub(r"\.[A-Za-z0-9]{1,5}$", "", path))


def _safe(name: str) -> str:
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", name.replace("/", "__")).lstrip(".") or "call"
    return safe if len(safe) <= MAX_CALL_ID else f"{safe[:MAX_CALL_ID]}-{_digest(name)}"


def _is_personal(path: str) -> bool:
    return any(map(_part_is_personal, path.split("/")))


@functools.lru_cache(maxsize=4096)
def _part_is_personal(part: str) -> bool:
    """Most of a path's parts are folders that thousands of paths share."""
    return looks_personal(part.rpartition(".")[0] or part)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
