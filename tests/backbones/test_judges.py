from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from semblant.backbones import judges as networks
from semblant.backbones.being_judge import WIDER, square_of
from semblant.backbones.faces import (
    MARGIN,
    RISE,
    TOWARDS_THE_MOUTH,
    WHOLE,
    Face,
    as_pictures,
    crops,
    features,
    frame_of,
    frames_of,
    largest,
    nearer,
    overlap,
)
from semblant.errors import FileProblem, SemblantError

VALUES = {"hat": ("none", "cap", "helmet"), "glasses": ("none", "glasses")}


def small_judges() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    look: dict[str, Any] = {"picture": [4, 6, 8], "face": [4, 6, 8], "near": 0.8, "stem": 4, "narrow": 8, "dim": 8}
    return {
        "detector": networks.Detector((4, 6, 8, 8)),
        "identity": networks.Identity((4, 6, 8), 0.8, 8, dim=16, features=1.5, head=(4, 4), radius=3.0),
        "attributes": networks.Attributes(VALUES, look | {"features": 1.5}, ("age",)),
        "clip": networks.Clip(["a", "red", "hat", "blue"], look, width=8, layers=1, out=16),
        "beings": networks.Beings({"kind": ("dog", "none")}, (4, 6, 8), (4, 6, 8), hidden=8, dim=16),
    }


def answer(judge: nn.Module, images: torch.Tensor) -> torch.Tensor:
    frames = torch.tensor([WHOLE]).expand(len(images), -1)
    if isinstance(judge, networks.Detector):
        return judge(images)
    if isinstance(judge, networks.Beings):
        return torch.cat([*judge.look(images)[0].values(), judge(images)], 1)
    if isinstance(judge, networks.Clip):
        return torch.cat([judge.images(images, frames), judge.texts(["a red hat", "blue"])])
    if isinstance(judge, networks.Attributes):
        return torch.cat([*judge(images, frames).values(), judge.features(images)], 1)
    return judge(images, frames)


def used(judge: nn.Module) -> nn.Module:
    """With running statistics that differ from their start, as after training."""
    judge.train()
    with torch.no_grad():
        for _ in range(3):
            answer(judge, torch.rand(4, 3, 128, 128))
    return judge.eval()


