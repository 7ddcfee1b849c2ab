"""Verdicts and the choice among kept steps."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from semblant import verbs
from semblant.backbones.base import Base
from semblant.backbones.judges import load_judges
from semblant.backbones.loading import miniature
from semblant.bench import runs, verdict
from semblant.bench.sitter import Sitter, draw
from semblant.bench.verdict import Verdict, figure, judge
from semblant.data.subject import Subject
from semblant.errors import FileProblem, SemblantError
from semblant.metrics.carrying import carried_over
from semblant.training import concepts
from semblant.training.concepts import Concept
from semblant.world.captions import read, words
from semblant.world.company import being_of, draw_being_scene

SITTER = Sitter("tune", 4)


@pytest.fixture(scope="module")
def base() -> Base:
    made = miniature(vocabulary=words())
    made.architecture = "embedded"
    return made


@pytest.fixture(scope="module")
def portrait() -> Image.Image:
    return draw([SITTER.portrait()])[0]


@pytest.fixture(scope="module")
def concept(base: Base, portrait: Image.Image) -> Concept:
    subject = Subject((portrait,), "<maya>", "person")
    return verbs.fit("textual-inversion", base, subject, steps=1, views=1)


@pytest.fixture
def sampled(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Image.Image]]:
    """What sampling answers with in place of the pictures of a base that is too weak to be judged."""
    images: list[Image.Image] = []
    monkeypatch.setattr(verbs, "sample", lambda base, prompts, **more: images[: len(prompts)])
    yield images


def scenes(*, right: bool) -> list[Image.Image]:
    """Pictures of the sitter for the verdict's prompts: the right answers, or the portrait over and over."""
    asked = [prompt.replace("{}", "<maya>") for prompt in verdict.PROMPTS]
    return draw([SITTER.truth(prompt) if right else SITTER.portrait() for prompt in asked])


def test_the_right_answer_and_a_copy_get_opposite_verdicts(base, concept, portrait, sampled):
    sampled[:] = scenes(right=True)
    good = judge(base, concept, [portrait])
    sampled[:] = scenes(right=False)
    copy = judge(base, concept, [portrait])
    assert good.identity > 0.5 and good.obeys > copy.obeys + 0.2 and good.copies == ()
    assert copy.copies == ("picture",) and copy.identity > 0.5
    assert f"obeys {figure(good.obeys)}, copies nothing" in good.sentence
    assert copy.sentence.endswith("copies the picture")
    # Somebody else's portrait in the same room: the background came along, and the picture did not.
    sampled[:] = draw([Sitter("tune", 40).portrait().change(camera="half body", light="dim")]) * 4
    assert judge(base, concept, [portrait]).copies == ("background",)


def test_what_the_word_is_called_does_not_matter(base, concept, portrait, sampled):
    sampled[:] = scenes(right=True)
    told = judge(base, concept, [portrait])
    for word in ("ohwx", "snow"):
        other = judge(base, Concept(**{**vars(concept), "word": word}), [portrait])
        assert other.scores == told.scores and other.copies == told.copies
        assert other.prompts == tuple(prompt.replace("{}", word) for prompt in verdict.PROMPTS)


def test_facts_that_came_along_are_counted_where_the_prompt_names_another(portrait):
    judges = load_judges("B")
    prompts = ["a photo of a person on the beach", "a photo of a person in a room", "a photo of a person"]
    found = carried_over([portrait] * 3, prompts, [portrait], judges)
    # The portrait shows a room: only the beach was asked for in vain.
    assert found["background"] == [True] and "style" not in found


def test_a_weak_base_is_judged_without_a_face_and_the_concept_stays_as_it_is(base, concept, portrait):
    before = {name: tensor.clone() for name, tensor in concept.tensors.items()}
    hashes = base.hashes()
    one, two = (judge(base, concept, [portrait], prompts=verdict.PROMPTS[:2], steps=2) for _ in range(2))
    assert one == two and one.scores["n"] == 2 and 0 <= one.obeys <= 1
    assert all(torch.equal(before[name], tensor) for name, tensor in concept.tensors.items())
    assert base.hashes() == hashes
    json.dumps(one.record())


def teapot(index: int, prompt: str = "a photo of {}") -> Image.Image:
    """A teapot as a prompt has it."""
    facts = read(prompt).facts
    plain = {"background": "room", "style": "photo", "light": "plain", "camera": "portrait", **facts}
    return draw([draw_being_scene(random.Random(index), being_of("teapot", "tune", index), **plain)])[0]


def test_a_teapot_is_judged_as_a_teapot(base, concept, sampled):
    pot = Concept(**{**vars(concept), "class_word": "teapot"})
    sampled[:] = [teapot(3, prompt) for prompt in verdict.PROMPTS_OF_OTHERS]
    own = judge(base, pot, [teapot(3)])
    assert own.prompts == tuple(prompt.replace("{}", "<maya>") for prompt in verdict.PROMPTS_OF_OTHERS)
    sampled[:] = [teapot(70 + k, prompt) for k, prompt in enumerate(verdict.PROMPTS_OF_OTHERS)]
    other = judge(base, pot, [teapot(3)])
    assert own.identity is not None and other.identity is not None and own.identity > other.identity + 0.3
    assert own.there >= 0.75 and "shows" not in own.sentence
    sampled[:] = draw([SITTER.portrait()]) * 4
    nobody = judge(base, pot, [teapot(3)])
    assert nobody.sentence.endswith("shows no teapot")
    assert verdict.prompts_for("woman") == verdict.PROMPTS and verdict.kind_of("kitten") == "cat"
    assert verdict.kind_of("car") == "toy car"
    assert verdict.kind_of("person") == verdict.kind_of("lamp") == ""


