"""The text encoder tells what captions say: at first, again when that has faded, and beside the base."""

from __future__ import annotations

import copy
import math
import random
from itertools import count
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from semblant.backbones.blueprint import Blueprint, Tokenizer, new_text_encoder
from semblant.embedded import diffusion, presentations, train, wording
from semblant.embedded.judge_bank import FACTS
from semblant.embedded.reader import UNNAMED, UNSEEN, named_in
from semblant.ops.schedule import Schedule
from semblant.world.facts import IDENTITY_FACTS, VALUES, shown
from semblant.world.names import name_of
from semblant.world.scene import Person, Scene, named_person

PLAN = Blueprint(size=32, unet=(16, 32), heads=2, width=32, text_layers=1, autoencoder=(8, 8, 16))


def test_labels_follow_the_words_and_stay_to_the_end() -> None:
    named, numbers = wording.labels("a photo of maya okafor with blue hair, in the city", 20)
    facts, values = list(VALUES), VALUES
    at = lambda k, fact: named[k][facts.index(fact)]
    said = lambda fact, value: 1 + values[fact].index(value)
    who = named_person(0)
    skin = said("skin", wording._who("maya okafor")[0]["skin"])
    assert at(0, "style") == at(1, "style") == 0 and at(2, "style") == said("style", "photo")
    assert at(4, "skin") == 0 and at(5, "skin") == at(19, "skin") == skin
    assert at(6, "hair colour") == said("hair colour", who.hair_colour) and at(8, "hair colour") == said(
        "hair colour", "blue"
    )
    assert at(10, "background") == 0 and at(12, "background") == at(19, "background") == said("background", "city")
    assert all(map(math.isnan, numbers[4]))
    assert numbers[5] == numbers[19] == [x - 0.5 for x in who.numbers()]


def test_the_text_encoder_learns_what_captions_say_and_the_base_starts_from_it(
    bank: Path, tokenizer: Tokenizer
) -> None:
    torch.manual_seed(0)
    fast, rng = presentations.Words(tokenizer), random.Random(0)
    captions = ["a photo of a person in the snow", "a sketch of a person on the beach"]
    ids, named, numbers = wording.lesson(fast, captions, rng)
    network, recall = new_text_encoder(PLAN, tokenizer), wording.Recall(PLAN.width)
    optimiser = torch.optim.AdamW([*network.parameters(), *recall.parameters()], lr=3e-3)
    for _ in range(60):
        optimiser.zero_grad()
        recall.error(network(input_ids=ids).last_hidden_state, named.long(), numbers).backward()
        optimiser.step()
    states = network(input_ids=ids).last_hidden_state
    assert recall.accuracy(states, named.long()) > 0.95
    assert recall.accuracy(states.flip(0), named.long()) < 0.8
    wording.train_text(bank, PLAN, tokenizer, minutes=0.005)
    run = diffusion.train_base(bank, PLAN, tokenizer, minutes=0.0, batch=2)
    table = next(name for name in run.average if name.endswith("token_embedding.weight"))
    learned = next(v for k, v in load_file(bank / "text.safetensors").items() if k.endswith("token_embedding.weight"))
    assert torch.equal(run.average[table], learned)


