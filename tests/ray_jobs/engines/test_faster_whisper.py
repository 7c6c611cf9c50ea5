"""The CTranslate2 engine: what it promises as an AsrEngine, on the real weights; its helpers by hand."""

import json
import shutil
import wave
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from ray_jobs.engines import weights
from ray_jobs.engines.asr import Window
from ray_jobs.engines.faster_whisper import FasterWhisper
from ray_jobs.engines.load_asr import load_asr
from ray_jobs.engines.word_times import timed_words
from ray_jobs.errors import ModelError
from ray_jobs.spec import AsrSpec

SAMPLES = Path(__file__).parents[2] / "data" / "sample_calls"


class TestTimedWords:
    def test_pieces_join_at_blanks_and_times_come_from_the_letters(self) -> None:
        # Five tokens and the end of text, one every ten positions of 20 ms; the comma is aligned with the pause.
        path = np.array([[token, position] for token in range(6) for position in range(10 * token, 10 * token + 10)])
        words = timed_words(
            [" It", "'s", ",", " Hel", "en"], [1] * 5, path, np.array([0.9, 0.7, 0.1, 0.5, 0.5]), 30.0, spaced=True
        )
        assert [(word.text, word.start_s, word.end_s) for word in words] == [("It's,", 0.0, 0.4), ("Helen", 0.6, 1.0)]
        assert [word.probability for word in words] == pytest.approx([0.8, 0.5])

    def test_languages_without_blanks_give_a_word_per_character(self) -> None:
        path = np.array([[token, token] for token in range(4)])
        words = timed_words(["你", "好", "。"], [1] * 3, path, np.ones(3), 30.0, spaced=False)
        assert [word.text for word in words] == ["你", "好。"]

    def test_times_stay_inside_the_window(self) -> None:
        path = np.array([[0, 0], [1, 700]])
        (word,) = timed_words([" Bye"], [1], path, np.ones(1), 1.0, spaced=True)
        assert (word.start_s, word.end_s) == (0.0, 1.0)

    def test_nothing_but_punctuation_is_no_word(self) -> None:
        assert timed_words([" ..."], [1], np.array([[0, 0], [1, 1]]), np.ones(1), 1.0, spaced=True) == []


@pytest.fixture(scope="module")
def engine() -> FasterWhisper:
    return FasterWhisper(AsrSpec(language=None), num_threads=2)


@pytest.fixture(scope="module")
def agent() -> npt.NDArray[np.int16]:
    """The agent's channel of the sample call that is linear PCM: int16 at 8 kHz."""
    with wave.open(str(SAMPLES / "03_internet_outage.wav")) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2)[:, 0]


def a_window(pcm: npt.NDArray[np.int16], language: str | None = "en") -> Window:
    return Window(pcm=pcm, sample_rate_hz=8_000, language=language)


@pytest.mark.integration
class TestEngine:
    def test_reads_words_at_their_times(self, engine: FasterWhisper, agent: npt.NDArray[np.int16]) -> None:
        turns = json.loads((SAMPLES / "03_internet_outage.json").read_text())["turns"]
        first = next(turn for turn in turns if turn["channel"] == 0)
        (heard,) = engine.transcribe([a_window(agent[: round((first["end_s"] + 0.2) * 8_000)], None)])
        (segment,) = heard.segments
        assert heard.language == "en"
        assert segment.text.casefold().startswith("tidewater fiber support")
        assert segment.text.split() == [word.text for word in segment.words]
        starts = [word.start_s for word in segment.words]
        assert starts == sorted(starts)
        assert segment.words[0].start_s == pytest.approx(first["start_s"], abs=0.5)
        assert segment.words[-1].end_s == pytest.approx(first["end_s"], abs=0.3)
        assert -0.5 < segment.avg_logprob < 0
        assert segment.no_speech_prob < 0.5

    def test_gives_one_result_per_window_in_order(self, engine: FasterWhisper, agent: npt.NDArray[np.int16]) -> None:
        speech = a_window(agent[: 8 * 8_000])
        scraps = [a_window(agent[:n]) for n in (800, 1)]
        noise = a_window(np.random.default_rng(0).normal(0, 2000, 6 * 8_000).astype(np.int16))
        heard = engine.transcribe([noise, speech, *scraps, noise, speech])
        assert len(heard) == 6
        assert heard[1] == heard[5]
        assert heard[1].segments
        assert not heard[0].segments, "words invented over noise"
        assert not heard[4].segments, "words invented over noise"
        assert engine.transcribe([]) == []

    def test_clipped_noise_is_no_reason_to_raise(self, engine: FasterWhisper) -> None:
        noise = np.random.default_rng(0).choice(np.array([-32768, 32767], np.int16), 30 * 8_000)
        assert len(engine.transcribe([a_window(noise, None)])) == 1

    def test_counts_what_it_did(self, engine: FasterWhisper, agent: npt.NDArray[np.int16]) -> None:
        before = engine.stats()
        engine.transcribe([a_window(agent[: 2 * 8_000])])
        after = engine.stats()
        assert after["num_windows"] - before["num_windows"] == 1
        assert after["audio_s"] - before["audio_s"] == 2.0
        assert after["busy_s"] > before["busy_s"]
        assert after["load_s"] > 0


@pytest.mark.integration
class TestLoading:
    def test_goes_by_the_spec(self) -> None:
        engine = load_asr(AsrSpec(engine="faster_whisper", beam_size=2), num_threads=1)
        assert isinstance(engine, FasterWhisper)
        assert engine.model_name == "whisper-base"

    def test_a_language_the_model_lacks_is_refused(self) -> None:
        with pytest.raises(ModelError, match=r"^asr.language xx: model whisper-base knows af, .*\ben\b"):
            FasterWhisper(AsrSpec(language="xx"), num_threads=1)

    def test_a_truncated_model_is_refused_in_one_line(self, tmp_path: Path) -> None:
        shutil.copytree(weights.resolve("whisper-base"), tmp_path, dirs_exist_ok=True)
        with (tmp_path / "model.bin").open("r+b") as file:
            file.truncate(1_000_000)
        with pytest.raises(ModelError, match=rf"^model {tmp_path}: .+") as error:
            FasterWhisper(AsrSpec(model=str(tmp_path)), num_threads=1)
        assert "\n" not in str(error.value)
