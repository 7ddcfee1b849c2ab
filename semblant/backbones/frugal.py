"""Layers that keep less for their gradients, for the same result.

torch keeps what goes into a convolution for the gradient of its weight, also where that learns nothing, and of a gated
layer both the gate and what became of it: in a step of Stable Diffusion 1.5 that is more than a quarter of all. What
can be had by a multiplication or two is computed again instead.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.activations import GEGLU
from torch import Tensor, nn
from transformers.activations import QuickGELUActivation


class Frozen(torch.autograd.Function):
    """A convolution whose weight and bias learn nothing: its gradient needs the weight, and of its input the shape."""

    generate_vmap_rule = True

    @staticmethod
    def forward(input: Tensor, weight: Tensor, bias: Tensor | None, how: tuple[Any, ...]) -> Tensor:
        """`how`: stride, padding, dilation and groups, as torch's own takes them."""
        return F.conv2d(input, weight, bias, *how)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep what the gradient needs."""
        input, weight, _, ctx.how = inputs
        ctx.save_for_backward(weight)
        ctx.shape, ctx.strides = input.shape, input.stride()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        """The gradient of the input, by torch's own; what it calls the input is never read."""
        [weight] = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.how
        unread = torch.empty_strided(ctx.shape, ctx.strides, dtype=grad.dtype, device=grad.device)
        of_input, _, _ = torch.ops.aten.convolution_backward(
            grad,
            unread,
            weight.to(grad.dtype),
            None,
            stride,
            padding,
            dilation,
            False,
            (0, 0),
            groups,
            (True, False, False),
        )
        return of_input, None, None, None


def learns(*tensors: Tensor | None) -> bool:
    """Whether a gradient of any of them is wanted."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


class Gated(torch.autograd.Function):
    """One half of the channels times GELU of the other (Shazeer 2020, arXiv 2002.05202); of both halves alone is kept
    what they were, and GELU is computed again."""

    generate_vmap_rule = True

    @staticmethod
    def forward(both: Tensor) -> Tensor:
        """[..., 2 channels] to [..., channels]."""
        hidden, gate = both.chunk(2, dim=-1)
        return hidden * F.gelu(gate)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        """Keep what the gradient needs."""
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """Of both halves, side by side."""
        [both] = ctx.saved_tensors
        hidden, gate = both.chunk(2, dim=-1)
        if torch.is_grad_enabled():
            # Somebody wants gradients of these too.
            return torch.cat([grad * F.gelu(gate), torch.ops.aten.gelu_backward(grad * hidden, gate)], -1)
        found = torch.empty_like(both)
        of_hidden, of_gate = found.chunk(2, dim=-1)
        of_hidden.copy_(F.gelu(gate)).mul_(grad)
        of_gate.copy_(torch.ops.aten.gelu_backward(grad * hidden, gate))
        return found


class Gate(GEGLU):
    """The gated layer of transformer blocks, which keeps half as much."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """As diffusers computes it."""
        both = self.proj(hidden_states)
        gated: Tensor = Gated.apply(both) if learns(both) else Gated.forward(both)
        return gated


class Quick(torch.autograd.Function):
    """x sigmoid(1.702 x), the activation of CLIP's text encoder, of which only x is kept."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        """As transformers computes it."""
        return x * torch.sigmoid(1.702 * x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        """Keep what the gradient needs."""
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """By the product rule, in torch's order."""
        [x] = ctx.saved_tensors
        share = torch.sigmoid(1.702 * x)
        return grad * share + torch.ops.aten.sigmoid_backward(grad * x, share) * 1.702


class QuickActivation(QuickGELUActivation):
    """The activation of CLIP's text encoder, which keeps half as much."""

    def forward(self, input: Tensor) -> Tensor:
        """As transformers computes it."""
        active: Tensor = Quick.apply(input) if learns(input) else Quick.forward(input)
        return active


LEANER: dict[type, type] = {GEGLU: Gate, QuickGELUActivation: QuickActivation}


def economise(network: nn.Module) -> None:
    """Let the layers of a network that keep more than they need keep less."""
    for module in network.modules():
        if leaner := LEANER.get(type(module)):
            module.__class__ = leaner
