"""Stopping early: by the formula, on draws that stay the same, and without a trace in what is learned."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from semblant.backbones.base import Base
from semblant.backbones.loading import miniature
from semblant.errors import SemblantError
from semblant.training import course as module
from semblant.training.checkpoint import Store
from semblant.training.learner import Optimiser
from semblant.training.optimise import Interrupted, optimise
from semblant.training.stopping import Settling, look

Make = Callable[..., Any]
CURVE = (9.0, 5.0, 3.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0)
"""With three looks in the window its share is .216 at the fourth look and .032 at the fifth: see below."""


@pytest.fixture(scope="module")
def base() -> Base:
    return miniature(channels=(8,))


@pytest.fixture
def along(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`along({word: curve})`: looks at a learner find what its curve says for its step."""

    def follow(curves: dict[str, Callable[[int], float]]) -> None:
        monkeypatch.setattr(
            module, "look", lambda base, learner, generator, **given: curves[learner.word](learner.count)
        )

    return follow


def every_second(curve: tuple[float, ...]) -> Callable[[int], float]:
    return lambda step: curve[step // 2]


def test_the_share_is_that_of_the_formula() -> None:
    rule = Settling(3, 0.1, every=1)
    # 5, 3, 2 lie around 10/3 with variance 14/9; all four around 19/4 with 115/16.
    assert rule.share(CURVE[:4]) == pytest.approx((14 / 9) / (115 / 16))
    # 3, 2, 2 around 7/3 with 2/9; all five around 21/5 with 174/25.
    assert rule.share(CURVE[:5]) == pytest.approx((2 / 9) / (174 / 25))
    assert [rule.settled(CURVE[:n]) for n in range(1, 6)] == [False, False, False, False, True]
    assert not Settling(3, 0.03, every=1).settled(CURVE[:5])


def test_looks_further_apart_count_by_their_steps() -> None:
    by_step, by_25 = Settling(3, 0.1, every=1), Settling(75, 0.1, every=25)
    for n in range(1, len(CURVE)):
        assert by_25.share(CURVE[:n]) == by_step.share(CURVE[:n])
    # 310 steps back from step 325 is step 15: the look at 25 counts, that at 0 does not.
    looks = [100.0, *range(13)]
    assert Settling(310, 0.1).share(looks) == pytest.approx(14 / torch.tensor(looks).var(correction=0).item())


def test_nothing_is_said_before_the_window_has_passed_or_when_nothing_moves() -> None:
    settled = [9.0, 1.0, 1.0, 1.0]
    assert Settling(4, 0.5, every=1).share(settled) is None
    assert Settling(3, 0.5, every=1).share(settled) == 0
    assert Settling(3, 0.5, every=1).share([1.0] * 9) is None


def test_looks_that_are_not_finite_do_not_count() -> None:
    rule = Settling(3, 0.1, every=1)
    assert rule.share([9.0, 5.0, math.nan, 3.0, 2.0]) == pytest.approx(0.25 / 7.1875)
    assert rule.share([9.0, 5.0, math.nan, math.inf, 2.0]) is None


@pytest.mark.parametrize(
    ("window", "ratio", "says"), [(49, 0.1, "50 steps or more"), (50, -0.1, "0 or more"), (50, math.nan, "0 or more")]
)
def test_a_rule_that_cannot_be_is_refused(window: int, ratio: float, says: str) -> None:
    with pytest.raises(SemblantError, match=says):
        Settling(window, ratio)


def test_a_run_stops_at_the_step_that_the_formula_says(base: Base, tiny: Make, along: Any) -> None:
    along({"<a>": every_second(CURVE)})
    (history,) = optimise(base, [tiny(rows=1)], seeds=[0], steps=12, settling=Settling(6, 0.1, every=2))
    assert len(history.losses) == 8 and history.looks == list(CURVE[:5])
    assert "has settled" in history.stopped and "0.032 of its variance (below 0.1)" in history.stopped
    (most,) = optimise(base, [tiny(rows=1)], seeds=[0], steps=7, settling=Settling(6, 0.1, every=2))
    assert len(most.losses) == 7 and most.stopped == ""
    (short,) = optimise(base, [tiny(rows=1)], seeds=[0], steps=12, settling=Settling(14, 0.9, every=2))
    assert len(short.losses) == 12 and short.stopped == ""


def test_the_earliest_step_to_stop_at_is_that_of_a_look(base: Base, tiny: Make) -> None:
    rule = Settling(5, 9.0, every=2)
    (history,) = optimise(base, [tiny(rows=1)], seeds=[0], steps=8, settling=rule)
    assert len(history.losses) == rule.earliest == 6


def test_draws_that_stay_the_same_let_it_stop_and_others_do_not(
    base: Base, tiny: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = Settling(20, 0.15, every=2, rows=2)

    def run() -> Any:
        learner = tiny(rows=1)
        learner.optimiser = Optimiser(lr=0.03)
        return optimise(base, [learner], seeds=[0], steps=54, settling=rule)[0]

    frozen = run()
    assert frozen.stopped and len(frozen.losses) < 0.6 * 54
    turn, fixed = count(1), Settling.generator
    monkeypatch.setattr(Settling, "generator", lambda self, seed: fixed(self, seed + next(turn)))
    drawn = run()
    shares = [rule.share(drawn.looks[:n]) for n in range(11, len(drawn.looks) + 1)]
    assert not drawn.stopped and len(drawn.losses) == 54 and min(s for s in shares if s is not None) > 0.5


def test_a_look_is_the_same_again_and_that_of_another_seed_another(base: Base, tiny: Make) -> None:
    learner, rule = tiny(plain=True, attention=True), Settling(50, 0)
    seen = [look(base, learner, rule.generator(seed), rows=6) for seed in (3, 3, 4)]
    assert seen[0] == seen[1] != seen[2]
    in_pieces = look(base, learner, rule.generator(3), rows=6, most=1)
    assert in_pieces == pytest.approx(seen[0], rel=1e-5)


@pytest.mark.parametrize("kind", [{"attention": True, "plain": True}, {"weights": True, "clip": 0.01}])
def test_looking_leaves_no_trace(base: Base, tiny: Make, tmp_path: Path, kind: dict[str, Any]) -> None:
    for folder, rule in (("with", Settling(2, 0.0, every=1, rows=3)), ("without", None)):
        learner = tiny(**kind)
        draw = learner.draw

        def counting(generator: torch.Generator, learner: Any = learner, draw: Any = draw) -> Any:
            learner.count += 1
            return draw(generator)

        learner.draw = counting
        optimise(base, [learner], seeds=[5], steps=4, checkpoint=tmp_path / folder, settling=rule)
    with_looks, without = (Store(tmp_path / folder).read() for folder in ("with", "without"))
    assert with_looks is not None and without is not None
    assert len(with_looks.tensors["0.looks"]) == 4
    assert {*with_looks.tensors} - {"0.looks"} == {*without.tensors}
    assert all(torch.equal(tensor, with_looks.tensors[name]) for name, tensor in without.tensors.items())


def test_two_in_one_batch_stop_each_on_its_own(base: Base, tiny: Make, along: Any) -> None:
    late = (*(9.0, 8.0, 7.0, 6.0), *CURVE)
    along({"<a>": every_second(CURVE), "<b>": every_second(late)})
    rule = Settling(6, 0.1, every=2)
    company, beside = [tiny("<a>"), tiny("<b>")], [tiny("<a>", steps=8), tiny("<b>", steps=16)]
    first, second = optimise(base, company, seeds=[1, 2], steps=18, settling=rule)
    assert (len(first.losses), len(second.losses)) == (8, 16) and first.stopped and second.stopped
    # As if the steps of each had been known before: nothing is learned after stopping, nothing changes for the other.
    optimise(base, beside, seeds=[1, 2])
    for one, other in zip(company, beside, strict=True):
        assert torch.equal(one.parameters["row"], other.parameters["row"])


@pytest.mark.parametrize("pause", ["between steps", "in a look"])
def test_resumed_it_stops_at_the_same_step_with_the_same_bits(
    base: Base, tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pause: str
) -> None:
    rule = Settling(4, 0.9, every=2, rows=2)
    make = lambda: [tiny("<a>", rows=1, attention=True), tiny("<b>", rows=1)]
    straight, resumed, halted = make(), make(), make()
    whole = optimise(base, straight, seeds=[0, 1], steps=12, settling=rule)
    assert {len(history.losses) for history in whole} != {12}
    given: dict[str, Any] = {"seeds": [0, 1], "steps": 12, "settling": rule, "checkpoint": tmp_path, "every": 3}

    def looking(*args: Any, **more: Any) -> float:
        found = look(*args, **more)
        if args[1].count == 2:
            raise KeyboardInterrupt
        return found

    with monkeypatch.context() as patched, pytest.raises(Interrupted, match="step 2 of 12"):
        if pause == "in a look":
            patched.setattr(module, "look", looking)
        optimise(base, halted, stop=(lambda: halted[0].count == 2) if pause == "between steps" else None, **given)
    histories = optimise(base, resumed, resume=True, **given)
    for one, other, learner, again in zip(whole, histories, straight, resumed, strict=True):
        assert one.losses == other.losses and one.looks == other.looks and one.stopped == other.stopped
        assert all(torch.equal(p, again.parameters[name]) for name, p in learner.parameters.items())
    once_more = optimise(base, make(), resume=True, **given)
    assert [history.stopped for history in once_more] == [history.stopped for history in whole]
    with pytest.raises(SemblantError, match=r"settling.ratio was 0.9, is 0.5"):
        optimise(base, make(), resume=True, **{**given, "settling": Settling(4, 0.5, every=2, rows=2)})


def test_a_look_that_does_not_fit_into_memory_is_taken_in_pieces(
    base: Base, tiny: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    denoise, rows = Base.denoise, []

    def limited(self: Base, x: torch.Tensor, *given: Any) -> torch.Tensor:
        if not torch.is_grad_enabled():
            rows.append(len(x))
            if len(x) > 1:
                raise MemoryError
        return denoise(self, x, *given)

    with monkeypatch.context() as patched:
        patched.setattr(Base, "denoise", limited)
        (scarce,) = optimise(base, [tiny()], seeds=[0], steps=2, settling=Settling(2, 0, every=1, rows=2))
    (plenty,) = optimise(base, [tiny()], seeds=[0], steps=2, settling=Settling(2, 0, every=1, rows=2))
    assert rows[-1] == 1 and "1 picture at a time" in caplog.text
    assert scarce.looks == pytest.approx(plenty.looks, rel=1e-5)
