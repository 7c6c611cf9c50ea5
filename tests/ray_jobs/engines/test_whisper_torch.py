"""Our Whisper on the real weights: transformers' own tokens, and what it promises as an AsrEngine."""

import json
import shutil
import wave
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import torch
import transformers

from ray_jobs.engines import weights
from ray_jobs.engines.asr import Window, WindowText
from ray_jobs.engines.load_asr import load_asr
from ray_jobs.engines.whisper_beam import beam_search
from ray_jobs.engines.whisper_decode import Decoded, decode
from ray_jobs.engines.whisper_features import LogMel
from ray_jobs.engines.whisper_model import Decoder, DecoderState, Encoder
from ray_jobs.engines.whisper_scores import Scorer
from ray_jobs.engines.whisper_torch import WhisperTorch
from ray_jobs.engines.whisper_vocabulary import Vocabulary
from ray_jobs.engines.whisper_weights import Checkpoint, load_checkpoint
from ray_jobs.errors import ModelError
from ray_jobs.spec import AsrSpec

pytestmark = pytest.mark.integration

SAMPLES = Path(__file__).parents[2] / "data" / "sample_calls"
LANGUAGES = SAMPLES.parent / "languages"
CPU = torch.device("cpu")
RATE_HZ = 8_000


@pytest.fixture(scope="module")
def agent() -> npt.NDArray[np.int16]:
    """The agent's channel of the sample call that is linear PCM: int16 at 8 kHz."""
    with wave.open(str(SAMPLES / "03_internet_outage.wav")) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2)[:, 0]


def a_window(pcm: npt.NDArray[np.int16], language: str | None = "en") -> Window:
    return Window(pcm=pcm, sample_rate_hz=RATE_HZ, language=language)


def a_spec(**settings: object) -> AsrSpec:
    return AsrSpec(engine="whisper_torch", **settings)  # type: ignore[arg-type]


