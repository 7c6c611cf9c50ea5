"""Voice activity: the network's own values, whatever is batched with what, and no speech where nobody speaks."""

import json

import numpy as np
import pytest

from spark_etl.helper import Decoder
from spark_etl.recording import Recording
from spark_etl.vad import CHUNK_S, speech_probabilities
from tests.spark_etl.audio_samples import SAMPLE_CALLS, Samples, call_8khz, noise, speech

# Every fourth of the first hundred probabilities of call 04's agent, by silero-vad 6.2.3's own ONNX model.
BY_SILERO = [0.002, 0.006, 0.006, 0.005, 0.97, *[1] * 6, 0.999, 1, 1, 0.545, *[1] * 6, 0.976, 0.055, 0.112, 1]


def call(name: str) -> tuple[int, Samples]:
    with Decoder(max_s=600, timeout_s=60) as decoder:
        blocks = list(decoder.decode(Recording.holding(next(SAMPLE_CALLS.glob(f"{name}.[!j]*")).read_bytes())))
    return blocks[0].sample_rate_hz, np.concatenate([block.pcm for block in blocks], axis=1)


def test_the_values_are_those_of_silero():
    rate, pcm = call("04_appointment")
    assert rate == 16000
    [values] = speech_probabilities([pcm[0, : 100 * 512]], rate)
    assert values.shape == (100,)
    assert values[::4] == pytest.approx(BY_SILERO, abs=0.001)


def test_8_khz_is_heard_as_16_khz_would_be():
    narrow = call_8khz()[0]
    wide = np.fft.irfft(np.pad(np.fft.rfft(narrow), (0, len(narrow) // 2)), 2 * len(narrow)) * 2
    [at_8] = speech_probabilities([narrow], 8000)
    [at_16] = speech_probabilities([wide.clip(-32768, 32767).astype(np.int16)], 16000)
    assert np.mean((at_8 > 0.5) == (at_16 > 0.5)) > 0.99


def test_a_channel_does_not_depend_on_its_batch():
    channels = [call_8khz()[0], noise(3.0)[0], call_8khz()[1][:100_000], np.zeros(0, np.int16), np.zeros(9, np.int16)]
    together = speech_probabilities(channels, 8000)
    for channel, values in zip(channels, together, strict=True):
        assert len(values) == -(-len(channel) // 256)
        assert values == pytest.approx(speech_probabilities([channel], 8000)[0], abs=1e-4)


@pytest.mark.parametrize("name", [path.stem for path in sorted(SAMPLE_CALLS.glob("0*.json"))])
def test_the_turns_of_the_sample_calls_are_found(name):
    document = json.loads((SAMPLE_CALLS / f"{name}.json").read_text())
    rate, pcm = call(name)
    probabilities = speech_probabilities(list(pcm), rate)
    for turn in document["turns"]:
        values = probabilities[turn["channel"]][int(turn["start_s"] / CHUNK_S) : int(turn["end_s"] / CHUNK_S)]
        assert np.mean(values > 0.5) > 0.6, turn["text"]
    for channel, values in enumerate(probabilities):
        own = document["turns"] if len(pcm) == 1 else [t for t in document["turns"] if t["channel"] == channel]
        outside = np.ones(len(values), bool)
        for turn in own:
            outside[int((turn["start_s"] - 0.2) / CHUNK_S) : int((turn["end_s"] + 0.3) / CHUNK_S)] = False
        assert not np.any(values[outside] > 0.5)


class TestWhatIsNotSpeech:
    def test_the_hold_tone_of_call_03(self):
        for values in speech_probabilities(list(call_8khz()), 8000):
            assert values[int(24.9 / CHUNK_S) : int(37.2 / CHUNK_S)].max() < 0.2

    def test_the_beep_of_call_06_and_the_noise_of_its_caller(self):
        rate, pcm = call("06_voicemail")
        agent, caller = speech_probabilities(list(pcm), rate)
        assert agent[int(11.0 / CHUNK_S) :].max() < 0.5
        assert caller.max() < 0.1

    @pytest.mark.parametrize("level", [0.3, 0.03])
    @pytest.mark.parametrize("sound", ["dial", "ringing", "busy", "dtmf", "fax", "chords", "hum", "noise"])
    def test_tones_and_music(self, sound, level):
        times = np.arange(16 * 8000) / 8000

        def tones(*frequencies: float) -> np.ndarray:
            return np.sum([np.sin(2 * np.pi * f * times) for f in frequencies], axis=0)

        melody = np.repeat([262, 330, 392, 349, 294, 440, 392, 330], 2 * 8000)
        signal = {
            "dial": tones(350, 440),
            "ringing": tones(440, 480) * (times % 6 < 2),
            "busy": tones(480, 620) * (times % 1 < 0.5),
            "dtmf": tones(770, 1336) * (times % 0.4 < 0.2),
            "fax": np.where(times % 0.6 < 0.3, tones(1100), tones(2100)),
            "chords": tones(*(melody * part for part in (1, 1.25, 1.5, 2, 3))) * np.exp(-2 * (times % 2)),
            "hum": np.sign(tones(50)),
            "noise": np.random.default_rng(1).normal(size=len(times)),
        }[sound]
        [values] = speech_probabilities([(signal / np.abs(signal).max() * level * 32767).astype(np.int16)], 8000)
        assert np.mean(values > 0.5) < 0.01

    @pytest.mark.parametrize("silence", [np.zeros(80_000, np.int16), noise(10.0, rms=3)[0]], ids=["digital", "idle"])
    def test_silence_is_zero(self, silence):
        [values] = speech_probabilities([silence], 8000)
        assert not values.any()


def test_silence_around_speech_changes_little():
    spoken = speech(8.0)[0]
    silence = noise(60.0, rms=2)[0]
    [alone] = speech_probabilities([spoken[: 250 * 256]], 8000)
    [amid] = speech_probabilities([np.concatenate([silence[: 1800 * 256], spoken[: 250 * 256], silence])], 8000)
    assert np.mean((amid[1800:2050] > 0.5) == (alone > 0.5)) > 0.97


def test_other_rates_are_refused():
    with pytest.raises(ValueError, match="44100"):
        speech_probabilities([noise(1.0)[0]], 44100)
