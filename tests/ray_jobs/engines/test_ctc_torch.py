"""The CTC engine: by hand, on random weights of the real shapes, and on a model that learned to read tones."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchaudio
from safetensors.torch import save_file

from ray_jobs.engines import weights
from ray_jobs.engines.asr import Window, WindowText
from ray_jobs.engines.ctc_torch import CtcTorch, collapse, emissions
from ray_jobs.engines.load_asr import load_asr
from ray_jobs.errors import ModelError
from ray_jobs.spec import AsrSpec
from tests.ray_jobs.engines import tones

CPU = torch.device("cpu")


def a_spec(folder: Path, **settings: Any) -> AsrSpec:
    return AsrSpec(engine="ctc_torch", model=str(folder), **settings)


class TestCollapse:
    NAMES = ("-", "|", "a", "b")

    def test_repeats_are_one_letter_and_blanks_are_none(self) -> None:
        letters = collapse([0, 2, 2, 0, 2, 3, 0, 1, 3], [-1.0] * 9, self.NAMES)
        heard = [(letter.label, letter.start, letter.end) for letter in letters]
        assert heard == [("a", 1, 3), ("a", 4, 5), ("b", 5, 6), ("|", 7, 8), ("b", 8, 9)]

    def test_a_letter_is_as_likely_as_its_frames_on_average(self) -> None:
        (letter,) = collapse([2, 2, 0], [-0.1, -0.3, -9.0], self.NAMES)
        assert letter.logprob == pytest.approx(-0.2)

    def test_nothing_is_nothing(self) -> None:
        assert collapse([], [], self.NAMES) == []
        assert collapse([0, 0], [-1.0, -1.0], self.NAMES) == []


@pytest.mark.integration
class TestEmissions:
    @pytest.fixture(scope="class", params=["as wav2vec2_base and hubert_base", "layer norms, as the large shapes"])
    def model(self, request: pytest.FixtureRequest) -> Any:
        """Random weights."""
        torch.manual_seed(0)
        if "base" in request.param:
            return torchaudio.models.hubert_base(aux_num_out=32).eval()
        large = {**tones.SHAPE, "extractor_mode": "layer_norm", "encoder_layer_norm_first": True}
        dropouts = ("projection_dropout", "attention_dropout", "ff_interm_dropout", "dropout", "layer_drop")
        return torchaudio.models.wav2vec2_model(
            **large, **{f"encoder_{name}": 0.0 for name in dropouts}, aux_num_out=32
        ).eval()

    @torch.inference_mode()
    def test_of_a_batch_are_those_of_each_alone(self, model: Any) -> None:
        lengths = torch.tensor([8_000, 4_000, 400, 6_345])
        waves = torch.randn(4, 8_000, generator=torch.Generator().manual_seed(1)) * 0.1
        waves *= torch.arange(8_000) < lengths[:, None]
        together, num_frames = emissions(model, waves, lengths)
        for i, length in enumerate(lengths.tolist()):
            alone, _ = model(waves[i : i + 1, :length])  # torchaudio's own forward, nothing padded
            assert num_frames[i] == alone.shape[1]
            torch.testing.assert_close(together[i, : num_frames[i]], alone[0], atol=1e-4, rtol=1e-3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)  # products this small only wait for each other on two
    return tones.trained_folder(tmp_path_factory.mktemp("tones"))


@pytest.fixture(scope="module")
def engine(folder: Path) -> CtcTorch:
    engine = load_asr(a_spec(folder, batch_size=8), num_threads=1)
    assert isinstance(engine, CtcTorch)
    return engine


def windows_of(songs: list[tones.Song]) -> list[Window]:
    return [Window(pcm=song.pcm, sample_rate_hz=tones.RATE_HZ, language=None) for song in songs]


def words_of(heard: WindowText) -> tuple[str, ...]:
    return tuple(word.text for segment in heard.segments for word in segment.words)


@pytest.mark.integration
class TestEngine:
    @pytest.fixture(scope="class")
    def songs(self) -> list[tones.Song]:
        rng = np.random.default_rng(9)
        return [tones.sing(tones.random_words(rng), rng) for _ in range(30)]

    def test_reads_the_words_that_were_sung_when_they_were_sung(
        self, engine: CtcTorch, songs: list[tones.Song]
    ) -> None:
        heard = engine.transcribe(windows_of(songs))
        assert [words_of(window) for window in heard] == [song.words for song in songs]
        for window, song in zip(heard, songs, strict=True):
            (segment,) = window.segments
            assert segment.text == " ".join(song.words)
            assert -0.5 < segment.avg_logprob < 0
            for word, (start_s, end_s) in zip(segment.words, song.times_s, strict=True):
                assert word.start_s == pytest.approx(start_s, abs=0.15)
                assert word.end_s == pytest.approx(end_s, abs=0.25)
                assert 0.5 < word.probability <= 1

    def test_reads_the_same_alone_as_among_others(self, engine: CtcTorch, songs: list[tones.Song]) -> None:
        together = engine.transcribe(windows_of(songs[:5]))
        assert [engine.transcribe([window])[0].segments[0].text for window in windows_of(songs[:5])] == [
            heard.segments[0].text for heard in together
        ]

    def test_silence_and_scraps_have_no_words(self, engine: CtcTorch, songs: list[tones.Song]) -> None:
        scraps = [Window(pcm=np.zeros(n, np.int16), sample_rate_hz=8_000, language=None) for n in (24_000, 800, 1)]
        heard = engine.transcribe([*scraps, *windows_of(songs[:1])])
        assert [window.segments for window in heard[:3]] == [(), (), ()]
        assert words_of(heard[3]) == songs[0].words
        assert engine.transcribe([]) == []

    def test_counts_what_it_did(self, engine: CtcTorch, songs: list[tones.Song]) -> None:
        before = engine.stats()
        engine.transcribe(windows_of(songs[:2]))
        after = engine.stats()
        assert after["num_windows"] - before["num_windows"] == 2
        assert after["num_tokens"] - before["num_tokens"] == sum(len(word) for s in songs[:2] for word in s.words)
        assert after["audio_s"] - before["audio_s"] == pytest.approx(sum(len(s.pcm) for s in songs[:2]) / 8_000)
        assert after["busy_s"] > before["busy_s"]
        assert after["load_s"] > 0

    def test_a_state_dict_in_a_pt_file_reads_the_same(
        self, engine: CtcTorch, folder: Path, songs: list[tones.Song], tmp_path: Path
    ) -> None:
        torch.save(engine._model.state_dict(), tmp_path / "model.pt")
        (tmp_path / "ctc.json").write_bytes((folder / "ctc.json").read_bytes())
        other = CtcTorch(a_spec(tmp_path), num_threads=1)
        assert words_of(other.transcribe(windows_of(songs[:1]))[0]) == songs[0].words


class TestBadFolders:
    @staticmethod
    def write(folder: Path, **changes: Any) -> Path:
        """A folder of random weights, its ctc.json changed."""
        model = torchaudio.models.wav2vec2_model(
            **tones.SHAPE,
            encoder_projection_dropout=0.0,
            encoder_attention_dropout=0.0,
            encoder_ff_interm_dropout=0.0,
            encoder_dropout=0.0,
            encoder_layer_drop=0.0,
            aux_num_out=len(tones.LABELS),
        )
        save_file({name: t.contiguous() for name, t in model.state_dict().items()}, folder / "model.safetensors")
        document = {**tones.CTC_JSON, **changes}
        (folder / "ctc.json").write_text(json.dumps({key: value for key, value in document.items() if value}))
        return folder

    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            ({"shape": "wav2vec3"}, r"ctc\.json: shape: "),
            ({"labels": None}, r"ctc\.json: labels: Field required"),
            ({"labels": ["a", "a"]}, r"ctc\.json: labels: two labels are the same"),
            ({"shap": "hubert_base"}, r"ctc\.json: shap: Extra inputs"),
        ],
    )
    def test_a_wrong_ctc_json_is_found_before_the_run(self, tmp_path: Path, changes: dict[str, Any], says: str) -> None:
        with pytest.raises(ModelError, match=says) as error:
            weights.check(str(self.write(tmp_path, **changes)), "ctc_torch")
        assert "\n" not in str(error.value)

    def test_a_folder_of_another_kind_is_found_before_the_run(self, tmp_path: Path) -> None:
        (self.write(tmp_path) / "ctc.json").unlink()
        with pytest.raises(ModelError, match=r"holds no ctc\.json; ctc_torch reads ctc models$"):
            weights.check(str(tmp_path), "ctc_torch")

    def test_truncated_safetensors_are_found_before_the_run(self, tmp_path: Path) -> None:
        with (self.write(tmp_path) / "model.safetensors").open("r+b") as file:
            file.truncate(10_000)
        with pytest.raises(ModelError, match=r"model\.safetensors is truncated or not safetensors"):
            weights.check(str(tmp_path), "ctc_torch")

    @pytest.mark.parametrize("content", [b"", b"\x80\x02.", b"PK\x03\x04"])
    def test_a_broken_pt_file_is_one_line(self, tmp_path: Path, content: bytes) -> None:
        (self.write(tmp_path) / "model.safetensors").unlink()
        (tmp_path / "model.pt").write_bytes(content)
        with pytest.raises(ModelError, match=rf"^{tmp_path}/model\.pt: is truncated or no state_dict") as error:
            CtcTorch(a_spec(tmp_path), num_threads=1)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            ({"labels": ["-", "|", "a"]}, r"model\.safetensors: does not fit the shape in ctc\.json: .*size mismatch"),
            ({"shape": {**tones.SHAPE, "depth": 3}}, r"ctc\.json: shape: torchaudio cannot build it: .*depth"),
        ],
    )
    def test_weights_of_another_shape_are_one_line(self, tmp_path: Path, changes: dict[str, Any], says: str) -> None:
        with pytest.raises(ModelError, match=says) as error:
            CtcTorch(a_spec(self.write(tmp_path, **changes)), num_threads=1)
        assert "\n" not in str(error.value)

    def test_a_language_it_was_not_trained_on_is_refused(self, tmp_path: Path) -> None:
        self.write(tmp_path)
        (tmp_path / "ctc.json").write_text(json.dumps({**tones.CTC_JSON, "language": "de"}))
        with pytest.raises(ModelError, match=r"^asr\.language en: model .* knows de$"):
            CtcTorch(a_spec(tmp_path), num_threads=1)
