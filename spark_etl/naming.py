"""What a recording is called in every output: an id that is unique, safe as a file name, and stays with it."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath

from ray_jobs import storage
from ray_jobs.pii_names import looks_personal
from ray_jobs.records import Call
from ray_jobs.storage import ObjectInfo
from spark_etl.partition import expected_speech_s

MAX_CALL_ID = 120


def name_calls(root: str, objects: Iterable[ObjectInfo], owners: Mapping[str, str]) -> Iterator[Call]:
    """A Call per object, with an id that is unique, safe as a file name, and stays with its recording."""
    by_uri = {uri: call_id for call_id, uri in owners.items()}
    taken = dict(owners)
    for info in objects:
        path = PurePosixPath(info.uri).name if info.uri == root else storage.relative(info.uri, root)
        call_id = by_uri.get(info.uri) or _call_id(path)
        if taken.get(call_id, info.uri) != info.uri:
            call_id = f"{call_id}-{_digest(info.uri)}"
        taken[call_id] = info.uri
        yield Call(
            call_id=call_id,
            uri=info.uri,
            source=_public_name(root, path, call_id) if _is_personal(path) else info.uri,
            size_bytes=info.size_bytes,
            version=info.version,
            expected_speech_s=expected_speech_s(info),
        )


def _call_id(path: str) -> str:
    """The path without its extension, made safe: folders joined by `__`, anything unusual replaced by `_`."""
    if _is_personal(path):
        return f"call-{_digest(path)}"
    stem = re.sub(r"\.[A-Za-z0-9]{1,5}$", "", path)
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", stem.replace("/", "__")).lstrip(".") or "call"
    return safe if len(safe) <= MAX_CALL_ID else f"{safe[:MAX_CALL_ID]}-{_digest(path)}"


def _is_personal(path: str) -> bool:
    return any(looks_personal(PurePosixPath(part).stem) for part in path.split("/"))


def _public_name(root: str, path: str, call_id: str) -> str:
    return storage.join(root, call_id + PurePosixPath(path).suffix)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
