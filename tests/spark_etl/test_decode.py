"""Decoding: every format comes out as the same speech, every spoilt file as a CallError that says what is wrong."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from ray_jobs.errors import CallError
from ray_jobs.records import RawCoding
from spark_etl import helper
from spark_etl.decode import Block, read_wav_header
from spark_etl.helper import Decoder
from spark_etl.recording import Recording
from tests.spark_etl.audio_samples import (
    FORMATS,
    SAMPLE_CALLS,
    Samples,
    amr_wb,
    call_8khz,
    encoded,
    gsm,
    gsm_wav,
    noise,
    speech,
    wav,
)


@pytest.fixture(scope="module")
def decoder():
    with Decoder(max_s=600, timeout_s=60) as decoder:
        yield decoder


def decoded(decoder: Decoder, data: bytes, raw: RawCoding | None = None) -> tuple[int, Samples]:
    blocks = list(decoder.decode(Recording.holding(data), raw))
    return blocks[0].sample_rate_hz, np.concatenate([block.pcm for block in blocks], axis=1)


def failure(decoder: Decoder, data: bytes, raw: RawCoding | None = None) -> str:
    with pytest.raises(CallError) as caught:
        list(decoder.decode(Recording.holding(data), raw))
    assert "\n" not in caught.value.reason
    return caught.value.code


def is_speech(pcm: Samples, sample_rate_hz: int) -> bool:
    """Whether it is `speech()`: its loudness in steps of 50 ms correlates, at a codec's delay of up to 250 ms."""
    got, wanted = envelope(pcm, sample_rate_hz), envelope(speech(4.0), 8000)
    length = min(len(got), len(wanted)) - 6
    return max(np.corrcoef(got[late : late + length], wanted[:length])[0, 1] for late in range(6)) > 0.85


def envelope(pcm: Samples, sample_rate_hz: int) -> npt.NDArray[np.float64]:
    hop = sample_rate_hz // 20
    steps = pcm.shape[1] // hop
    return np.abs(pcm[0, : steps * hop].astype(float)).reshape(steps, hop).mean(axis=1)


class TestWav:
    @pytest.mark.parametrize("extensible", [False, True])
    @pytest.mark.parametrize(
        ("format_tag", "bits", "worst"),
        [(1, 8, 256), (1, 16, 0), (1, 24, 0), (1, 32, 0), (3, 32, 1), (3, 64, 1), (6, 8, 1024), (7, 8, 1024)],
        ids=["pcm8", "pcm16", "pcm24", "pcm32", "float32", "float64", "a_law", "mu_law"],
    )
    def test_every_coding_gives_the_samples_back(self, decoder, format_tag, bits, worst, extensible):
        pcm = call_8khz()[:, :16000]
        rate, result = decoded(decoder, wav(pcm, format_tag=format_tag, bits=bits, extensible=extensible))
        assert rate == 8000
        assert result.dtype == np.int16
        assert result.shape == pcm.shape
        assert np.abs(result.astype(int) - pcm).max() <= worst

    @pytest.mark.parametrize("num_channels", range(1, 9))
    def test_one_to_eight_channels(self, decoder, num_channels):
        pcm = noise(1.0, num_channels=num_channels)
        assert np.array_equal(decoded(decoder, wav(pcm))[1], pcm)

    @pytest.mark.parametrize(
        ("rate", "expected"),
        [(8000, 8000), *[(rate, 16000) for rate in (11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)]],
    )
    def test_8_khz_stays_and_all_else_becomes_16_khz(self, decoder, rate, expected):
        result_rate, result = decoded(decoder, wav(speech(3.0, sample_rate_hz=rate, num_channels=2), rate))
        assert result_rate == expected
        assert result.shape[1] == pytest.approx(3.0 * expected, rel=0.001)
        assert is_speech(result, result_rate)

    def test_48_khz_with_six_channels_keeps_them_apart(self, decoder):
        pcm = np.zeros((6, 96000), np.int16)
        pcm[4] = speech(2.0, sample_rate_hz=48000)[0]
        rate, result = decoded(decoder, wav(pcm, 48000))
        assert (rate, len(result)) == (16000, 6)
        assert is_speech(result[4:5], rate)
        assert not np.delete(result, 4, axis=0).any()

    def test_rf64(self, decoder):
        pcm = speech(2.0)
        assert np.array_equal(decoded(decoder, wav(pcm, riff=b"RF64"))[1], pcm)

    def test_rf64_as_ffmpeg_writes_it(self, decoder):
        pcm = speech(2.0, num_channels=2)
        data = encoded("wav_8000", 2.0, num_channels=2, options={"rf64": "always"})
        assert data[:4] == b"RF64"
        assert np.array_equal(decoded(decoder, data)[1], pcm)

    @pytest.mark.parametrize("missing", [0, 1 << 30])
    def test_more_than_4_gib_are_read_as_they_are_asked_for(self, tmp_path, missing):
        """Ten days of G.711, without the disk for it: the length is in a 64-bit field, and is believed."""
        size = 9 << 30
        data = wav(noise(1.0), format_tag=7, bits=8, riff=b"RF64", data_size=size)
        path = tmp_path / "large.wav"
        path.write_bytes(data)
        os.truncate(path, len(data) - 8000 + size - missing)
        with Recording(path.open("rb")) as recording, Decoder(max_s=size / 8000, timeout_s=60) as decoder:
            if missing:
                with pytest.raises(CallError, match="truncated"):
                    next(decoder.decode(recording))
            else:
                assert read_wav_header(recording).num_frames == size
                assert next(decoder.decode(recording)).pcm.shape == (1, 240_000)

    def test_a_file_of_nothing_but_chunks_is_given_up(self, decoder):
        assert failure(decoder, wav(speech(1.0))[:12] + bytes(1 << 20)) == "unreadable"

    def test_unusual_chunks_around_the_audio_are_passed_over(self, decoder):
        pcm = speech(2.0)
        data = wav(pcm, trailer=b"LIST" + (40_000).to_bytes(4, "little") + bytes(40_000))
        data = data[:12] + b"junk\x03\x00\x00\x00abc\x00" + data[12:]
        assert np.array_equal(decoded(decoder, data)[1], pcm)


