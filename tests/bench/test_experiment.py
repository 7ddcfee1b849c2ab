"""An experiment cell by cell, on the shipped base with hardly any steps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from semblant.backbones.judges import load_judges
from semblant.bench import experiment
from semblant.bench.attention_mass import _about, face_mask, masses, object_mask
from semblant.bench.experiment import Arm, Plan, run
from semblant.bench.runs import RunFolder
from semblant.bench.sitter import Sitter, draw
from semblant.bench.tables import Bar, bars_as_text, interval, judged, markdown, means_as_text, obeyed_by_kind, summary
from semblant.data.pictures import read_picture
from semblant.errors import FileProblem, SemblantError
from semblant.metrics.attributes import facts_shown
from semblant.training.concepts import load as load_concept
from semblant.verbs import load

PLAN = Plan(
    split="tune",
    people=(3,),
    prompts={"scene": ("a photo of {} on the beach",), "style": ("a sketch of {}",)},
    arms={
        "class word": Arm(),
        "words, 0.1": Arm("textual-inversion", {"steps": 2}),
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
    assert [cell["arm"] for cell in cells] == ["class word", "words, 0.1"] and fitted == ["textual-inversion"]
    assert run(PLAN, base, tmp_path) == json.loads(json.dumps(cells)) and len(fitted) == 1
    assert cells[1]["parameters"] == base.width and set(cells[1]["kinds"]) == {"scene", "style"}
    assert set(cells[1]["copied"]) <= set(experiment.COPIED)
    monkeypatch.setattr(experiment, "_judges", lambda: "others")  # who look again at the pictures that are there
    looked = run(PLAN, base, tmp_path)
    assert (
        len(fitted) == 1
        and [cell["judges"] for cell in looked] == [f"others, 2 references, look {experiment.LOOK}"] * 2
    )
    assert [cell["scores"] for cell in looked] == [cell["scores"] for cell in cells]
    place = tmp_path / "cells" / "0003-words, 0.1"
    [(step, file)] = RunFolder(place).kept()
    assert step == 2 and load_concept(file).method == "textual-inversion"
    next(place.glob("*.png")).write_bytes(b"")  # a damaged picture
    run(PLAN, base, tmp_path)
    assert fitted == ["textual-inversion"] * 2
    changed = replace(PLAN, arms={"words, 0.1": Arm("textual-inversion", {"steps": 1})})
    run(changed, base, tmp_path)
    assert len(fitted) == 3 and [step for step, _ in RunFolder(place).kept()] == [1]
    table = summary(cells)
    assert table["words, 0.1"]["people"] == 1 and "interval" not in table["words, 0.1"]["Prompt"]
    assert markdown(table).count("\n") == 4


def test_a_cell_that_was_cut_short_does_not_vouch_for_other_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = load()
    plan = replace(PLAN, arms={"class word": Arm()}, prompts={"scene": ("a photo of {} on the beach",)})
    [cell] = run(plan, base, tmp_path)
    other = replace(plan, prompts={"scene": ("a sketch of {} at night",)})

    def cut_short(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(experiment, "_scored", cut_short)
        with pytest.raises(KeyboardInterrupt):
            run(other, base, tmp_path)
    monkeypatch.setattr(experiment, "_judges", lambda: "others")  # they look at whatever pictures are taken for its own
    assert run(plan, base, tmp_path)[0]["scores"] == cell["scores"]


def test_right_answers_show_the_facts_of_their_person_and_those_of_others_fewer() -> None:
    sitter, other = Sitter("tune", 3), Sitter("tune", 8)
    prompts = ["a photo of person on the beach", "a photo of person wearing sunglasses"]
    own, others = (
        experiment._own(facts_shown(draw([who.truth(p) for p in prompts]), prompts, load_judges("B")), prompts, sitter)
        for who in (sitter, other)
    )
    assert own > 0.8 and others < own - 0.2


def test_a_sheet_shows_the_right_answers_and_every_arm_that_is_there(tmp_path: Path) -> None:
    plan = replace(PLAN, arms={"class word": Arm(), "missing": Arm()})
    run(plan, load(), tmp_path, ["class word"])
    texts = plan.texts()
    made = experiment.shown(plan, tmp_path, 3, 128)
    assert made.height > 2 * 134 and made.height < 3 * 134 + 60
    first = read_picture(tmp_path / "cells" / "0003-class word" / "000.png")
    [truth] = draw([Sitter("tune", 3).truth(texts[0].replace("{}", "person"))])
    left, top = 2 * 134 + 16 + 150 - 134, made.height - 16 - 128
    assert made.crop((left, top, left + 128, top + 128)).tobytes() == first.tobytes()
    assert made.crop((left, top - 134, left + 128, top - 6)).tobytes() == truth.tobytes()


def test_where_a_word_looks_is_asked_of_true_pictures() -> None:
    scene = Sitter("tune", 3).portrait().change(action="holding a cup of latte", camera="half body")
    face, cup = face_mask(scene, 128), object_mask(scene, 128)
    assert 0.02 < face.mean() < 0.4 and 0.02 < cup.mean() < 0.4
    everywhere = torch.ones(128, 128)
    found = masses(load(), "a photo of person with a cup", scene, {"person": everywhere, "cup": cup, "dog": cup})
    assert found["person"].inside == pytest.approx(1, abs=1e-4) and found["person"].outside == 0
    assert 0 < found["cup"].inside < 1 and 0 < found["cup"].outside < 1 and "dog" not in found


def test_what_a_word_gets_is_told_by_where_it_comes_from() -> None:
    mask = torch.zeros(4, 4)
    mask[:2, :2] = 1
    looks = (0.1 + 0.6 * mask).flatten()
    [mass] = _about([torch.stack([looks, 1 - looks], -1)[None, None]], [0], mask)
    assert mass.outside == pytest.approx(0.1) and mass.inside == pytest.approx(4 * 0.7 / (4 * 0.7 + 12 * 0.1))
    [wide] = _about([torch.stack([2 * looks, 1 - 2 * looks], -1)[None, None]], [0], mask)
    assert wide.inside == pytest.approx(mass.inside) and wide.outside == pytest.approx(0.2)


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
    for bar, said in (
        ({"arm": "nobody", "column": "gain", "at_most": 1.0}, "an arm 'nobody'"),
        ({"arm": "a", "column": "gains", "at_most": 1.0}, "did you mean gain"),
        ({"arm": "a", "column": "gain"}, "at_least or at_most"),
        ({"arm": "a", "column": "gain", "at_most": 1.0, "less": "a", "times": "a"}, "but not both"),
    ):
        file.write_text(json.dumps({"arms": {"a": {}}, "prompts": {}, "people": [], "split": "tune", "bars": [bar]}))
        with pytest.raises(SemblantError, match=said):
            Plan.read(file)
    file.write_text('{"arms": {}, "prompts": {}, "people": [], "split": "tune", "camera": "far"}')
    with pytest.raises(SemblantError, match="unknown camera 'far'"):
        Plan.read(file)
    file.write_text('{"arms": {}, "prompts": {}, "people": [], "split": "test"}')
    with pytest.raises(SemblantError, match="unknown split"):
        Plan.read(file)
    with pytest.raises(SemblantError, match="no arm nothing"):
        run(PLAN, load(), tmp_path, ["nothing"])


def cell(arm: str, person: int, gain: float | None, facts: float) -> dict[str, object]:
    scores = {"identity_gain": gain, "facts": facts}
    return {
        "arm": arm,
        "person": person,
        "scores": scores,
        "kinds": {"scene": {"facts": facts}, "style": {"facts": 1.0}},
        "copied": {"background": facts / 2},
    }


CELLS = [
    *(cell("ours", person, gain, 0.7) for person, gain in enumerate((0.4, 0.8, None))),
    *(cell("base", person, 0.1 * person, 0.9) for person in (1, 2, 3)),
]


def test_bars_are_judged_over_the_people_who_have_what_they_need() -> None:
    bars = (
        Bar("ours", "gain", at_least=0.5),
        Bar("ours", "gain", at_most=0.5),
        Bar("ours", "facts", less="base", at_least=-0.1),
        Bar("ours", "gain", times="base", at_least=7.9, at_most=8.1),
        Bar("ours", "outside", at_most=1.5),
    )
    found = judged(bars, CELLS)
    assert [bar["value"] for bar in found] == [pytest.approx(v) if v else None for v in (0.6, 0.6, -0.2, 8.0, None)]
    assert [bar["holds"] for bar in found] == [True, False, False, True, None]
    text = bars_as_text(found)
    assert "facts of ours less that of base: at least -0.1: MISSED (-0.200)" in text
    assert "outside of ours: at most 1.5: not measured" in text and text.count("\n") == 5


def test_facts_are_told_by_kind_of_prompt() -> None:
    table = obeyed_by_kind([*CELLS, {"arm": "other", "person": 1, "kinds": {"scene": {"facts": None}}}])
    assert table["ours"] == pytest.approx({"scene": 0.7, "style": 1.0})
    text = means_as_text(table, "facts obeyed")
    assert "| ours | 0.700 | 1.000 |" in text and "| other |  |  |" in text


def test_a_missed_bar_ends_the_command_with_code_four(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = {"arms": {"ours": {}, "base": {}}, "prompts": {}, "people": [1], "split": "tune"}
    plan["bars"] = [{"arm": "ours", "column": "gain", "at_least": 0.9}]
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    monkeypatch.setattr(experiment, "run", lambda *_: CELLS)
    command = [str(tmp_path / "plan.json"), "--out", str(tmp_path)]
    with pytest.raises(SystemExit) as end:
        experiment.main(command)
    assert end.value.code == 4 and "MISSED" in (tmp_path / "summary.md").read_text()
    assert (tmp_path / "person-0001.jpg").is_file() and len(json.loads((tmp_path / "cells.json").read_text())) == 1
    assert json.loads((tmp_path / "summary.json").read_text())["bars"][0]["holds"] is False
    with pytest.raises(SystemExit) as end:
        experiment.main([str(tmp_path / "none.json"), "--out", str(tmp_path)])
    assert end.value.code == 2
    plan["bars"] = [{"arm": "ours", "column": "gain", "at_least": 0.5}]
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    experiment.main(command)
