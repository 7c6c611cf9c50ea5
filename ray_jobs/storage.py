"""Local folders and S3 behind one small face.

A location is a path, a file:// URI or an s3://bucket/prefix URI. Local ones are handled as absolute paths, S3 through
boto3 with its usual chain of credentials and settings (AWS_PROFILE, AWS_ENDPOINT_URL, IRSA, ...). Failures are the
built-in FileNotFoundError and PermissionError, and RetryableError for what may pass (a timeout, a throttled bucket).
"""

import functools
import io
import os
import random
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote, urlparse

from ray_jobs.errors import OutputError, RetryableError, SpecError
from ray_jobs.keyspace import Page, list_in_parallel

READ_THREADS = 32

PART_BYTES = 8 * 1024 * 1024
"""A larger object is read in parts of this size, PART_THREADS of them at once."""

PART_THREADS = 8

PUBLIC, PRIVATE = 0o644, 0o600  # modes of local files

LIST_THREADS = 16
"""Pages of an S3 listing asked for at once; parsing them takes a core at about this many."""

MAX_ATTEMPTS = 8
"""Tries of one S3 request, with growing pauses, where the store throttles or does not answer."""

PAUSE_S = 0.1
"""Longest pause before a broken-off answer is asked for again; it doubles with each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectInfo:
    """One stored object. `version` changes when the content does: the ETag on S3, size and modified time on disk."""

    uri: str
    size_bytes: int
    version: str
    modified_unix_s: float


class ChangedError(Exception):
    """The object is no longer the version that was asked for."""


def normalise(uri: str) -> str:
    """A location in the one form used inside: an absolute local path, or s3://bucket/prefix without a final slash.

    Raises SpecError for a scheme that is neither.
    """
    parsed = urlparse(uri)
    if parsed.scheme == "s3":
        return uri.rstrip("/")
    if parsed.scheme == "file":
        return os.path.abspath(unquote(parsed.path))
    if "://" in uri:
        raise SpecError(f"{uri}: no support for {parsed.scheme}://; use a path, file:// or s3://")
    return os.path.abspath(os.path.expanduser(uri))


def join(base: str, *parts: str) -> str:
    return "/".join([base.rstrip("/"), *parts])


def relative(uri: str, base: str) -> str:
    """The part of `uri` below `base`."""
    return uri[len(base.rstrip("/")) + 1 :]


def is_s3(uri: str) -> bool:
    return uri.startswith("s3://")


def list_objects(uri: str) -> Iterator[ObjectInfo]:
    """Every object below a location, in order of its key; nothing where the location does not exist."""
    return _list_s3(uri) if is_s3(uri) else _list_local(uri)


def stat(uri: str) -> ObjectInfo:
    """Raises FileNotFoundError, PermissionError or RetryableError."""
    if not is_s3(uri):
        return _local_info(uri, os.stat(uri))
    head = _s3(uri, lambda s3, where: s3.head_object(**where))
    return _s3_info(uri, head["ContentLength"], head)


def stat_many(uris: Sequence[str]) -> list[ObjectInfo]:
    """What is stored at each location, in order, asked concurrently; with `version` "" where nothing is, or is shown.

    Raises RetryableError.
    """
    if not any(map(is_s3, uris)):
        return list(map(_stat_or_nothing, uris))  # quicker than handing each to a thread
    with ThreadPoolExecutor(READ_THREADS) as pool:
        return list(pool.map(_stat_or_nothing, uris))


def _stat_or_nothing(uri: str) -> ObjectInfo:
    try:
        return stat(uri)
    except (FileNotFoundError, PermissionError):
        return nothing_at(uri)


def nothing_at(uri: str) -> ObjectInfo:
    """Stands for an object that is not there."""
    return ObjectInfo(uri=uri, size_bytes=0, version="", modified_unix_s=0.0)


def exists(uri: str) -> bool:
    """Whether there is an object. Raises PermissionError or RetryableError where that cannot be told."""
    try:
        stat(uri)
    except FileNotFoundError:
        return False
    return True


def read_bytes(uri: str, *, version: str | None = None) -> bytes:
    """The whole object, a large one in parallel parts of one version.

    Raises ChangedError where `version` is given and no longer the stored one, or the object changes meanwhile.
    """
    if is_s3(uri):
        first = _get(uri, 0, PART_BYTES, version)
        return b"".join([first.data, *_rest(uri, first)])
    with open(uri, "rb") as file:
        if version and _local_info(uri, os.fstat(file.fileno())).version != version:
            raise ChangedError(uri)
        return file.read()


def open_bytes(uri: str, *, version: str | None = None) -> BinaryIO:
    """The object as an open file: the file itself, or a nameless temporary one that an S3 object was copied to.

    Raises ChangedError as `read_bytes` does.
    """
    if is_s3(uri):
        first = _get(uri, 0, PART_BYTES, version)
        return _copied([first.data], _rest(uri, first))
    file = open(uri, "rb")  # noqa: SIM115 - it is the caller's
    if version and _local_info(uri, os.fstat(file.fileno())).version != version:
        file.close()
        raise ChangedError(uri)
    return file


def _copied(*pieces: Iterable[bytes]) -> BinaryIO:
    file: Any = tempfile.TemporaryFile()  # noqa: SIM115 - it is the caller's
    try:
        for piece in pieces:
            file.writelines(piece)
        file.flush()
    except BaseException:
        file.close()
        raise
    return file


def download(uri: str, path: Path, *, version: str | None = None) -> None:
    """`read_bytes` into a local file, with no more than a few parts in memory."""
    if not is_s3(uri):
        path.write_bytes(read_bytes(uri, version=version))
        return
    first = _get(uri, 0, PART_BYTES, version)
    with path.open("wb") as file:
        file.write(first.data)
        file.writelines(_rest(uri, first))


def read_head(uri: str, num_bytes: int) -> bytes:
    """The first bytes of an object; fewer where it is shorter."""
    if is_s3(uri):
        return _get(uri, 0, num_bytes, None).data
    with open(uri, "rb") as file:
        return file.read(num_bytes)


def read_many(uris: list[str]) -> list[bytes]:
    """The contents of many small objects, in order, fetched concurrently."""
    with ThreadPoolExecutor(READ_THREADS) as pool:
        return list(pool.map(read_bytes, uris))


def write_bytes(uri: str, data: bytes) -> None:
    """Put an object whole or not at all, over whatever was there."""
    if is_s3(uri):
        _s3(uri, lambda s3, where: s3.put_object(**where, Body=data))
        return
    os.replace(_write_beside(uri, io.BytesIO(data), PUBLIC), uri)


def write_file(uri: str, path: Path) -> None:
    """`write_bytes` of a local file's content, without reading it into memory."""
    with path.open("rb") as file:
        if is_s3(uri):
            _s3(uri, lambda s3, where: s3.put_object(**where, Body=file))
        else:
            os.replace(_write_beside(uri, file, PUBLIC), uri)


