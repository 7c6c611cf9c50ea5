"""Recordings to samples: WAV and headerless ones by numpy, every other format by FFmpeg (through PyAV), in blocks.

`decode_pcm` reads the formats most recorders write with bounds-checked Python alone, so it can run anywhere;
`decode_ffmpeg` runs C code on bytes from outside and belongs in the helper process (`spark_etl.helper`).

Both give int16 at 8,000 Hz where that is the recording's rate, at 16,000 Hz else, and settle one question alike: how
much of the promised audio must be there. A header that promises nothing (0 or the field's maximum, as streaming
recorders write) is not believed, what follows is decoded. A header that promises more than there is may be off by one
second or one per cent, whichever is more; beyond that the call is `truncated`, because a transcript of half a call
that looks whole is worse than none.
"""

import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ray_jobs.errors import CallError
from ray_jobs.g711 import DECODED
from ray_jobs.records import RawCoding
from spark_etl.recording import Recording

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame

MAX_CHANNELS = 8
MAX_CHUNKS = 1000
MIN_RATE_HZ, MAX_RATE_HZ = 4000, 192_000
BLOCK_S = 30.0

_SLACK_S, _SLACK_SHARE = 1.0, 0.01
_DEMUXERS = "wav,w64,flac,mp3,ogg,mov,mp4,m4a,3gp,matroska,webm,aac,amr,gsm,au,aiff,caf"
_KEEPS_DURATION = frozenset({"flac", "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "caf", "aiff"})

Samples = npt.NDArray[np.int16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A stretch of a recording. `pcm`: int16, shape (num_channels, num_samples)."""

    sample_rate_hz: int
    pcm: Samples


@dataclass(frozen=True, slots=True, kw_only=True)
class WavHeader:
    """What a WAV file says of itself, checked. `num_frames` is what is there, at most what the header promises."""

    format_tag: int
    num_channels: int
    sample_rate_hz: int
    sample_bytes: int
    data_start: int
    num_frames: int

    @property
    def native(self) -> bool:
        """Whether `decode_pcm` reads it without resampling; FFmpeg has the rest (other codings and rates)."""
        return self.sample_rate_hz in (8000, 16000) and (self.format_tag, self.sample_bytes) in _TO_INT16


def output_rate_hz(sample_rate_hz: int) -> int:
    """8 kHz telephony stays as it is; everything else comes out at 16 kHz, what recognisers take."""
    return 8000 if sample_rate_hz == 8000 else 16000


def is_wav(recording: Recording) -> bool:
    head = recording.read(0, 12)
    return head[:4] in (b"RIFF", b"RF64") and head[8:] == b"WAVE"


def decode_pcm(recording: Recording, header: WavHeader) -> Iterator[Block]:
    """Blocks of a WAV file whose header is `native`, or of a headerless one with its `raw_header`; at least one.

    Raises CallError: `changed` where the file shrinks meanwhile, `empty` where it is too short for one sample.
    """
    blocks = _convert(recording, header)
    if not header.native:
        blocks = resample(blocks, output_rate_hz(header.sample_rate_hz))
    first = next(blocks, None)
    if first is None:
        raise CallError("empty", f"{header.num_frames} samples at {header.sample_rate_hz} Hz are none at 16,000 Hz")
    yield first
    yield from blocks


def raw_header(recording: Recording, raw: RawCoding) -> WavHeader:
    """What a header would say. Raises CallError `empty` where there is not one whole sample."""
    format_tag, sample_bytes = RAW_ENCODINGS[raw.encoding]
    num_frames = recording.size_bytes // (sample_bytes * raw.num_channels)
    if num_frames == 0:
        raise CallError("empty", "the file holds no whole sample")
    return WavHeader(
        format_tag=format_tag,
        num_channels=raw.num_channels,
        sample_rate_hz=raw.sample_rate_hz,
        sample_bytes=sample_bytes,
        data_start=0,
        num_frames=num_frames,
    )


def _convert(recording: Recording, header: WavHeader) -> Iterator[Block]:
    convert = _TO_INT16[header.format_tag, header.sample_bytes]
    frame_bytes = header.num_channels * header.sample_bytes
    block_frames = int(BLOCK_S * header.sample_rate_hz)
    for first in range(0, header.num_frames, block_frames):
        count = min(block_frames, header.num_frames - first)
        data = recording.read(header.data_start + first * frame_bytes, count * frame_bytes)
        if len(data) < count * frame_bytes:
            raise CallError("changed", "the file became shorter while it was read; the next run takes it as it is then")
        pcm = convert(np.frombuffer(data, np.uint8)).reshape(count, header.num_channels).T
        yield Block(sample_rate_hz=header.sample_rate_hz, pcm=np.ascontiguousarray(pcm))


def read_wav_header(recording: Recording) -> WavHeader:
    """Check a RIFF or RF64 file's chunks (Microsoft RIFF; EBU Tech 3306 for RF64).

    Raises CallError: `unreadable` where a chunk is missing or contradicts itself, `truncated` where audio is missing,
    `empty` where there is none, `unsupported_codec` for more than MAX_CHANNELS.
    """
    position, fmt, large_size = 12, None, None
    for _ in range(MAX_CHUNKS):
        chunk = recording.read(position, 8)
        if len(chunk) < 8:
            raise CallError("truncated" if fmt else "unreadable", "WAV file ends before its data chunk")
        name, size = chunk[:4], struct.unpack_from("<I", chunk, 4)[0]
        body = position + 8
        if name == b"ds64" and len(sizes := recording.read(body, 16)) == 16:
            large_size = struct.unpack_from("<Q", sizes, 8)[0]
        elif name == b"fmt ":
            fmt = _read_fmt(recording.read(body, min(size, 64)))
        elif name == b"data":
            if fmt is None:
                raise CallError("unreadable", "WAV file has no fmt chunk before its data")
            if size == 0xFFFFFFFF and large_size:
                return _measure(recording, fmt, body, large_size)
            # At and above: what recorders write that do not know the length yet.
            return _measure(recording, fmt, body, size if size < 0x7FFFF000 else 0)
        position = body + size + (size & 1)
    raise CallError("unreadable", f"WAV file with more than {MAX_CHUNKS} chunks before its audio")


def _read_fmt(chunk: bytes) -> tuple[int, int, int, int, int]:
    if len(chunk) < 16:
        raise CallError("unreadable", f"WAV fmt chunk of {len(chunk)} bytes; it takes 16")
    tag, num_channels, rate, byte_rate, _, bits = struct.unpack_from("<HHIIHH", chunk)
    if tag == 0xFFFE and len(chunk) >= 26:
        tag = struct.unpack_from("<H", chunk, 24)[0]
    if num_channels == 0 or not MIN_RATE_HZ <= rate <= MAX_RATE_HZ:
        raise CallError("unreadable", f"WAV header names {num_channels} channels at {rate} Hz")
    if num_channels > MAX_CHANNELS:
        raise CallError("unsupported_codec", f"{num_channels} channels; at most {MAX_CHANNELS} are taken")
    return tag, num_channels, rate, byte_rate, -(-bits // 8)


def _measure(recording: Recording, fmt: tuple[int, int, int, int, int], start: int, promised: int) -> WavHeader:
    tag, num_channels, rate, byte_rate, sample_bytes = fmt
    frame_bytes = num_channels * sample_bytes
    if (tag, sample_bytes) in _TO_INT16 or byte_rate == 0:
        byte_rate = rate * max(frame_bytes, 1)
    present = recording.size_bytes - start
    if present <= 0:
        raise CallError("empty" if promised == 0 else "truncated", "WAV file ends where its audio should start")
    if promised:
        check_length(present / byte_rate, promised / byte_rate)
        if not _more_audio_follows(recording, start + promised, byte_rate):
            present = min(present, promised)
    num_frames = present // frame_bytes if frame_bytes else 0
    if frame_bytes and num_frames == 0:
        raise CallError("empty", "WAV file holds no whole sample")
    return WavHeader(
        format_tag=tag,
        num_channels=num_channels,
        sample_rate_hz=rate,
        sample_bytes=sample_bytes,
        data_start=start,
        num_frames=num_frames,
    )


def _more_audio_follows(recording: Recording, end: int, byte_rate: int) -> bool:
    """Whether the data chunk goes on after its stated end: over a second of bytes there that are no RIFF chunk."""
    if recording.size_bytes - end < byte_rate * _SLACK_S:
        return False
    end += end & 1
    chunk = recording.read(end, 8)
    name, size = chunk[:4], int.from_bytes(chunk[4:], "little")
    is_name = name.isascii() and name.decode("ascii", "replace").isprintable()
    return not (is_name and end + 8 + size <= recording.size_bytes)


def check_length(present_s: float, promised_s: float) -> None:
    """Raise `truncated` where more is missing than the module's docstring allows."""
    if promised_s - present_s > max(_SLACK_S, _SLACK_SHARE * promised_s):
        raise CallError("truncated", f"{present_s:.1f} s of audio where the header promises {promised_s:.1f} s")


_BIG_ENDIAN = -1  # no format tag of a WAV file


def _from_float(samples: npt.NDArray[Any]) -> Samples:
    scaled: Samples = (np.nan_to_num(samples, nan=0.0).clip(-1.0, 32767 / 32768) * 32768).astype(np.int16)
    return scaled


_TO_INT16: dict[tuple[int, int], Callable[[npt.NDArray[np.uint8]], Samples]] = {
    # (format tag, bytes per sample): uint8 of the file's bytes to int16, one for one
    (1, 1): lambda raw: (raw.astype(np.int16) - 128) << 8,
    (1, 2): lambda raw: raw.view("<i2"),
    (1, 3): lambda raw: np.ascontiguousarray(raw.reshape(-1, 3)[:, 1:]).view("<i2")[:, 0],
    (1, 4): lambda raw: raw.view("<i2")[1::2],
    (3, 4): lambda raw: _from_float(raw.view("<f4")),
    (3, 8): lambda raw: _from_float(raw.view("<f8")),
    (6, 1): lambda raw: DECODED["alaw"][raw],
    (7, 1): lambda raw: DECODED["mulaw"][raw],
    (_BIG_ENDIAN, 2): lambda raw: raw.view(">i2").astype(np.int16),
}


RAW_ENCODINGS = {"mulaw": (7, 1), "alaw": (6, 1), "pcm_u8": (1, 1), "pcm_s16le": (1, 2), "pcm_s16be": (_BIG_ENDIAN, 2)}
"""The codings of headerless recordings, as format tag and bytes per sample."""


def raw_bytes_per_s(raw: RawCoding) -> int:
    return raw.sample_rate_hz * raw.num_channels * RAW_ENCODINGS[raw.encoding][1]


# ------------------------------------------------------------------------------------------------------------ FFmpeg


def decode_ffmpeg(recording: Recording, max_s: float) -> Iterator[Block]:
    """Blocks of any recording that FFmpeg's audio demuxers read, at most `max_s` seconds.

    Only audio containers are tried: playlists and other formats that open further files are not. Packets that do not
    decode are left out. Raises CallError: `unreadable`, `unsupported_codec`, `truncated`, `too_long`.
    """
    import av

    av.logging.set_level(av.logging.PANIC)
    if recording.read(4, 4) == b"ftyp" and not _has_index(recording):
        raise CallError("truncated", "MP4 file ends before its index")
    try:
        container = av.open(_Stream(recording), options={"format_whitelist": _DEMUXERS}, metadata_errors="replace")
    except (av.error.FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CallError("unreadable", f"not a recording in a known format ({reason})") from None
    with container:
        if not container.streams.audio:
            raise CallError("unreadable", f"a {container.format.name} file without an audio stream")
        stream = container.streams.audio[0]
        if stream.codec_context is None:
            raise CallError("unsupported_codec", f"{container.format.name} file in a coding FFmpeg has no decoder for")
        num_channels = stream.codec_context.channels
        if num_channels > MAX_CHANNELS:
            raise CallError("unsupported_codec", f"{num_channels} channels; at most {MAX_CHANNELS} are taken")
        if num_channels > 2:  # PyAV frees a layout of the file's own (AIFF, CAF, MP4) twice, so it may not see it
            stream.codec_context.layout = f"{num_channels}c"
        promised_s = _promised_s(container, recording)
        if promised_s > max_s:
            raise CallError("too_long", f"{promised_s:.0f} s; etl.max_call_s is {max_s:g} s")
        present_s = 0.0
        for block in _gather(_resampled(_frames(container, stream))):
            present_s += block.pcm.shape[1] / block.sample_rate_hz
            if present_s > max_s:
                raise CallError("too_long", f"longer than etl.max_call_s, {max_s:g} s")
            yield block
        if present_s == 0:
            raise CallError("unreadable", f"nothing in the {container.format.name} file could be decoded")
        check_length(present_s, promised_s)


class _Stream:
    """A recording as FFmpeg reads it, from a position of its own."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._position = 0

    def read(self, num_bytes: int) -> bytes:
        data = self._recording.read(self._position, num_bytes)
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._recording.size_bytes}[whence]
        self._position = max(0, origin + offset)
        return self._position

    def tell(self) -> int:
        return self._position


def _has_index(recording: Recording) -> bool:
    """Whether an MP4 file's boxes (ISO/IEC 14496-12) go on to its index, `moov`."""
    position = 0
    for _ in range(MAX_CHUNKS):
        head = recording.read(position, 16)
        size, name = int.from_bytes(head[:4], "big"), head[4:8]
        if name == b"moov" or len(head) < 8:
            return name == b"moov"
        if size == 1:
            size = int.from_bytes(head[8:], "big")
        if size < 8:
            return False
        position += size
    return False


def _promised_s(container: Any, recording: Recording) -> float:
    """How long the file says it is, where its format has a field for that; else 0, and FFmpeg only estimates."""
    name = container.format.name
    has_field = name in _KEEPS_DURATION or (
        name == "mp3" and any(tag in recording.read(0, 4096) for tag in (b"Xing", b"Info"))
    )
    return float(container.duration or 0) / 1e6 if has_field else 0.0


def _frames(container: Any, stream: Any) -> "Iterator[AudioFrame]":
    import av

    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, av.error.FFmpegError):
            return
        try:
            yield from packet.decode()
        except av.error.FFmpegError:
            continue


def resample(blocks: Iterator[Block], rate_hz: int) -> Iterator[Block]:
    """The same sound at another rate, in blocks of about BLOCK_S. FFmpeg does it, on samples that are ours."""
    return _gather(_resampled(map(_frame, blocks), rate_hz))


def _frame(block: Block) -> "AudioFrame":
    import av

    num_channels = len(block.pcm)
    layout = {1: "mono", 2: "stereo"}.get(num_channels, f"{num_channels}c")
    interleaved = np.ascontiguousarray(block.pcm.T).reshape(1, -1)
    frame = av.AudioFrame.from_ndarray(interleaved, format="s16", layout=layout)
    frame.sample_rate = block.sample_rate_hz
    return frame


def _resampled(frames: "Iterator[AudioFrame]", rate: int = 0) -> Iterator[Block]:
    """Frames as int16 at `rate` in Hz, or the output rate of the first; a stream that changes its form midway keeps
    the form it began with."""
    import av

    resampler: av.AudioResampler | None = None
    source = layout = None

    def blocks(frame: "AudioFrame | None") -> Iterator[Block]:
        for out in resampler.resample(frame) if resampler else ():
            # Interleaved: PyAV reads past the end of a frame of eight planes.
            pcm = out.to_ndarray().reshape(-1, out.layout.nb_channels).T
            yield Block(sample_rate_hz=rate, pcm=pcm.astype(np.int16, copy=False))

    for frame in frames:
        if not MIN_RATE_HZ <= frame.sample_rate <= MAX_RATE_HZ:
            raise CallError("unreadable", f"a sample rate of {frame.sample_rate} Hz")
        form = frame.format.name, frame.layout.name, frame.sample_rate
        if form != source:
            yield from blocks(None)
            layout, rate = layout or frame.layout, rate or output_rate_hz(frame.sample_rate)
            resampler, source = av.AudioResampler(format="s16", layout=layout, rate=rate), form
        frame.pts = None
        yield from blocks(frame)
    yield from blocks(None)


def _gather(blocks: Iterator[Block]) -> Iterator[Block]:
    """The same samples in blocks of about BLOCK_S."""
    held: list[Block] = []
    num_samples = 0
    for block in blocks:
        held.append(block)
        num_samples += block.pcm.shape[1]
        if num_samples >= BLOCK_S * block.sample_rate_hz:
            yield _join(held)
            held, num_samples = [], 0
    if num_samples:
        yield _join(held)


def _join(blocks: list[Block]) -> Block:
    pcm = np.concatenate([block.pcm for block in blocks], axis=1)
    return Block(sample_rate_hz=blocks[0].sample_rate_hz, pcm=pcm)