def test_what_cannot_be_judged_is_said(base, concept, sampled):
    sampled[:] = scenes(right=True)
    blank = judge(base, concept, [Image.new("RGB", (128, 128), "teal")])
    assert blank.identity is None and "no face" in blank.sentence and blank.obeys is not None
    lamp = Concept(**{**vars(concept), "class_word": "lamp"})
    assert "know people, dog, cat" in (found := judge(base, lamp, sampled).sentence) and "a lamp" in found
    with pytest.raises(SemblantError, match="no judge here knows"):
        judge(miniature(), concept, sampled)


@pytest.mark.parametrize(("value", "text"), [(0.621, ".62"), (-0.05, "-.05"), (1.0, "1.00"), (0, ".00"), (None, "-")])
def test_numbers_are_short(value, text):
    assert figure(value) == text


def step(number: int, identity: float | None, obeys: float | None) -> runs.Step:
    told = None if obeys is None else Verdict(identity, obeys, (), (), 0, 1)
    return runs.Step(number, Path(f"step-{number}"), 0.1, {}, told)


def test_the_best_likeness_among_the_faithful_is_chosen():
    steps = [step(100, 0.2, 0.9), step(200, 0.5, 0.8), step(300, 0.9, 0.79), step(400, 0.5, 0.85)]
    chosen, why = runs.choose(steps)
    assert chosen.step == 200 and "stranger" not in why and ".50" in why and "3 of 4 steps" in why and ".90" in why
    chosen, why = runs.choose([step(1, None, 0.3), step(2, None, 0.4)])
    assert chosen.step == 2 and "identity could not be measured" in why
    assert runs.choose([step(1, None, None)]) is None
    chosen, why = runs.choose([step(5, None, 0.9), step(6, -0.3, 0.85)])
    assert chosen.step == 6 and "than a stranger" in why


def test_steps_are_kept_whole_or_not_at_all(tmp_path, concept, caplog):
    folder = runs.RunFolder.beside(tmp_path / "maya.safetensors")
    with pytest.raises(FileProblem, match="--keep-every"):
        runs.read_steps(folder)
    for number in (20, 3):
        folder.keep(Concept(**{**vars(concept), "steps": number, "losses": {"last": number / 10}}))
    bad = {name: torch.full_like(tensor, float("nan")) for name, tensor in concept.tensors.items()}
    assert folder.keep(Concept(**{**vars(concept), "steps": 30, "tensors": bad})) is None and "NaN" in caplog.text
    (folder.path / "step-000040.safetensors").write_bytes(b"damaged")
    found = runs.read_steps(folder)
    assert [(s.step, s.loss, s.file.name) for s, _ in found] == [
        (3, 0.3, "step-000003.safetensors"),
        (20, 2.0, "step-000020.safetensors"),
    ]
    assert "step-000040" in caplog.text
    folder.clear()
    assert not folder.path.exists()


def test_pictures_are_found_again_unless_they_changed_or_lie_in_a_home(tmp_path, concept, portrait):
    portrait.save(tmp_path / "maya.png")
    folder = runs.RunFolder(tmp_path / "out" / "maya.run")
    folder.note([tmp_path / "maya.png"], "none")
    assert json.loads((folder.path / "run.json").read_text())["pictures"] == ["../../maya.png"]
    made = Concept(**{**vars(concept), "pictures": ()})
    [found] = folder.pictures(made, lambda image: [])
    assert found.tobytes() == portrait.tobytes()
    with pytest.raises(SemblantError, match="are not those"):
        folder.pictures(Concept(**{**vars(concept), "pictures": ("0" * 64,)}), lambda image: [])
    for places, strip in (([Path("/home/someone/maya.png")], False), ([tmp_path / "maya.png"], True)):
        folder.note(places, "none", strip)
        assert "maya" not in (folder.path / "run.json").read_text()
        with pytest.raises(FileProblem, match="where its pictures are"):
            folder.pictures(made, lambda image: [])


def test_fit_hands_out_what_is_learned_along_the_way_and_learns_the_same(base, portrait, tmp_path):
    subject = Subject((portrait,), "<maya>", "person")
    given = {"steps": 5, "views": 1, "expansion": "module", "calibration_draws": 1, "attention_size": 8}
    kept: list[Concept] = []
    whole = verbs.fit("sefi-ide", base, subject, keep_every=2, keep=kept.append, **given)
    alone = verbs.fit("sefi-ide", base, subject, **given)
    assert [c.steps for c in kept] == [2, 4, 5] and kept[-1] is whole
    assert torch.equal(whole.tensors["rows"], alone.tensors["rows"])
    again = verbs.fit("sefi-ide", base, subject, **{**given, "steps": 2})
    assert torch.equal(kept[0].tensors["rows"], again.tensors["rows"])
    assert not torch.equal(kept[0].tensors["rows"], kept[1].tensors["rows"])
    concepts.save(kept[0], tmp_path / "kept.safetensors")
    assert concepts.load(tmp_path / "kept.safetensors", base).losses["last"] == pytest.approx(again.losses["last"])
    with pytest.raises(SemblantError, match="1 or more"):
        verbs.fit("sefi-ide", base, subject, keep_every=0, keep=kept.append, **given)
