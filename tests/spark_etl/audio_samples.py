"""Recordings for the ETL's tests: real speech from the sample calls, in every format, sound or spoilt."""

import io
import struct
import wave
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

SAMPLE_CALLS = Path(__file__).resolve().parents[1] / "data" / "sample_calls"

Samples = npt.NDArray[np.int16]


@lru_cache
def call_8khz() -> Samples:
    """Sample call 03, 8 kHz: int16, shape (2, num_samples); agent turns at 0.5-4.0 s, the customer's at 4.5-9.3 s."""
    with wave.open(str(SAMPLE_CALLS / "03_internet_outage.wav")) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2).T


def speech(seconds: float = 4.0, *, sample_rate_hz: int = 8000, num_channels: int = 1) -> Samples:
    """Real speech from the first second on: int16, shape (num_channels, num_samples). Channels are alike."""
    mono = call_8khz()[0, : int(min(seconds, 50) * 8000)]
    times = np.arange(int(seconds * sample_rate_hz)) / sample_rate_hz * 8000
    resampled = np.interp(times, np.arange(len(mono)), mono).astype(np.int16)
    return np.tile(resampled, (num_channels, 1))


def noise(seconds: float, *, sample_rate_hz: int = 8000, num_channels: int = 1, rms: float = 30.0) -> Samples:
    """Line noise: int16, shape (num_channels, num_samples)."""
    shape = (num_channels, int(seconds * sample_rate_hz))
    return np.random.default_rng(0).normal(0, rms, shape).astype(np.int16)


def wav(
    pcm: Samples,
    sample_rate_hz: int = 8000,
    *,
    format_tag: int = 1,
    bits: int = 16,
    data_size: int | None = None,
    riff: bytes = b"RIFF",
    extensible: bool = False,
    trailer: bytes = b"",
) -> bytes:
    """A WAV file, header by hand. `data_size` is what the header says where that is not the truth."""
    num_channels = len(pcm)
    body = _encode_wav(pcm.T.reshape(-1), format_tag, bits)
    size = len(body) if data_size is None else data_size
    align = num_channels * bits // 8
    tag = 0xFFFE if extensible else format_tag
    fmt = struct.pack("<HHIIHH", tag, num_channels, sample_rate_hz, sample_rate_hz * align, align, bits)
    if extensible:
        guid_tail = bytes.fromhex("000000001000800000aa00389b71")
        fmt += struct.pack("<HHIH", 22, bits, 0, format_tag) + guid_tail
    chunks = b"fmt " + struct.pack("<I", len(fmt)) + fmt
    if riff == b"RF64":
        chunks = b"ds64" + struct.pack("<IQQQI", 28, 0, size, 0, 0) + chunks
        size = 0xFFFFFFFF
    chunks += b"data" + struct.pack("<I", size) + body + trailer
    return riff + struct.pack("<I", min(4 + len(chunks), 0xFFFFFFFF)) + b"WAVE" + chunks


def _encode_wav(samples: Samples, format_tag: int, bits: int) -> bytes:
    if format_tag == 3:
        return (samples / 32768).astype(f"<f{bits // 8}").tobytes()
    if format_tag in (6, 7):
        return _encode_raw(samples, "pcm_alaw" if format_tag == 6 else "pcm_mulaw")
    if bits == 8:
        return ((samples >> 8) + 128).astype(np.uint8).tobytes()
    wide = samples.astype("<i4") << 16
    return wide.view(np.uint8).reshape(-1, 4)[:, 4 - bits // 8 :].tobytes()


def _encode_raw(samples: Samples, codec: str) -> bytes:
    """G.711 by FFmpeg, so that our decoder is not checked against itself."""
    encoder = av.CodecContext.create(codec, "w")
    encoder.sample_rate, encoder.layout, encoder.format = 8000, "mono", "s16"
    frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
    frame.sample_rate = 8000
    return b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])


FORMATS = {
    # name: container, codec, sample rate
    "flac": ("flac", "flac", 16000),
    "mp3": ("mp3", "libmp3lame", 16000),
    "mp3_44100": ("mp3", "libmp3lame", 44100),
    "opus": ("ogg", "libopus", 48000),
    "vorbis": ("ogg", "vorbis", 16000),
    "m4a": ("mp4", "aac", 16000),
    "adts": ("adts", "aac", 8000),
    "webm": ("webm", "libopus", 48000),
    "amr_nb": ("amr", "libopencore_amrnb", 8000),
    "adpcm_ms": ("wav", "adpcm_ms", 8000),
    "adpcm_ima": ("wav", "adpcm_ima_wav", 8000),
    "amr_3gp": ("3gp", "libopencore_amrnb", 8000),
    "mka": ("matroska", "libopus", 48000),
    "caf": ("caf", "pcm_s16be", 8000),
    "aiff": ("aiff", "pcm_s16be", 11025),
    "au": ("au", "pcm_mulaw", 8000),
    "wav_44100": ("wav", "pcm_s16le", 44100),
    "wav_48000_24": ("wav", "pcm_s24le", 48000),
    "w64": ("w64", "pcm_s16le", 8000),
    "wav_8000": ("wav", "pcm_s16le", 8000),
}
"""What FFmpeg can write for us; AMR-WB and GSM 6.10 it only reads."""


def encoded(name: str, seconds: float = 4.0, *, num_channels: int = 1, options: dict[str, str] | None = None) -> bytes:
    """Speech in one of FORMATS; `options` are those of FFmpeg's muxer."""
    container_name, codec, rate = FORMATS[name]
    layout = {1: "mono", 2: "stereo", 8: "7.1"}.get(num_channels, f"{num_channels}c")
    pcm = speech(seconds, sample_rate_hz=rate, num_channels=num_channels)
    file = io.BytesIO()
    with av.open(file, "w", format=container_name, options=options or {}) as container:
        # FFmpeg's own Vorbis encoder counts as experimental.
        stream = container.add_stream(codec, rate=rate, layout=layout, options={"strict": "experimental"})
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(pcm.T).reshape(1, -1), format="s16", layout=layout)
        frame.sample_rate = rate
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def gsm_wav() -> bytes:
    """GSM 6.10 in WAV as Microsoft lays it out, 65 bytes for 320 samples, 50 times; any bits are a sound."""
    body = np.random.default_rng(0).integers(0, 256, 65 * 50, np.uint8).tobytes()
    fmt = struct.pack("<HHIIHHHH", 0x31, 1, 8000, 1625, 65, 0, 2, 320)
    chunks = b"fmt " + struct.pack("<I", len(fmt)) + fmt + b"data" + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def gsm() -> bytes:
    """Four seconds of GSM 6.10 without a container; any bits are a sound."""
    return b"".join(b"\xd0" + frame.tobytes() for frame in np.tile(_frames(), (4, 1)))


def amr_wb() -> bytes:
    """A second of AMR-WB; any bits are a sound."""
    return b"#!AMR-WB\n" + b"".join(b"\x04" + frame[:17].tobytes() for frame in _frames())


def _frames() -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (50, 32), np.uint8)
