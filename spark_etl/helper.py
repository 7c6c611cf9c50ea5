"""A process of its own for decoders written in C: what kills or hangs it costs one recording, not the executor.

`Decoder` lives in the worker and starts the process when it is first needed; `serve` is the process. A job goes to its
standard input, a socket: a number, and the recording's open file. The answer comes from its standard output: blocks of
samples, then an end or a CallError. A process that died or ran over its time is replaced at the next recording.
It is a plain subprocess and not multiprocessing's, because Spark forks its Python workers from a daemon whose main
module must not be imported again.
"""

import os
import pickle
import resource
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np

from ray_jobs.errors import CallError
from ray_jobs.records import RawCoding
from spark_etl.decode import Block, WavHeader, decode_ffmpeg, decode_pcm, is_wav, raw_header, read_wav_header
from spark_etl.recording import Recording

MEMORY_LIMIT_BYTES = 4 << 30
"""Address space of the process; FFmpeg's allocations fail beyond it, and with them one recording."""

_SERVE = "from spark_etl.helper import serve; serve()"
_JOB = struct.Struct("<d")  # longest audio in seconds; the recording's descriptor goes with it
_BLOCK = struct.Struct("<cIIQ")  # kind, sample rate, channels, samples per channel (kind E: bytes of a pickled error)


class Decoder:
    """Decodes recordings one after the other; a context manager that ends its process."""

    def __init__(self, *, max_s: float, timeout_s: float) -> None:
        self._max_s = max_s
        self._timeout_s = timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._jobs: socket.socket | None = None

    def decode(self, recording: Recording, raw: RawCoding | None = None) -> Generator[Block, None, None]:
        """The recording's blocks in order, at least one; `raw` says how to read one that has no header.

        Whoever does not read to the end closes the generator before the next recording.
        Raises CallError with one of the codes empty, unreadable, truncated, unsupported_codec, too_long, changed,
        decoder_crashed, timeout; some come only after blocks have been given.
        """
        if not recording.size_bytes:
            raise CallError("empty", "the file has no bytes")
        header = _header(recording, raw)
        if header is None:
            yield from self._decode_apart(recording)
            return
        duration_s = header.num_frames / header.sample_rate_hz
        if duration_s > self._max_s:
            raise CallError("too_long", f"{duration_s:.0f} s; etl.max_call_s is {self._max_s:g} s")
        yield from decode_pcm(recording, header)

    def _decode_apart(self, recording: Recording) -> Iterator[Block]:
        process, jobs = self._running()
        deadline = time.monotonic() + self._timeout_s
        alarm = threading.Timer(self._timeout_s, process.kill)
        alarm.start()
        answered = False
        try:
            yield from _ask(process, jobs, recording, self._max_s)
            answered = True
        except CallError:
            answered = True
            raise
        except (EOFError, BrokenPipeError, ConnectionResetError):
            if time.monotonic() < deadline:
                raise CallError("decoder_crashed", f"the decoder ended with status {process.wait()}") from None
            reason = f"not decoded within etl.file_timeout_s = {self._timeout_s:g} s"
            raise CallError("timeout", reason) from None
        finally:
            alarm.cancel()
            if not answered:  # the process is dead, or amid an answer that nobody reads
                self.close()

    def _running(self) -> "tuple[subprocess.Popen[bytes], socket.socket]":
        if self._process is not None and self._jobs is not None and self._process.poll() is None:
            return self._process, self._jobs
        self.close()
        root = str(Path(__file__).resolve().parent.parent)
        path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        self._jobs, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _SERVE],
                stdin=theirs.fileno(),
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": path},
            )
        return self._process, self._jobs

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        if self._jobs is not None:
            self._jobs.close()
        self._process = self._jobs = None

    def __enter__(self) -> "Decoder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _header(recording: Recording, raw: RawCoding | None) -> WavHeader | None:
    """What `decode_pcm` needs, None where FFmpeg has to do it. A WAV file is one whatever its name."""
    if not is_wav(recording):
        return raw_header(recording, raw) if raw else None
    header = read_wav_header(recording)
    return header if header.native else None


def _ask(
    process: "subprocess.Popen[bytes]", jobs: socket.socket, recording: Recording, max_s: float
) -> Iterator[Block]:
    """Send one job and yield its blocks. Raises the CallError it ends in, EOFError where the process dies."""
    assert process.stdout is not None
    answers = process.stdout
    socket.send_fds(jobs, [_JOB.pack(max_s)], [recording.fileno()])
    while True:
        kind, rate_hz, num_channels, size = _BLOCK.unpack(_read(answers, _BLOCK.size))
        if kind == b".":
            return
        if kind == b"E":
            raise pickle.loads(_read(answers, size))
        pcm = np.frombuffer(_read(answers, size * num_channels * 2), np.int16)
        yield Block(sample_rate_hz=rate_hz, pcm=pcm.reshape(num_channels, size))


def serve() -> None:
    """Answer jobs from standard input until it closes."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = sys.stdout.buffer
    with socket.socket(fileno=sys.stdin.fileno()) as jobs:
        while True:
            job, descriptors, _, _ = socket.recv_fds(jobs, _JOB.size, 1)
            if not job:
                return
            with Recording(os.fdopen(descriptors[0], "rb")) as recording:
                (max_s,) = _JOB.unpack(job)
                _answer(recording, max_s, answers)
            answers.flush()


def _answer(recording: Recording, max_s: float, answers: IO[bytes]) -> None:
    try:
        for block in decode_ffmpeg(recording, max_s):
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
