"""Both forms of a batch's audio answer alike, whoever has left."""

import pytest
import torch

from ray_jobs.engines import attention
from ray_jobs.engines.whisper_audio import Audio, PackedAudio, hear

Form = type[Audio] | type[PackedAudio]
FORMS = [Audio, PackedAudio]
DTYPES = [torch.float32, torch.bfloat16]


def random(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
def test_queries_meet_every_position_of_their_own_window(form: Form, dtype: torch.dtype) -> None:
    embeddings, queries = random(3, 50, 16, dtype=dtype), random(3, 4, 16, dtype=dtype)
    scores = form(embeddings).scores(queries)
    expected = torch.einsum("wnd,wpd->wnp", queries.double(), embeddings.double())
    assert scores.dtype == dtype
    torch.testing.assert_close(scores.double(), expected, atol=0.05, rtol=0.01)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
def test_weights_mix_the_embeddings_of_their_own_window(form: Form, dtype: torch.dtype) -> None:
    embeddings, weights = random(3, 50, 16, dtype=dtype), random(3, 4, 50, dtype=dtype).softmax(-1)
    mixed = form(embeddings).mixed(weights)
    expected = torch.einsum("wnp,wpd->wnd", weights.double(), embeddings.double())
    assert mixed.dtype == dtype
    torch.testing.assert_close(mixed.double(), expected, atol=0.01, rtol=0.01)


@pytest.mark.parametrize("form", FORMS)
def test_windows_that_leave_give_their_place_to_others(form: Form) -> None:
    embeddings, queries = random(5, 50, 16, dtype=torch.float32), random(5, 4, 16, dtype=torch.float32)
    audio = form(embeddings.clone())
    whole = audio.scores(queries)
    order = torch.tensor([0, 4, 2])  # the fourth and the second have left, the fifth moved up
    audio.keep(order, torch.tensor([1]))
    assert len(audio) == 3
    torch.testing.assert_close(audio.scores(queries[order]), whole[order])


@pytest.mark.parametrize(("has_amx", "form"), [(True, Audio), (False, PackedAudio)])
def test_without_amx_a_bfloat16_batch_is_packed(has_amx: bool, form: Form, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_has_amx", lambda: has_amx)
    assert type(hear(random(2, 50, 16, dtype=torch.bfloat16))) is form


@pytest.mark.parametrize("has_amx", [True, False])
def test_what_leaves_a_batch_stays_in_the_encoders_output(has_amx: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_has_amx", lambda: has_amx)
    embeddings = random(2, 50, 16, dtype=torch.bfloat16)
    before = embeddings.clone()
    hear(embeddings).keep(torch.tensor([1]), torch.tensor([0]))
    torch.testing.assert_close(embeddings, before)
