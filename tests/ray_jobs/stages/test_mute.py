import io
import wave
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from ray_jobs.records import Call, Outcome, Redaction, Transcript
from ray_jobs.spec import RunSpec
from ray_jobs.stages.mute import PAD_S, mute

RATE_HZ = 8000
SAMPLE = Path(__file__).parents[2] / "data" / "sample_calls" / "02_card_payment.wav"


def redaction(start_s: float, end_s: float, channel: int) -> Redaction:
    return Redaction(
        entity="CVV", placeholder="[CVV_1]", channel=channel, start_s=start_s, end_s=end_s, recogniser="test", score=1.0
    )


def voices(num_channels: int, seconds: int) -> npt.NDArray[np.int16]:
    """Noise without a zero, another in each channel."""
    noise = np.random.default_rng(7).integers(1, 3000, (num_channels, seconds * RATE_HZ))
    return (noise * np.random.default_rng(8).choice((-1, 1), noise.shape)).astype(np.int16)


def test_only_the_secrets_stretch_of_its_channel_is_silent() -> None:
    pcm = voices(2, seconds=4)
    muted = mute(pcm, RATE_HZ, [redaction(1.0, 2.0, channel=1)])
    silent = np.flatnonzero(muted[1] == 0) / RATE_HZ
    assert silent[0] == pytest.approx(1.0 - PAD_S)
    assert silent[-1] == pytest.approx(2.0 + PAD_S, abs=1 / RATE_HZ)
    assert muted[0].all()
    assert pcm.all(), "the input is left as it was"


def test_a_secret_at_the_edges_of_the_call() -> None:
    muted = mute(np.ones((1, RATE_HZ), np.int16), RATE_HZ, [redaction(0.0, 9.0, channel=0)])
    assert not muted.any()


def test_a_channel_that_carries_the_same_voice_is_silent_too() -> None:
    """A mono call stored as stereo, or one voice turned upside down and faint on the other side."""
    (voice,) = voices(1, seconds=3)
    pcm = np.stack([voice, -(voice // 10)])
    muted = mute(pcm, RATE_HZ, [redaction(1.0, 2.0, channel=0)])
    assert not muted[:, RATE_HZ : 2 * RATE_HZ].any()
    assert muted[:, 2 * RATE_HZ + int(PAD_S * RATE_HZ) + 1 :].any(axis=1).all()


def test_pieces_of_a_call_are_muted_like_the_whole() -> None:
    pcm = voices(2, seconds=4)
    secrets = [redaction(0.9, 2.1, channel=1), redaction(3.5, 9.0, channel=0)]
    pieces = [
        mute(pcm[:, start : start + RATE_HZ], RATE_HZ, secrets, start_sample=start)
        for start in range(0, pcm.shape[1], RATE_HZ)
    ]
    np.testing.assert_array_equal(np.concatenate(pieces, axis=1), mute(pcm, RATE_HZ, secrets))


@pytest.mark.integration
def test_asr_hears_no_secret_in_muted_audio() -> None:
    """The card payment call: transcribed, redacted, muted, transcribed again."""
    from ray_jobs.engines.load_asr import load_asr
    from ray_jobs.engines.pii import Redactor
    from ray_jobs.stages.redact import redact
    from ray_jobs.stages.transcribe import transcribe
    from spark_etl.decode import decode_ffmpeg
    from spark_etl.prepare import prepare_partition
    from spark_etl.recording import Recording

    spec = RunSpec.model_validate({"input": {"uri": str(SAMPLE.parent)}})
    engine = load_asr(spec.asr, num_threads=2)
    call = Call(call_id="02", uri=str(SAMPLE), source="02", size_bytes=0, version="", expected_speech_s=0.0)

    def hear(recording: bytes) -> Outcome:
        rows = prepare_partition([call], spec.etl, lambda *_: Recording.holding(recording))
        return transcribe(rows, engine, spec.asr, spec.channels)[0]

    def heard_words(outcome: Outcome) -> set[str]:
        assert isinstance(outcome, Transcript)
        return {word.text.strip(".,-?").lower() for said in outcome.utterances for word in said.words}

    recording = SAMPLE.read_bytes()
    unredacted = hear(recording)
    (redacted,) = redact([unredacted], Redactor(spec.redact))
    assert isinstance(redacted, Transcript)
    blocks = list(decode_ffmpeg(Recording.holding(recording), max_s=600.0))
    pcm = np.concatenate([block.pcm for block in blocks], axis=1)
    muted = mute(pcm, blocks[0].sample_rate_hz, redacted.redactions)
    secrets = heard_words(unredacted) - heard_words(replace(redacted, redactions=()))
    assert {"helen", "marcus", "juniper", "illinois"} <= secrets
    assert heard_words(hear(wav_of(muted, blocks[0].sample_rate_hz))).isdisjoint(secrets)


def wav_of(pcm: npt.NDArray[np.int16], sample_rate_hz: int) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(pcm.shape[0])
        file.setsampwidth(2)
        file.setframerate(sample_rate_hz)
        file.writeframes(pcm.T.tobytes())
    return buffer.getvalue()
