"""The training loop: company does not matter, resuming is exact, trouble is contained."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from semblant.backbones import rest
from semblant.backbones.base import Base
from semblant.backbones.loading import load
from semblant.errors import FileProblem, SemblantError
from semblant.training import optimise as module
from semblant.training.learner import Optimiser
from semblant.training.optimise import Interrupted, Progress, optimise, stored_compute
from semblant.training.step import gradients

Make = Callable[..., Any]


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("attention", [False, True])
def test_gradients_in_company_are_those_alone(base: Base, tiny: Make, attention: bool) -> None:
    given = [("<a>", 2), ("<b>", 3), ("<c>", 1)]
    make = lambda: [tiny(word, rows=rows, attention=attention, plain=rows == 3) for word, rows in given]
    generators = lambda: [torch.Generator().manual_seed(i) for i in range(3)]
    together = make()
    losses, found = gradients(base, together, generators())
    for i, learner in enumerate(make()):
        loss, own = gradients(base, [learner], [generators()[i]])
        assert losses[i] == pytest.approx(loss[0], rel=1e-5)
        assert len(own[0]) == 1 + attention
        for company, alone in zip(found[i], own[0], strict=True):
            assert float(alone.norm()) > 1e-6
            assert relative(company, alone) < 1e-5
        rows = given[i][1] + (given[i][1] == 3)
        assert set(together[i].seen_rows) == set(learner.seen_rows) == ({rows} if attention else set())


def test_learners_of_one_batch_learn_what_they_learn_alone(base: Base, tiny: Make) -> None:
    together = [tiny("<a>"), tiny("<b>")]
    histories = optimise(base, together, seeds=[1, 2], steps=4)
    for seed, learner in zip([1, 2], together, strict=True):
        alone = tiny(learner.word)
        (history,) = optimise(base, [alone], seeds=[seed], steps=4)
        assert relative(learner.parameters["row"].detach(), alone.parameters["row"].detach()) < 1e-4
        assert histories[seed - 1].losses == pytest.approx(history.losses, rel=1e-4)


def test_each_learner_has_its_own_number_of_steps(base: Base, tiny: Make) -> None:
    seen: list[Progress] = []
    histories = optimise(base, [tiny("<a>", steps=2), tiny("<b>", steps=4)], seeds=[0, 0], progress=seen.append)
    assert [len(h.losses) for h in histories] == [2, 4]
    assert [p.learners for p in seen] == [(0, 1), (0, 1), (1,), (1,)]
    assert [(p.step, p.steps) for p in seen] == [(k, 4) for k in (1, 2, 3, 4)]
    assert set(seen[0].figures) == {"0 norm", "1 norm"}
    assert histories[0].seconds > 0 and histories[0].peak_memory > 10_000_000


def test_learners_that_patch_weights_run_in_turn(base: Base, tiny: Make) -> None:
    before = base.hashes()
    seen: list[Progress] = []
    learners = [tiny("<a>", weights=True), tiny("<b>"), tiny("<c>", weights=True)]
    optimise(base, learners, seeds=[0, 1, 2], steps=2, progress=seen.append)
    assert [p.learners for p in seen] == [(1,), (1,), (0,), (0,), (2,), (2,)]
    assert (seen[-1].step, seen[-1].steps, seen[-1].seconds_left) == (6, 6, 0)
    assert float(learners[0].parameters["offset"].detach().norm()) > 0
    assert base.hashes() == before


def test_loss_is_the_weighted_mean_over_rows(base: Base, tiny: Make) -> None:
    class Constant(type(tiny())):  # type: ignore[misc]
        def loss(self, moment: Any, prediction: torch.Tensor, batch: Any) -> torch.Tensor:
            return super().loss(moment, prediction, batch) * 0 + torch.tensor([1.0, 2.0, 4.0])

    (history,) = optimise(base, [Constant(base, plain=True)], seeds=[0], steps=1)
    assert history.losses == [pytest.approx((1 + 2 + 0.5 * 4) / 3)]


def test_gradients_are_clipped_to_the_norm(base: Base, tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    free, clipped = tiny(), tiny(clip=1e-4)
    norms = []
    for learner in (free, clipped):
        course = module.Course.start(0, learner, 0, 1)
        step = course.optimiser.step
        row = learner.parameters["row"]
        monkeypatch.setattr(course.optimiser, "step", lambda s=step, r=row: (norms.append(float(r.grad.norm())), s()))
        course.update(1.0, [torch.full_like(row, 2.0)])
    assert norms[0] == pytest.approx(2 * len(row) ** 0.5)
    assert norms[1] == pytest.approx(1e-4, rel=1e-3)


@pytest.mark.parametrize("pause", ["stop", "progress", "draw"])
def test_resuming_is_exact_to_the_bit(base: Base, tiny: Make, tmp_path: Path, pause: str) -> None:
    make = lambda: [tiny("<a>", attention=True), tiny("<b>", plain=True), tiny("<c>", weights=True, clip=0.01)]
    straight, resumed = make(), make()
    whole = optimise(base, straight, seeds=[0, 1, 2], steps=6)
    interrupted = make()
    taken = 0

    def count(progress: Progress) -> None:
        nonlocal taken
        taken = progress.step
        if pause == "progress" and taken == 8:
            raise KeyboardInterrupt

    if pause == "draw":
        draw = interrupted[2].draw

        def interrupt(generator: torch.Generator) -> Any:
            drawn = draw(generator)
            if taken == 8:
                raise KeyboardInterrupt
            return drawn

        interrupted[2].draw = interrupt
    stop = (lambda: taken == 8) if pause == "stop" else None
    with pytest.raises(Interrupted, match=r"step 8 of 12.*--resume"):
        optimise(base, interrupted, seeds=[0, 1, 2], steps=6, checkpoint=tmp_path, every=5, stop=stop, progress=count)
    histories = optimise(base, resumed, seeds=[0, 1, 2], steps=6, checkpoint=tmp_path, resume=True)
    for one, other in zip(straight, resumed, strict=True):
        for name, parameter in one.parameters.items():
            assert torch.equal(parameter, other.parameters[name]), name
        assert one.count == other.count == 6
    assert [h.losses for h in histories] == [h.losses for h in whole]
    again = make()
    optimise(base, again, seeds=[0, 1, 2], steps=6, checkpoint=tmp_path, resume=True)
    assert torch.equal(again[1].parameters["row"], straight[1].parameters["row"])


def test_resuming_another_run_is_refused_naming_what_differs(base: Base, tiny: Make, tmp_path: Path) -> None:
    fingerprint = {"settings": {"scale": (0.1, 1.0), "lr": 0.1}, "pictures": ["aa"]}
    optimise(base, [tiny()], seeds=[0], steps=1, checkpoint=tmp_path, fingerprint=fingerprint)
    optimise(base, [tiny()], seeds=[0], steps=2, checkpoint=tmp_path, fingerprint=fingerprint, resume=True)
    other = {"settings": {"scale": (0.1, 1.0), "lr": 0.2}, "pictures": ["bb"]}
    with pytest.raises(SemblantError) as caught:
        optimise(base, [tiny()], seeds=[1], steps=2, checkpoint=tmp_path, fingerprint=other, resume=True)
    message = str(caught.value)
    assert "settings.lr was 0.1, is 0.2" in message and "pictures" in message and "learner.0.seed" in message
    assert "scale" not in message


def test_damaged_checkpoints_are_noticed_and_the_one_before_is_used(
    base: Base, tiny: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    straight = tiny()
    optimise(base, [straight], seeds=[0], steps=6, checkpoint=tmp_path, every=2)
    older, newest = sorted(tmp_path.iterdir())
    content = bytearray(newest.read_bytes())
    content[-20] ^= 1
    newest.write_bytes(content)
    resumed = tiny()
    optimise(base, [resumed], seeds=[0], steps=6, checkpoint=tmp_path, resume=True)
    assert "does not match its checksum" in caplog.text
    assert torch.equal(straight.parameters["row"], resumed.parameters["row"])
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(FileProblem, match=r"no usable checkpoint.*truncated"):
        optimise(base, [tiny()], seeds=[0], steps=6, checkpoint=tmp_path, resume=True)


def test_the_newest_two_of_this_run_are_kept(base: Base, tiny: Make, tmp_path: Path) -> None:
    optimise(base, [tiny()], seeds=[0], steps=3, checkpoint=tmp_path, every=1)
    assert [path.name for path in sorted(tmp_path.iterdir())] == [f"checkpoint-00000{k}.safetensors" for k in (2, 3)]
    optimise(base, [tiny()], seeds=[0], steps=1, checkpoint=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-000004.safetensors"]


def test_precision_of_the_first_run_is_used_again(base: Base, tiny: Make, tmp_path: Path) -> None:
    seen = []

    optimise(base, [tiny()], seeds=[0], steps=1, checkpoint=tmp_path, compute=torch.bfloat16)
    assert stored_compute(tmp_path) == torch.bfloat16 and stored_compute(tmp_path / "none") is None
    computing = Base.computing
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Base, "computing", lambda self, dtype: (seen.append(dtype), computing(self, dtype))[1])
        optimise(base, [tiny()], seeds=[0], steps=2, checkpoint=tmp_path, compute=torch.float32, resume=True)
    assert seen == [torch.bfloat16]


def test_a_loss_that_is_not_finite_costs_that_learner_its_update_only(base: Base, tiny: Make) -> None:
    good, lone = tiny("<a>"), tiny("<a>")
    bad = tiny("<b>")
    spoiled = iter([True, True, False, True])
    bad.spoil = lambda count: next(spoiled)
    rows = []
    histories = optimise(
        base, [good, bad], seeds=[0, 1], steps=4, progress=lambda _: rows.append(bad.parameters["row"].detach().clone())
    )
    optimise(base, [lone], seeds=[0], steps=4)
    assert relative(good.parameters["row"].detach(), lone.parameters["row"].detach()) < 1e-4
    assert torch.equal(rows[0], rows[1]) and not torch.equal(rows[1], rows[2]) and torch.equal(rows[2], rows[3])
    assert [math.isnan(loss) for loss in histories[1].losses] == [True, True, False, True]
    assert (histories[0].skipped, histories[1].skipped) == (0, 3)


def test_ten_such_steps_in_a_row_end_the_run_with_the_last_good_state(base: Base, tiny: Make, tmp_path: Path) -> None:
    bad = tiny(spoil=lambda count: count >= 3)
    with pytest.raises(SemblantError, match=r"not finite for 10 steps in a row.*step 23.*by step 3") as caught:
        optimise(base, [bad], seeds=[0], steps=50, checkpoint=tmp_path, every=3)
    assert str(tmp_path) in str(caught.value) and "0.01" in str(caught.value)
    good = tiny()
    optimise(base, [good], seeds=[0], steps=3)
    saved = module.Store(tmp_path).read()
    assert saved is not None and torch.equal(saved.tensors["0.parameter.row"], good.parameters["row"].detach())


def test_parameters_that_are_not_finite_are_never_saved(base: Base, tiny: Make, tmp_path: Path) -> None:
    learner = tiny()
    optimise(base, [learner], seeds=[0], steps=1, checkpoint=tmp_path)
    learner.after_step = lambda: learner.parameters["row"].fill_(float("inf"))
    with pytest.raises(SemblantError, match="what was learned is not finite after step 2"):
        optimise(base, [learner], seeds=[0], steps=2, checkpoint=tmp_path)
    saved = module.Store(tmp_path).read()
    assert saved is not None and bool(torch.isfinite(saved.tensors["0.parameter.row"]).all())


def test_interrupted_without_a_folder_says_that_nothing_was_saved(base: Base, tiny: Make) -> None:
    with pytest.raises(Interrupted, match=r"step 0 of 3: nothing was saved") as caught:
        optimise(base, [tiny()], seeds=[0], steps=3, stop=lambda: True)
    assert "--resume" not in str(caught.value)


def test_a_learner_may_finish_early(base: Base, tiny: Make, tmp_path: Path) -> None:
    learner = tiny()
    learner.finished = lambda losses: len(losses) == 3
    (history,) = optimise(base, [learner], seeds=[0], steps=9, checkpoint=tmp_path)
    assert len(history.losses) == 3
    (resumed,) = optimise(base, [tiny()], seeds=[0], steps=9, checkpoint=tmp_path, resume=True)
    assert resumed.losses == history.losses


def test_a_prompt_without_the_word_is_refused(base: Base, tiny: Make) -> None:
    learner = tiny()
    learner.word = "person"
    learner.patches = lambda: []
    with pytest.raises(SemblantError, match="does not depend on its parameters"):
        optimise(base, [learner], seeds=[0], steps=1)


def test_wrong_arguments_are_refused(base: Base, tiny: Make) -> None:
    with pytest.raises(ValueError, match="1 learners, 2 seeds"):
        optimise(base, [tiny()], seeds=[0, 1])
    learner = tiny()
    learner.optimiser = Optimiser(name="sgd")
    with pytest.raises(SemblantError, match="possible: adam, adamw"):
        optimise(base, [learner], seeds=[0])


def test_plain_prompts_are_encoded_once_and_alone(base: Base, tiny: Make) -> None:
    sizes: list[int] = []
    hook = base.text_encoder.register_forward_pre_hook(
        lambda module, given, named: sizes.append(len(named["input_ids"])), with_kwargs=True
    )
    try:
        learner, plain = tiny(plain=True, rows=3), {}
        draw = learner.draw
        learner.draw = lambda generator: draw(torch.Generator().manual_seed(0))
        for step in range(3):
            gradients(base, [learner], [torch.Generator().manual_seed(step)], plain=plain)
    finally:
        hook.remove()
    # The plain prompt in the first step, and in each step the learned prompt once for all three rows.
    assert sizes == [1, 1, 1, 1] and len(plain) == 1


def test_the_autoencoder_rests_during_the_steps(
    base: Base, layouts: Any, tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rest, "WORTHWHILE", 1)
    loaded = load(layouts.write_folder(base, tmp_path / "base"))
    before, held = loaded.hashes(), []

    def look(now: Progress) -> None:
        held.append(sum(weight.numel() for weight in loaded.autoencoder.parameters()))
        if now.step == 2:
            loaded.decode(torch.zeros(1, 4, 8, 8))

    learner, company = tiny("<a>"), tiny("<a>")
    optimise(loaded, [learner], seeds=[0], steps=4, progress=look)
    assert held[:2] == [0, 0] and held[2] == held[3] > 0, "until somebody looks at a picture"
    assert loaded.hashes() == before
    monkeypatch.setattr(rest, "WORTHWHILE", 10**9)
    optimise(loaded, [company], seeds=[0], steps=4)
    assert torch.equal(learner.parameters["row"], company.parameters["row"]), "and learns the same"
