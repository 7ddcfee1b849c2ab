"""An experiment cell by cell, on the shipped base with hardly any steps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from semblant.backbones.judges import load_judges
from semblant.bench import experiment
from semblant.bench.attention_mass import Mass, _about, face_mask, masses, object_mask
from semblant.bench.experiment import Arm, Plan, run
from semblant.bench.runs import RunFolder
from semblant.bench.sitter import Sitter, draw
from semblant.bench.tables import (
    Bar,
    bars_as_text,
    interval,
    judged,
    markdown,
    means_as_text,
    obeyed_by_fact,
    obeyed_by_kind,
    paired,
    paired_as_text,
    summary,
)
from semblant.data.pictures import read_picture
from semblant.errors import FileProblem, SemblantError
from semblant.metrics.attributes import facts_shown
from semblant.training.concepts import load as load_concept
from semblant.verbs import load
from semblant.world.facts import facts as facts_of

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


def test_cells_of_arms_that_are_not_asked_for_are_told_where_they_hold(tmp_path: Path) -> None:
    base = load()
    plan = replace(PLAN, arms={"class word": Arm(), "same": Arm()}, prompts={"scene": ("a photo of {}",)})
    cells = run(plan, base, tmp_path)
    assert run(plan, base, tmp_path, ["same"]) == json.loads(json.dumps(cells))
    other = replace(plan, prompts={"scene": ("a sketch of {}",)})
    assert [cell["arm"] for cell in run(other, base, tmp_path, ["same"])] == ["same"], "the others' are outdated"


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


def test_what_is_learned_from_and_measured_by_is_the_plans_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, plan = load(), replace(PLAN, people=(3, 4), camera="close-up", noise="own", seeds=2)
    given: dict[str, list[object]] = {"learned": [], "trained on": [], "subject": [], "seeds": []}
    inner_fit, inner_sample, inner_measure = experiment.fit, experiment.sample, experiment.measure

    def fit(*args: Any, **more: Any) -> Any:
        given["learned"] += [image.tobytes() for image in args[2].images]
        return inner_fit(*args, **more)

    def sample(*args: Any, **more: Any) -> Any:
        given["seeds"].append(more["seed"])
        return inner_sample(*args, **more)

    def measure(*args: Any, **more: Any) -> Any:
        given["trained on"] += [image.tobytes() for image in more.get("trained_on", ())]
        given["subject"] += [image.tobytes() for image in more["subject"]]
        return inner_measure(*args, **more)

    for name, spy in (("fit", fit), ("sample", sample), ("measure", measure)):
        monkeypatch.setattr(experiment, name, spy)
    run(plan, base, tmp_path, ["words, 0.1"])
    near = [draw([plan.picture(Sitter("tune", person))])[0].tobytes() for person in (3, 4)]
    assert given["learned"] == given["trained on"] == near and given["seeds"] == [6, 8]
    assert not set(given["subject"]) & set(near), "likeness is measured by other pictures"
    assert plan.picture(Sitter("tune", 3)).camera == "close-up"


def test_a_cell_is_of_its_settings_its_picture_and_its_noise() -> None:
    base, arm = load(), PLAN.arms["words, 0.1"]
    key = lambda plan=PLAN, arm=arm, person=3: experiment._key(plan, arm, base, person)
    others = [
        key(replace(PLAN, camera="close-up")),
        key(replace(PLAN, noise="own")),
        key(replace(PLAN, steps=3)),
        key(replace(PLAN, guidance=2.0)),
        key(replace(PLAN, seeds=2)),
        key(replace(PLAN, split="heldout")),
        key(replace(PLAN, prompts={"scene": ("a {}",)})),
        key(replace(PLAN, prompts=dict(reversed(PLAN.prompts.items())))),  # pictures stand in the order of prompts
        key(arm=Arm("textual-inversion", {"steps": 3})),
        key(arm=Arm()),
        key(person=4),
    ]
    assert len({key(), *others}) == 1 + len(others)
    same = replace(PLAN, guidance=4.0, references=9, people=(5,))
    assert key(same) == key(), "what the base does anyway, who measures, who else there is"


def test_what_came_along_is_told_where_a_prompt_does_not_name_it() -> None:
    sitter = Sitter("tune", 3)  # in a room, in plain light, turned to nobody
    own = facts_of(sitter.portrait())
    away = {**own, "background": "beach", "turn": "left"}
    seen = [({**own}, {"background": own["background"]}), ({**own}, {"background": "snow"}), (away, {}), (own, {})]
    found = experiment._copied(seen, sitter)
    assert found == pytest.approx({"background": 2 / 3, "light": 1.0, "turn": 0.75, "tilt": 1.0})


def test_attention_is_told_of_the_word_and_of_the_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    def stubbed(view: Any, prompt: str, scene: Any, masks: Any, **_: Any) -> dict[str, Mass]:
        [thing] = set(masks) - {"<them>"}
        return {"<them>": Mass(inside=0.25, outside=0.1, within=0.3), thing: Mass(inside=0.6, outside=0.2, within=0.4)}

    monkeypatch.setattr(experiment, "masses", stubbed)
    found = experiment._attention(load(), [], "<them>", Sitter("tune", 3))
    assert found == pytest.approx(
        {
            "a place in the head": 0.3,
            "a place outside the head": 0.1,
            "share outside the head": 0.75,
            "share of an object word on it": 0.6,
        }
    )


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
    assert mass.outside == pytest.approx(0.1) and mass.within == pytest.approx(0.7)
    assert mass.inside == pytest.approx(4 * 0.7 / (4 * 0.7 + 12 * 0.1))
    [wide] = _about([torch.stack([2 * looks, 1 - 2 * looks], -1)[None, None]], [0], mask)
    assert wide.inside == pytest.approx(mass.inside) and wide.outside == pytest.approx(0.2)


def test_intervals_hold_the_mean_and_shrink_with_people() -> None:
    low, high = interval([0.0, 1.0] * 4)
    lower, higher = interval([0.0, 1.0] * 100)
    assert low < 0.5 < high and low < lower < 0.5 < higher < high
    assert interval([0.3] * 5) == pytest.approx((0.3, 0.3))
    # 95 %, of a binomial: mean .5, deviation .5 / sqrt(100).
    assert interval([0.0, 1.0] * 50) == pytest.approx((0.5 - 1.96 * 0.05, 0.5 + 1.96 * 0.05), abs=0.011)


def test_a_plan_is_read_and_refused(tmp_path: Path) -> None:
    plan = Plan.read(Path(__file__).parents[2] / "benchmarks" / "flagship" / "plan.json")
    assert len(plan.people) == 16 and len(plan.texts()) == 12 and plan.split == "heldout"
    file = tmp_path / "plan.json"
    for text in ("{", "[]", '{"arms": {}}', '{"arms": {}, "prompts": {}, "people": [], "split": "tune", "speed": 1}'):
        file.write_text(text)
        with pytest.raises(FileProblem, match="no plan"):
            Plan.read(file)
    for people, prompts, said in (([1, 2, 1], {}, "there twice"), ([1], {"scene": "a photo of {}"}, "are a list")):
        file.write_text(json.dumps({"arms": {}, "prompts": prompts, "people": people, "split": "tune"}))
        with pytest.raises(FileProblem, match=said):
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
    file.write_text('{"arms": {}, "prompts": {}, "people": [], "split": "tune", "noise": "none"}')
    with pytest.raises(SemblantError, match="unknown noise 'none'"):
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
    assert [bar["people"] for bar in found] == [2, 2, 2, 1, 0] and not any("interval" in bar for bar in found)
    assert [bar["holds"] for bar in found] == [True, False, False, True, None]
    text = bars_as_text(found)
    assert "facts of ours less that of base: at least -0.1: MISSED (-0.200; 2 people)" in text
    assert "outside of ours: at most 1.5: not measured" in text and text.count("\n") == 5


def test_arms_are_compared_on_the_people_whom_both_have() -> None:
    gains = ((0.5, 0.9), (0.4, 0.5), (0.2, 0.7), (0.1, 0.3), (0.3, 0.4), (0.9, None), (None, 0.1))
    cells = [
        cell(arm, person, gain, 0.7)
        for person, both in enumerate(gains)
        for arm, gain in zip(("one", "other"), both, strict=True)
        if gain is not None
    ]
    table = paired(cells, "one")
    assert list(table) == ["other"] and table["other"]["gain"]["people"] == 5
    assert table["other"]["gain"]["mean"] == pytest.approx(0.26)
    low, high = table["other"]["gain"]["interval"]
    assert 0.1 < low < 0.2 and 0.3 < high < 0.42
    assert "interval" not in paired(cells[:4], "one")["other"]["gain"]
    assert "| other | 5 |" in paired_as_text(table, "less one") and "0.260, 0.1" in paired_as_text(table, "less one")
    [bar] = judged([Bar("other", "gain", less="one", at_least=0.2)], cells)
    assert bar["holds"] and bar["people"] == 5 and bar["interval"] == table["other"]["gain"]["interval"]


def test_facts_are_told_by_fact() -> None:
    cells = [
        {"arm": "a", "scores": {"facts_by_name": facts}} for facts in ({"age": 1.0, "hat": 0.5}, {"age": 0.0}, None)
    ]
    assert obeyed_by_fact(cells) == {"a": {"age": 0.5, "hat": 0.5}}


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
