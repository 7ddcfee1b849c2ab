"""The speed comparison: what is watched, the arithmetic of its report, and which runs there are."""

from __future__ import annotations

import itertools
import json
import runpy
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from benchmarks.speed import __main__ as command
from benchmarks.speed import parity, peers, report, watch
from benchmarks.speed.job import OURS, THEIRS
from benchmarks.speed.plan import PARITY, Plan
from benchmarks.speed.recipe import RECIPES
from benchmarks.speed.report import Summary

TOY = """
from accelerate import Accelerator
from toy import clock

def main():
    for step in range(5):
        clock.now += 2.0 + step
        colour = f"colour {step}"
        Accelerator.log(None, {"loss": 0.5 * step, "lr": 1.0}, step=step)
        clock.now += 1.0

main()
"""


class Clock:
    """A clock that moves when told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_script_is_watched_step_by_step_and_left_after_the_last(tmp_path, clock, monkeypatch):
    from accelerate import Accelerator

    monkeypatch.setattr(Accelerator, "log", Accelerator.log)
    monkeypatch.setitem(sys.modules, "toy", SimpleNamespace(clock=clock))
    (tmp_path / "script.py").write_text(TOY)
    seen = []

    def after(step: int, variables: Any) -> None:
        seen.append((step, variables["colour"]))
        clock.now += 100.0

    watched = watch.Watch(time.time(), clock, clock)
    watch.follow(watched, after, steps=3)
    with pytest.raises(watch.Finished):
        runpy.run_path(str(tmp_path / "script.py"), run_name="__main__")
    assert seen == [(1, "colour 0"), (2, "colour 1"), (3, "colour 2")]
    # From the end of one step to the end of the next: 1 of what follows the log, 2 + step before it, never the 100.
    facts = watched.facts()
    assert facts["seconds"] == facts["processor_seconds"] == [4.0, 5.0]
    assert facts["cold_start"] == pytest.approx(2.0, abs=0.5)
    assert facts["losses"] == [0.0, 0.5, 1.0]


def test_parts_of_a_step_are_summed_and_what_happens_apart_is_none(clock):
    owner = SimpleNamespace(work=lambda seconds: setattr(clock, "now", clock.now + seconds))
    watched = watch.Watch(time.time(), clock, clock)
    watched.time(owner, "work", "work")
    watched.step(0.0)
    owner.work(1.0)
    with watched.apart():
        owner.work(10.0)
        with watched.apart():
            owner.work(20.0)
        owner.work(30.0)
    owner.work(2.0)
    watched.step(0.0)
    assert watched.facts()["parts"] == [{"work": 3.0}] and watched.seconds[1] == 3.0


def test_losses_are_read_row_by_row_between_steps(clock):
    bank = {"x": torch.ones(2, 4, 2, 2), "noise": torch.zeros(2, 4, 2, 2), "timesteps": torch.tensor([1, 3])}
    watched = watch.Watch(time.time(), clock, clock)
    watched.step(0.0)
    # Errors 1 and 9 on average.
    assert watched.look(lambda x, t: x * t, bank) == 5.0
    assert watched.facts()["bank"] == {"1": 5.0}


def test_memory_is_told_with_loading_and_without_and_never_what_is_held_apart(clock, monkeypatch, tmp_path):
    """The mark of the system, as it would stand: whatever is held raises it, forgetting lowers it to what is held."""
    system = {"held": 1, "most": 1}

    class Forget:
        def write_text(self, text):
            assert text == "5"
            system["most"] = system["held"]

    def hold(megabytes):
        system["most"] = max(system["most"], megabytes)

    monkeypatch.setattr(watch, "FORGET", Forget())
    monkeypatch.setattr(watch, "high_water", lambda: system["most"])
    watched = watch.Watch(time.time(), clock, clock)
    hold(900)  # while loading
    watched.step(0.0)
    hold(300)
    with watched.apart():
        hold(5000)
    watched.step(0.0)
    facts = watched.facts()
    assert (facts["peak_memory"], facts["steps_memory"]) == (900, 300)


def result(side: str, name: str, step: float, part: str = "textual-inversion", **others: Any) -> dict[str, Any]:
    """A result with three steps after the first, of which one still warms up."""
    return {
        "job": {"part": part, "side": side, "name": name, "views": 10},
        "precision": name if name in ("float32", "bfloat16") else "float32",
        "cold_start": 7.0,
        "seconds": [50 * step, 0.9 * step, step, 1.2 * step],
        "processor_seconds": [9.0, 2.0, 3.0, 4.0],
        "parts": [{"U-Net": 9.0}, *[{"U-Net": 0.5 * step, "optimiser": 0.1 * step}] * 3],
        "parts_of_cold_start": {"autoencoder": 2.0},
        "bank": {"2": 1.0, "4": 0.5},
        "peak_memory": 100 * 2**20,
        "steps_memory": 60 * 2**20,
        **others,
    }


def test_medians_leave_the_warm_up_out():
    summary = Summary.of(result(OURS, "float32", 10.0), warm_up=2)
    assert (summary.step, summary.fastest, summary.slowest, summary.processor) == (10.0, 9.0, 12.0, 3.0)
    assert (
        summary.memory == 100
        and summary.steps_memory == 60
        and summary.encoding == 2.0
        and summary.bank == {2: 1.0, 4: 0.5}
    )
    assert summary.parts == pytest.approx({"U-Net": 5.0, "optimiser": 1.0, "rest": 4.0})


@pytest.mark.parametrize(("step", "loss"), [(0, 3.0), (1, 2.5), (4, 1.0), (5.5, 0.75), (99, 0.0)])
def test_losses_lie_straight_between_the_steps_they_were_read_at(step, loss):
    assert report.loss_at({0: 3.0, 4: 1.0, 10: 0.0}, step) == pytest.approx(loss)


def test_at_equal_seconds_the_slower_side_is_read_earlier():
    fast, slow = (
        replace(Summary.of(result(side, "x", seconds), 2), bank={0: 2.0, 10: 1.0})
        for side, seconds in ((OURS, 1.0), (THEIRS, 2.0))
    )
    assert report.at_equal_seconds(fast, slow) == (1.0, 1.5, 10.0)


def test_ratios_are_theirs_to_ours_in_time_and_ours_to_theirs_in_memory():
    runs = [
        result(THEIRS, "default", 4.0, peak_memory=200 * 2**20, steps_memory=80 * 2**20),
        result(OURS, "float32", 2.0),
        result(
            OURS, "own choice", 1.0, bank={"0": 1.5, "4": 0.6}, precision="bfloat16", processor_seconds=[9, 1, 1, 1]
        ),
        result(THEIRS, "pipeline", 30.0, part="sampling"),
        result(OURS, "float32", 40.0, part="sampling"),
    ]
    made = report.bars([Summary.of(run, 2) for run in runs])
    # Faster, memory with and without loading; by choice faster, how far the loss fell, the last loss; sampling.
    assert [bar.ratio for bar in made] == pytest.approx([2.0, 0.5, 0.75, 4.0, 0.9, 1.2, 0.75])
    assert [bar.wanted for bar in made] == pytest.approx([1.8, 0.8, 0.8, 3.0, 0.9, 1.001, 1.0])
    assert [bar.reached for bar in made if bar.ratio != 0.9] == [True, True, True, True, False, False]
    assert [bar.processor for bar in made] == [1.0, None, None, 3.0, None, None, 1.0]


def test_losses_are_the_same_to_one_in_ten_thousand():
    close = parity.compare([1.0, 2.0], [4.0, 8.0 + 4e-4], scale=4.0)
    assert close["same"] and close["difference"] == pytest.approx(5e-5, rel=1e-3)
    assert not parity.compare([1.0], [1.0 + 2e-4])["same"]


def test_pictures_are_compared_in_parts_of_the_whole_range(tmp_path):
    for name, colour in (("a", 100), ("b", 151)):
        Image.new("RGB", (2, 1), (colour, 100, 100)).save(tmp_path / f"{name}.png")
    assert report.picture_difference(tmp_path / "a.png", tmp_path / "b.png") == pytest.approx((0.2, 0.2 / 3))


def plan(folder: Path, **others: Any) -> Plan:
    given: dict[str, Any] = {
        "out": folder,
        "scripts": None,
        "shape": "tiny",
        "resolution": 64,
        "steps": 2,
        "warm_up": 1,
    }
    return Plan(**{**given, **others})


@pytest.fixture
def scripts(tmp_path) -> Path:
    """A folder of scripts, for what only looks at them."""
    for recipe in RECIPES.values():
        (tmp_path / recipe.script).write_text("print('hello')\n")
    return tmp_path


def test_without_scripts_ours_runs_alone(tmp_path):
    assert plan(tmp_path).jobs(PARITY) == []
    assert {job.side for _, job in plan(tmp_path).jobs("dreambooth-lora")} == {OURS}


def test_both_sides_run_in_every_precision_that_pays(tmp_path, scripts):
    names = lambda half: [
        (job.side, job.name, job.precision)
        for _, job in plan(tmp_path, scripts=scripts, half=half).jobs("textual-inversion")
    ]
    theirs, own, choice = (THEIRS, "default", "float32"), (OURS, "float32", "float32"), (OURS, "own choice", "auto")
    assert names(False) == [theirs, own, choice]
    assert names(True) == [theirs, (THEIRS, "best", "bfloat16"), own, (OURS, "bfloat16", "bfloat16"), choice]


def test_a_folder_without_the_script_is_refused(tmp_path):
    with pytest.raises(ValueError, match="train_dreambooth_lora"):
        plan(tmp_path, scripts=tmp_path).jobs("dreambooth-lora")


def test_what_is_run_is_known_by_its_settings_and_by_what_the_script_says(tmp_path, scripts):
    job = plan(tmp_path, scripts=scripts).jobs("textual-inversion")[0][1]
    assert job.key() == replace(job, made="elsewhere", result="elsewhere").key() == json.loads(json.dumps(job.key()))
    assert job.key() != replace(job, steps=9).key()
    before = job.key()
    Path(job.script).write_text("print('other')\n")
    assert job.key() != before


def test_a_result_that_is_there_is_not_made_again(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(command, "call", lambda module, *_given: made.append(module))
    job = plan(tmp_path).jobs("custom-diffusion")[0][1]
    assert command.run("ours", job) and made == ["ours"]
    watch.write(Path(job.result), {"job": job.key()})
    assert not command.run("ours", job) and made == ["ours"]
    assert command.run("ours", replace(job, seed=7)) and made == ["ours", "ours"]


def test_a_script_is_given_the_task(tmp_path, scripts):
    job = plan(tmp_path, scripts=scripts, half=True, batch=3).jobs("dreambooth-lora")[1][1]
    given = peers.arguments(job)
    pairs = dict(itertools.pairwise(given))
    assert pairs["--train_batch_size"] == "3" and pairs["--max_train_steps"] == "3" and pairs["--resolution"] == "64"
    assert pairs["--mixed_precision"] == "bf16" and "--pre_compute_text_embeddings" in given


def test_a_script_of_another_kind_is_told(tmp_path):
    with pytest.raises(KeyError, match="weight_dtype"):
        peers.denoiser({"unet": None}, "a photo")
