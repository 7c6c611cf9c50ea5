"""Attention, by whichever products of a processor are fast."""

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

_QUERIES = 500
"""At once: their scores against 1,500 keys are still in a core's cache when the next product reads them."""

_FEW_QUERIES = 32


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q k' / sqrt(head_dim) + mask) v; q, k, v and the result are (batch, num_heads, length, head_dim).

    torch's own kernel for bfloat16 is made for AMX. On a core without it, it reaches 90 GFLOP/s, and oneDNN's plain
    products, softmax included, 220; scores are then rounded to bfloat16 before the softmax, as queries and keys were
    before, and the result's error goes from 0.2 to 0.4 % of it. Few queries are quickest in float32, by four times.
    """
    if not lacks_amx(q):
        return functional.scaled_dot_product_attention(q, k, v, mask)
    if mask is None and q.shape[2] > _FEW_QUERIES:
        return _attend_by_products(q, k, v)
    mask = None if mask is None else mask.float()
    return functional.scaled_dot_product_attention(q.float(), k.float(), v.float(), mask).to(q.dtype)


def lacks_amx(x: Tensor) -> bool:
    """Whether `x` is bfloat16 on a CPU that multiplies it, if at all, in AVX512."""
    return x.device.type == "cpu" and x.dtype == torch.bfloat16 and not _has_amx()


@cache
def _has_amx() -> bool:
    return bool(torch.cpu.get_capabilities().get("amx_bf16"))


def _attend_by_products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Head by head: the scores of all together do not fit the cache."""
    batch, num_heads, length, head_dim = q.shape
    result = q.new_empty(batch, length, num_heads, head_dim)
    for i in range(batch):
        for head in range(num_heads):
            keys = (k[i, head] * head_dim**-0.5).T
            for first in range(0, length, _QUERIES):
                some = slice(first, first + _QUERIES)
                weights = torch.mm(q[i, head, some], keys).softmax(-1)
                result[i, some, head] = torch.mm(weights, v[i, head])
    return result.transpose(1, 2)