class TestDecoder:
    """In float32, where rounding decides nothing."""

    @pytest.fixture(scope="class")
    def checkpoint(self) -> Checkpoint:
        torch.set_num_threads(1)  # as the engine's workers have it
        return load_checkpoint(weights.resolve("whisper-base"))

    @pytest.fixture(scope="class")
    def scorer(self, checkpoint: Checkpoint) -> Scorer:
        vocabulary = Vocabulary(weights.resolve("whisper-base"), checkpoint.config.vocab_size)
        model = Decoder(checkpoint, CPU, torch.float32)
        return Scorer(model, vocabulary, checkpoint.suppressed, checkpoint.suppressed_first)

    @pytest.fixture(scope="class")
    def log_mel(self, agent: npt.NDArray[np.int16], checkpoint: Checkpoint) -> torch.Tensor:
        cuts = [slice(0, 10), slice(10, 13), slice(24, 40)]
        windows = [a_window(agent[cut.start * RATE_HZ : cut.stop * RATE_HZ]) for cut in cuts]
        return LogMel(checkpoint.config.num_mels, CPU)(windows)

    @pytest.fixture(scope="class")
    def audio(self, checkpoint: Checkpoint, log_mel: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return Encoder(checkpoint, CPU, torch.float32)(log_mel)

    @pytest.fixture(scope="class")
    def decoded(self, scorer: Scorer, audio: torch.Tensor) -> list[Decoded]:
        with torch.inference_mode():
            return decode(scorer, audio, ["en"] * len(audio))

    def test_tokens_equal_transformers_greedy_ones(
        self, checkpoint: Checkpoint, log_mel: torch.Tensor, decoded: list[Decoded]
    ) -> None:
        shape = checkpoint.config
        config = transformers.WhisperConfig(
            vocab_size=shape.vocab_size,
            num_mel_bins=shape.num_mels,
            d_model=shape.width,
            encoder_layers=shape.encoder_layers,
            decoder_layers=shape.decoder_layers,
            encoder_attention_heads=shape.num_heads,
            decoder_attention_heads=shape.num_heads,
            encoder_ffn_dim=4 * shape.width,
            decoder_ffn_dim=4 * shape.width,
        )
        reference = transformers.WhisperForConditionalGeneration(config).eval()
        tensors = {f"model.{name}": tensor.float() for name, tensor in checkpoint.tensors.items()}
        assert reference.load_state_dict(tensors, strict=False).unexpected_keys == []
        reference.generation_config = transformers.GenerationConfig(
            suppress_tokens=list(checkpoint.suppressed),
            begin_suppress_tokens=list(checkpoint.suppressed_first),
            decoder_start_token_id=50258,
            bos_token_id=50257,
            eos_token_id=50257,
            pad_token_id=50257,
        )
        prompt = torch.tensor([[50258, 50259, 50359, 50363]] * len(log_mel))
        tokens = reference.generate(log_mel.transpose(1, 2), decoder_input_ids=prompt, max_new_tokens=100).tolist()
        texts = [[token for token in row if token < 50257] for row in tokens]
        assert all(texts)
        assert [window.tokens for window in decoded] == texts

    def test_a_window_reads_the_same_alone_as_among_others(
        self, scorer: Scorer, audio: torch.Tensor, decoded: list[Decoded]
    ) -> None:
        for i, together in enumerate(decoded):
            with torch.inference_mode():
                (alone,) = decode(scorer, audio[i : i + 1], ["en"])
            assert alone.tokens == together.tokens
            assert alone.avg_logprob == pytest.approx(together.avg_logprob, abs=1e-3)
            torch.testing.assert_close(alone.attention, together.attention, atol=1e-4, rtol=1e-3)

    def test_samples_hang_on_the_seed_and_not_on_the_company(self, scorer: Scorer, audio: torch.Tensor) -> None:
        with torch.inference_mode():
            both = decode(scorer, audio[:2], ["en", "en"], [1.0, 1.0], [7, 8])
            (alone,) = decode(scorer, audio[1:2], ["en"], [1.0], [8])
            (other,) = decode(scorer, audio[1:2], ["en"], [1.0], [9])
        assert alone.tokens == both[1].tokens
        assert alone.avg_logprob != other.avg_logprob

    def test_one_beam_is_greedy_decoding(self, scorer: Scorer, audio: torch.Tensor, decoded: list[Decoded]) -> None:
        with torch.inference_mode():
            searched = beam_search(scorer, audio, ["en"] * len(audio), 1)
        for beam, greedy in zip(searched, decoded, strict=True):
            assert beam.tokens == greedy.tokens
            assert beam.token_logprobs == pytest.approx(greedy.token_logprobs, abs=1e-3)
            assert beam.avg_logprob == pytest.approx(greedy.avg_logprob, abs=1e-3)
            assert beam.no_speech_prob == pytest.approx(greedy.no_speech_prob, abs=1e-4)
            torch.testing.assert_close(beam.attention, greedy.attention, atol=1e-4, rtol=1e-3)

    def test_beams_are_those_of_the_textbook(self, scorer: Scorer, audio: torch.Tensor) -> None:
        with torch.inference_mode():
            searched = beam_search(scorer, audio[:2], ["en", "en"], 3)
            expected = [textbook_search(scorer, window, 3) for window in audio[:2].split(1)]
        assert [window.tokens for window in searched] == expected


def textbook_search(scorer: Scorer, audio: torch.Tensor, num_beams: int) -> list[int]:
    """One window's best text, every text of every step read from its start."""
    beams: list[tuple[float, list[int]]] = [(0.0, [])]
    ended: list[tuple[float, list[int]]] = []
    prompt = torch.tensor([scorer.vocabulary.prompt("en")])
    heard = scorer.model.start(audio, prompt.shape[1]).audio
    while len(ended) < num_beams:
        candidates = []
        for total, text in beams:
            tokens = torch.tensor([text], dtype=torch.long)
            state = DecoderState(scorer.model.text_cache(1, prompt.shape[1] + len(text)), heard)
            hidden, _ = scorer.model.step(torch.cat([prompt, tokens], 1), state)
            logprobs = scorer.scores(hidden[:, -1], tokens)[0].log_softmax(-1)
            best = logprobs.topk(2 * num_beams)  # of one text no more than these can be among the next
            candidates += [
                (total + logprob, [*text, token])
                for logprob, token in zip(best.values.tolist(), best.indices.tolist(), strict=True)
            ]
        beams = []
        for total, text in sorted(candidates, key=lambda candidate: -candidate[0]):
            if text[-1] == scorer.vocabulary.end:
                ended.append((total, text[:-1]))
            else:
                beams.append((total, text))
            if len(beams) == num_beams:
                break
    return max(ended[:num_beams], key=lambda pair: pair[0] / len(pair[1]))[1]


@pytest.fixture(scope="module")
def engine() -> WhisperTorch:
    return WhisperTorch(a_spec(language=None), num_threads=2)


class TestEngine:
    @pytest.mark.parametrize(
        ("language", "opening"),
        [("es", "Buenos días, tengo una pregunta sobre mi factura."), ("de", "Guten Tag, ich habe")],
    )
    def test_hears_which_language_is_spoken_and_writes_it(
        self, engine: WhisperTorch, language: str, opening: str
    ) -> None:
        """Customers' questions, spoken by espeak-ng: mu-law at 8 kHz."""
        pcm, rate_hz = soundfile.read(LANGUAGES / f"{language}.wav", dtype="int16")
        english = a_window(pcm[:RATE_HZ], "en")
        heard, _ = engine.transcribe([Window(pcm=pcm, sample_rate_hz=rate_hz, language=None), english])
        assert heard.language == language
        assert heard.language_prob > 0.8
        assert " ".join(segment.text for segment in heard.segments).startswith(opening)

    def test_reads_words_at_their_times(self, engine: WhisperTorch, agent: npt.NDArray[np.int16]) -> None:
        turns = json.loads((SAMPLES / "03_internet_outage.json").read_text())["turns"]
        first = next(turn for turn in turns if turn["channel"] == 0)
        (heard,) = engine.transcribe([a_window(agent[: round((first["end_s"] + 0.2) * RATE_HZ)], None)])
        (segment,) = heard.segments
        assert heard.language == "en"
        assert segment.text.casefold().startswith("tidewater fiber support")
        assert segment.text.split() == [word.text for word in segment.words]
        times = [time for word in segment.words for time in (word.start_s, word.end_s)]
        assert times == sorted(times)
        assert segment.words[0].start_s == pytest.approx(first["start_s"], abs=0.5)
        assert segment.words[-1].end_s == pytest.approx(first["end_s"], abs=0.3)
        assert all(0 < word.probability <= 1 for word in segment.words)
        assert -0.5 < segment.avg_logprob < 0
        assert segment.no_speech_prob < 0.5

    def test_gives_one_result_per_window_in_order(self, engine: WhisperTorch, agent: npt.NDArray[np.int16]) -> None:
        speech = a_window(agent[: 8 * RATE_HZ])
        scraps = [a_window(agent[:n]) for n in (800, 1)]
        silence = a_window(np.zeros(6 * RATE_HZ, np.int16))
        heard = engine.transcribe([silence, speech, *scraps, silence, speech])
        assert len(heard) == 6
        assert heard[1].segments[0].text == heard[5].segments[0].text
        assert engine.transcribe([]) == []

    @pytest.mark.parametrize("sound", ["clipped noise", "chord"])
    def test_what_is_no_speech_is_no_reason_to_raise(self, engine: WhisperTorch, sound: str) -> None:
        times = np.arange(30 * RATE_HZ) / RATE_HZ
        chord = 8_000 * sum(np.sin(2 * np.pi * pitch * times) for pitch in (262, 330, 392))
        noise = np.random.default_rng(0).choice(np.array([-32768, 32767]), len(times))
        (heard,) = engine.transcribe([a_window((noise if sound == "clipped noise" else chord).astype(np.int16), None)])
        words = [word for segment in heard.segments for word in segment.words]
        assert len(words) < 60, "a loop was not cut"
        assert all(0 <= word.start_s <= word.end_s <= 30 for word in words)

    def test_beams_and_timestamps_read_the_same_words_in_segments(self, agent: npt.NDArray[np.int16]) -> None:
        turns = [t for t in json.loads((SAMPLES / "03_internet_outage.json").read_text())["turns"] if t["channel"] == 0]
        window = a_window(agent[: round((turns[1]["end_s"] + 0.2) * RATE_HZ)])
        (heard,) = WhisperTorch(a_spec(beam_size=2, timestamps=True), num_threads=2).transcribe([window])
        said = " ".join(segment.text for segment in heard.segments)
        assert said.casefold().startswith("tidewater fiber support")
        assert said.split() == [word.text for segment in heard.segments for word in segment.words]
        assert len(heard.segments) > 1
        edges = [edge for segment in heard.segments for edge in (segment.start_s, segment.end_s)]
        assert edges == sorted(edges)
        assert edges[-1] == pytest.approx(turns[1]["end_s"], abs=0.5)

    @pytest.mark.parametrize(
        ("at_once", "expected"), [(16, [[], [0.2, 0.4, 0.6, 0.8, 1.0]]), (2, [[], [0.2, 0.4]]), (1, [[], [0.2], [0.4]])]
    )
    def test_of_an_unlikely_text_the_first_good_try_at_rising_temperatures_counts(
        self,
        engine: WhisperTorch,
        agent: npt.NDArray[np.int16],
        monkeypatch: pytest.MonkeyPatch,
        at_once: int,
        expected: list[list[float]],
    ) -> None:
        asked: list[list[float]] = []

        def unsure(
            scorer: Scorer,
            audio: torch.Tensor,
            languages: list[str],
            temperatures: Sequence[float] = (),
            seeds: Sequence[int] = (),
        ) -> list[Decoded]:
            asked.append([*temperatures])
            texts = decode(scorer, audio, languages, temperatures, seeds)
            return [
                replace(text, avg_logprob=-temperature if temperature > 0.3 else -1.5)
                for text, temperature in zip(texts, temperatures or [0.0] * len(texts), strict=True)
            ]

        monkeypatch.setattr("ray_jobs.engines.whisper_torch.decode", unsure)
        monkeypatch.setattr("ray_jobs.engines.whisper_torch._TRIES_AT_ONCE", at_once)
        before = engine.stats()["num_retries"]
        (heard,) = engine.transcribe([a_window(agent[: 4 * RATE_HZ])])
        assert asked == expected
        assert engine.stats()["num_retries"] - before == sum(map(len, expected))
        assert heard.segments[0].avg_logprob == -0.4

    def test_where_no_try_is_good_the_likeliest_counts(
        self, engine: WhisperTorch, agent: npt.NDArray[np.int16], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        likelihoods = iter([-1.3, -1.9, -1.1, -1.6, -1.5, -1.4])

        def unsure(scorer: Scorer, audio: torch.Tensor, languages: list[str], *_: object) -> list[Decoded]:
            return [replace(text, avg_logprob=next(likelihoods)) for text in decode(scorer, audio, languages)]

        monkeypatch.setattr("ray_jobs.engines.whisper_torch.decode", unsure)
        (heard,) = engine.transcribe([a_window(agent[: 4 * RATE_HZ])])
        assert heard.segments[0].avg_logprob == -1.1
        assert next(likelihoods, None) is None

    def test_caches_beyond_the_memory_make_batches_smaller(
        self, engine: WhisperTorch, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sizes: list[int] = []

        def build(_decoder: Decoder, max_windows: int, *_: object) -> Decoder:
            sizes.append(max_windows)
            if max_windows > 3:
                raise torch.OutOfMemoryError("a card of three windows")
            return engine._decoder

        monkeypatch.setattr("ray_jobs.engines.whisper_torch.GraphDecoder", build)
        monkeypatch.setattr(engine, "_batch_size", 10)
        engine._record_steps()
        assert (engine._batch_size, sizes) == (3, [10, 5, 3, 3])

    def test_a_batch_beyond_the_memory_is_halved_and_so_are_those_that_follow(
        self, engine: WhisperTorch, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sizes: list[int] = []

        def read(windows: list[Window]) -> list[WindowText]:
            sizes.append(len(windows))
            if len(windows) > 3:
                raise torch.OutOfMemoryError("a card of three windows")
            return [WindowText(language=f"{len(window.pcm)}", segments=()) for window in windows]

        monkeypatch.setattr(engine, "_transcribe_batch", read)
        monkeypatch.setattr(engine, "_batch_size", 10)
        monkeypatch.setattr(engine, "_num_workers", 1)
        windows = [a_window(np.zeros(length, np.int16)) for length in range(1, 11)]
        before = engine.stats()["num_batches_halved"]
        assert [text.language for text in engine.transcribe(windows)] == [f"{i}" for i in range(1, 11)]
        assert engine.stats()["num_batches_halved"] - before == 2
        assert max(sizes[2:]) <= 5
        sizes.clear()
        engine.transcribe(windows)
        assert max(sizes) <= 3

    def test_one_window_beyond_the_memory_is_the_caller_s(
        self, engine: WhisperTorch, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def read(windows: list[Window]) -> list[WindowText]:
            raise torch.OutOfMemoryError("a card of none")

        monkeypatch.setattr(engine, "_transcribe_batch", read)
        monkeypatch.setattr(engine, "_batch_size", 2)
        with pytest.raises(torch.OutOfMemoryError):
            engine.transcribe([a_window(np.zeros(8, np.int16))] * 2)

    @pytest.mark.parametrize(("free_bytes", "expected"), [(80e9, 256), (2e9, 7), (1e6, 1)])
    def test_a_card_s_batch_follows_from_what_four_windows_take(
        self, engine: WhisperTorch, monkeypatch: pytest.MonkeyPatch, free_bytes: float, expected: int
    ) -> None:
        probes: list[int] = []
        monkeypatch.setattr(engine, "_transcribe_batch", lambda windows: probes.append(len(windows)))
        monkeypatch.setattr(engine, "_num_workers", 2)
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 1e9)
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 1e9 + 4 * 1e8)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free_bytes, 80e9))
        assert engine._measure_batch_size(a_window(np.zeros(RATE_HZ, np.int16))) == expected
        assert probes == [4]

    def test_counts_what_it_did(self, engine: WhisperTorch, agent: npt.NDArray[np.int16]) -> None:
        before = engine.stats()
        engine.transcribe([a_window(agent[: 2 * RATE_HZ])])
        after = engine.stats()
        assert after["num_windows"] - before["num_windows"] == 1
        assert after["num_tokens"] > before["num_tokens"]
        assert after["audio_s"] - before["audio_s"] == 2.0
        assert after["busy_s"] > before["busy_s"]
        assert after["load_s"] > 0


class TestLoading:
    def test_goes_by_the_spec(self) -> None:
        engine = load_asr(a_spec(compute_type="float32"), num_threads=1)
        assert isinstance(engine, WhisperTorch)
        assert engine.model_name == "whisper-base"

    def test_a_language_the_model_lacks_is_refused(self) -> None:
        with pytest.raises(ModelError, match=r"^asr.language xx: model whisper-base knows .*\ben\b"):
            WhisperTorch(a_spec(language="xx"), num_threads=1)

    def test_a_truncated_model_is_refused_in_one_line(self, tmp_path: Path) -> None:
        shutil.copytree(weights.resolve("whisper-base"), tmp_path, dirs_exist_ok=True)
        with (tmp_path / "model.bin").open("r+b") as file:
            file.truncate(1_000_000)
        with pytest.raises(ModelError, match=rf"^{tmp_path}.*: is truncated; .+") as error:
            WhisperTorch(a_spec(model=str(tmp_path)), num_threads=1)
        assert "\n" not in str(error.value)
