"""What the judges are built of: convolutions that end on a small grid of places."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Conv(nn.Module):
    """Convolution, normalisation, rectifier."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, act: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
        self.norm: nn.BatchNorm2d | None = nn.BatchNorm2d(outputs)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = x if self.norm is None else self.norm(x)
        return F.relu(x) if self.act else x

    def fold(self) -> None:
        """Move the normalisation (its running statistics) into the convolution."""
        if (norm := self.norm) is None:
            return
        assert norm.running_mean is not None and norm.running_var is not None
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        self.conv.weight = nn.Parameter((self.conv.weight * scale[:, None, None, None]).detach())
        self.conv.bias = nn.Parameter((norm.bias - norm.running_mean * scale).detach())
        self.norm = None


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = Conv(width, width), Conv(width, width, act=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(self.first(x)))


class Trunk(nn.Module):
    """A stem and one stage per width, each halving the picture; returns what every stage sees."""

    def __init__(self, widths: Sequence[int], blocks: Sequence[int], stem: int = 2) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        inputs = 3
        for stage, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            first = Conv(inputs, width, kernel=5 if stage == 0 else 3, stride=stem if stage == 0 else 2)
            self.stages.append(nn.Sequential(first, *(Residual(width) for _ in range(count))))
            inputs = width

    def forward(self, x: Tensor) -> list[Tensor]:
        seen = []
        x = x * 4 - 2
        for stage in self.stages:
            x = stage(x)
            seen.append(x)
        return seen


def together(laterals: nn.ModuleList, levels: Sequence[Tensor]) -> Tensor:
    """What every stage sees, each through its own convolution, summed from the coarsest to the finest."""
    sides = [lateral(level) for lateral, level in zip(laterals, levels, strict=True)]
    x: Tensor = sides[-1]
    for side in reversed(sides[:-1]):
        x = F.relu(side + F.interpolate(x, size=side.shape[-2:]))
    return x


class Places(nn.Module):
    """What a trunk sees at the end, on a grid of 4 x 4 places, as one vector."""

    def __init__(self, width: int, dim: int, narrow: int = 40, more: int = 0) -> None:
        super().__init__()
        self.narrow = Conv(width, narrow, kernel=1)
        self.out = nn.Linear(narrow * 16 + more, dim)

    def forward(self, x: Tensor, *more: Tensor) -> Tensor:
        """`more`: numbers beside what the trunk sees."""
        return self.out(torch.cat([F.adaptive_avg_pool2d(self.narrow(x), 4).flatten(1), *more], 1))


class Marks(nn.Module):
    """Where on a face there are freckles, and where a mole: a map that what a trunk sees first is enough for.

    Both are a pixel or two wide. A network that is only told whether a face has them never finds them; told where they
    are, it finds them within a thousand steps.
    """

    SIDE = 8
    NUMBERS = 2 * SIDE * SIDE + 2

    def __init__(self, width: int) -> None:
        super().__init__()
        self.map = nn.Conv2d(width, 2, 1)
        nn.init.constant_(self.map.bias, -5.0)  # type: ignore[arg-type]  # marks are rare among places

    def forward(self, seen: Tensor) -> Tensor:
        """Logits of freckles and of a mole, place by place: [n, 2, h, w]."""
        return self.map(seen).float()

    def told(self, marks: Tensor) -> Tensor:
        """The map as numbers: how sure it is at most in each part of the face, and how much there is in all."""
        most = F.adaptive_max_pool2d(marks, self.SIDE).flatten(1)
        return torch.cat([most, marks.sigmoid().mean((2, 3)) * 10], 1).clamp(-6, 6)


def unfold(judge: nn.Module, folded: Mapping[str, Tensor], show: Callable[[], object]) -> None:
    """Give a judge that learns the weights of one of its shape that `fold` made, so that it answers the same.

    What was folded away, how strong each channel is on the whole, is measured anew on what `show` lets the judge see.
    """
    convs = {name: part for name, part in judge.named_modules() if isinstance(part, Conv)}
    own = judge.state_dict()
    known = {name: weight for name, weight in folded.items() if name in own}
    judge.load_state_dict(own | known)
    seen: dict[str, list[Tensor]] = defaultdict(list)
    hooks = []
    for name, part in convs.items():
        norm = _norm(part)
        norm.reset_running_stats()
        nn.init.constant_(norm.weight, (1 + norm.eps) ** 0.5)
        norm.bias.data.copy_(folded[f"{name}.conv.bias"])
        hooks.append(part.conv.register_forward_hook(lambda _, __, out, to=seen[name]: to.append(_strength(out))))
    learning = judge.training
    with torch.no_grad():
        judge.eval()
        show()
        judge.train(learning)
        for hook in hooks:
            hook.remove()
        for name, part in convs.items():
            norm, (mean, square) = _norm(part), torch.stack(seen[name]).mean(0)
            assert norm.running_mean is not None and norm.running_var is not None
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(square - mean**2)
            norm.weight.copy_((norm.running_var + norm.eps).sqrt())
            norm.bias.add_(mean)


def _norm(part: Conv) -> nn.BatchNorm2d:
    if part.norm is None:
        raise ValueError("only a judge that still learns can be given weights")
    return part.norm


def _strength(seen: Tensor) -> Tensor:
    """Mean and mean square of each channel: [2, channels]."""
    seen = seen.float()
    return torch.stack([seen.mean((0, 2, 3)), (seen**2).mean((0, 2, 3))])


def fold(judge: nn.Module) -> nn.Module:
    """A copy for looking only: normalisation folded, nothing learns."""
    folded = copy.deepcopy(judge).eval()
    for part in folded.modules():
        if isinstance(part, Conv):
            part.fold()
    return folded.requires_grad_(False)
