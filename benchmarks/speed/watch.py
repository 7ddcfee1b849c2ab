"""Watching a training run from inside its process: step times, peak memory, what each part of a step costs, losses.

Both sides are watched by the same code. `Watch.step` is called once at the end of every step; whatever happens inside
`Watch.apart` (reading a loss on the bank, recording) counts neither as time nor as memory. A script is made to call it
by `follow`, which takes the place of `Accelerator.log`: the scripts log once a step, after everything else in it.
"""

from __future__ import annotations

import functools
import json
import re
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

STATUS, FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
Denoise = Callable[[Tensor, Tensor], Tensor]
"""Latents and timesteps to predicted noise."""


class Finished(BaseException):
    """Raised inside a script after its last step, so that what it does afterwards is not waited for."""


class Memory:
    """Most bytes of memory that the process has held, the time between `look` and `forget` left out."""

    def __init__(self) -> None:
        self.peak = self.since = 0

    def look(self) -> int:
        """Take note of the most so far."""
        most = high_water()
        self.peak, self.since = max(self.peak, most), max(self.since, most)
        return self.peak

    def anew(self) -> None:
        """Have `since` count from here on."""
        self.look()
        self.forget()
        self.since = 0

    def forget(self) -> None:
        """Let the system count anew from what is held now. Where it does not, the next look may tell too much."""
        try:
            FORGET.write_text("5")
        except OSError:
            return


def high_water() -> int:
    """Most bytes this process has held since it began or since `forget`; children are not counted."""
    if STATUS.is_file() and (found := re.search(r"VmHWM:\s*(\d+) kB", STATUS.read_text())):
        return int(found[1]) * 1024
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


class Watch:
    """The stamps of one run. `started` is when its process was started, in seconds since the epoch."""

    def __init__(
        self,
        started: float,
        clock: Callable[[], float] = time.perf_counter,
        processor: Callable[[], float] = time.process_time,
    ) -> None:
        self.clock, self.processor, self.memory = clock, processor, Memory()
        self.before = max(0.0, time.time() - started)
        self.last, self.aside = self._now(), (0.0, 0.0)
        self.seconds: list[float] = []
        self.processor_seconds: list[float] = []
        self.losses: list[float] = []
        self.parts: list[dict[str, float]] = []
        self.bank: dict[int, float] = {}
        self.own: dict[str, float] = defaultdict(float)
        self.counting = True

    @property
    def taken(self) -> int:
        """Steps so far."""
        return len(self.seconds)

    def step(self, loss: float) -> int:
        """A step has ended. Returns how many have."""
        seconds, processor = _less(_less(self._now(), self.last), self.aside)
        self.seconds.append(seconds)
        self.processor_seconds.append(processor)
        self.losses.append(loss)
        self.parts.append(dict(self.own))
        self.own.clear()
        if self.taken == 1:
            # What loading needed at once is over.
            self.memory.anew()
        else:
            self.memory.look()
        self.last, self.aside = self._now(), (0.0, 0.0)
        return self.taken

    @contextmanager
    def apart(self) -> Iterator[None]:
        """What happens inside is none of the run's time and memory."""
        if not self.counting:
            yield
            return
        began, self.counting = self._now(), False
        self.memory.look()
        try:
            yield
        finally:
            self.memory.forget()
            self.counting = True
            self.aside = _less(self._now(), _less(began, self.aside))

    def _now(self) -> tuple[float, float]:
        return self.clock(), self.processor()

    def look(self, denoise: Denoise, bank: Mapping[str, Tensor]) -> float:
        """Read the loss on the bank after the steps so far."""
        with self.apart(), torch.no_grad():
            self.bank[self.taken] = loss_on(denoise, bank)
        return self.bank[self.taken]

    def time(self, owner: Any, name: str, part: str) -> None:
        """Count the seconds spent in `owner.name` as those of a part."""
        setattr(owner, name, self._timed(getattr(owner, name), part))

    def _timed(self, call: Callable[..., Any], part: str) -> Callable[..., Any]:
        @functools.wraps(call)
        def timed(*given: Any, **named: Any) -> Any:
            began = self.clock()
            try:
                return call(*given, **named)
            finally:
                if self.counting:
                    self.own[part] += self.clock() - began

        return timed

    def facts(self) -> dict[str, Any]:
        """All of it as plain data. The first step includes everything before it: its end is the cold start."""
        return {
            "cold_start": self.before + self.seconds[0],
            "seconds": self.seconds[1:],
            "processor_seconds": self.processor_seconds[1:],
            "losses": self.losses,
            "parts": self.parts[1:],
            "parts_of_cold_start": self.parts[0],
            "bank": {str(step): loss for step, loss in self.bank.items()},
            "peak_memory": self.memory.peak,
            "steps_memory": self.memory.since,
            "threads": torch.get_num_threads(),
        }


def _less(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    return one[0] - other[0], one[1] - other[1]


def loss_on(denoise: Denoise, bank: Mapping[str, Tensor]) -> float:
    """Mean squared error of the predicted noise over the rows of a bank, one row at a time to need little memory."""
    errors = []
    for x, noise, timestep in zip(bank["x"], bank["noise"], bank["timesteps"], strict=True):
        predicted = denoise(x[None], timestep[None])
        errors.append(float((predicted.float() - noise).square().mean()))
    return statistics.fmean(errors)


def called() -> tuple[tuple[Any, str, str], ...]:
    """What both sides call in a step, as (owner, name, part of the step)."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel

    return (
        (AutoencoderKL, "encode", "autoencoder"),
        (CLIPTextModel, "forward", "text encoder"),
        (UNet2DConditionModel, "forward", "U-Net"),
        (torch.Tensor, "backward", "backward"),
        (torch.autograd, "grad", "backward"),
        (torch.optim.AdamW, "step", "optimiser"),
    )


def count_parts(watch: Watch) -> None:
    """Have all of that timed."""
    for owner, name, part in called():
        watch.time(owner, name, part)


def follow(watch: Watch, after: Callable[[int, Mapping[str, Any]], None], steps: int) -> None:
    """Have `Accelerator.log` end a step: `after(step, variables)` is then called, time and memory not counted.

    `variables` are those of the function that logs. After the last step Finished is raised in it.
    """
    from accelerate import Accelerator

    def log(accelerator: Any, values: Mapping[str, Any], step: int | None = None, **options: Any) -> None:
        taken = watch.step(float(values["loss"]))
        with watch.apart():
            after(taken, sys._getframe(1).f_locals)
        if taken >= steps:
            raise Finished

    Accelerator.log = log  # type: ignore[method-assign]


def load_bank(path: Path) -> dict[str, Tensor]:
    """The rows on which losses are read."""
    from safetensors.torch import load_file

    bank: dict[str, Tensor] = load_file(path)
    return bank


def write(path: Path, record: Mapping[str, Any]) -> None:
    """Write a result whole: under another name first, then moved into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.part")
    unfinished.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    unfinished.replace(path)