class TestHeadersThatLie:
    pcm = speech(4.0)

    @pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFFFFF])
    def test_a_length_that_was_never_filled_in_is_not_believed(self, decoder, size):
        assert np.array_equal(decoded(decoder, wav(self.pcm, data_size=size))[1], self.pcm)

    def test_up_to_a_second_may_be_missing(self, decoder):
        assert decoded(decoder, wav(self.pcm)[:-14_000])[1].shape[1] == 32_000 - 7_000

    def test_more_is_truncated(self, decoder):
        assert failure(decoder, wav(self.pcm)[:-18_000]) == "truncated"
        assert failure(decoder, wav(self.pcm, data_size=10 * self.pcm.nbytes)) == "truncated"

    def test_audio_beyond_a_length_that_is_too_small_is_kept(self, decoder):
        assert np.array_equal(decoded(decoder, wav(self.pcm, data_size=1000))[1], self.pcm)

    def test_a_cut_inside_the_header_is_truncated_or_unreadable(self, decoder):
        data = wav(self.pcm)
        codes = {failure(decoder, data[:size]) for size in range(1, 44)}
        assert codes == {"unreadable", "truncated"}
        assert failure(decoder, data[:44]) == "truncated"

    def test_no_audio_is_empty(self, decoder):
        assert failure(decoder, wav(self.pcm[:, :0])) == "empty"
        assert failure(decoder, b"") == "empty"

    def test_nine_channels_are_refused_by_name(self, decoder):
        assert failure(decoder, wav(noise(0.5, num_channels=9))) == "unsupported_codec"

    @pytest.mark.parametrize("size", [0, 1, 15, 2**31])
    def test_a_format_chunk_of_a_wrong_size_is_unreadable(self, decoder, size):
        data = bytearray(wav(self.pcm))
        data[16:20] = size.to_bytes(4, "little")
        assert failure(decoder, bytes(data)) in {"unreadable", "truncated"}

    @pytest.mark.parametrize("rate", [0, 1, 3_000_000_000])
    def test_absurd_rates_are_unreadable(self, decoder, rate):
        data = bytearray(wav(self.pcm))
        data[24:28] = rate.to_bytes(4, "little")
        assert failure(decoder, bytes(data)) == "unreadable"


