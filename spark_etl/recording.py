"""A recording as it is stored, read piece by piece, so that its size is nobody's memory."""

import hashlib
import os
import tempfile
from types import TracebackType
from typing import BinaryIO, Self

from ray_jobs.errors import CallError

HASH_BYTES = 1 << 20


class Recording:
    """An open file; a context manager that closes it. Reading it leaves its position alone."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._opened = os.fstat(file.fileno())
        self.size_bytes = self._opened.st_size

    @classmethod
    def holding(cls, data: bytes) -> Self:
        """These bytes, in a file without a name."""
        file = tempfile.TemporaryFile()  # noqa: SIM115 - the recording closes it
        file.write(data)
        file.flush()
        return cls(file)

    def read(self, start: int, num_bytes: int) -> bytes:
        """The bytes from `start` on; fewer where the file ends before."""
        pieces: list[bytes] = []
        while num_bytes > 0 and (piece := os.pread(self.fileno(), num_bytes, start)):
            pieces.append(piece)
            start += len(piece)
            num_bytes -= len(piece)
        return b"".join(pieces)

    def sha256(self) -> bytes:
        """The digest of all its bytes."""
        digest = hashlib.sha256()
        for start in range(0, self.size_bytes, HASH_BYTES):
            digest.update(self.read(start, HASH_BYTES))
        return digest.digest()

    def check_unchanged(self) -> None:
        """Raises CallError `changed` where somebody has written to the file since it was opened."""
        now = os.fstat(self.fileno())
        if (now.st_size, now.st_mtime_ns) != (self._opened.st_size, self._opened.st_mtime_ns):
            raise CallError("changed", "the file was written to while it was read; the next run takes it as it is then")

    def fileno(self) -> int:
        return self._file.fileno()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()
