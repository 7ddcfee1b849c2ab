"""What the comparison runs on, and whether bfloat16 pays there.

`python -m benchmarks.speed.machine RESULT THREADS` is called by `benchmarks.speed`.
"""

from __future__ import annotations

import platform
import re
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.speed.watch import write

GAIN = 0.9
"""bfloat16 pays where it needs at most this share of float32's time."""
LIBRARIES = ("torch", "diffusers", "transformers", "accelerate", "peft")


def processor() -> str:
    """The processor's name, as far as the system tells."""
    told = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", told.read_text()) if told.is_file() else None
    return found[1] if found else platform.processor() or platform.machine()


def seconds(dtype: torch.dtype) -> float:
    """Best time of three convolutions like those of a U-Net, forward and backward, after one that does not count."""
    x = torch.zeros(1, 320, 32, 32, dtype=dtype, requires_grad=True)
    weight = torch.zeros(320, 320, 3, 3, dtype=dtype)
    times = []
    for _ in range(4):
        began = time.perf_counter()
        F.conv2d(x, weight, padding=1).sum().backward()
        times.append(time.perf_counter() - began)
    return min(times[1:])


def describe(threads: int) -> dict[str, Any]:
    """All of it as plain data."""
    torch.set_num_threads(threads)
    took = {str(dtype).removeprefix("torch."): seconds(dtype) for dtype in (torch.float32, torch.bfloat16)}
    return {
        "processor": processor(),
        "threads": threads,
        "half": took["bfloat16"] <= GAIN * took["float32"],
        "convolution": took,
        "versions": {library: version(library) for library in LIBRARIES},
    }


if __name__ == "__main__":
    write(Path(sys.argv[1]), describe(int(sys.argv[2])))
