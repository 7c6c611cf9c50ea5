"""Attention, whichever kernel a processor gets."""

import pytest
import torch

from ray_jobs.engines import attention
from ray_jobs.engines.attention import attend


@pytest.mark.parametrize("has_amx", [True, False])
@pytest.mark.parametrize("length", [1, 499, 500, 1_500])
def test_every_kernel_gives_the_definition_s_result(monkeypatch, has_amx, length):
    monkeypatch.setattr(attention, "_has_amx", lambda: has_amx)
    generator = torch.Generator().manual_seed(length)
    q, k, v = torch.randn(3, 2, 3, length, 16, generator=generator).bfloat16()
    scores = q.double() @ k.double().transpose(2, 3) / 16**0.5
    expected = scores.softmax(-1) @ v.double()
    assert attend(q, k, v).shape == expected.shape
    assert (attend(q, k, v) - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize("has_amx", [True, False])
def test_a_mask_hides_keys_and_few_queries_are_as_good_as_many(monkeypatch, has_amx):
    monkeypatch.setattr(attention, "_has_amx", lambda: has_amx)
    generator = torch.Generator().manual_seed(0)
    k, v = torch.randn(2, 2, 3, 40, 16, generator=generator).bfloat16()
    q = torch.randn(2, 3, 4, 16, generator=generator).bfloat16()
    mask = torch.full((4, 40), -torch.inf, dtype=q.dtype)
    mask[:, :25] = 0
    torch.testing.assert_close(attend(q, k, v, mask), attend(q, k[:, :, :25], v[:, :, :25]), rtol=0.02, atol=0.02)


def test_float32_is_not_rounded():
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, 2, 100, 16, generator=generator)
    expected = (q @ k.transpose(2, 3) / 16**0.5).softmax(-1) @ v
    torch.testing.assert_close(attend(q, k, v), expected)
