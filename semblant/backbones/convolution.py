"""Convolutions that keep nothing for gradients nobody wants, and with few pixels are products of matrices on a CPU.

oneDNN, which torch convolves with there, reads weights in blocks and puts them in that order anew at every call. For a
weight of fifteen million numbers and a picture of 8 x 8 this takes longer than the convolution itself. A product of
matrices reads weights as they lie; what it needs instead, every pixel's surroundings side by side, is little for few
pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from semblant.backbones.frugal import Frozen, learns

FEW = {torch.float32: 0.4, torch.bfloat16: 0.25}
"""Pixels in a batch, in parts of the channels that come out, up to which a product is faster: measured at 1280 channels
forward and back; at 640 the two are equal (benchmarks/speed/README.md)."""
CHANNELS = 1024
"""Channels out from which on it is looked at."""


class Convolution(nn.Conv2d):
    """A convolution that knows both ways and takes the faster one, for the same result up to rounding. While it learns
    nothing itself, what went into it is not kept."""

    def _conv_forward(
        self, input: Float[Tensor, "rows in height width"], weight: Tensor, bias: Tensor | None
    ) -> Float[Tensor, "rows out height width"]:
        """Convolve. Raises as torch's own does."""
        if input.device.type != "cpu" or input.ndim != 4 or not _fits(self):
            return self._directly(input, weight, bias)
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else input.dtype
        rows, _, height, width = input.shape
        if not 0 < rows * height * width <= FEW.get(dtype, 0) * self.out_channels:
            return self._directly(input, weight, bias)
        around = F.unfold(input.to(dtype), 3, padding=1)
        around = around[0] if rows == 1 else around.transpose(0, 1).flatten(1)
        matrix = weight.flatten(1)
        out = matrix @ around if bias is None else torch.addmm(bias[:, None], matrix, around)
        return out.view(-1, rows, height, width).transpose(0, 1)

    def _directly(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        usual = input.ndim == 4 and self.padding_mode == "zeros" and not isinstance(self.padding, str)
        if not usual or learns(weight, bias) or not learns(input):
            return super()._conv_forward(input, weight, bias)
        found: Tensor = Frozen.apply(input, weight, bias, (self.stride, self.padding, self.dilation, self.groups))
        return found


def quicken(network: nn.Module) -> None:
    """Let the convolutions of a network know both ways, which matters for those of 3 x 3 that keep the size."""
    for module in network.modules():
        if type(module) is nn.Conv2d:
            module.__class__ = Convolution


def _fits(layer: nn.Conv2d) -> bool:
    """Asked before every use too: adapters make layers of the same class, and programs change how edges are filled."""
    return (
        layer.out_channels >= CHANNELS
        and layer.kernel_size == (3, 3)
        and layer.stride == layer.dilation == layer.padding == (1, 1)
        and layer.padding_mode == "zeros"
        and layer.groups == 1
    )
