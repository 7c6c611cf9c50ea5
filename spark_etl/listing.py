"""Which recordings a run takes: what the input lists and the spec selects."""

import fnmatch
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath

from ray_jobs import storage
from ray_jobs.errors import SpecError
from ray_jobs.spec import InputSpec
from ray_jobs.storage import ObjectInfo


def list_input(root: str, output: str) -> Iterator[ObjectInfo]:
    """Everything under the input but the run's own output, should that lie inside it."""
    try:
        objects = [info for info in storage.list_objects(root) if not info.uri.startswith(output + "/")]
    except PermissionError as error:
        raise SpecError(
            f"input {root}: {error.filename}: {error.strerror}; grant s3:ListBucket, or the right to read the folder"
        ) from None
    except FileNotFoundError:
        objects = []
    if not objects:
        raise SpecError(f"input {root}: there is nothing there; check the path, or the bucket and prefix")
    yield from objects


def select(root: str, listed: Mapping[str, ObjectInfo], selection: InputSpec) -> list[ObjectInfo]:
    chosen = [info for uri, info in listed.items() if is_selected(uri, root, selection)]
    if not chosen:
        raise SpecError(
            f"input {root}: none of its {len(listed)} files is selected; input.include: {', '.join(selection.include)}"
        )
    return chosen[: selection.limit]


def is_selected(uri: str, root: str, selection: InputSpec) -> bool:
    path = PurePosixPath(uri).name if uri == root else storage.relative(uri, root)
    return _matches(path, selection.include) and not _matches(path, selection.exclude)


def _matches(path: str, globs: Iterable[str]) -> bool:
    """Whether any glob matches; `**/` matches any number of folders, none included."""
    lowered = path.lower()
    return any(
        fnmatch.fnmatchcase(lowered, glob.lower()) or fnmatch.fnmatchcase(lowered, glob.lower().removeprefix("**/"))
        for glob in globs
    )
