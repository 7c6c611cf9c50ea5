"""Linear layers for inference: on a CPU with the weights as its matrix units read them, bias and GELU in one pass."""

import torch
from torch import Tensor
from torch.nn import functional


class Linear:
    """x W' + b, then GELU where asked for.

    `functional.linear` reorders the weights at every call, which for the few rows of a decoding step takes as long as
    the product, and GELU of its own reads and writes all of the result twice. Here oneDNN gets weights that are
    reordered once, by the operators that torch's own compiler (Inductor) emits for a CPU. They take bfloat16 where the
    CPU multiplies it; everything else is `functional.linear`.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None, *, gelu: bool = False) -> None:
        """`weight` (outputs, inputs) and `bias` (outputs,), on one device in one dtype."""
        self._bias, self._gelu = bias, gelu
        self._is_packed = weight.device.type == "cpu" and weight.dtype == torch.bfloat16 and _multiplies_bfloat16()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, None) if self._is_packed else weight

    def __call__(self, x: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs), in the weights' dtype."""
        if self._is_packed:
            after = "gelu" if self._gelu else "none"
            packed: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, after, [], "none")
            return packed
        product = functional.linear(x, self._weight, self._bias)
        return functional.gelu(product) if self._gelu else product


def _multiplies_bfloat16() -> bool:
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
