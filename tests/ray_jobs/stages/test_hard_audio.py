"""Sound that tempts a model to invent speech, from the recording to the transcript: ETL, packing, the real engine."""

import wave
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from ray_jobs.engines.asr import Window
from ray_jobs.engines.load_asr import load_asr
from ray_jobs.engines.whisper_torch import WhisperTorch
from ray_jobs.records import Call, Failure, Outcome, Transcript
from ray_jobs.spec import AsrSpec, ChannelSpec, EtlSpec
from ray_jobs.stages.transcribe import transcribe
from spark_etl.job import open_part
from spark_etl.prepare import prepare_partition

pytestmark = pytest.mark.integration

RATE_HZ = 8_000
SAMPLES = Path(__file__).parents[2] / "data" / "sample_calls"
ASR = AsrSpec(engine="whisper_torch", language=None)

Wave = npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def engine() -> WhisperTorch:
    engine = load_asr(ASR, num_threads=2)
    assert isinstance(engine, WhisperTorch)
    return engine


@pytest.fixture(scope="module")
def agent() -> Wave:
    """Half a minute of the agent of a sample call, in [-1, 1]."""
    with wave.open(str(SAMPLES / "03_internet_outage.wav")) as file:
        pcm = np.frombuffer(file.readframes(30 * RATE_HZ), "<i2").reshape(-1, 2)[:, 0]
    return pcm / 32_768


def crying_baby(seconds: int, seed: int = 0) -> Wave:
    """Cries of about a second at 400 to 550 Hz, each rising and falling and rich in harmonics, with breaths between."""
    random = np.random.default_rng(seed)
    cries = []
    for _ in range(seconds):
        times = np.arange(int(random.uniform(0.6, 0.95) * RATE_HZ)) / RATE_HZ
        arc = np.sin(np.pi * times / times[-1]).clip(0)
        pitch_hz = random.uniform(380, 450) + 120 * arc + 8 * np.sin(2 * np.pi * 7 * times)
        phase = 2 * np.pi * np.cumsum(pitch_hz) / RATE_HZ
        cry = sum(np.sin(k * phase) / k**0.7 for k in range(1, 7)) + random.normal(0, 0.2, len(times))
        cries.append(np.pad(0.15 * cry * arc**0.5, (0, RATE_HZ - len(times))))
    return np.concatenate(cries)


def music(seconds: int) -> Wave:
    """Arpeggios over changing chords, plucked, four notes a second: what plays while a caller is on hold."""
    chords = np.array([[262, 330, 392, 523], [220, 262, 330, 440], [175, 220, 262, 349], [196, 247, 294, 392]])
    times = np.arange(RATE_HZ // 4) / RATE_HZ
    notes = [chords[(beat // 8) % 4][beat % 4] for beat in range(4 * seconds)]
    plucks = [
        sum(np.sin(2 * np.pi * k * pitch * times) / k**1.5 for k in (1, 2, 3)) * np.exp(-6 * times) for pitch in notes
    ]
    return 0.25 * np.concatenate(plucks)


def outcome_of(engine: WhisperTorch, folder: Path, *channels: Wave) -> Outcome:
    """What becomes of a recording of these channels."""
    length = max(map(len, channels))
    samples = np.stack([np.pad(channel, (0, length - len(channel))) for channel in channels], axis=1)
    path = folder / "call.wav"
    soundfile.write(path, samples, RATE_HZ, subtype="FLOAT")
    call = Call(
        call_id="call",
        uri=str(path),
        source=str(path),
        size_bytes=path.stat().st_size,
        version="",
        expected_speech_s=0.0,
    )
    (outcome,) = transcribe(prepare_partition([call], EtlSpec(), open_part), engine, ASR, ChannelSpec())
    return outcome


def words_of(outcome: Outcome, channel: int) -> list[str]:
    assert isinstance(outcome, Transcript)
    return [word.text for u in outcome.utterances if u.channel == channel for word in u.words]


@pytest.mark.parametrize("sound", [crying_baby(30), music(30)], ids=["crying baby", "music"])
def test_a_channel_without_speech_stays_quiet_beside_one_that_speaks(
    engine: WhisperTorch, agent: Wave, tmp_path: Path, sound: Wave
) -> None:
    outcome = outcome_of(engine, tmp_path, agent, sound)
    assert isinstance(outcome, Transcript)
    assert outcome.language == "en", "detected"
    assert " ".join(words_of(outcome, 0)).casefold().startswith("tidewater fiber support")
    assert words_of(outcome, 1) == []


@pytest.mark.parametrize("sound", [crying_baby(30, seed=1), music(30)], ids=["crying baby", "music"])
def test_a_recording_without_speech_is_no_speech(engine: WhisperTorch, tmp_path: Path, sound: Wave) -> None:
    outcome = outcome_of(engine, tmp_path, sound)
    assert isinstance(outcome, Failure)
    assert outcome.code == "no_speech"


@pytest.mark.parametrize("sound", [crying_baby(30), music(30)], ids=["crying baby", "music"])
def test_what_passes_for_speech_all_the_same_makes_no_endless_text(engine: WhisperTorch, sound: Wave) -> None:
    """Past the voice detection: what the model invents is short, and lies in its window."""
    (heard,) = engine.transcribe([Window(pcm=(sound * 32_767).astype(np.int16), sample_rate_hz=RATE_HZ, language=None)])
    words = [word for segment in heard.segments for word in segment.words]
    assert len(words) < 60
    assert all(0 <= word.start_s <= word.end_s <= 30 for word in words)


def test_speech_that_is_clipped_or_no_number_for_a_second_is_still_read(
    engine: WhisperTorch, agent: Wave, tmp_path: Path
) -> None:
    broken = agent.copy()
    broken[2 * RATE_HZ : 3 * RATE_HZ] = np.nan
    broken[-RATE_HZ:] = np.inf
    for sound in (20 * agent, broken):
        words = " ".join(words_of(outcome_of(engine, tmp_path, sound), 0)).casefold()
        assert "support" in words or "tidewater" in words
        assert len(words.split()) > 20