class TestOtherFormats:
    @pytest.mark.parametrize("name", FORMATS)
    def test_speech_survives(self, decoder, name):
        num_channels = 1 if "amr" in FORMATS[name][1] else 2
        rate, result = decoded(decoder, encoded(name, num_channels=num_channels))
        assert rate == (8000 if FORMATS[name][2] == 8000 else 16000)
        assert len(result) == num_channels
        assert result.shape[1] / rate == pytest.approx(4.0, abs=0.3)
        assert is_speech(result, rate)

    @pytest.mark.parametrize("name", ["flac", "wav_48000_24", "opus", "m4a", "aiff", "w64"])
    def test_eight_channels(self, decoder, name):
        rate, result = decoded(decoder, encoded(name, num_channels=8))
        assert (len(result), rate) == (8, 8000 if name == "w64" else 16000)
        assert result.any(axis=1).all()

    def test_gsm_610(self, decoder):
        rate, result = decoded(decoder, gsm_wav())
        assert (rate, result.shape) == (8000, (1, 50 * 320))
        assert result.any()

    def test_raw_gsm_and_amr_wb(self, decoder):
        assert [(rate, pcm.shape) for rate, pcm in (decoded(decoder, gsm()), decoded(decoder, amr_wb()))] == [
            (8000, (1, 200 * 160)),
            (16000, (1, 50 * 320)),
        ]

    def test_a_coding_without_a_decoder_is_named(self, decoder):
        data = bytearray(wav(speech(2.0)))
        data[20:22] = b"\x34\x12"
        assert failure(decoder, bytes(data)) == "unsupported_codec"

    @pytest.mark.parametrize("name", ["flac", "mp3", "webm", "m4a", "aiff"])
    def test_half_a_file_is_truncated(self, decoder, name):
        data = encoded(name, num_channels=2)
        assert failure(decoder, data[: len(data) // 2]) == "truncated"

    @pytest.mark.parametrize(
        "data",
        [
            b"this is no recording, whatever its name says\n" * 100,
            b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n",
            b"ffconcat version 1.0\nfile /etc/hostname\n",
            bytes(5000),
            b"\x89PNG\r\n\x1a\n" + bytes(500),
        ],
        ids=["text", "playlist", "concat", "zeros", "picture"],
    )
    def test_what_is_no_audio_is_unreadable(self, decoder, data):
        assert failure(decoder, data) == "unreadable"

    def test_the_sample_calls_decode_to_their_stated_length(self, decoder):
        for path in sorted(SAMPLE_CALLS.glob("0*.*")):
            if path.suffix != ".json":
                rate, pcm = decoded(decoder, path.read_bytes())
                stated = path.with_suffix(".json").read_text().split('"duration_s": ')[1].split(",")[0]
                assert pcm.shape[1] / rate == pytest.approx(float(stated), abs=0.1), path.name


class TestRaw:
    @pytest.mark.parametrize(
        ("encoding", "format_tag", "bits", "worst"),
        [("mulaw", 7, 8, 1024), ("alaw", 6, 8, 1024), ("pcm_u8", 1, 8, 256), ("pcm_s16le", 1, 16, 0)],
    )
    def test_a_headerless_recording_is_what_the_spec_says(self, decoder, encoding, format_tag, bits, worst):
        pcm = call_8khz()[:, :16_000]
        data = wav(pcm, format_tag=format_tag, bits=bits)[44:]
        rate, result = decoded(decoder, data, RawCoding(encoding=encoding, sample_rate_hz=8000, num_channels=2))
        assert (rate, result.shape) == (8000, pcm.shape)
        assert np.abs(result.astype(int) - pcm).max() <= worst

    def test_big_endian_samples(self, decoder):
        pcm = speech(2.0)
        raw = RawCoding(encoding="pcm_s16be", sample_rate_hz=8000, num_channels=1)
        assert np.array_equal(decoded(decoder, pcm.astype(">i2").tobytes(), raw)[1], pcm)

    @pytest.mark.parametrize("rate", [11_025, 44_100, 48_000])
    def test_other_rates_become_16_khz(self, decoder, rate):
        pcm = speech(40.0, sample_rate_hz=rate, num_channels=3)
        raw = RawCoding(encoding="pcm_s16le", sample_rate_hz=rate, num_channels=3)
        result_rate, result = decoded(decoder, pcm.T.tobytes(), raw)
        assert (result_rate, len(result)) == (16_000, 3)
        assert result.shape[1] == pytest.approx(40 * 16_000, rel=0.001)
        assert is_speech(result, result_rate)

    def test_a_wav_file_with_such_a_name_is_read_as_one(self, decoder):
        pcm = speech(2.0)
        raw = RawCoding(encoding="mulaw", sample_rate_hz=16_000, num_channels=2)
        assert np.array_equal(decoded(decoder, wav(pcm), raw)[1], pcm)

    def test_less_than_a_sample_is_empty_and_too_much_is_too_long(self, decoder):
        raw = RawCoding(encoding="pcm_s16le", sample_rate_hz=8000, num_channels=2)
        assert failure(decoder, b"abc", raw) == "empty"
        one = RawCoding(encoding="pcm_u8", sample_rate_hz=48_000, num_channels=1)
        assert failure(decoder, b"a", one) == "empty"
        assert failure(decoder, bytes(601 * 32_000), raw) == "too_long"


class TestLimits:
    def test_too_long_wherever_the_length_is_known(self):
        with Decoder(max_s=2.0, timeout_s=60) as decoder:
            assert failure(decoder, wav(speech(3.0))) == "too_long"
            assert failure(decoder, encoded("flac", 3.0)) == "too_long"
            assert failure(decoder, encoded("adts", 3.0)) == "too_long"
            assert decoded(decoder, wav(speech(1.9)))[1].shape[1] == 15200

    def test_a_decoder_that_dies_costs_one_recording(self, monkeypatch):
        with Decoder(max_s=600, timeout_s=60) as decoder:
            decoded(decoder, encoded("flac", 1.0))
            process = decoder._process
            os.kill(process.pid, signal.SIGSEGV)
            process.wait()
            assert decoded(decoder, encoded("flac", 1.0))[1].any(), "one that died idle is replaced unseen"

            monkeypatch.setattr(helper, "_SERVE", crash_after(2))
            decoder.close()
            assert decoded(decoder, encoded("flac", 1.0))[1].any()
            assert failure(decoder, encoded("flac", 1.0)) == "decoder_crashed"
            assert decoded(decoder, encoded("flac", 1.0))[1].any()

    def test_a_decoder_that_hangs_is_killed_in_time(self, monkeypatch):
        monkeypatch.setattr(helper, "_SERVE", "import time; time.sleep(600)")
        with Decoder(max_s=600, timeout_s=0.3) as decoder:
            started = time.monotonic()
            assert failure(decoder, encoded("flac", 1.0)) == "timeout"
            assert time.monotonic() - started < 30
            monkeypatch.undo()
            decoder._timeout_s = 60
            assert decoded(decoder, encoded("flac", 1.0))[1].any()

    def test_memory_is_bounded(self, monkeypatch):
        monkeypatch.setattr(helper, "_SERVE", "import spark_etl.helper as h; h.MEMORY_LIMIT_BYTES = 1 << 28; h.serve()")
        with Decoder(max_s=1e9, timeout_s=60) as decoder:
            assert failure(decoder, encoded("flac", 1.0) + bytes(1 << 28)) in {"unreadable", "decoder_crashed"}

    def test_one_process_serves_many_recordings_and_ends_with_its_owner(self):
        with Decoder(max_s=600, timeout_s=60) as decoder:
            decoded(decoder, encoded("flac", 1.0))
            process = decoder._process
            failure(decoder, b"text")
            decoded(decoder, encoded("opus", 1.0))
            assert decoder._process is process
        assert process.returncode is not None

    def test_plain_wav_needs_no_process(self):
        with Decoder(max_s=600, timeout_s=60) as decoder:
            decoded(decoder, wav(speech(1.0), format_tag=7, bits=8))
            assert decoder._process is None

    def test_long_audio_comes_in_blocks(self, decoder):
        blocks: list[Block] = list(decoder.decode(Recording.holding(encoded("flac", 50.0))))
        assert [round(block.pcm.shape[1] / 16000) for block in blocks] == [30, 20]


def crash_after(num_recordings: int) -> str:
    """The helper's program, dying of a segmentation fault amid the recording after `num_recordings` - 1 good ones."""
    return f"""
import os, signal, spark_etl.helper as helper
answer, count = helper._answer, 0
def dying(data, max_s, answers):
    global count
    count += 1
    if count == {num_recordings}:
        answers.write(helper._BLOCK.pack(b"B", 8000, 1, 1000))
        answers.flush()
        os.kill(os.getpid(), signal.SIGSEGV)
    answer(data, max_s, answers)
helper._answer = dying
helper.serve()
"""


def test_the_helper_is_importable_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with Decoder(max_s=600, timeout_s=60) as decoder:
        assert decoded(decoder, Path(SAMPLE_CALLS / "04_appointment.flac").read_bytes())[1].any()
