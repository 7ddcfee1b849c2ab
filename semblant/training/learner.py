"""What one subject is learning: the interface between a method and the training loop."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from semblant.backbones.context import Context, Framing
from semblant.backbones.moment import Moment
from semblant.backbones.patch import Patch
from semblant.errors import SemblantError


@dataclass(frozen=True)
class Optimiser:
    """Settings of the optimiser, by torch's names. Raises SemblantError for a value that cannot be."""

    name: str = "adam"
    """"adam" or "adamw"."""
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip: float | None = None
    """Largest gradient norm over all parameters; None leaves gradients alone."""

    def __post_init__(self) -> None:
        for name in ("lr", "weight_decay"):
            if not 0 <= (value := getattr(self, name)) < math.inf:
                raise SemblantError(f"{name} is a number from 0 on; got {value}")
        if self.clip is not None and not self.clip > 0:
            raise SemblantError(f"clip is the largest gradient norm, above 0; got {self.clip}")


@dataclass(frozen=True)
class Example:
    """What a learner draws for one row of a step."""

    latent: Float[Tensor, "channels h w"]
    prompt: str
    mask: Float[Tensor, "1 h w"] | None = None
    """Where the subject is, at latent size, 0..1."""
    weight: float = 1.0
    """Factor of this row's loss (prior preservation)."""
    patched: bool = True
    """Whether the learner's words apply to this row's prompt; class pictures keep plain words."""
    framing: Framing | None = None
    """How the picture came to its size, for bases that are told; None: it always had it."""


@dataclass(frozen=True)
class Batch:
    """One learner's rows of a step, as its loss sees them."""

    latent: Float[Tensor, "rows channels h w"]
    noise: Float[Tensor, "rows channels h w"]
    x: Float[Tensor, "rows channels h w"]
    timestep: Int[Tensor, " rows"]
    mask: Float[Tensor, "rows 1 h w"] | None
    context: Context
    weight: Float[Tensor, " rows"]

    def only(self, rows: Sequence[int]) -> Batch:
        """Some of the rows; the batch itself when they are all."""
        chosen = list(rows)
        if chosen == list(range(len(self.x))):
            return self
        latent, noise, x, timestep, weight = (
            getattr(self, name)[chosen] for name in ("latent", "noise", "x", "timestep", "weight")
        )
        mask = None if self.mask is None else self.mask[chosen]
        return Batch(latent, noise, x, timestep, mask, self.context.pick(chosen), weight)


@dataclass
class Learner(ABC):
    """Parameters that learn one subject on a frozen base.

    The loop calls, every step: `begin`, `draw`, `patches`, `timesteps`, then after the forward pass `loss`; it owns
    noise, optimiser, clipping, checkpoints and stopping. All randomness of a learner comes from the generator it is
    handed, and what it remembers from step to step is in `parameters` and `state`.
    """

    parameters: dict[str, torch.nn.Parameter]
    optimiser: Optimiser = field(default_factory=Optimiser)
    steps: int = 1000

    @abstractmethod
    def draw(self, generator: torch.Generator) -> Sequence[Example]:
        """The rows of one step; always the same number."""

    @abstractmethod
    def patches(self) -> Sequence[Patch]:
        """What to attach to the base for this step's forward pass (words, attention, weights)."""

    def begin(self, generator: torch.Generator) -> None:
        """Compute what the step needs once, such as the rows that a module makes."""

    def loss(self, moment: Moment, prediction: Tensor, batch: Batch) -> Float[Tensor, " rows"]:
        """Loss per row; the denoising error unless a method says otherwise. `moment` holds what this learner's patches
        recorded in the forward pass. Also asked without gradients, where a rule for stopping looks at the loss."""
        return denoising_error(prediction, batch)

    def timesteps(self, generator: torch.Generator, rows: int, total: int) -> Int[Tensor, " rows"]:
        """Which timesteps the rows of a step stand at, 0 .. total - 1; uniform unless a method says otherwise."""
        return torch.randint(total, (rows,), generator=generator)

    def after_step(self) -> None:
        """Called after each update, without gradients, to clamp or restore."""

    def finished(self, losses: Sequence[float]) -> bool:
        """Whether to stop before `steps` are done; asked after each update with the losses of all steps so far."""
        return False

    def state(self) -> dict[str, Tensor]:
        """What it remembers from step to step beside its parameters (running means); checkpoints keep it."""
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` said."""

    def figures(self) -> dict[str, float]:
        """Numbers worth logging after a step (row norms, effective weights)."""
        return {}

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """What was learned, by name, as a concept stores it."""

    @property
    def shares_batch(self) -> bool:
        """Whether it may share a batch with others: not when a patch acts on all rows at once (weights, features, words
        that choose what sites read). Asked after `begin`."""
        return not any(patch.kind in ("weights", "features") or "contexts" in patch.hooks() for patch in self.patches())


def denoising_error(prediction: Tensor, batch: Batch, mask: Tensor | None = None) -> Float[Tensor, " rows"]:
    """Mean squared error of the predicted noise per row (Ho et al. 2020, arXiv 2006.11239, Eq. 14).

    With a mask [rows, 1, h, w] it is the mean over the mask's area; outside it nothing counts.
    """
    squared = (prediction.float() - batch.noise.float()) ** 2
    if mask is None:
        return squared.flatten(1).mean(1)
    weighted = (squared * mask).flatten(1).sum(1)
    return weighted / (mask.flatten(1).sum(1) * squared.shape[1]).clamp_min(1e-6)
