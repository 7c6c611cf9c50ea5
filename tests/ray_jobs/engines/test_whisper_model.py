"""Encoder, decoder and weights, against transformers' Whisper of the same random weights."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers

from benchmarks.whisper_shapes import NARROW, SHAPES, write_random
from ray_jobs.engines.whisper_model import Decoder, Encoder
from ray_jobs.engines.whisper_weights import Checkpoint, load_checkpoint
from ray_jobs.errors import ModelError

CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module", params=["tiny", "small", "medium", "large-v3", "large-v3-turbo"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of a published shape, narrow, of windows of 2 s."""
    shape = replace(SHAPES[request.param], **NARROW)
    return write_random(tmp_path_factory.mktemp("model"), shape, std=0.1, dtype=torch.float32)


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> Checkpoint:
    return load_checkpoint(folder)


@pytest.fixture(scope="module")
def reference(folder: Path) -> transformers.WhisperForConditionalGeneration:
    return transformers.WhisperForConditionalGeneration.from_pretrained(folder).eval()


def random_mel(checkpoint: Checkpoint, num_windows: int = 3) -> torch.Tensor:
    return torch.randn(num_windows, 200, checkpoint.config.num_mels, generator=torch.Generator().manual_seed(1))


def test_encoder_equals_transformers(
    checkpoint: Checkpoint, reference: transformers.WhisperForConditionalGeneration
) -> None:
    log_mel = random_mel(checkpoint)
    expected = reference.model.encoder(log_mel.transpose(1, 2)).last_hidden_state
    torch.testing.assert_close(Encoder(checkpoint, CPU, torch.float32)(log_mel), expected, atol=1e-3, rtol=1e-3)