@pytest.fixture
def twelve_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute is twelve steps long."""
    seconds = count(step=5)
    monkeypatch.setattr(wording.time, "monotonic", lambda: float(next(seconds)))


@pytest.mark.usefixtures("twelve_steps")
def test_an_encoder_that_learns_again_stays_near_what_a_unet_knows(
    bank: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    known = new_text_encoder(PLAN, tokenizer)
    ids = presentations.Words(tokenizer)(["a photo of a person in the snow"])

    def far(near: float) -> float:
        monkeypatch.setattr(wording, "NEAR", near)
        learned = wording.train_text(bank, PLAN, tokenizer, minutes=1.0, batch=4, start=copy.deepcopy(known))
        return float((learned(input_ids=ids)[0] - known(input_ids=ids)[0]).detach().norm())

    assert 0 < far(100.0) < 0.5 * far(0.0)


@pytest.mark.usefixtures("twelve_steps")
def test_the_text_stage_of_a_begun_run_teaches_its_encoder_and_leaves_its_unet(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "Blueprint", lambda: PLAN)
    monkeypatch.setattr(train, "tokenizer_of", lambda *_: tokenizer)
    begun = diffusion.Run.fresh(PLAN, tokenizer, seed=4)
    begun.seen = 64
    begun.save(tmp_path / "base.safetensors")
    train.main(["--work", str(tmp_path), "--stage", "text", "--text-minutes", "1"])
    after = diffusion.begun(tmp_path, PLAN, tokenizer)
    assert after.seen == 64
    taught = load_file(tmp_path / "text.safetensors")
    for name, weight in begun.named().items():
        changed = not torch.equal(after.named()[name], weight)
        assert changed == (not name.startswith("unet.")), name
        assert torch.equal(after.average[name], after.named()[name])
    assert torch.equal(after.recall.facts.weight, taught["recall.facts.weight"])
    shipped = load_file(tmp_path / "base" / "text_encoder" / "model.safetensors")
    tables = [next(w for k, w in own.items() if k.endswith("token_embedding.weight")) for own in (shipped, taught)]
    assert torch.equal(tables[0].float(), tables[1].half().float())


def test_a_run_that_goes_on_learns_words_again_only_when_asked(
    bank: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    taught: list[bool] = []
    monkeypatch.setattr(train, "Blueprint", lambda: PLAN)
    monkeypatch.setattr(train, "tokenizer_of", lambda *_: tokenizer)
    monkeypatch.setattr(wording, "train_text", lambda *_, start, **__: taught.append(start is not None))
    monkeypatch.setattr(diffusion.Run, "learn_words", lambda self, path: None)
    monkeypatch.setattr(train, "STAGES", ("text",))
    train.main(["--work", str(bank)])
    assert taught == [False]
    diffusion.Run.fresh(PLAN, tokenizer).save(bank / diffusion.STATE)
    train.main(["--work", str(bank)])
    assert taught == [False]
    train.main(["--work", str(bank), "--stage", "text"])
    assert taught == [False, True]


def test_weights_that_were_replaced_forget_what_moved_them(bank: Path, tokenizer: Tokenizer) -> None:
    run = diffusion.train_base(bank, PLAN, tokenizer, minutes=0.01, batch=2)
    text = {name for name in run.learners.named if name.startswith("text.")}
    moved = lambda: {key.split(".", 1)[1] for key in run.learners.state()}
    assert text < moved()
    run.learners.forget("text.")
    assert not text & moved() and {name for name in run.learners.named if name.startswith("unet.")} <= moved()
    run.save(bank / diffusion.STATE)
    again = diffusion.train_base(bank, PLAN, tokenizer, minutes=0.01, batch=2)
    assert again.steps > run.steps


def test_a_state_of_before_words_were_kept_is_gone_on_from(bank: Path, tokenizer: Tokenizer) -> None:
    run = diffusion.train_base(bank, PLAN, tokenizer, minutes=0.01, batch=2)
    old = {k: v for k, v in load_file(bank / diffusion.STATE).items() if "recall" not in k}
    save_file(old, bank / diffusion.STATE, {"seen": "64", "steps": "2"})
    again = diffusion.begun(bank, PLAN, tokenizer)
    assert again.seen == 64 and all(torch.equal(again.named()[k], w) for k, w in run.unet.named_parameters("unet"))
    assert diffusion.train_base(bank, PLAN, tokenizer, minutes=0.01, batch=2).steps > 2


def test_what_has_faded_is_asked_of_the_tokens_behind_a_caption(tokenizer: Tokenizer) -> None:
    ids = presentations.Words(tokenizer)(["a photo of a person", "a person"])
    context = torch.arange(77.0).view(1, 77, 1).expand(2, 77, PLAN.width)
    generator = torch.Generator().manual_seed(0)
    places = torch.stack([diffusion._behind(context, ids, generator)[:, 0] for _ in range(600)])
    assert places.amin(0).tolist() == [6, 3] and places.amax(0).tolist() == [76, 76]


def test_recall_misses_what_was_named_or_not_named_and_is_not_asked_for_the_rest() -> None:
    torch.manual_seed(0)
    recall, states = wording.Recall(8), torch.randn(2, 8)
    named = torch.full((2, len(VALUES)), UNSEEN)
    assert recall.missed(states, named) == 0
    named[0, 2], named[1, 5] = 1, UNNAMED
    parts = recall.facts(states).split(recall.sizes, -1)
    wanted = -(parts[2][0].log_softmax(-1)[2] + parts[5][1].log_softmax(-1)[0]) / 2
    assert torch.allclose(recall.missed(states, named), wanted)


def test_words_that_pictures_do_not_need_are_told_more_surely_after_steps_of_the_base(
    bank: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missed(share: float) -> float:
        monkeypatch.setattr(diffusion, "RECALL", share)
        run = diffusion.Run.fresh(PLAN, tokenizer)
        rows = presentations.Presentations(bank / "latents", presentations.Words(tokenizer))
        rows.refresh()
        for _ in range(8):
            diffusion._step(run, rows.draw(4, run.seen), Schedule.scaled_linear(), 0, torch.float32, 3e-3)
        shown = rows.draw(8, 10_000)
        with torch.no_grad():
            return float(run.recall.missed(run.text(input_ids=shown.ids)[0][:, -1], shown.named))

    assert missed(diffusion.RECALL) < 0.7 * missed(0.0)


def test_a_name_stands_for_facts_and_says_so_where_the_picture_hides_them() -> None:
    scene = Scene(people=(Person(identity=named_person(3), name=name_of(3)),))
    by_name, unnamed = named_in([f"a photo of {name_of(3)}", "a photo of a person"], [scene, scene])
    for place, fact in enumerate(FACTS):
        if fact in IDENTITY_FACTS:
            told = VALUES[fact].index(shown(scene)[fact]) if fact in shown(scene) else UNSEEN
            assert by_name[place] == told and unnamed[place] == UNNAMED
    assert UNSEEN in by_name
