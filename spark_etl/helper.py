"""A process of its own for decoders written in C: what kills or hangs it costs one recording, not the executor.

`Decoder` lives in the worker and starts the process when it is first needed; `serve` is the process. They speak over
the process's standard input and output: a job is two numbers and the recording's bytes, the answer is blocks of
samples, then an end or a CallError. A process that died or ran over its time is replaced at the next recording.
It is a plain subprocess and not multiprocessing's, because Spark forks its Python workers from a daemon whose main
module must not be imported again.
"""

import os
import pickle
import resource
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np

from ray_jobs.errors import CallError
from spark_etl.decode import Block, decode_ffmpeg, decode_wav, is_wav, read_wav_header

MEMORY_LIMIT_BYTES = 4 << 30
"""Address space of the process; FFmpeg's allocations fail beyond it, and with them one recording."""

_SERVE = "from spark_etl.helper import serve; serve()"
_JOB = struct.Struct("<dQ")  # longest audio in seconds, bytes of the recording
_BLOCK = struct.Struct("<cIIQ")  # kind, sample rate, channels, samples per channel (kind E: bytes of a pickled error)


class Decoder:
    """Decodes recordings one after the other; a context manager that ends its process."""

    def __init__(self, *, max_s: float, timeout_s: float) -> None:
        self._max_s = max_s
        self._timeout_s = timeout_s
        self._process: subprocess.Popen[bytes] | None = None

    def decode(self, data: bytes) -> Iterator[Block]:
        """The recording's blocks in order, at least one.

        Raises CallError with one of the codes empty, unreadable, truncated, unsupported_codec, too_long,
        decoder_crashed, timeout; some come only after blocks have been given.
        """
        if not data:
            raise CallError("empty", "the file has no bytes")
        header = read_wav_header(data) if is_wav(data) else None
        if header is None or not header.native:
            yield from self._decode_apart(data)
            return
        duration_s = header.num_frames / header.sample_rate_hz
        if duration_s > self._max_s:
            raise CallError("too_long", f"{duration_s:.0f} s; etl.max_call_s is {self._max_s:g} s")
        yield from decode_wav(data, header)

    def _decode_apart(self, data: bytes) -> Iterator[Block]:
        process = self._process = self._running()
        deadline = time.monotonic() + self._timeout_s
        alarm = threading.Timer(self._timeout_s, process.kill)
        alarm.start()
        answered = False
        try:
            yield from _ask(process, data, self._max_s)
            answered = True
        except CallError:
            answered = True
            raise
        except (EOFError, BrokenPipeError):
            if time.monotonic() < deadline:
                raise CallError("decoder_crashed", f"the decoder ended with status {process.wait()}") from None
            reason = f"not decoded within etl.file_timeout_s = {self._timeout_s:g} s"
            raise CallError("timeout", reason) from None
        finally:
            alarm.cancel()
            if not answered:  # the process is dead, or amid an answer that nobody reads
                self.close()

    def _running(self) -> "subprocess.Popen[bytes]":
        if self._process is not None and self._process.poll() is None:
            return self._process
        self.close()
        root = str(Path(__file__).resolve().parent.parent)
        path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        return subprocess.Popen(
            [sys.executable, "-c", _SERVE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
        )

    def close(self) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        process.kill()
        process.communicate()

    def __enter__(self) -> "Decoder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _ask(process: "subprocess.Popen[bytes]", data: bytes, max_s: float) -> Iterator[Block]:
    """Send one job and yield its blocks. Raises the CallError it ends in, EOFError where the process dies."""
    jobs, answers = _pipes(process)
    jobs.write(_JOB.pack(max_s, len(data)))
    jobs.write(data)
    jobs.flush()
    while True:
        kind, rate_hz, num_channels, size = _BLOCK.unpack(_read(answers, _BLOCK.size))
        if kind == b".":
            return
        if kind == b"E":
            raise pickle.loads(_read(answers, size))
        pcm = np.frombuffer(_read(answers, size * num_channels * 2), np.int16)
        yield Block(sample_rate_hz=rate_hz, pcm=pcm.reshape(num_channels, size))


def _pipes(process: "subprocess.Popen[bytes]") -> tuple[IO[bytes], IO[bytes]]:
    assert process.stdin is not None
    assert process.stdout is not None
    return process.stdin, process.stdout


def serve() -> None:
    """Answer jobs from standard input until it closes."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    jobs, answers = sys.stdin.buffer, sys.stdout.buffer
    while True:
        try:
            max_s, size = _JOB.unpack(_read(jobs, _JOB.size))
            data = _read(jobs, size)
        except EOFError:
            return
        _answer(data, max_s, answers)
        answers.flush()


def _answer(data: bytes, max_s: float, answers: IO[bytes]) -> None:
    try:
        for block in decode_ffmpeg(data, max_s):
            num_channels, num_samples = block.pcm.shape
            answers.write(_BLOCK.pack(b"B", block.sample_rate_hz, num_channels, num_samples))
            answers.write(np.ascontiguousarray(block.pcm).data)
        answers.write(_BLOCK.pack(b".", 0, 0, 0))
    except CallError as error:
        _send_error(error, answers)
    except MemoryError:
        _send_error(CallError("unreadable", "decoding it takes more memory than the decoder may use"), answers)
    except Exception as error:  # PyAV raises many kinds on broken files; none may end the process
        reason = " ".join(str(error).split())[:200]
        _send_error(CallError("unreadable", f"{type(error).__name__}: {reason}"), answers)


def _send_error(error: CallError, answers: IO[bytes]) -> None:
    pickled = pickle.dumps(error)
    answers.write(_BLOCK.pack(b"E", 0, 0, len(pickled)))
    answers.write(pickled)


def _read(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data