def test_decoder_step_by_step_equals_transformers_in_one_go(
    checkpoint: Checkpoint, reference: transformers.WhisperForConditionalGeneration
) -> None:
    audio = Encoder(checkpoint, CPU, torch.float32)(random_mel(checkpoint))
    tokens = torch.randint(0, 1_000, (3, 9), generator=torch.Generator().manual_seed(2))
    expected = reference(encoder_outputs=(audio,), decoder_input_ids=tokens).logits
    decoder = Decoder(checkpoint, CPU, torch.float32)
    state = decoder.start(audio, 9)
    hidden = [decoder.step(part, state)[0] for part in (tokens[:, :4], *tokens[:, 4:].split(1, 1))]
    torch.testing.assert_close(decoder.logits(torch.cat(hidden, 1)), expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("kept", [[0, 1, 2, 3, 4], [1, 4], [0, 3], [4], [0, 1]])
def test_rows_that_stay_do_not_notice_that_others_leave(checkpoint: Checkpoint, kept: list[int]) -> None:
    audio = Encoder(checkpoint, CPU, torch.float32)(random_mel(checkpoint, 5))
    tokens = torch.randint(0, 1_000, (5, 3), generator=torch.Generator().manual_seed(3))
    decoder = Decoder(checkpoint, CPU, torch.float32)
    whole, compacted = decoder.start(audio, 3), decoder.start(audio, 3)
    for state in (whole, compacted):
        decoder.step(tokens[:, :2], state)
    order = compacted.keep(torch.tensor(kept))
    assert sorted(order.tolist()) == kept
    expected, expected_attention = decoder.step(tokens[:, 2:], whole)
    hidden, attention = decoder.step(tokens[order, 2:], compacted)
    torch.testing.assert_close(hidden, expected[order], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(attention, expected_attention[order], atol=1e-5, rtol=1e-4)


def test_a_beam_goes_on_as_a_text_of_its_own_would(checkpoint: Checkpoint) -> None:
    audio = Encoder(checkpoint, CPU, torch.float32)(random_mel(checkpoint, 2))
    tokens = torch.randint(0, 1_000, (6, 3), generator=torch.Generator().manual_seed(4))
    tokens[:3, 0], tokens[3:, 0] = tokens[0, 0], tokens[3, 0]  # the beams of a window begin alike
    decoder = Decoder(checkpoint, CPU, torch.float32)
    beams = decoder.start(audio, 3)
    decoder.step(tokens[::3, :1], beams)
    beams.fan_out(3)
    decoder.step(tokens[:, 1:2], beams)
    parents = torch.tensor([[2, 0, 0], [1, 1, 0]])
    beams.reorder(parents)
    hidden, attention = decoder.step(tokens[:, 2:], beams)
    origins = torch.cat([parents[0], 3 + parents[1]])
    texts = torch.cat([tokens[origins, :2], tokens[:, 2:]], 1)
    alone = decoder.start(audio.repeat_interleave(3, 0), 3)
    expected, expected_attention = decoder.step(texts, alone)
    torch.testing.assert_close(hidden[:, 0], expected[:, -1], atol=1e-4, rtol=1e-4)
    by_beam = expected_attention[:, :, -1].unflatten(0, (2, 3)).transpose(1, 2)
    torch.testing.assert_close(attention, by_beam, atol=1e-5, rtol=1e-4)


def test_a_model_without_alignment_heads_aligns_by_the_upper_half(folder: Path, tmp_path: Path) -> None:
    copy(folder, tmp_path)
    (tmp_path / "generation_config.json").unlink()
    checkpoint = load_checkpoint(tmp_path)
    layers, heads = checkpoint.config.decoder_layers, checkpoint.config.num_heads
    upper = [(layer, head) for layer in range(layers // 2, layers) for head in range(heads)]
    assert list(checkpoint.alignment_heads) == upper


def copy(folder: Path, target: Path) -> Path:
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


class TestBadFolders:
    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return write_random(tmp_path_factory.mktemp("model"), replace(SHAPES["tiny"], **NARROW))

    def refusal(self, folder: Path) -> str:
        with pytest.raises(ModelError) as error:
            load_checkpoint(folder)
        assert "\n" not in str(error.value)
        assert str(folder) in str(error.value)
        return str(error.value)

    def test_no_such_folder(self, tmp_path: Path) -> None:
        assert "config.json" in self.refusal(tmp_path / "nowhere")

    def test_truncated_safetensors(self, folder: Path, tmp_path: Path) -> None:
        copy(folder, tmp_path)
        with (tmp_path / "model.safetensors").open("r+b") as file:
            file.truncate(100_000)
        assert "truncated" in self.refusal(tmp_path)

    def test_another_kind_of_model(self, folder: Path, tmp_path: Path) -> None:
        copy(folder, tmp_path)
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
        assert "llama" in self.refusal(tmp_path)

    def test_broken_configuration(self, folder: Path, tmp_path: Path) -> None:
        copy(folder, tmp_path)
        (tmp_path / "config.json").write_text("{")
        assert "not JSON" in self.refusal(tmp_path)

    def test_configuration_without_shape(self, folder: Path, tmp_path: Path) -> None:
        copy(folder, tmp_path)
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "whisper"}))
        assert "num_mel_bins" in self.refusal(tmp_path)

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"", "truncated"),
            (b"\6\0\0\0\x0c\0WhisperSpec\0\3\0", "truncated"),
            (b"\6\0\0\0\2\0X\0", "no Whisper model"),
        ],
    )
    def test_broken_ctranslate2_model(self, tmp_path: Path, content: bytes, reason: str) -> None:
        (tmp_path / "model.bin").write_bytes(content)
        assert reason in self.refusal(tmp_path)

    def test_a_missing_tensor_is_named(self, folder: Path) -> None:
        checkpoint = load_checkpoint(folder)
        tensors = {name: tensor for name, tensor in checkpoint.tensors.items() if name != "encoder.conv1.weight"}
        partial = Checkpoint(
            config=checkpoint.config, tensors=tensors, alignment_heads=(), suppressed=(), suppressed_first=()
        )
        with pytest.raises(ModelError, match=r"encoder\.conv1\.weight"):
            Encoder(partial, CPU, torch.float32)
