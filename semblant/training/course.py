"""One learner's way through training: its generator, optimiser, losses, and all of it as tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from semblant.backbones.base import Base
from semblant.errors import SemblantError
from semblant.training.files import not_finite
from semblant.training.learner import Learner, Optimiser
from semblant.training.step import Plain
from semblant.training.stopping import Settling, look

OPTIMISERS: dict[str, type[torch.optim.Optimizer]] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


@dataclass
class Course:
    """The state of one learner. `tensors` and `facts` say all of it; `restore` takes them back."""

    index: int
    learner: Learner
    seed: int
    steps: int
    generator: torch.Generator
    optimiser: torch.optim.Optimizer
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0
    skipped: int = 0
    """Updates left out because the loss or a gradient was not finite."""
    skipped_in_a_row: int = 0
    finished: bool = False
    """Whether the learner itself said that it is done, or its loss has settled."""
    settling: Settling | None = None
    """The rule by which it may stop early."""
    looks: list[float] = field(default_factory=list)
    """Its loss on fixed draws, where that rule looks at it."""
    marked: tuple[Tensor, dict[str, Tensor]] | None = None
    good: dict[str, Tensor] = field(default_factory=dict)
    """What was learned where it was last remembered, to return to."""
    current: bool = False
    """Whether nothing was learned since."""
    returned: int = 0
    """How often it returned there."""
    good_at: int = 0
    """Steps behind it when that was remembered."""

    @staticmethod
    def start(index: int, learner: Learner, seed: int, steps: int | None, settling: Settling | None = None) -> Course:
        """A course at its first step. Raises SemblantError for a learner without parameters, or a run without steps."""
        if not learner.parameters:
            raise SemblantError(f"{type(learner).__name__} has no parameters, so there is nothing to learn")
        if (planned := learner.steps if steps is None else steps) < 1:
            raise SemblantError(f"a run takes 1 step or more; got steps={planned}")
        return Course(
            index,
            learner,
            seed,
            planned,
            torch.Generator().manual_seed(seed),
            make_optimiser(learner.optimiser, list(learner.parameters.values())),
            settling=settling,
        )

    @property
    def taken(self) -> int:
        """Steps behind it."""
        return len(self.losses)

    @property
    def done(self) -> bool:
        """Whether it takes no more steps."""
        return self.finished or self.taken >= self.steps

    @property
    def due(self) -> bool:
        """Whether its loss on fixed draws is to be looked at before it takes another step."""
        return self.settling is not None and not self.done and self.taken >= len(self.looks) * self.settling.every

    @property
    def why(self) -> str:
        """Why it stopped before all its steps; empty when it did not."""
        if not self.finished or self.taken >= self.steps:
            return ""
        if self.settling is not None and self.settling.settled(self.looks):
            return self.settling.why(self.looks)
        return "the method itself was done"

    def look(self, base: Base, most: int | None, plain: Plain) -> float:
        """Its loss on fixed draws, as it is now. Changes what the learner remembers: see `mark` and `rewind`."""
        assert self.settling is not None
        fixed = self.settling.generator(self.seed)
        return look(base, self.learner, fixed, rows=self.settling.rows, most=most, plain=plain)

    def heed(self, loss: float) -> None:
        """Take note of its loss on fixed draws, and finish when that has settled."""
        assert self.settling is not None
        self.looks.append(loss)
        self.finished = self.finished or self.settling.settled(self.looks)

    def mark(self) -> None:
        """Remember where a step begins, so that an interrupted one leaves no trace."""
        self.marked = self.generator.get_state(), {name: t.clone() for name, t in self.learner.state().items()}

    def rewind(self) -> None:
        """Back to the mark."""
        if self.marked is not None:
            self.generator.set_state(self.marked[0])
            self.learner.restore(self.marked[1])

    def remember(self) -> None:
        """Take what is learned so far as what to return to, unless losses are not finite just now."""
        if self.skipped_in_a_row == 0 and self.sound():
            self.good = {name: tensor.detach().clone() for name, tensor in self._learned().items()}
            self.current, self.returned, self.good_at = True, 0, self.taken

    def return_to_good(self) -> None:
        """Undo what was learned since it was last remembered. Steps and random numbers go on from where they are."""
        self._learn(self.good)
        self.skipped_in_a_row, self.current, self.returned = 0, True, self.returned + 1

    def update(self, loss: float, gradients: Sequence[Tensor | None]) -> None:
        """One step of the optimiser, left out when the loss or a gradient is not finite."""
        settings, parameters = self.learner.optimiser, list(self.learner.parameters.values())
        present = [gradient for gradient in gradients if gradient is not None]
        norm = torch.nn.utils.get_total_norm(present) if present else torch.zeros(())
        self.losses.append(loss)
        if not (math.isfinite(loss) and math.isfinite(float(norm))):
            self.skipped, self.skipped_in_a_row = self.skipped + 1, self.skipped_in_a_row + 1
            return
        self.skipped_in_a_row, self.current = 0, False
        for parameter, gradient in zip(parameters, gradients, strict=True):
            # The fused update walks memory, not indices: a gradient must lie in memory as its parameter does.
            parameter.grad = torch.empty_like(parameter).copy_(gradient) if gradient is not None else None
        if settings.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, settings.clip, norm)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        with torch.no_grad():
            self.learner.after_step()
        self.finished = self.finished or self.learner.finished(self.losses)

    def sound(self) -> bool:
        """Whether every parameter is finite."""
        return not not_finite(self.learner.parameters)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that is a tensor, under names that begin with the learner's index."""
        made: dict[str, Tensor] = {
            "generator": self.generator.get_state(),
            "losses": torch.tensor(self.losses, dtype=torch.float64),
        }
        if self.settling is not None:
            made["looks"] = torch.tensor(self.looks, dtype=torch.float64)
        made |= self._learned()
        if not (self.current or self.done):
            made |= {f"good.{name}": tensor for name, tensor in self.good.items()}
        return {f"{self.index}.{name}": tensor for name, tensor in made.items()}

    def _learned(self) -> dict[str, Tensor]:
        """Parameters, the learner's state and the optimiser's."""
        made: dict[str, Tensor] = {f"parameter.{name}": p for name, p in self.learner.parameters.items()}
        made |= {f"state.{name}": t for name, t in self.learner.state().items()}
        names = list(self.learner.parameters)
        for number, values in self.optimiser.state_dict()["state"].items():
            made |= {f"optimiser.{key}.{names[number]}": value for key, value in values.items()}
        return made

    def facts(self) -> dict[str, Any]:
        """Everything that is not a tensor."""
        return {
            "seconds": self.seconds,
            "skipped": self.skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
            "finished": self.finished,
            "returned": self.returned,
            "good_at": self.good_at,
        }

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Go on from what `tensors` and `facts` said."""
        prefix = f"{self.index}."
        own = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        self._learn(own)
        self.generator.set_state(own["generator"])
        self.losses, self.looks = own["losses"].tolist(), own["looks"].tolist() if "looks" in own else []
        self.seconds, self.finished = facts["seconds"], facts["finished"]
        self.skipped, self.skipped_in_a_row = facts["skipped"], facts["skipped_in_a_row"]
        good = _under("good.", own)
        self.good = good or {name: tensor.detach().clone() for name, tensor in self._learned().items()}
        self.current, self.returned = not good, facts.get("returned", 0)
        self.good_at = facts.get("good_at", self.taken)

    def _learn(self, told: Mapping[str, Tensor]) -> None:
        """Take over what `_learned` told."""
        with torch.no_grad():
            for name, parameter in self.learner.parameters.items():
                parameter.copy_(told[f"parameter.{name}"])
        state: dict[int, dict[str, Tensor]] = {}
        numbers = {name: number for number, name in enumerate(self.learner.parameters)}
        for full, value in _under("optimiser.", told).items():
            key, name = full.split(".", 1)
            # A copy: the optimiser goes on in what it is given.
            state.setdefault(numbers[name], {})[key] = value.clone()
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": state, "param_groups": groups})
        self.learner.restore(_under("state.", told))

    def identity(self) -> dict[str, Any]:
        """What has to be the same for a checkpoint to fit."""
        settings = self.learner.optimiser
        return {
            "seed": self.seed,
            "parameters": {name: list(p.shape) for name, p in self.learner.parameters.items()},
            "optimiser": {name: getattr(settings, name) for name in settings.__dataclass_fields__},
            **({} if self.settling is None else {"settling": asdict(self.settling)}),
        }


def _under(prefix: str, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in named.items() if name.startswith(prefix)}


def make_optimiser(settings: Optimiser, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """Adam or AdamW in one fused kernel where there is one. Raises SemblantError for another name."""
    if settings.name not in OPTIMISERS:
        raise SemblantError(f"no optimiser {settings.name!r}; possible: {', '.join(OPTIMISERS)}")
    fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters)
    return OPTIMISERS[settings.name](
        parameters,
        lr=settings.lr,
        betas=settings.betas,
        eps=settings.eps,
        weight_decay=settings.weight_decay,
        fused=fused or None,
    )  # type: ignore[call-arg]
