import torch

from ray_jobs.engines.whisper_decode import _sample


def samplers(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_tokens_come_as_often_as_they_are_likely() -> None:
    logits = torch.tensor([0.6, 0.3, 0.1, 0.0]).log()
    sampler = torch.Generator().manual_seed(0)
    tokens = torch.cat([_sample(logits[None], [sampler]) for _ in range(3000)])
    shares = torch.bincount(tokens, minlength=4) / len(tokens)
    assert torch.allclose(shares, logits.exp(), atol=0.03)


def test_a_token_that_may_not_come_never_does() -> None:
    logits = torch.full((64, 50_000), -torch.inf)
    logits[:, [10_000, 40_000]] = 0.0
    assert set(_sample(logits, samplers(*range(64))).tolist()) == {10_000, 40_000}


def test_neighbours_do_not_change_what_a_text_becomes() -> None:
    logits = torch.randn(3, 1000, generator=torch.Generator().manual_seed(1))
    together = _sample(logits, samplers(5, 6, 7))
    assert together[1:2].tolist() == _sample(logits[1:2], samplers(6)).tolist()
