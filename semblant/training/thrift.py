"""How a training step does with less memory: the same rows and the same gradients, in smaller pieces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from semblant.backbones.base import Base
from semblant.errors import SemblantError


class NotEnoughMemory(SemblantError):
    """A pass for which there was not enough memory. Raised by a step, which may be tried again with less at once."""

    def __init__(self, rows: int) -> None:
        super().__init__(f"there is not enough memory for {rows} pictures in one training step")
        self.rows = rows
        """How many rows were in the largest pass; 1 when it did not come so far."""


@dataclass(frozen=True)
class Thrift:
    """What a step does to need less memory. Neither changes what is computed, up to rounding."""

    sparing: bool = False
    """Whether the base keeps only what goes into its blocks (gradient checkpointing)."""
    most: int | None = None
    """Rows in one pass; a step's gradients are summed over its passes. None: all at once."""

    @staticmethod
    def read(facts: Mapping[str, Any]) -> Thrift:
        """What `facts` said."""
        return Thrift(**facts)

    def facts(self) -> dict[str, Any]:
        """All of it as plain data."""
        return asdict(self)

    def view(self, base: Base) -> Base:
        """The base as a step uses it."""
        return base.sparing() if self.sparing else base

    def less(self, rows: int, base: Base) -> Thrift | None:
        """The next thriftier way after a pass of `rows` rows was too much; None when a single row was."""
        if base.can_spare and not self.sparing:
            return replace(self, sparing=True)
        return replace(self, most=rows // 2) if rows > 1 else None

    def __str__(self) -> str:
        ways = ["gradient checkpointing"] if self.sparing else []
        if self.most is not None:
            ways.append(f"{self.most} picture{'s' if self.most > 1 else ''} at a time")
        return " and ".join(ways) or "everything at once"
