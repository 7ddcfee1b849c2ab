"""What runs on a GPU too is tried on a device that is none. torch has to know of it before it first differentiates, so
the cases have a process of their own: `pytest tests/devices/cases.py` runs them alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils import backend_registration


@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this torch takes no device written in Python",
)
def test_the_cases_hold_on_a_device_that_is_not_the_cpu() -> None:
    cases = Path(__file__).with_name("cases.py")
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", "--tb=short", str(cases)]
    ended = subprocess.run(command, cwd=cases.parents[2], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout[-6000:] + ended.stderr[-2000:]
