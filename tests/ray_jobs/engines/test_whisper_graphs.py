"""Replayed steps against the plain decoder's; here each replay computes its step anew, as a CPU records no graphs."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from benchmarks.whisper_shapes import NARROW, SHAPES, write_random
from ray_jobs.engines.whisper_graphs import GraphDecoder, Step
from ray_jobs.engines.whisper_model import Decoder
from ray_jobs.engines.whisper_weights import load_checkpoint

MAX_WINDOWS, MAX_LENGTH = 9, 12


@pytest.fixture(scope="module", autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    shape = replace(SHAPES["tiny"], **NARROW)
    folder = write_random(tmp_path_factory.mktemp("model"), shape, std=0.1, dtype=torch.float32)
    return Decoder(load_checkpoint(folder), torch.device("cpu"), torch.float32)


class Recorder:
    """Stands in for a GPU: it counts replays, and like a graph's, a result lies where the one before lay."""

    def __init__(self) -> None:
        self.num_replays = 0

    def __call__(self, step: Step) -> Step:
        result = tuple(tensor.clone() for tensor in step())

        def replay() -> tuple[torch.Tensor, torch.Tensor]:
            self.num_replays += 1
            for old, new in zip(result, step(), strict=True):
                old.copy_(new)
            return result[0], result[1]

        return replay


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def replaying(decoder: Decoder, recorder: Recorder) -> GraphDecoder:
    return GraphDecoder(decoder, MAX_WINDOWS, MAX_LENGTH, recorder)


def random_audio(decoder: Decoder, num_windows: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_windows, decoder.config.audio_positions, decoder.config.width, generator=generator)


def random_tokens(num_windows: int, length: int) -> torch.Tensor:
    return torch.randint(0, 50_000, (num_windows, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("num_windows", [1, 2, 5, 9])
def test_steps_are_the_plain_decoder_s(
    decoder: Decoder, replaying: GraphDecoder, recorder: Recorder, num_windows: int
) -> None:
    audio, tokens = random_audio(decoder, num_windows), random_tokens(num_windows, 8)
    plain, replayed = decoder.start(audio, 8), replaying.start(audio, 8)
    for part in (tokens[:, :4], *tokens[:, 4:].split(1, 1)):
        expected, found = decoder.step(part, plain), replaying.step(part, replayed)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert recorder.num_replays == 4
    assert replayed.length == plain.length


def test_rows_that_stay_do_not_notice_that_others_leave(decoder: Decoder, replaying: GraphDecoder) -> None:
    audio, tokens = random_audio(decoder, 7), random_tokens(7, 6)
    plain, replayed = decoder.start(audio, 6), replaying.start(audio, 6)
    decoder.step(tokens[:, :5], plain)
    replaying.step(tokens[:, :5], replayed)
    order = replayed.keep(torch.tensor([1, 4, 6]))
    expected, _ = decoder.step(tokens[:, 5:], plain)
    found, _ = replaying.step(tokens[order, 5:], replayed)
    torch.testing.assert_close(found, expected[order], atol=1e-5, rtol=1e-4)


def test_a_batch_leaves_nothing_to_the_next(decoder: Decoder, replaying: GraphDecoder) -> None:
    spoilt = replaying.start(random_audio(decoder, 3) * torch.nan, 6)
    for _ in range(6):
        replaying.step(random_tokens(3, 1), spoilt)
    audio, tokens = random_audio(decoder, 3, seed=2), random_tokens(3, 1)
    found, _ = replaying.step(tokens, replaying.start(audio, 6))
    expected, _ = decoder.step(tokens, decoder.start(audio, 6))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_beams_and_what_is_too_large_take_the_plain_way(
    decoder: Decoder, replaying: GraphDecoder, recorder: Recorder
) -> None:
    tokens = random_tokens(MAX_WINDOWS + 1, 1)
    large = replaying.start(random_audio(decoder, MAX_WINDOWS + 1), 4)
    replaying.step(tokens, large)
    beams = replaying.start(random_audio(decoder, 2), 4)
    replaying.step(tokens[:2], beams)
    beams.fan_out(3)
    replaying.step(tokens[:6], beams)
    assert recorder.num_replays == 1, "the beams' first token"