@pytest.mark.parametrize("kind", networks.KINDS)
def test_folding_changes_no_answer(kind):
    judge, images = used(small_judges()[kind]), torch.rand(2, 3, 128, 128)
    folded = networks.fold(judge)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in folded.modules())
    torch.testing.assert_close(answer(folded, images), answer(judge, images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", networks.KINDS)
def test_saved_and_loaded_it_says_the_same(kind, tmp_path):
    judge, images = used(small_judges()[kind]), torch.rand(2, 3, 128, 128)
    networks.save(judge, tmp_path / "deep" / "judge.safetensors")
    with safe_open(tmp_path / "deep" / "judge.safetensors", framework="pt") as file:
        assert all(file.get_tensor(name).dtype == torch.float16 for name in file.keys())  # noqa: SIM118
    loaded = networks.load(tmp_path / "deep" / "judge.safetensors")
    assert loaded.config == judge.config and not any(p.requires_grad for p in loaded.parameters())
    torch.testing.assert_close(answer(loaded, images), answer(judge, images), rtol=0.02, atol=0.02)


def test_what_is_no_judge_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(FileProblem, match="make embedded"):
        networks.load(tmp_path / "none.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors", {"format": "semblant/1"})
    with pytest.raises(FileProblem, match="semblant/1"):
        networks.load(tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(FileProblem, match=r"text\.safetensors"):
        networks.load(tmp_path / "text.safetensors")


@pytest.mark.parametrize("kind", ["identity", "attributes", "clip", "beings"])
def test_a_picture_receives_gradients(kind):
    images = torch.rand(1, 3, 128, 128, requires_grad=True)
    # the squared sum of unit vectors is constant, a weighted sum is not
    found = answer(small_judges()[kind].eval(), images)
    (found * torch.linspace(0, 1, found.numel()).view(found.shape)).sum().backward()
    assert images.grad is not None and images.grad.abs().sum() > 0


def test_identity_and_clip_give_unit_vectors():
    for kind in ("identity", "clip", "beings"):
        found = answer(small_judges()[kind].eval(), torch.rand(2, 3, 128, 128))
        norms = (found[:, 2:] if kind == "beings" else found).norm(dim=-1)
        torch.testing.assert_close(norms, torch.ones_like(norms))


def detector_that_sees(monkeypatch: pytest.MonkeyPatch, *cells: tuple[int, int, float, float]) -> networks.Detector:
    """`cells`: x, y, logit and half of the box's side, in cells."""
    raw = torch.full((1, 15, 16, 16), -9.0)
    raw[:, 1:] = 0
    for x, y, logit, half in cells:
        raw[0, 0, y, x] = logit
        raw[0, 1:5, y, x] = half
        raw[0, 5:7, y, x] = -0.5  # the first landmark, half a cell up and left
    detector = networks.Detector()
    monkeypatch.setattr(detector, "forward", lambda images: raw)
    return detector


def test_a_peak_becomes_a_face_in_pixels_of_the_picture(monkeypatch):
    (faces,) = detector_that_sees(monkeypatch, (4, 7, 3.0, 2.0)).detect(torch.zeros(1, 3, 128, 128))
    (face,) = faces
    assert face.box == pytest.approx((20.0, 44.0, 52.0, 76.0))  # cells of 8 px, centre (4.5, 7.5)
    assert face.score == pytest.approx(1 / (1 + math.exp(-3)))
    assert face.landmarks[0] == pytest.approx((32.0, 56.0)) and len(face.landmarks) == 5
    assert face.area == pytest.approx(32 * 32)


def test_two_heads_are_two_faces_and_one_head_is_one(monkeypatch):
    (faces,) = detector_that_sees(monkeypatch, (3, 7, 2.0, 2.0), (12, 7, 4.0, 2.5)).detect(torch.zeros(1, 3, 64, 64))
    assert [round(face.box[0]) for face in faces] == [40, 6]  # the surer one first
    assert largest(faces) is faces[0]
    (faces,) = detector_that_sees(monkeypatch, (7, 7, 2.0, 4.0), (9, 7, 4.0, 4.0)).detect(torch.zeros(1, 3, 64, 64))
    assert len(faces) == 1
    (faces,) = detector_that_sees(monkeypatch, (7, 7, -1.0, 4.0)).detect(torch.zeros(1, 3, 64, 64))
    assert faces == [] and largest(faces) is None


def test_overlap_of_boxes():
    a = torch.tensor([[0.0, 0, 2, 2], [0, 0, 1, 1], [0, 0, 2, 2]])
    b = torch.tensor([[1.0, 0, 3, 2], [5, 5, 6, 6], [0, 0, 2, 2]])
    assert overlap(a, b).tolist() == pytest.approx([1 / 3, 0, 1])


def landmarks_at(angle: float) -> torch.Tensor:
    """A face whose middle is the origin, its eyes above its mouth, leaning by `angle`."""
    upright = torch.tensor([[-10.0, -8], [10, -8], [0, 0], [-6, 10], [6, 10]])
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return upright @ turn.T


@pytest.mark.parametrize("angle", [-0.4, 0.0, 0.3])
def test_a_frame_leans_with_the_head(angle):
    box = torch.tensor([[40.0, 40, 80, 90]])
    frame = frames_of(box, landmarks_at(angle)[None] + torch.tensor([60.0, 65]), 128)[0]
    rise = RISE * 50 / 128
    wanted = [60 / 128 + rise * math.sin(angle), 65 / 128 - rise * math.cos(angle), 25 * MARGIN / 128, angle]
    down = TOWARDS_THE_MOUTH * 18 - 8
    features = [60 / 128 - down * math.sin(angle) / 128, 65 / 128 + down * math.cos(angle) / 128, 18 / 128]
    assert frame.tolist() == pytest.approx([*wanted, *features], abs=1e-5)


@pytest.mark.parametrize(("angle", "size", "at"), [(0.0, 1.0, 64.0), (0.3, 1.0, 50.0), (-0.2, 1.7, 70.0)])
def test_features_are_in_the_same_place_of_every_crop(angle, size, at):
    points = landmarks_at(angle) * size + at
    y, x = torch.meshgrid(torch.arange(128.0) + 0.5, torch.arange(128.0) + 0.5, indexing="ij")
    left_eye = torch.exp(-((x - points[0, 0]) ** 2 + (y - points[0, 1]) ** 2) / 8)[None, None]
    frame = frames_of(torch.tensor([[3.0, 9, 70, 99]]), points[None], 128)
    crop = crops(left_eye, features(frame, 1.5))[0, 0]
    place = divmod(int(crop.argmax()), 64)
    # 27 px to each side of the middle are 32 cells; the eye is 10 px left of it and 8.1 above
    assert place == (pytest.approx(32 - 8.1 * 32 / 27, abs=1.1), pytest.approx(32 - 10 * 32 / 27, abs=1.1))


def test_marks_are_told_by_where_they_are_and_how_many():
    marks = networks.Marks(3)
    logits = torch.full((1, 2, 32, 32), -9.0)
    logits[0, 1, 5, 30] = 4.0
    told = marks.told(logits)[0]
    assert told.shape == (marks.NUMBERS,) and told[:64].max() == -6
    assert told[64:128].argmax() == 1 * 8 + 7 and told[64:128].max() == 4
    assert told[128] < 0.01 < told[129]
    assert marks(torch.zeros(1, 3, 4, 4)).sigmoid().max() < 0.01  # rare before anything is learned


def test_an_identity_looks_at_features_and_head_and_at_nothing_else():
    judge = small_judges()["identity"].eval()
    image = torch.rand(1, 3, 128, 128, requires_grad=True)
    frame = torch.tensor([[0.3, 0.4, 0.2, 0.0, 0.3, 0.42, 0.08]])
    judge(image, frame).mul(torch.linspace(0, 1, 17)).sum().backward()
    seen = image.grad.abs().sum(1)[0] > 0
    assert seen[26:76, 13:63].float().mean() > 0.5  # the head
    assert not seen[:, 70:].any() and not seen[85:].any()  # another person's place


def test_a_judge_that_looks_for_marks_says_where():
    judge = small_judges()["attributes"].eval()
    assert isinstance(judge, networks.Attributes)
    images, frames = torch.rand(2, 3, 128, 128), torch.tensor([WHOLE]).expand(2, -1)
    logits, numbers, marks = judge.study(images, frames)
    assert numbers is not None and numbers.shape == (2, 1)
    assert marks is not None and marks.shape == (2, 2, 32, 32) and set(logits) == set(VALUES)
    wider = frames.clone()
    wider[:, 2] *= 2  # the box of the head
    torch.testing.assert_close(judge(images, wider), judge(images, frames))
    moved = frames.clone()
    moved[:, 4] += 0.1  # the features
    assert not torch.equal(judge(images, moved)["hat"], judge(images, frames)["hat"])


def test_the_whole_picture_as_a_frame_is_the_picture():
    image = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(crops(image, torch.tensor([[0.5, 0.5, 0.5, 0.0]]), 32), image, rtol=1e-5, atol=1e-5)


def test_a_crop_turns_the_head_upright():
    # a picture that is dark above the line through its middle that leans to the right by 0.5, and light below
    y, x = torch.meshgrid(torch.arange(64.0) - 31.5, torch.arange(64.0) - 31.5, indexing="ij")
    below = (-math.sin(0.5) * x + math.cos(0.5) * y > 0).float().expand(1, 3, 64, 64)
    crop = crops(below, torch.tensor([[0.5, 0.5, 0.3, 0.5]]), 32)[0, 0]
    assert crop[:14].max() < 0.01 and crop[18:].min() > 0.99


def test_no_face_is_framed_by_the_middle():
    assert frame_of(None, 128).tolist() == [pytest.approx(list(WHOLE))]
    face = Face((10, 10, 50, 50), 1.0, tuple((float(x), float(y)) for x, y in landmarks_at(0.0) + 30))
    assert frame_of(face, 100)[0, 2] == pytest.approx(0.2 * MARGIN)


def test_pictures_come_as_pil_tensors_or_both():
    red = Image.new("RGB", (40, 20), (255, 0, 0))
    pictures = as_pictures([red, torch.zeros(3, 128, 128)])
    assert pictures.shape == (2, 3, 128, 128) and pictures[0, 0].min() > 0.99 and pictures[0, 1:].max() == 0
    assert as_pictures(red).shape == as_pictures(torch.zeros(3, 50, 50)).shape == (1, 3, 128, 128)


def test_a_tall_picture_keeps_its_top():
    tall = torch.zeros(3, 200, 100)
    tall[:, :20] = 1
    shown = as_pictures(tall, 100)
    assert shown[0, 0, :9, 50].min() > 0.99 and shown[0, 0, 11:, 50].max() < 0.01


@pytest.mark.parametrize(
    "wrong", [torch.rand(3, 8, 8) * 255, torch.rand(1, 8, 8), [], "photo.png", torch.zeros(3, 8, 8).byte()]
)
def test_other_things_are_refused(wrong):
    with pytest.raises(SemblantError, match=r"picture"):
        as_pictures(wrong)


def test_unknown_words_and_padding_say_nothing():
    tower = small_judges()["clip"].eval()
    alone = tower.texts(["a red hat"])
    assert torch.allclose(alone, tower.texts(["A RED zzz hat!"]))
    together = tower.texts(["a red hat", "a a a a a a a a a blue hat"])
    torch.testing.assert_close(together[:1], alone, rtol=1e-4, atol=1e-5)
    assert tower.texts(["", "zzz"]).isfinite().all()


def test_word_order_matters():
    tower = small_judges()["clip"].eval()
    one, other = tower.texts(["red hat blue", "blue hat red"])
    assert not torch.allclose(one, other, atol=1e-4)


def test_features_of_equal_pictures_are_equal_and_distances_bounded():
    reader = small_judges()["attributes"].eval()
    seen = reader.features(torch.stack([torch.zeros(3, 128, 128), torch.zeros(3, 128, 128), torch.rand(3, 128, 128)]))
    assert torch.equal(seen[0], seen[1])
    assert 0 < (seen[0] - seen[2]).square().sum() <= 4


shipped = pytest.mark.skipif(not (networks.weights_folder() / "card.json").exists(), reason="no judges are shipped yet")


@shipped
@pytest.mark.parametrize("which", ["A", "B"])
def test_shipped_judges_load(which):
    judges = networks.load_judges(which)
    assert judges.strangers.norm(dim=-1).sub(1).abs().max() < 0.01
    assert {"same_person", "clip_threshold", "copy_distance", "gates"} <= judges.card.keys()


@shipped
def test_shipped_judges_are_small():
    assert sum(path.stat().st_size for path in networks.weights_folder().iterdir()) < 9.5 * 2**20


@shipped
def test_the_two_copies_share_no_shape():
    a, b = networks.load_judges("A"), networks.load_judges("B")
    for part in ("identity", "attributes", "clip"):
        assert getattr(a, part).config != getattr(b, part).config


@pytest.mark.parametrize("angle", [0.0, 0.4])
def test_a_nearer_frame_is_smaller_around_the_middle_of_the_head(angle):
    box, up, right = torch.tensor([40.0, 30.0, 80.0, 80.0]), torch.tensor([0.0, -1.0]), torch.tensor([1.0, 0.0])
    turn = torch.tensor([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    places = torch.stack([-10 * right + 5 * up, 10 * right + 5 * up, 0 * up, -7 * right - 12 * up, 7 * right - 12 * up])
    whole = frames_of(box[None], (torch.tensor([60.0, 55.0]) + places @ turn)[None], 128)
    near = nearer(whole, 0.5)
    torch.testing.assert_close(near[0, :2] * 128, torch.tensor([60.0, 55.0]), atol=1e-3, rtol=0)
    torch.testing.assert_close(near[0, 2:], whole[0, 2:4] * torch.tensor([0.5, 1.0]))
    judge = networks.Identity((4, 6, 8), 0.8, 8, dim=16).eval()
    assert not torch.equal(*(judge(torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0)), f)
                             for f in (whole, whole + torch.tensor([0.0, 0.0, 0.1, 0.0, 0.0, 0.0, 0.0]))))  # fmt: skip


@pytest.mark.parametrize("box", [(0.2, 0.3, 0.5, 0.45), (0.6, 0.1, 0.8, 0.9)])
def test_a_box_is_found_again_from_the_places_it_covers(box):
    left, top, right, bottom = box
    y, x = torch.meshgrid((torch.arange(64) + 0.5) / 64, (torch.arange(64) + 0.5) / 64, indexing="ij")
    covered = (x >= left) & (x <= right) & (y >= top) & (y <= bottom)
    (square,) = square_of(torch.where(covered, 9.0, -9.0)[None])
    half = max(right - left, bottom - top) / 2 * WIDER
    assert square.tolist() == pytest.approx([(left + right) / 2, (top + bottom) / 2, half, 0.0], abs=0.012)


def test_a_judge_looks_where_it_finds_something(monkeypatch):
    judge = small_judges()["beings"].eval()
    assert isinstance(judge, networks.Beings)
    places = torch.full((1, 16, 16), -9.0)
    places[:, 8:12, 8:12] = 9.0
    monkeypatch.setattr(judge, "find", lambda images: (torch.zeros(1, 8, 4, 4), places))
    image = torch.rand(1, 3, 128, 128)
    elsewhere, there = image.clone(), image.clone()
    elsewhere[..., :40, :40], there[..., 70:80, 70:80] = 0, 0
    assert torch.equal(judge(elsewhere), judge(image)) and not torch.equal(judge(there), judge(image))
