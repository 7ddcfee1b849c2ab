"""What every test stands on: no network, one thread, the same random numbers each time."""

from __future__ import annotations

import os

# Before anything imports torch or the hub's client: both read these once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import socket
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

if TYPE_CHECKING:
    import torch

hypothesis.settings.register_profile("deterministic", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("deterministic")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connecting to anything but this machine fails the test."""
    connect = socket.socket.connect

    def only_here(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"A test tried to reach {address[0]}. Tests work offline.")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", only_here)


@pytest.fixture
def generator() -> torch.Generator:
    """A CPU generator with seed 0."""
    import torch

    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def layouts() -> Any:
    """The module that writes bases as folders and single files."""
    import importlib.util
    from pathlib import Path

    spec = importlib.util.spec_from_file_location("layouts", Path(__file__).with_name("backbones") / "layouts.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
