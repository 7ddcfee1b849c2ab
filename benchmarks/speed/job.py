"""One run of one side, as it is handed to the process that makes it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

OURS, THEIRS = "ours", "theirs"
Precision = Literal["float32", "bfloat16", "auto"]


@dataclass(frozen=True)
class Job:
    """What one process runs. Paths are text, since all of it travels as JSON."""

    part: str
    """The method, or "sampling"."""
    side: str
    name: str
    made: str
    """Folder of checkpoint, pictures and bank."""
    result: str
    """Where its result goes."""
    steps: int
    """Steps in all."""
    look_every: int
    """After how many steps the loss on the bank is read."""
    precision: Precision = "float32"
    batch: int = 1
    resolution: int = 64
    """Side of pictures in pixels."""
    views: int = 10
    """Views of the pictures that ours encodes beforehand."""
    threads: int = 1
    seed: int = 0
    flags: tuple[str, ...] = ()
    """Further flags of a script."""
    script: str = ""
    """Path of the script; empty for ours."""
    record: str = ""
    """Where everything that a script draws is written; empty when it is not."""

    @property
    def checkpoint(self) -> Path:
        """Folder of the base."""
        return Path(self.made) / "checkpoint"

    @property
    def pictures(self) -> Path:
        """Folder of the pictures."""
        return Path(self.made) / "pictures"

    @property
    def bank(self) -> Path:
        """File of the bank."""
        return Path(self.made) / "bank.safetensors"

    def key(self) -> dict[str, Any]:
        """What a result depends on: all but where things lie, and what the script says."""
        told = asdict(replace(self, made="", result="", script="", record=""))
        told["flags"] = list(self.flags)
        read = hashlib.sha256(Path(self.script).read_bytes()).hexdigest() if self.script else ""
        return {**told, "script": read}

    def write(self, path: Path) -> None:
        """As a file for the process."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1))

    @staticmethod
    def read(path: Path) -> Job:
        """From its file."""
        told = json.loads(path.read_text())
        return Job(**{**told, "flags": tuple(told["flags"])})
