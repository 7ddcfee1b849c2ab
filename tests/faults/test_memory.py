"""Memory that runs out: the same step in smaller pieces, said once; and none is lost while many pictures are made."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

import semblant as sb
from semblant.backbones import twin as twin_module
from semblant.backbones.base import Base
from semblant.backbones.loading import miniature
from semblant.cli.main import app
from semblant.data.pictures import to_tensor
from semblant.data.subject import Subject
from semblant.errors import SemblantError
from semblant.methods.index import method_class
from semblant.training.concepts import Concept
from semblant.training.learner import Learner
from semblant.training.optimise import Interrupted, Progress
from semblant.training.step import gradients
from semblant.training.thrift import NotEnoughMemory, Thrift

PROBLEMS: dict[str, Callable[[], BaseException]] = {
    "torch": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "python": MemoryError,
    "processor": lambda: RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 8589934592 bytes. Error code 12 (Cannot allocate memory)"
    ),
    "windows": lambda: RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8589934592 bytes."),
}
SETTINGS: dict[str, Any] = {"views": 4, "batch": 5, "steps": 2}
STEPS = SETTINGS["steps"]
LEARNERS: dict[str, dict[str, Any]] = {
    "textual-inversion": {"batch": 5},
    "sefi-ide": {"batch": 5, "calibration_draws": 1},
    "lora-dreambooth": {"batch": 2, "prior_count": 2, "prior_steps": 1},
    "custom-diffusion": {"batch": 2, "prior_count": 2, "prior_steps": 1},
}


@pytest.fixture(scope="module")
def whole(base: Base, subject: Subject) -> Concept:
    """What is learned where there is memory enough."""
    return sb.fit("textual-inversion", base, subject, **SETTINGS)


def scarce(
    monkeypatch: pytest.MonkeyPatch,
    fits: Callable[[Base, int], bool],
    problem: Callable[[], BaseException] = MemoryError,
) -> list[tuple[bool, int]]:
    """Let a pass fail that does not fit. Returns the passes that are made: whether sparing, and their rows."""
    denoise, passes = Base.denoise, []

    def limited(self: Base, x: Tensor, *given: Any) -> Tensor:
        passes.append((self._networks.parts["unet"] is not self.unet, len(x)))
        out = denoise(self, x, *given)
        if not fits(self, len(x)):
            raise problem()
        return out

    monkeypatch.setattr(Base, "denoise", limited)
    return passes


def learner_of(name: str, base: Base, subject: Subject, **settings: Any) -> Learner:
    method = method_class(name)(views=4, **{**LEARNERS[name], **settings})
    return method.learner(base, subject, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize("thrift", [Thrift(sparing=True), Thrift(most=3), Thrift(True, 2), Thrift(True, 1)], ids=str)
def test_in_pieces_loss_and_gradient_are_those_of_the_whole(
    base: Base, subject: Subject, name: str, thrift: Thrift
) -> None:
    learner = learner_of(name, base, subject)
    # Once with a mask, so that what is measured inside it takes part.
    generator = lambda: torch.Generator().manual_seed(4)
    whole_loss, [whole] = gradients(base, [learner], [generator()])
    seen: list[int] = []
    plain = Base.denoise
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Base, "denoise", lambda self, x, *given: (seen.append(len(x)), plain(self, x, *given))[1])
        loss, [found] = gradients(thrift.view(base), [learner], [generator()], most=thrift.most)
    assert loss == pytest.approx(whole_loss, rel=1e-5)
    for one, other in zip(found, whole, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert float((one - other).norm()) <= 1e-5 * float(other.norm()) + 1e-9
    if thrift.most is not None:
        assert max(seen) <= thrift.most and sum(seen) == 5 - (name in ("lora-dreambooth", "custom-diffusion"))


def test_learners_in_company_are_cut_into_pieces_too(base: Base, subject: Subject) -> None:
    learners = [learner_of("sefi-ide", base, subject, batch=3), learner_of("textual-inversion", base, subject, batch=2)]
    generators = lambda: [torch.Generator().manual_seed(k) for k in range(2)]
    whole_losses, whole = gradients(base, learners, generators())
    for most in (1, 2, 4):
        losses, found = gradients(base, learners, generators(), most=most)
        assert losses == pytest.approx(whole_losses, rel=1e-5)
        for own, wanted in zip(found, whole, strict=True):
            for one, other in zip(own, wanted, strict=True):
                assert (one is None) == (other is None)
                if one is not None and other is not None:
                    assert float((one - other).norm()) <= 1e-5 * float(other.norm()) + 1e-9


@pytest.mark.parametrize("problem", ["torch", "processor"])
def test_the_run_steps_down_says_so_once_and_learns_the_same(
    base: Base,
    subject: Subject,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    problem: str,
    whole: Concept,
) -> None:
    passes = scarce(monkeypatch, lambda view, rows: rows <= 1, PROBLEMS[problem])
    few = sb.fit("textual-inversion", base, subject, **SETTINGS)
    # Gradient checkpointing first, then half the rows, then half of these; every step has all its five rows.
    assert passes == [(False, 5), (True, 5), (True, 2), *[(True, 1)] * 5 * STEPS]
    assert few.losses == pytest.approx(whole.losses, rel=1e-5)
    assert float((few.tensors["rows"] - whole.tensors["rows"]).norm() / whole.tensors["rows"].norm()) < 1e-4
    said = [record.getMessage() for record in caplog.records if "memory" in record.getMessage()]
    assert len(said) == 1 and "gradient checkpointing and 1 picture at a time" in said[0]
    assert "What it learns stays the same" in said[0]


def test_no_more_is_given_up_than_has_to_be(
    base: Base, subject: Subject, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patched:
        passes = scarce(patched, lambda view, rows: view._networks.parts["unet"] is not view.unet)
        sb.fit("textual-inversion", base, subject, **SETTINGS)
    assert passes == [(False, 5), *[(True, 5)] * STEPS] and "goes on with gradient checkpointing. What" in caplog.text
    # A base that cannot spare halves at once.
    monkeypatch.setattr(Base, "can_spare", False)
    passes = scarce(monkeypatch, lambda view, rows: rows <= 2)
    sb.fit("textual-inversion", base, subject, **SETTINGS)
    assert passes == [(False, 5), *[(False, 2), (False, 2), (False, 1)] * STEPS]


def test_what_a_single_picture_is_too_much_for_is_said_and_saved(
    base: Base, subject: Subject, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    passes = scarce(monkeypatch, lambda view, rows: len(passes) <= 1)
    with pytest.raises(SemblantError, match="not enough memory for a single picture on miniature") as caught:
        sb.fit("textual-inversion", base, subject, checkpoint=tmp_path, **SETTINGS)
    said = str(caught.value)
    assert "use a smaller base or picture size" in said and f"the state after step 1 is in {tmp_path}" in said
    assert 0 not in [rows for _, rows in passes] and passes[-1] == (True, 1)


def test_other_problems_are_not_taken_for_it(base: Base, subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = scarce(monkeypatch, lambda view, rows: False, lambda: RuntimeError("shapes do not fit"))
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        sb.fit("textual-inversion", base, subject, **SETTINGS)
    assert len(passes) == 1


def test_a_resumed_run_is_as_thrifty_as_it_was_and_the_same_to_the_bit(
    base: Base, subject: Subject, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    passes = scarce(monkeypatch, lambda view, rows: rows <= 2)
    whole = sb.fit("textual-inversion", base, subject, **SETTINGS)
    taken: list[Progress] = []
    with pytest.raises(Interrupted):
        given: dict[str, Any] = {"progress": taken.append, "stop": lambda: len(taken) == 1}
        sb.fit("textual-inversion", base, subject, checkpoint=tmp_path, **given, **SETTINGS)
    passes.clear()
    resumed = sb.fit("textual-inversion", base, subject, checkpoint=tmp_path, resume=True, **SETTINGS)
    assert passes == [(True, 2), (True, 2), (True, 1)] * (STEPS - 1)
    assert resumed.tensors["rows"].equal(whole.tensors["rows"])


def test_a_thrifty_run_casts_its_weights_once(base: Base, subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    scarce(monkeypatch, lambda view, rows: view.spares)
    genuine, casts = twin_module.narrowed, []
    monkeypatch.setattr(twin_module, "narrowed", lambda *given: casts.append(1) or genuine(*given))
    counts = []
    for steps in (2, 6):
        casts.clear()
        given: dict[str, Any] = {**SETTINGS, "steps": steps, "compute": torch.bfloat16}
        sb.fit("textual-inversion", base, subject, **given)
        counts.append(len(casts))
    assert counts[0] == counts[1] <= 4, "text encoder, autoencoder, and the U-Net before and after"


def test_nothing_is_0_at_a_time() -> None:
    thrift: Thrift | None = Thrift()
    base, rows, seen = miniature(channels=(8,)), 1000, []
    while (thrift := thrift.less(rows, base)) is not None:
        rows = thrift.most or rows
        seen.append(rows)
    assert seen[0] == 1000 and seen[-1] == 1 and min(seen) == 1 and sorted(seen, reverse=True) == seen


def test_sparing_leaves_the_base_as_it_is_and_takes_less(base: Base) -> None:
    before = base.hashes()
    flags = [
        module.gradient_checkpointing for module in base.unet.modules() if hasattr(module, "gradient_checkpointing")
    ]
    view = base.sparing()
    assert view.hashes() == before and dict(view.named_parameters()).keys() == dict(base.named_parameters()).keys()
    assert flags and not any(flags)
    assert flags == [m.gradient_checkpointing for m in base.unet.modules() if hasattr(m, "gradient_checkpointing")]

    def kept(of: Base) -> int:
        """Bytes that a forward pass keeps for the way back."""
        from semblant.backbones.context import Context
        from semblant.backbones.moment import Moment

        total = [0]
        pack = lambda tensor: (total.__setitem__(0, total[0] + tensor.nbytes), tensor)[1]
        encoding = torch.zeros(1, 77, base.width, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            of.denoise(torch.zeros(1, 4, 8, 8), Moment.of(torch.tensor([5])), Context.of(encoding))
        return total[0]

    assert kept(view) < 0.7 * kept(base)


def test_a_step_says_how_many_rows_were_too_many(base: Base, subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = learner_of("textual-inversion", base, subject)
    scarce(monkeypatch, lambda view, rows: rows <= 1)
    for most, rows in ((None, 5), (3, 3)):
        with pytest.raises(NotEnoughMemory) as caught:
            gradients(base, [learner], [torch.Generator()], most=most)
        assert caught.value.rows == rows


def test_a_command_that_lacks_memory_says_so_in_one_sentence(
    command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for problem in PROBLEMS.values():
        with monkeypatch.context() as patched:
            scarce(patched, lambda view, rows: False, problem)
            refused = CliRunner().invoke(app, ["sample", "a person", "--steps", "1"])
        assert refused.exit_code == 2 and refused.stderr.startswith("error: there is not enough memory for this")
        assert refused.stderr.count("\n") == 1


def test_pictures_are_made_fewer_at_a_time(
    base: Base, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    given: dict[str, Any] = {"n": 5, "steps": 2, "guidance": 1.0, "seed": 3}
    whole = sb.sample(base, "a person", **given)
    passes = scarce(monkeypatch, lambda view, rows: rows <= 2)
    few = sb.sample(base, "a person", **given)
    assert [rows for _, rows in passes] == [5, 2, 2, 2, 2, 1, 1]
    assert [record.getMessage() for record in caplog.records] == [
        "there is not enough memory for more; making 2 at a time"
    ]
    for one, other in zip(whole, few, strict=True):
        assert float((to_tensor(one, 16) - to_tensor(other, 16)).abs().max()) < 0.02


def resident() -> int:
    """Bytes of memory that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_five_hundred_samples_hold_no_more_memory_than_a_hundred(base: Base, subject: Subject) -> None:
    logging.getLogger("semblant").setLevel(logging.ERROR)
    concept = sb.fit("textual-inversion", base, subject, steps=1, views=2, batch=1)
    held = []
    for k in range(1, 64):
        # Prompts that are all different: nothing that is remembered of one may pile up.
        sb.sample(base, f"a photo of <maya> number {k}", concepts=[concept], n=8, steps=1, guidance=1.0)
        if k % 12 == 0:
            held.append(resident())
    assert max(held) < 1.05 * held[0], held
