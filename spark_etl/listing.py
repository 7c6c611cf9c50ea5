"""Which recordings a run takes: what the input lists and the spec selects."""

import fnmatch
import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath

from ray_jobs import storage
from ray_jobs.errors import SpecError
from ray_jobs.spec import AUDIO_GLOBS, InputSpec
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
    """The listed files that `input.include` and `input.exclude` leave. Raises SpecError where none is left."""
    chosen = [info for uri, info in listed.items() if is_selected(uri, root, selection)]
    if not chosen:
        raise SpecError(
            f"input {root}: none of its {len(listed)} files is selected; input.include: {', '.join(selection.include)}"
            + (f"; input.exclude: {', '.join(selection.exclude)}" if selection.exclude else "")
        )
    return chosen


def recordings(uris: Iterable[str], root: str, selection: InputSpec) -> Iterator[str]:
    """The listed files that are recordings by their name, selected or not."""
    return (uri for uri in uris if matches(path_below(uri, root), AUDIO_GLOBS) or is_selected(uri, root, selection))


def is_selected(uri: str, root: str, selection: InputSpec) -> bool:
    path = path_below(uri, root)
    included = (*selection.include, *(glob for raw in selection.raw for glob in raw.globs))
    return matches(path, included) and not matches(path, selection.exclude)


def path_below(uri: str, root: str) -> str:
    """What globs and patterns see: the path below the input, the whole one where a manifest points elsewhere."""
    if uri == root:
        return PurePosixPath(uri).name
    if uri.startswith(root.rstrip("/") + "/"):
        return storage.relative(uri, root)
    return uri.removeprefix("s3:").lstrip("/")


def matches(path: str, globs: Sequence[str]) -> bool:
    """Whether any glob matches, whatever the case; `**/` matches any number of folders, none included."""
    return bool(globs) and _regex(tuple(globs)).match(path.lower()) is not None


@functools.cache
def _regex(globs: tuple[str, ...]) -> re.Pattern[str]:
    """All globs as one expression: an input has many more paths than a spec has globs."""
    return re.compile("|".join(_translate(glob.lower()) for glob in globs))


def _translate(glob: str) -> str:
    folders = "(?:.*/)?"
    return "(?:" + folders.join(fnmatch.translate(part).removesuffix(r"\Z") for part in glob.split("**/")) + r")\Z"