def write_private(uri: str, data: bytes, *, kms_key_id: str | None = None) -> None:
    """`write_bytes` for what only its owner may read: mode 0600 on disk; on S3 under the key, where one is given."""
    if is_s3(uri):
        encryption = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": kms_key_id} if kms_key_id else {}
        _s3(uri, lambda s3, where: s3.put_object(**where, Body=data, **encryption))
        return
    os.replace(_write_beside(uri, io.BytesIO(data), PRIVATE), uri)


def create_bytes(uri: str, data: bytes) -> bool:
    """Put an object only where there is none; False where there was one. Of several writers, one gets True."""
    if is_s3(uri):
        return bool(_s3(uri, lambda s3, where: s3.put_object(**where, Body=data, IfNoneMatch="*"), exists=False))
    temporary = _write_beside(uri, io.BytesIO(data), PUBLIC)
    try:
        os.link(temporary, uri)  # unlike rename, fails where the name is taken
    except FileExistsError:
        return False
    finally:
        os.unlink(temporary)
    return True


def delete(uri: str) -> None:
    """Remove an object; no error where there is none."""
    if is_s3(uri):
        _s3(uri, lambda s3, where: s3.delete_object(**where))
    else:
        Path(uri).unlink(missing_ok=True)


def check_writable(uri: str) -> None:
    """Raises OutputError, naming the location and the fix, where nothing can be put there."""
    probe = join(uri, "_callmill", ".writable")
    try:
        write_bytes(probe, b"")
        delete(probe)
    except (OSError, RetryableError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise OutputError(
            f"output {uri}: cannot be written ({reason}); choose another --output or fix its permissions"
        ) from None


# ------------------------------------------------------------------------------------------------------------- local


def _list_local(root: str) -> Iterator[ObjectInfo]:
    if os.path.isfile(root):
        yield _local_info(root, os.stat(root))
        return
    yield from _walk(root)


def _walk(folder: str) -> Iterator[ObjectInfo]:
    try:
        with os.scandir(folder) as scan:
            entries = sorted(scan, key=lambda entry: entry.name + "/" * entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        try:
            if not entry.is_dir():
                yield _local_info(entry.path, entry.stat())
            elif not entry.is_symlink():
                yield from _walk(entry.path)
        except FileNotFoundError:
            continue  # gone between the listing and the look, or a dangling link


def _local_info(path: str, status: os.stat_result) -> ObjectInfo:
    return ObjectInfo(
        uri=path,
        size_bytes=status.st_size,
        version=f"{status.st_size}-{status.st_mtime_ns}",
        modified_unix_s=status.st_mtime,
    )


def _write_beside(path: str, source: BinaryIO, mode: int) -> str:
    """A complete, synced temporary file in the folder of `path`."""
    folder = os.path.dirname(path)
    os.makedirs(folder, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=".tmp-")
    with os.fdopen(handle, "wb") as file:
        shutil.copyfileobj(source, file)
        file.flush()
        os.fsync(file.fileno())
    os.chmod(temporary, mode)
    return temporary


# ---------------------------------------------------------------------------------------------------------------- S3


@functools.cache
def _client(process_id: int) -> Any:
    """One client per process: boto3's connections do not survive a fork."""
    import boto3
    import botocore.session
    from botocore.config import Config

    session: Any = botocore.session.get_session()
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_parse_time)
    retries: Any = {"mode": "adaptive", "max_attempts": MAX_ATTEMPTS}
    config = Config(retries=retries, max_pool_connections=READ_THREADS)
    return boto3.Session(botocore_session=session).client("s3", config=config)


def _parse_time(value: Any) -> datetime:
    """botocore's own way takes three quarters of the time of parsing a listing."""
    from botocore.utils import parse_timestamp

    try:
        return datetime.fromisoformat(value)
    except (TypeError, ValueError):  # a number, or a header's date
        return parse_timestamp(value)


def _bucket_key(uri: str) -> dict[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return {"Bucket": bucket, "Key": key}


def _s3(uri: str, call: Callable[[Any, dict[str, str]], Any], exists: Any = None) -> Any:
    """Run one S3 call, its errors in the terms of this module; `exists` is the answer to a failed IfNoneMatch."""
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

    try:
        return call(_client(os.getpid()), _bucket_key(uri))
    except ClientError as error:
        code = error.response["Error"]["Code"]
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        if status == 412 and exists is not None:
            return exists
        raise _translate(uri, code, status) from None
    except NoCredentialsError:
        raise PermissionError(13, "no S3 credentials; set AWS_PROFILE or AWS_ACCESS_KEY_ID", uri) from None
    except BotoCoreError as error:
        raise RetryableError(f"{uri}: {' '.join(str(error).split())}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Piece:
    """Some bytes of an object, the size of the whole, and the version they are of."""

    data: bytes
    total_bytes: int
    version: str


def _get(uri: str, start: int, num_bytes: int, version: str | None) -> _Piece:
    """At most `num_bytes` of an object from `start` on."""
    condition = {"IfMatch": f'"{version}"'} if version else {}

    def get(s3: Any, where: dict[str, str]) -> _Piece:
        ask = functools.partial(s3.get_object, Range=f"bytes={start}-{start + num_bytes - 1}", **where, **condition)
        answer, data = _read_body(ask)
        total_bytes = int(answer["ContentRange"].rpartition("/")[2]) if "ContentRange" in answer else len(data)
        return _Piece(data=data, total_bytes=total_bytes, version=answer["ETag"].strip('"'))

    try:
        piece: _Piece = _s3(uri, get)
        return piece
    except _EmptyError:
        return _Piece(data=b"", total_bytes=0, version="")


def _read_body(ask: Callable[[], Any]) -> tuple[Any, bytes]:
    """An answer and its body; asked for again where the body breaks off, which botocore leaves to its callers."""
    from botocore.exceptions import IncompleteReadError, ReadTimeoutError, ResponseStreamingError

    for attempt in range(MAX_ATTEMPTS - 1):
        answer = ask()
        try:
            return answer, answer["Body"].read()
        except (IncompleteReadError, ReadTimeoutError, ResponseStreamingError):
            time.sleep(random.uniform(0, PAUSE_S * 2**attempt))
    answer = ask()
    return answer, answer["Body"].read()


def _rest(uri: str, first: _Piece) -> Iterator[bytes]:
    """The parts of an object after its first, in order and of its version; read some parts ahead, in parallel."""
    ahead: deque[Future[_Piece]] = deque()
    try:
        for start in range(len(first.data), first.total_bytes, PART_BYTES):
            ahead.append(_part_readers(os.getpid()).submit(_get, uri, start, PART_BYTES, first.version))
            if len(ahead) == PART_THREADS:
                yield ahead.popleft().result().data
        while ahead:
            yield ahead.popleft().result().data
    finally:
        for part in ahead:
            part.cancel()


@functools.cache
def _part_readers(process_id: int) -> ThreadPoolExecutor:
    """One pool per process, so that however many objects are read at once, the parts under way are bounded."""
    return ThreadPoolExecutor(PART_THREADS, thread_name_prefix="s3-parts")


class _EmptyError(Exception):
    """A range was asked of an object that has no byte."""


def _translate(uri: str, code: str, status: int) -> Exception:
    if status == 412:
        return ChangedError(uri)
    if status == 416:
        return _EmptyError(uri)
    if status == 404:
        return FileNotFoundError(2, f"no such object ({code})", uri)
    if status in (401, 403):
        return PermissionError(13, f"access denied ({code})", uri)
    return RetryableError(f"{uri}: S3 answered {status} {code}")


def _list_s3(uri: str) -> Iterator[ObjectInfo]:
    where = _bucket_key(uri)
    bucket, prefix = where["Bucket"], where["Key"] + "/" if where["Key"] else ""

    def page_after(key: str) -> Page[ObjectInfo]:
        after = {"StartAfter": key} if key else {}
        page = _s3(uri, lambda s3, _: s3.list_objects_v2(Bucket=bucket, Prefix=prefix, **after))
        contents = page.get("Contents", [])
        return Page(
            keys=[item["Key"] for item in contents],
            items=[_s3_info(f"s3://{bucket}/{item['Key']}", item["Size"], item) for item in contents],
            is_last=not page["IsTruncated"],
        )

    listed = list_in_parallel(page_after, prefix, LIST_THREADS)
    return (info for info in listed if not info.uri.endswith("/"))


def _s3_info(uri: str, size_bytes: int, answer: Any) -> ObjectInfo:
    return ObjectInfo(
        uri=uri,
        size_bytes=size_bytes,
        version=answer["ETag"].strip('"'),
        modified_unix_s=answer["LastModified"].timestamp(),
    )
