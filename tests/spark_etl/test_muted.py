"""The muted recording: the whole call as it was, but for the stretches where secrets were spoken."""

import io
import wave
from pathlib import Path

import numpy as np
import pytest

from ray_jobs.errors import CallError
from ray_jobs.records import Call, Redaction
from ray_jobs.spec import EtlSpec
from ray_jobs.stages.mute import mute
from spark_etl import muted
from spark_etl.muted import write_muted
from tests.spark_etl.audio_samples import Samples, call_8khz, encoded, speech, wav

ETL = EtlSpec()


def a_call(path: Path) -> Call:
    return Call(call_id="a", uri=str(path), source="a", size_bytes=0, version="", expected_speech_s=0.0)


def secret(start_s: float, end_s: float, channel: int) -> Redaction:
    return Redaction(
        entity="CVV", placeholder="[CVV_1]", channel=channel, start_s=start_s, end_s=end_s, recogniser="test", score=1.0
    )


def read(path: Path) -> tuple[int, Samples]:
    with wave.open(io.BytesIO(path.read_bytes())) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, file.getnchannels())
        return file.getframerate(), samples.T


def test_all_channels_are_kept_whole_but_for_the_secrets(tmp_path: Path) -> None:
    """Longer than a block, so that one secret lies across two."""
    (tmp_path / "call.wav").write_bytes(wav(call_8khz()))
    secrets = [secret(2.0, 3.0, channel=0), secret(29.5, 30.5, channel=1)]
    write_muted(a_call(tmp_path / "call.wav"), secrets, ETL, tmp_path / "muted.wav")
    rate, samples = read(tmp_path / "muted.wav")
    assert rate == 8000
    np.testing.assert_array_equal(samples, mute(call_8khz(), 8000, secrets))
    assert not samples[0, 16_000:24_000].any()
    assert not samples[1, 236_000:244_000].any()


def test_a_compressed_recording_is_muted_too(tmp_path: Path) -> None:
    (tmp_path / "call.ogg").write_bytes(encoded("opus"))
    write_muted(a_call(tmp_path / "call.ogg"), [secret(1.0, 2.0, channel=0)], ETL, tmp_path / "muted.wav")
    rate, samples = read(tmp_path / "muted.wav")
    assert rate == 16_000
    assert not samples[0, 16_000:32_000].any()
    assert samples[0, 40_000:].any()


def test_a_recording_that_is_gone_or_too_long_for_wav_is_that_calls_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CallError, match="no longer there"):
        write_muted(a_call(tmp_path / "gone.wav"), [], ETL, tmp_path / "muted.wav")
    (tmp_path / "call.wav").write_bytes(wav(speech(4.0)))
    monkeypatch.setattr(muted, "MAX_WAV_BYTES", 60_000)
    with pytest.raises(CallError, match="4 GiB"):
        write_muted(a_call(tmp_path / "call.wav"), [], ETL, tmp_path / "muted.wav")
