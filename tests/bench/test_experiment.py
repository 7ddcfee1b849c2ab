"""An experiment cell by cell, on the shipped base with hardly any steps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from semblant.bench import experiment
from semblant.bench.attention_mass import face_mask, masses, object_mask
from semblant.bench.experiment import Arm, Plan, interval, markdown, run, summary
from semblant.bench.sitter import Sitter
from semblant.errors import FileProblem, SemblantError
from semblant.verbs import load

PLAN = Plan(
    split="tune",
    people=(3,),
    prompts={"scene": ("a photo of {} on the beach",), "style": ("a sketch of {}",)},
    arms={
        "class word": Arm(),
        "words": Arm("textual-inversion", {"steps": 2}),
        "rare": Arm("textual-inversion", {"steps": 1}, people=0),
    },
    seeds=1,
    references=2,
    steps=2,
)


def test_cells_are_made_once_and_again_when_what_decides_them_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, fitted = load(), []
    inner = experiment.fit
    monkeypatch.setattr(experiment, "fit", lambda name, *a, **k: fitted.append(name) or inner(name, *a, **k))
    cells = run(PLAN, base, tmp_path)
    assert [cell["arm"] for cell in cells] == ["class word", "words"] and fitted == ["textual-inversion"]
    assert run(PLAN, base, tmp_path) == json.loads(json.dumps(cells)) and len(fitted) == 1
    assert cells[1]["parameters"] == base.width and set(cells[1]["kinds"]) == {"scene", "style"}
    assert set(cells[1]["copied"]) <= set(experiment.COPIED)
    changed = replace(PLAN, arms={"words": Arm("textual-inversion", {"steps": 1})})
    run(changed, base, tmp_path)
    assert len(fitted) == 2
    table = summary(cells)
    assert table["words"]["people"] == 1 and "interval" not in table["words"]["Prompt"]
    assert markdown(table).count("\n") == 4


def test_where_a_word_looks_is_asked_of_true_pictures() -> None:
    scene = Sitter("tune", 3).portrait().change(action="holding a cup of latte", camera="half body")
    face, cup = face_mask(scene, 128), object_mask(scene, 128)
    assert 0.02 < face.mean() < 0.4 and 0.02 < cup.mean() < 0.4
    everywhere = torch.ones(128, 128)
    found = masses(load(), "a photo of person with a cup", scene, {"person": everywhere, "cup": cup, "dog": cup})
    assert found["person"] == pytest.approx(1, abs=1e-4) and 0 < found["cup"] < 1 and "dog" not in found


def test_intervals_hold_the_mean_and_shrink_with_people() -> None:
    low, high = interval([0.0, 1.0] * 4)
    lower, higher = interval([0.0, 1.0] * 100)
    assert low < 0.5 < high and low < lower < 0.5 < higher < high
    assert interval([0.3] * 5) == pytest.approx((0.3, 0.3))


def test_a_plan_is_read_and_refused(tmp_path: Path) -> None:
    plan = Plan.read(Path(__file__).parents[2] / "benchmarks" / "flagship" / "plan.json")
    assert len(plan.people) == 16 and len(plan.texts()) == 12 and plan.split == "heldout"
    file = tmp_path / "plan.json"
    for text in ("{", "[]", '{"arms": {}}', '{"arms": {}, "prompts": {}, "people": [], "split": "tune", "speed": 1}'):
        file.write_text(text)
        with pytest.raises(FileProblem, match="no plan"):
            Plan.read(file)
    file.write_text('{"arms": {}, "prompts": {}, "people": [], "split": "test"}')
    with pytest.raises(SemblantError, match="unknown split"):
        Plan.read(file)
    with pytest.raises(SemblantError, match="no arm nothing"):
        run(PLAN, load(), tmp_path, ["nothing"])
