"""Where a call of the denoiser stands: its timestep, its step, and what every row of the batch is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Int
from torch import Tensor

if TYPE_CHECKING:
    from semblant.backbones.site import Site

Guidance = Literal["conditional", "null"]


@dataclass(frozen=True)
class Moment:
    """Labels of one call. All tuples and the timestep have one entry per row.

    Rows with the same `picture` belong together: a source row and the target row made from it, the conditional and the
    null row of one latent.
    """

    timestep: Int[Tensor, " rows"]
    guidance: tuple[Guidance, ...]
    role: tuple[str, ...]
    picture: tuple[int, ...]
    learner: tuple[int, ...]
    step: int | None = None
    """Index of the sampling step; None in training."""
    steps: int | None = None
    size: tuple[int, int] | None = None
    """Height and width of the latent; set by the base."""
    records: dict[tuple[str, str, str], Tensor] = field(default_factory=dict, repr=False, compare=False)
    scope: str = ""

    @staticmethod
    def of(
        timestep: Int[Tensor, " rows"],
        *,
        role: str | Sequence[str] = "target",
        picture: Sequence[int] | None = None,
        learner: int | Sequence[int] = 0,
        guidance: Guidance | Sequence[Guidance] = "conditional",
        step: int | None = None,
        steps: int | None = None,
    ) -> Moment:
        """A moment whose labels are given per row, or once for all rows."""
        rows = len(timestep)

        def spread(given: object) -> tuple:
            return (given,) * rows if isinstance(given, str | int) else tuple(given)  # type: ignore[arg-type]

        pictures = tuple(range(rows)) if picture is None else tuple(picture)
        labels = (spread(guidance), spread(role), pictures, spread(learner))
        if any(len(label) != rows for label in labels):
            raise ValueError(f"labels of a moment need one entry per row ({rows}); got {[len(x) for x in labels]}")
        return Moment(timestep, *labels, step=step, steps=steps)

    @property
    def fraction(self) -> float:
        """Share of the sampling done, 0 at the first step; in training, 1 - timestep / 1000 of the first row."""
        if self.step is not None and self.steps:
            return self.step / self.steps
        return 1 - float(self.timestep[0]) / 1000

    def before(self, step: int) -> bool:
        """Whether sampling has not reached `step` yet; False in training, where there are no steps."""
        return self.step is not None and self.step < step

    def rows(self, *, role: str | None = None, guidance: str | None = None, learner: int | None = None) -> list[int]:
        """Indices of the rows with all the given labels."""
        return [
            i
            for i in range(len(self.role))
            if (role is None or self.role[i] == role)
            and (guidance is None or self.guidance[i] == guidance)
            and (learner is None or self.learner[i] == learner)
        ]

    def branch(self, tensor: Tensor, role: str) -> Tensor:
        """For every row the entry of `tensor` at the row of the same picture and guidance half with this role.

        Rows without such a partner keep their own entry.
        """
        place = {(self.picture[i], self.guidance[i]): i for i in self.rows(role=role)}
        return tensor[[place.get(key, i) for i, key in enumerate(zip(self.picture, self.guidance, strict=True))]]

    def both_halves(self) -> Moment:
        """The moment of the batch [all rows as null, all rows as conditional], sharing the records."""
        n = len(self.role)
        null: Guidance = "null"
        conditional: Guidance = "conditional"
        return replace(
            self,
            timestep=torch.cat([self.timestep] * 2),
            guidance=(null,) * n + (conditional,) * n,
            role=self.role * 2,
            picture=self.picture * 2,
            learner=self.learner * 2,
        )

    def only(self, rows: Sequence[int], scope: str) -> Moment:
        """The moment of some rows; what is recorded there carries `scope` and does not mix with other scopes."""
        pick = lambda labels: tuple(labels[i] for i in rows)
        return replace(
            self,
            timestep=self.timestep[list(rows)],
            guidance=pick(self.guidance),
            role=pick(self.role),
            picture=pick(self.picture),
            learner=pick(self.learner),
            scope=scope,
        )

    def scoped(self, scope: str) -> Moment:
        """The same rows, reading and writing the records of `scope`."""
        return replace(self, scope=scope)

    def record(self, name: str, site: Site, tensor: Tensor) -> None:
        """Keep a result for later; written again, it is replaced and never summed (checkpointing runs hooks twice)."""
        self.records[name, site.name, self.scope] = tensor

    def recorded(self, name: str, site: Site | None = None) -> Tensor | list[Tensor]:
        """What was recorded under `name` at one site, or a list over all sites in the order they first ran."""
        if site is not None:
            return self.records[name, site.name, self.scope]
        return [value for (n, _, scope), value in self.records.items() if n == name and scope == self.scope]
