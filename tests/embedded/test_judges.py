from __future__ import annotations

import io
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from semblant.backbones import judges as networks
from semblant.backbones.faces import SIZE, WHOLE, crops, features, frames_of
from semblant.embedded import gates, judge_bank, judge_steps, ranks
from semblant.embedded import judges as recipe
from semblant.errors import SemblantError
from semblant.world.captions import read
from semblant.world.facts import VALUES
from semblant.world.renderer import render
from semblant.world.scene import draw_scene, person_of

TINY = {"picture": [4, 4], "face": [4, 4], "near": 0.8, "stem": 4, "narrow": 4, "dim": 8}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with a bank of 24 pictures."""
    folder = tmp_path_factory.mktemp("work")
    judge_bank.fill(folder / "bank", "train", 24)
    return folder


@pytest.fixture(scope="module")
def bank(work):
    return judge_bank.fill(work / "bank", "train", 24)


def test_a_bank_is_drawn_once(work, bank, monkeypatch):
    drawn: list[int] = []
    real = judge_bank.draw
    monkeypatch.setattr(judge_bank, "draw", lambda scenes, *rest: drawn.append(len(scenes)) or real(scenes, *rest))
    again = judge_bank.fill(work / "bank", "train", 24)
    assert drawn == [1]  # only to see that the world is still the same
    assert torch.equal(again.images, bank.images) and len(bank) == 24
    boxes = bank.boxes
    assert (boxes[:, 2:] > boxes[:, :2]).all() and boxes.min() > -32 and boxes.max() < 160
    for points in bank.landmarks.unbind(1):
        assert ((points > boxes[:, :2]) & (points < boxes[:, 2:])).float().mean() > 0.9


def test_pictures_of_an_older_world_are_drawn_again(tmp_path, caplog):
    bank = judge_bank.fill(tmp_path, "tune", 4)
    (chunk,) = tmp_path.iterdir()
    judge_bank._write({"images": 255 - bank.images, "boxes": bank.boxes, "landmarks": bank.landmarks}, chunk)
    assert torch.equal(judge_bank.fill(tmp_path, "tune", 4).images, bank.images)
    assert chunk.name in caplog.text


def test_a_bank_keeps_what_the_autoencoder_gives_back(tmp_path):
    back = judge_bank.fill(tmp_path, "tune", 8, round_trip=lambda x: 1 - x)
    assert len(back.round_trips) == 2
    assert torch.equal(back.round_trips, 255 - back.images[:2])
    other = judge_bank.fill(tmp_path, "tune", 8, round_trip=lambda x: x / 2)  # a better trained one
    assert (other.round_trips.float() - back.images[:2].float() / 2).abs().max() <= 0.5


def test_crowds_show_two_people_or_an_animal_or_thing_and_where_their_faces_are(tmp_path):
    bank = judge_bank.fill(tmp_path, "tune", 2, crowds=10)
    assert bank.crowds is not None
    scenes = [judge_bank.company_of("tune", index) for index in range(10)]
    assert [len(scene.people) for scene in scenes] == [2, 2, 2, 0, 1] * 2
    assert bank.crowds.boxes.any(-1).sum(1).tolist() == [2, 2, 2, 0, 1] * 2
    drawn = render(scenes[:3])
    assert torch.allclose(bank.crowds.boxes[:3], drawn.boxes) and torch.allclose(
        bank.crowds.landmarks[:3], drawn.landmarks
    )
    assert torch.equal(bank.crowds.images[:3], (drawn.image * 255).round().to(torch.uint8))
    again = judge_bank.fill(tmp_path, "tune", 2, crowds=10)
    assert again.crowds is not None and torch.equal(again.crowds.images, bank.crowds.images)
    assert bank.crowds.images.unique(dim=0).shape[0] == 10


@pytest.mark.parametrize("side", [1.5, 2.5, 9.0])
def test_every_face_has_a_cell_of_its_own_however_small(side):
    grid = torch.stack(torch.meshgrid(torch.arange(16) + 0.5, torch.arange(16) + 0.5, indexing="xy"), -1)
    middle = 3 + 9 * torch.rand(40, 1, 2, generator=torch.Generator().manual_seed(0))
    heat = judge_steps.heat_of(torch.cat([middle - side / 2, middle + side / 2], -1), grid)
    assert (heat.flatten(1).amax(1) == 1).all()
    for x, y, map in zip(*middle[:, 0].long().unbind(-1), heat[:, 0], strict=True):
        assert map[y, x] == 1 and 0 < map[y, x + 1] < 0.5 + 0.05 * side


def test_a_detector_learns_from_crowds_too(tmp_path):
    bank = judge_bank.fill(tmp_path, "tune", 8, crowds=5)
    torch.manual_seed(0)
    judge = recipe.network("detector").eval()
    loss = lambda bank: judge_steps.detector_step(bank, 0, "cpu")(judge, torch.Generator().manual_seed(0)).item()
    assert bank.crowds is not None
    nobody = replace(bank, crowds=replace(bank.crowds, boxes=torch.zeros(5, 2, 4)))
    assert len({loss(bank), loss(nobody), loss(replace(bank, crowds=None))}) == 3
    step = judge_steps.detector_step(bank, 0, "cpu")
    assert recipe._loss(judge, step, 0, 0, bf16=True).item() == pytest.approx(loss(bank), rel=0.2)


def test_pictures_of_one_person_follow_each_other(bank):
    assert torch.equal(bank.people[0], bank.people[1]) and not torch.equal(bank.people[1], bank.people[2])
    assert bank.scenes[0] != bank.scenes[1]


def test_what_is_not_drawn_is_no_part_of_a_person():
    person = replace(person_of("train", 0), mole_size=0.2, freckles=0.4)
    hidden = replace(person, mole_x=1 - person.mole_x, mole_size=0.1, freckles=0.1)
    assert judge_bank.parameters(person) == judge_bank.parameters(hidden)
    assert judge_bank.parameters(person) != judge_bank.parameters(replace(hidden, mole_size=0.9))
    assert judge_bank.parameters(person) != judge_bank.parameters(replace(person, skin=1 - person.skin))


def test_projection_keeps_distances():
    project = judge_steps.isometry(3, 47)
    people = torch.randn(5, 47)
    torch.testing.assert_close(torch.cdist(people @ project, people @ project), torch.cdist(people, people))


def test_on_a_sphere_cosines_follow_the_distance_between_people():
    people = torch.tensor([judge_bank.parameters(person_of("tune", index)) for index in range(60)])
    one, other = torch.triu_indices(60, 60, 1)
    distance = torch.cdist(people, people)[one, other]
    found = {}
    for radius in (None, recipe.RADIUS):
        judge = networks.Identity((4, 4), 0.8, 4, features=1.5, radius=radius)
        vectors = judge.vectors(people @ judge_steps.isometry(0, people.shape[1]))
        assert vectors.shape == (60, judge.size)
        torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(60))
        found[radius] = ranks.spearman((vectors @ vectors.T)[one, other], -distance)
    assert found[recipe.RADIUS] > 0.98 > 0.9 > found[None]
    assert judge.vectors(100 * people[:, :1].expand(-1, 128)).isfinite().all()  # beyond the sphere


def test_labels_leave_out_what_is_hidden():
    scene = draw_scene(
        random.Random(0), person_of("train", 0), glasses="sunglasses", hat="none", style="photo", camera="portrait"
    )
    named = dict(zip(judge_bank.FACTS, judge_bank.labels(scene), strict=True))
    assert named["eyes"] == -1 and named["hat colour"] == -1
    assert VALUES["glasses"][named["glasses"]] == "sunglasses"


def test_a_contradiction_needs_a_claim_and_a_picture_that_shows_otherwise():
    named, true = torch.tensor([[1, -1], [0, 2]]), torch.tensor([[1, 0], [0, -1]])
    assert judge_bank.contradicted(named, true).tolist() == [[False, True], [True, False]]


def test_a_changed_caption_is_false_in_one_fact(bank):
    rng = random.Random(0)
    for scene, true in zip(bank.scenes, bank.labels, strict=True):
        texts, named = judge_bank.captioned(scene, rng)
        assert len(texts) == 1 + judge_bank.NEGATIVES
        rows = torch.tensor(named)
        assert not judge_bank.contradicted(rows[:1], true[None]).any()
        for text, row in zip(texts[1:], rows[1:], strict=True):
            assert (row != rows[0]).sum() == (text != texts[0])
            said = read(text).facts
            assert all(VALUES[f].index(v) == row[judge_bank.FACTS.index(f)] for f, v in said.items())


@pytest.mark.parametrize("quality", [30, 60, 90])
def test_jpeg_is_that_of_pil(bank, quality):
    image = bank.pictures(torch.tensor([0]))
    pixels = Image.fromarray((image[0] * 255).round().byte().permute(1, 2, 0).numpy())
    file = io.BytesIO()
    pixels.save(file, "JPEG", quality=quality)
    wanted = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) / 255
    ours = judge_bank.jpeg(image, quality)[0]
    assert (ours - wanted).abs().mean() < 0.4 * (image[0] - wanted).abs().mean()


def test_worsened_pictures_stay_pictures(bank):
    images = bank.pictures(torch.arange(24))
    worse = judge_bank.degrade(images, torch.Generator().manual_seed(0))
    moved = (worse - images).abs().mean((1, 2, 3))
    assert worse.min() >= 0 and worse.max() <= 1 and (moved > 0).sum() > 8 and moved.max() < 0.1
    assert torch.equal(worse, judge_bank.degrade(images, torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("kind", judge_steps.STEPS)
def test_a_few_steps_lower_the_loss(bank, kind, monkeypatch):
    monkeypatch.setattr(judge_steps, "BATCH", 8)
    monkeypatch.setattr(judge_steps, "TWINS", 2)
    monkeypatch.setattr(judge_steps, "STRANGERS", 16)
    torch.manual_seed(0)
    look = {"picture": [6, 8, 8], "face": [6, 8, 8], "near": 0.8, "stem": 4, "narrow": 8, "dim": 16}
    judge = {
        "identity": lambda: networks.Identity((6, 8, 16), 0.8, 16),
        "attributes": lambda: networks.Attributes(VALUES, look),
        "clip": lambda: networks.Clip(judge_steps.vocabulary(), look, width=16, layers=1),
        "detector": lambda: networks.Detector((8, 12, 12, 12)),
    }[kind]()
    step = judge_steps.STEPS[kind](bank, 0, "cpu")
    optimizer = torch.optim.Adam(judge.parameters(), lr=1e-2)
    losses = []
    for _ in range(14):
        loss = step(judge, torch.Generator().manual_seed(0))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0], losses


def test_interrupted_training_ends_where_it_would_have(work, bank, tmp_path, monkeypatch):
    monkeypatch.setattr(judge_steps, "BATCH", 8)
    monkeypatch.setattr(recipe, "_plan", lambda *arguments: recipe.Schedule(6, False, arguments[-1]))
    monkeypatch.setattr(recipe, "network", lambda name: networks.Attributes(VALUES, TINY))
    monkeypatch.setattr(recipe, "fill", lambda *_, **__: bank)

    def trained(folder, stop_after=None):
        if stop_after is not None:
            real, count = recipe._loss, iter(range(stop_after))

            def until(*args):
                if next(count, None) is None:
                    raise KeyboardInterrupt
                return real(*args)

            with monkeypatch.context() as patch:
                patch.setattr(recipe, "_loss", until)
                patch.setattr(recipe, "SAVE_EVERY", 0.0)
                with pytest.raises(KeyboardInterrupt):
                    recipe.train_judges(folder / "out", 1, only=("attributes-a",), work=folder)
        losses = recipe.train_judges(folder / "out", 1, only=("attributes-a",), work=folder)
        return losses, networks.load(folder / "out" / "attributes-a.safetensors").state_dict()

    losses, whole = trained(tmp_path / "whole")
    again, resumed = trained(tmp_path / "resumed", stop_after=3)
    assert losses == again
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    done_already, same = trained(tmp_path / "whole")
    assert done_already == losses and all(torch.equal(whole[name], same[name]) for name in whole)
    recipe.train_judges(tmp_path / "whole" / "out", 1, only=("attributes-a",), work=tmp_path / "whole", more=True)
    better = networks.load(tmp_path / "whole" / "out" / "attributes-a.safetensors").state_dict()
    assert not torch.equal(better["out.weight"], whole["out.weight"])


def test_identity_and_clip_start_from_what_their_attribute_reader_sees(tmp_path):
    reader = recipe.network("attributes-b")
    state = tmp_path / "attributes-b.state.safetensors"
    recipe._keep(state, reader, recipe._optimizer(reader), 1, 0.0, recipe.Schedule(1, False))
    seen = reader.look.face.state_dict()
    for name in ("identity-b", "clip-b"):
        judge = recipe.network(name)
        recipe._start_from_reader(judge, state)
        face = (judge.face if name.startswith("identity") else judge.look.face).state_dict()
        assert all(torch.equal(face[key], seen[key]) for key in seen)


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    return judge_bank.fill(tmp_path_factory.mktemp("few"), "train", 8, marks=True)


def test_a_judge_goes_on_from_folded_weights_as_if_they_had_never_been_folded(few, tmp_path):
    torch.manual_seed(0)
    shipped = recipe.network("attributes-b")
    step = judge_steps.STEPS["attributes"](few, 0, "cpu")
    step(shipped.train(), torch.Generator().manual_seed(1))  # normalisations have seen something
    networks.save(shipped, tmp_path / "attributes-b.safetensors")
    frames = torch.tensor([WHOLE] * 8)
    answers = lambda judge: torch.cat(list(judge(few.pictures(torch.arange(8)), frames).values()), 1)
    wanted = answers(networks.load(tmp_path / "attributes-b.safetensors"))
    torch.manual_seed(1)
    judge = recipe.network("attributes-b")
    assert recipe._go_on_from(judge, tmp_path / "attributes-b.safetensors", step)
    assert judge.training
    with torch.no_grad():
        assert torch.allclose(answers(judge.eval()), wanted, atol=2e-3)
        fresh = answers(recipe.network("attributes-b").eval())
    assert (fresh - wanted).abs().mean() > 10 * (answers(judge) - wanted).abs().mean()
    # Normalising what a batch shows moves little, since strengths were measured.
    loss = [float(step(kind, torch.Generator().manual_seed(2)).detach()) for kind in (judge.train(), judge.eval())]
    assert abs(loss[0] - loss[1]) < 0.5


def test_a_judge_of_another_shape_is_not_gone_on_from(few, tmp_path):
    networks.save(recipe.network("identity-a"), tmp_path / "identity-b.safetensors")
    judge = recipe.network("identity-b")
    before = {name: weight.clone() for name, weight in judge.state_dict().items()}
    assert not recipe._go_on_from(
        judge, tmp_path / "identity-b.safetensors", judge_steps.STEPS["identity"](few, 0, "cpu")
    )
    assert not recipe._go_on_from(judge, tmp_path / "missing.safetensors", judge_steps.STEPS["identity"](few, 0, "cpu"))
    assert all(torch.equal(weight, before[name]) for name, weight in judge.state_dict().items())


def test_a_judge_that_is_not_there_to_go_on_from_starts_as_ever(tmp_path, monkeypatch):
    """Also one that starts from no reader."""
    started = []
    monkeypatch.setattr(recipe, "_train", lambda name, *given: started.append((name, given[-1])) or 0.0)
    names = ("detector", "beings", "identity-b")
    recipe.train_judges(tmp_path, 1, only=names, work=tmp_path / "work", pictures=8, warm=tmp_path / "nothing")
    assert sorted(started) == sorted((name, 0) for name in names)


def test_an_unknown_judge_is_refused(tmp_path):
    with pytest.raises(SemblantError, match="identity-b"):
        recipe.train_judges(tmp_path, 1, only=("identity-c",), work=tmp_path)


def test_judges_fit_into_nine_and_a_half_mebibytes():
    weights = sum(value.numel() for name in recipe.WEIGHTS for value in recipe.network(name).state_dict().values())
    assert 2 * weights < 9.5 * 2**20 - 300_000  # names, vocabularies, strangers


def test_a_mirrored_picture_is_that_of_a_scene_turned_the_other_way(bank):
    shown = [judge_bank.labels(scene) for scene in bank.scenes]
    turned = [
        judge_bank.labels(scene.change(gaze=-who.gaze, yaw=-who.yaw, tilt=-who.tilt))
        for scene in bank.scenes
        for who in scene.people
    ]
    every = torch.ones(len(bank), dtype=torch.bool)
    assert torch.equal(judge_steps.mirrored_labels(torch.tensor(shown), every), torch.tensor(turned))
    assert torch.equal(judge_steps.mirrored_labels(torch.tensor(shown), ~every), torch.tensor(shown))
    assert shown != turned
    images, frames = bank.pictures(torch.arange(len(bank))), frames_of(bank.boxes, bank.landmarks, SIZE)
    there, seen = judge_steps.mirror(images, frames, every)
    assert torch.equal(there, images.flip(-1))
    assert torch.allclose(crops(there, seen), crops(images, frames).flip(-1), atol=1e-3)
    nearby = crops(there, features(seen, 1.5)), crops(images, features(frames, 1.5)).flip(-1)
    assert torch.allclose(*nearby, atol=1e-3)
    kept, same = judge_steps.mirror(images, frames, ~every)
    assert torch.equal(kept, images) and torch.equal(same, frames)


def test_in_a_mirrored_picture_a_mole_is_on_the_other_side(bank, monkeypatch):
    monkeypatch.setattr(judge_steps, "BATCH", 8)
    monkeypatch.setattr(judge_steps, "TWINS", 2)
    rows = torch.arange(8)
    monkeypatch.setattr(judge_steps, "_rows", lambda *_: rows)
    monkeypatch.setattr(judge_steps, "_coins", lambda count, _: torch.ones(count, dtype=torch.bool))
    place = judge_bank.NUMBERS.index("mole_x")
    turned = bank.people[rows].clone()
    turned[:, place] *= -1
    assert not torch.equal(turned, bank.people[rows])

    class Knowing(networks.Identity):
        def study(self, images, frames):
            return torch.cat([self.people, self.people[:2]]) @ judge_steps.isometry(0, bank.people.shape[1]), None

    judge, step = Knowing((4, 4), 0.8, 4), judge_steps.identity_step(bank, 0, "cpu")
    losses = []
    for judge.people in (turned, bank.people[rows]):
        losses.append(float(step(judge, torch.Generator().manual_seed(0))))
    assert losses[0] < losses[1] - 0.01


def test_crowds_have_faces_where_they_say(bank):
    images = bank.pictures(torch.arange(24))
    shown, boxes, points, there = judge_steps._crowd(images, bank, torch.arange(24), torch.Generator().manual_seed(1))
    assert shown.shape == images.shape and set(there.sum(1).tolist()) == {0.0, 1.0, 2.0}
    seen = boxes[there.bool()]
    assert (seen[:, 2:] > seen[:, :2]).all()


def test_auc_and_rank_correlation_of_known_numbers():
    high, low = torch.tensor([0.9, 0.8, 0.4]), torch.tensor([0.5, 0.1])
    assert ranks.auc(high, low) == pytest.approx(5 / 6)
    assert ranks.auc(torch.tensor([0.5]), torch.tensor([0.5])) == 0.5
    x = torch.tensor([1.0, 2, 3, 4])
    assert ranks.spearman(x, x.exp()) == pytest.approx(1) and ranks.spearman(x, -x) == pytest.approx(-1)
    assert ranks.spearman(x, torch.tensor([1.0, 3, 2, 4])) == pytest.approx(0.8)


def test_a_look_alike_is_somebody_else_with_the_same_skin_and_hair():
    person = person_of("heldout", 0)
    other = gates.look_alike(person, random.Random(0), "heldout")
    assert (other.skin, other.hair_style, other.hair_colour) == (person.skin, person.hair_style, person.hair_colour)
    assert other != person and other.jaw != person.jaw


def test_a_bar_is_passed_from_above_or_below():
    assert gates.at_least("a", 0.9, 0.9).passed and not gates.at_least("a", 0.89, 0.9).passed
    assert gates.at_most("a", 0.1, 0.1).passed and not gates.at_most("a", 0.2, 0.1).passed
    assert gates.stated("a", 0.0).bar is None


def test_the_card_holds_what_was_measured(tmp_path):
    gates.write_card([gates.at_least("a", 0.5, 0.9)], tmp_path)
    assert '"a"' in (tmp_path / "card.json").read_text() and '"passed": false' in (tmp_path / "card.json").read_text()
