"""A linear layer is the same whichever way its weights lie."""

import pytest
import torch
from torch.nn import functional

from ray_jobs.engines import linear
from ray_jobs.engines.linear import Linear

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


def layer(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights of 48 inputs and 33 outputs, and their bias."""
    random = torch.Generator().manual_seed(0)
    return torch.randn(33, 48, generator=random).to(dtype) / 7, torch.randn(33, generator=random).to(dtype)


def near(result: torch.Tensor, expected: torch.Tensor) -> bool:
    return torch.allclose(result.float(), expected.float(), rtol=2**-7, atol=2**-7)


@DTYPES
@pytest.mark.parametrize("shape", [(1, 48), (5, 48), (2, 3, 48)])
def test_any_rows_before_the_last_dimension(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    weight, bias = layer(dtype)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    product = Linear(weight, bias)(x)
    assert product.dtype == dtype
    assert near(product, functional.linear(x.float(), weight.float(), bias.float()))
    assert near(Linear(weight)(x), functional.linear(x.float(), weight.float()))


@DTYPES
def test_gelu_is_the_exact_one_and_comes_after_the_bias(dtype: torch.dtype) -> None:
    weight, bias = layer(dtype)
    x = torch.linspace(-3, 3, 48).repeat(4, 1).to(dtype)
    product = functional.linear(x.float(), weight.float(), bias.float())
    assert near(Linear(weight, bias, gelu=True)(x), functional.gelu(product))


@DTYPES
def test_rows_that_overlap_in_memory(dtype: torch.dtype) -> None:
    """As the frames of a convolution do."""
    weight, bias = layer(dtype)
    x = torch.arange(80, dtype=torch.float32).div(80).to(dtype).as_strided((3, 48), (16, 1))
    assert near(Linear(weight, bias)(x), functional.linear(x.float(), weight.float(), bias.float()))


def test_a_cpu_without_bfloat16_gets_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "_multiplies_bfloat16", lambda: False)
    weight, bias = layer(torch.bfloat16)
    x = torch.ones(2, 48, dtype=torch.bfloat16)
    expected = functional.gelu(functional.linear(x, weight, bias))
    assert torch.equal(Linear(weight, bias, gelu=True)(x), expected)
