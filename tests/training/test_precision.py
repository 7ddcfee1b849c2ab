"""Choosing a precision by the clock; the clock here is the test's own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from semblant.backbones.base import Base
from semblant.training import precision


def clock_of(base: Base, seconds: dict[torch.dtype, float], monkeypatch: pytest.MonkeyPatch) -> Callable[[], float]:
    """A clock that goes on by `seconds` whenever the base denoises in a precision."""
    now = [0.0]
    denoise = Base.denoise

    def timed(self: Base, *given: object) -> torch.Tensor:
        now[0] += seconds[self.compute]
        return denoise(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(Base, "denoise", timed)
    return lambda: now[0]


@pytest.mark.parametrize(
    ("bfloat16", "chosen"), [(0.5, torch.bfloat16), (0.89, torch.bfloat16), (0.91, torch.float32), (2.0, torch.float32)]
)
def test_bfloat16_has_to_save_a_tenth(
    base: Base, monkeypatch: pytest.MonkeyPatch, bfloat16: float, chosen: torch.dtype
) -> None:
    clock = clock_of(base, {torch.float32: 1.0, torch.bfloat16: bfloat16}, monkeypatch)
    assert precision.choose(base, clock=clock) is chosen
    assert base.compute is torch.float32


@pytest.mark.parametrize(
    ("bfloat16", "float16", "chosen"),
    [
        (0.5, 0.46, torch.bfloat16),
        (0.5, 0.44, torch.float16),
        (0.95, 0.5, torch.float16),
        (3.0, 0.5, torch.float16),
        (0.95, 0.95, torch.float32),
    ],
)
def test_on_a_gpu_float16_is_tried_as_well(
    base: Base, monkeypatch: pytest.MonkeyPatch, bfloat16: float, float16: float, chosen: torch.dtype
) -> None:
    seconds = {torch.float32: 1.0, torch.bfloat16: bfloat16, torch.float16: float16}
    monkeypatch.setattr(Base, "device", torch.device("cuda"))
    monkeypatch.setattr(precision, "hopeless", lambda dtype, *_: seconds[dtype] > 2)
    monkeypatch.setattr(precision, "_seconds", lambda view, *_: seconds[view.compute])
    assert precision.choose(base) is chosen


def test_ahopeless_convolution_spares_the_network(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_seconds", lambda *_: pytest.fail("the network was run"))
    monkeypatch.setattr(precision, "hopeless", lambda *_: True)
    assert precision.choose(base) is torch.float32


def test_the_probe_compares_the_two_precisions(monkeypatch: pytest.MonkeyPatch) -> None:
    for times, hopeless in [((1.0, 3.0), True), ((1.0, 1.5), False)]:
        left = iter(times)
        monkeypatch.setattr(precision, "_best", lambda call, device, clock, left=left: (call(), next(left))[1])
        assert precision.hopeless(torch.bfloat16, torch.device("cpu"), lambda: 0.0) is hopeless


def test_without_a_base_a_convolution_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    for times, chosen in [((1.0, 0.5), torch.bfloat16), ((1.0, 0.95), torch.float32), ((1.0, 30.0), torch.float32)]:
        left = iter(times)
        monkeypatch.setattr(precision, "_best", lambda call, device, clock, left=left: (call(), next(left))[1])
        assert precision.probe(torch.device("cpu")) is chosen


def test_inpainting_bases_are_measured_with_their_extra_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    from semblant.backbones.loading import miniature

    wide = miniature(in_channels=9)
    clock = clock_of(wide, {torch.float32: 1.0, torch.bfloat16: 0.5}, monkeypatch)
    assert precision.choose(wide, clock=clock) is torch.bfloat16


@pytest.mark.parametrize(
    ("fits", "tried"),
    [
        (lambda view, rows: rows == 1, [2, 1]),
        (lambda view, rows: view.spares, [2, 1]),
        (lambda view, rows: False, [2, 1]),
    ],
    ids=["fewer rows", "checkpointing", "not at all"],
)
def test_what_does_not_fit_is_measured_thriftier_or_not_at_all(
    base: Base, monkeypatch: pytest.MonkeyPatch, fits: Callable[[Base, int], bool], tried: list[int]
) -> None:
    clock, seen = clock_of(base, {torch.float32: 1.0, torch.bfloat16: 0.5}, monkeypatch), list[int]()
    inner = precision._seconds

    def scarce(view: Base, rows: int, clock: Callable[[], float]) -> float:
        if view.compute is torch.float32:
            seen.append(rows)
        if not fits(view, rows):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return inner(view, rows, clock)

    monkeypatch.setattr(precision, "_seconds", scarce)
    fitted = fits(base.sparing(), 1)
    assert precision.choose(base, rows=2, clock=clock) is (torch.bfloat16 if fitted else torch.float32)
    assert seen == tried

    def broken(*_: object) -> float:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(precision, "_seconds", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        precision.choose(base, clock=clock)
