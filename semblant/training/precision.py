"""Which precision a base computes fastest in, found by measuring."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F

from semblant.backbones.base import Base
from semblant.backbones.context import Context
from semblant.backbones.moment import Moment
from semblant.backbones.twin import computable
from semblant.errors import out_of_memory

logger = logging.getLogger(__name__)

GAIN = 0.1
"""Share of the time that half precision has to save before it is chosen."""


def choose(base: Base, rows: int = 1, clock: Callable[[], float] = time.perf_counter) -> torch.dtype:
    """float32, or half precision by autocast where a forward and backward pass of the U-Net is at least a tenth faster
    in it: bfloat16, or on a GPU float16 where that again is a tenth faster, as on GPUs without arithmetic for bfloat16.

    Each is measured twice after a first run that does not count. On processors without bfloat16 arithmetic it can be
    tens of times slower; one small convolution tells, and the U-Net is then not tried at all. Where a pass does not fit
    into memory, a thriftier one is measured, and float32 is chosen where that does not fit either.
    """
    possible = computable(next(base.unet.parameters()).dtype)
    halves = (torch.bfloat16,) if base.device.type == "cpu" else (torch.bfloat16, torch.float16)
    tried = [dtype for dtype in halves if dtype in possible and not hopeless(dtype, base.device, clock)]
    if not tried:
        logger.info("computing in float32: a convolution is more than twice as slow in half precision")
        return torch.float32
    try:
        seconds = {dtype: _seconds(base.computing(dtype), rows, clock) for dtype in (torch.float32, *tried)}
    except (MemoryError, RuntimeError) as problem:
        if not out_of_memory(problem):
            raise
        if rows > 1 or (base.can_spare and not base.spares):
            return choose(base.sparing() if base.can_spare else base, 1, clock)
        logger.info("computing in float32: there is not enough memory to try which precision is faster")
        return torch.float32
    chosen = fastest(seconds)
    logger.info("computing in %s; seconds for forward and backward: %s", chosen, seconds)
    return chosen


def probe(device: torch.device, clock: Callable[[], float] = time.perf_counter) -> torch.dtype:
    """The precision in which convolutions are faster, where there is no base yet to measure."""
    return fastest({dtype: _convolving(dtype, device, clock, 8) for dtype in (torch.float32, torch.bfloat16)})


def precision_name(dtype: torch.dtype) -> str:
    """What `--precision` calls it: "float32", "bfloat16", "float16"."""
    return str(dtype).removeprefix("torch.")


def fastest(seconds: Mapping[torch.dtype, float]) -> torch.dtype:
    """The best precision for these times, float32's first: another only when it saves a tenth or more."""
    chosen, *others = seconds
    for dtype in others:
        if seconds[dtype] <= (1 - GAIN) * seconds[chosen]:
            chosen = dtype
    return chosen


def _seconds(base: Base, rows: int, clock: Callable[[], float]) -> float:
    """Best time of two forward and backward passes, down to the text encodings as in training."""
    side = base.size // base.factor
    x = torch.zeros(rows, base.channels, side, side, device=base.device)
    channels = base.extra_channels
    if channels:
        from semblant.patches.features import ExtraChannels

        base = base.patched(ExtraChannels(x.new_zeros(1, channels, side, side)))
    moment = Moment.of(torch.full((rows,), base.schedule.timesteps // 2, device=base.device))
    with torch.no_grad():
        read = base.prepare(base.text([""] * rows), moment)
        encoding = read.read(base.cross_sites()[0], "key").float()

    def once() -> None:
        with torch.enable_grad():
            learned = encoding.clone().requires_grad_()
            context = Context.of(learned, pooled=read.pooled)
            torch.autograd.grad(base.denoise(x, moment, context).float().square().mean(), learned)

    try:
        return _best(once, base.device, clock)
    finally:
        base.settle()


def hopeless(dtype: torch.dtype, device: torch.device, clock: Callable[[], float] = time.perf_counter) -> bool:
    """Whether a convolution takes more than twice as long in this type as in float32."""
    float32, half = (_convolving(one, device, clock, 1) for one in (torch.float32, dtype))
    return half > 2 * float32 + 1e-4


def _convolving(dtype: torch.dtype, device: torch.device, clock: Callable[[], float], rows: int) -> float:
    """Seconds for a convolution."""
    x, weight = torch.zeros(rows, 64, 32, 32, device=device), torch.zeros(64, 64, 3, 3, device=device)
    return _best(lambda: F.conv2d(x.to(dtype), weight.to(dtype), padding=1), device, clock)


def _best(call: Callable[[], object], device: torch.device, clock: Callable[[], float]) -> float:
    times = []
    for _ in range(3):
        _wait(device)
        began = clock()
        call()
        _wait(device)
        times.append(clock() - began)
    return min(times[1:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
