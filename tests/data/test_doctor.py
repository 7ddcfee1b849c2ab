"""The picture doctor names what is wrong and says nothing when all is well."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image, ImageFilter
from skimage import data

from semblant.data.doctor import TWINS, apart, check, sharpness, thumbnail
from semblant.data.faces import Face
from semblant.data.subject import Subject
from semblant.errors import SemblantError


@pytest.fixture(scope="module")
def portrait() -> Image.Image:
    return Image.fromarray(data.astronaut()).crop((60, 0, 400, 340))


def problems(*args, **kwargs) -> list[tuple[str, str]]:
    return [(f.file.rsplit("/", 1)[-1], f.problem) for f in check(*args, **kwargs)]


def test_a_good_portrait_has_no_findings(tmp_path, portrait):
    portrait.save(tmp_path / "a.png")
    assert check(tmp_path, size=256) == []
    assert check([tmp_path / "a.png"], size=256) == []


def test_every_fault_is_found_once(tmp_path, portrait):
    portrait.save(tmp_path / "a.png")
    shutil.copy(tmp_path / "a.png", tmp_path / "b copy.png")
    (tmp_path / "c.jpg").write_text("no picture")
    portrait.filter(ImageFilter.GaussianBlur(4)).save(tmp_path / "d blurred.png")
    portrait.resize((120, 120)).save(tmp_path / "e small.png")
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "f nobody.png")
    two = Image.new("RGB", (680, 340))
    two.paste(portrait, (0, 0))
    two.paste(portrait, (340, 0))
    two.save(tmp_path / "g two.png")
    findings = check(tmp_path, size=256)
    expected = [
        ("b", "copy", "a.png"),
        ("c", "unreadable", "not a picture"),
        ("d", "blurred", "blurred"),
        ("d", "near-duplicate", "a.png"),
        ("e", "small", "small: 120 x 120"),
        ("e", "small face", "the face is small"),
        ("e", "near-duplicate", "a.png"),
        ("f", "no face", "no face"),
        ("g", "several faces", "2 faces"),
    ]
    assert [(f.file.rsplit("/", 1)[-1][0], f.kind) for f in findings] == [(name, kind) for name, kind, _ in expected]
    for finding, (_, kind, part) in zip(findings, expected, strict=True):
        assert part in finding.problem
        assert finding.level == ("error" if kind in ("no face", "several faces") else "warning")
        assert finding.file in finding.sentence and "\n" not in finding.sentence
        assert finding.advice.rstrip(".").lower()[1:] in finding.sentence.lower()


def test_things_need_no_face(tmp_path):
    Image.fromarray(data.coffee()).save(tmp_path / "a.png")
    assert problems(tmp_path, size=256) == [("a.png", "no face was found")]
    assert problems(tmp_path, size=256, person=False) == problems(tmp_path, size=256, face="none") == []


def test_a_missing_or_empty_folder_is_a_finding(tmp_path):
    (tmp_path / "empty").mkdir()
    findings = check([tmp_path / "empty", tmp_path / "gone"])
    assert [f.level for f in findings] == ["error", "error"]
    assert ["no pictures" in findings[0].problem, "no file or folder" in findings[1].problem] == [True, True]


@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea", "rocket", "camera"])
def test_blur_lowers_sharpness_and_a_soft_background_does_not_count(name):
    image = Image.fromarray(getattr(data, name)()).convert("RGB")
    values = [sharpness(image.filter(ImageFilter.GaussianBlur(radius)), 512) for radius in (0.5, 1, 2, 4)]
    assert values == sorted(values, reverse=True)
    soft = Image.new("RGB", (image.width * 2, image.height), "grey")
    soft.paste(image, (0, 0))
    assert sharpness(soft, 512) > 60 > values[2]


def test_a_sliver_has_a_sharpness_too():
    assert sharpness(Image.new("L", (3000, 32)), 512) == 0


def kinds(*args, **kwargs) -> list[tuple[str, str, str]]:
    return [(f.file.rsplit("/", 1)[-1], f.kind, f.level) for f in check(*args, **kwargs)]


def seeing(*faces: Face):
    return lambda image: list(faces)


def texture(size: tuple[int, int], seed: int) -> Image.Image:
    """Coarse patches of colour with sharp edges: sharp at every size, and no two alike."""
    cells = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize(size, Image.Resampling.NEAREST)


def test_a_picture_that_cannot_be_read_stops_a_fit_only_when_no_other_is_left(tmp_path):
    (tmp_path / "a.jpg").write_text("no picture")
    assert kinds(tmp_path) == [("a.jpg", "unreadable", "error")]
    texture((128, 128), 1).save(tmp_path / "b.png")
    assert kinds(tmp_path, person=False, size=128) == [("a.jpg", "unreadable", "warning")]


def test_a_picture_that_lies_on_its_side_is_noted(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    texture((160, 128), 1).save(tmp_path / "a.jpg", exif=exif, quality=95)
    [finding] = check(tmp_path, person=False, size=128)
    assert (finding.kind, finding.level) == ("rotated", "note") and "orientation 6" in finding.problem


def test_small_is_small_for_the_base(tmp_path):
    texture((128, 200), 1).save(tmp_path / "a.png")
    assert kinds(tmp_path, person=False, size=128) == []
    assert kinds(tmp_path, person=False, size=512) == [("a.png", "small", "warning")]


def test_blur_counts_where_the_base_would_see_it_and_in_the_face(tmp_path):
    sharp = Image.fromarray(data.astronaut())
    sharp.filter(ImageFilter.GaussianBlur(3)).save(tmp_path / "a.png")
    assert kinds(tmp_path, person=False, size=512) == [("a.png", "blurred", "warning")]
    assert kinds(tmp_path, person=False, size=64) == []
    half = sharp.copy()
    half.paste(sharp.crop((0, 0, 256, 512)).filter(ImageFilter.GaussianBlur(4)), (0, 0))
    half.save(tmp_path / "a.png")
    assert kinds(tmp_path, person=False, size=512) == []
    left = seeing(Face((60, 200, 160, 300), 1.0))
    assert ("a.png", "blurred", "warning") in kinds(tmp_path, detector=left, size=220)


def test_near_duplicates_are_told_from_other_pictures_of_one_person(tmp_path):
    from semblant.bench.sitter import Sitter, draw

    sitter = Sitter("tune", 5)
    first, *others = draw([sitter.portrait(), *sitter.others(5)], 128)
    for k, other in enumerate([first, *others]):
        other.save(tmp_path / f"{k}.png")
    assert kinds(tmp_path, face="none", size=128) == []
    first.save(tmp_path / "again.jpg", quality=40)
    first.transpose(Image.Transpose.FLIP_LEFT_RIGHT).resize((100, 100)).save(tmp_path / "mirror.png")
    found = {(name, kind) for name, kind, _ in kinds(tmp_path, face="none", size=100)}
    assert found == {("again.jpg", "near-duplicate"), ("mirror.png", "near-duplicate")}
    assert apart(thumbnail(first), thumbnail(others[0])) > 2 * TWINS


def test_a_small_face_is_measured_against_the_base(tmp_path):
    texture((300, 300), 1).save(tmp_path / "a.png")
    far = seeing(Face((100, 100, 130, 130), 1.0))
    [finding] = check(tmp_path, detector=far, size=256)
    assert finding.kind == "small face" and "66 pixels" in finding.problem and not finding.told
    assert check(tmp_path, detector=far, size=128) == []


@pytest.mark.parametrize(
    ("paint", "expected"),
    [
        ((0, 0, 0, 0), ("mask", "warning", "black all over")),
        ((0, 0, 128, 128), ("mask", "note", "white all over")),
        ((0, 90, 40, 128), ("mask", "warning", "leaves the face out")),
        ((30, 30, 100, 100), None),
    ],
)
def test_masks_that_do_not_fit_are_told(tmp_path, paint, expected):
    texture((128, 128), 1).save(tmp_path / "a.png")
    mask = Image.new("L", (128, 128))
    if paint[2]:
        mask.paste(255, paint)
    mask.save(tmp_path / "a.mask.png")
    findings = check(tmp_path, detector=seeing(Face((40, 40, 90, 90), 1.0)), size=128)
    assert [(f.kind, f.level) for f in findings] == ([expected[:2]] if expected else [])
    assert all(expected[2] in f.problem for f in findings)


def test_a_mask_of_another_size_and_one_without_a_picture_are_named(tmp_path):
    for name in "ab":
        texture((128, 128), ord(name)).save(tmp_path / f"{name}.png")
    Image.new("L", (64, 64)).save(tmp_path / "a.mask.png")
    Image.new("L", (64, 64)).save(tmp_path / "c.mask.png")
    findings = check(tmp_path, person=False, size=128)
    assert [(f.kind, f.level) for f in findings] == [("mask", "warning"), ("mask", "warning")]
    assert "64 x 64" in findings[0].problem and "a.mask.png" in findings[0].advice
    assert findings[1].file.endswith("c.mask.png") and "no picture" in findings[1].problem


def test_a_caption_has_to_say_where_the_subject_is(tmp_path):
    texture((128, 128), 1).save(tmp_path / "a.png")
    told = {"a dog in a field": 1, "<rex> in a field": 0, "{} in a field": 0, "<max> in a field": 1}
    for caption, count in told.items():
        (tmp_path / "a.txt").write_text(caption)
        found = kinds(tmp_path, person=False, size=128, word="<rex>")
        assert found == [("a.png", "caption", "warning")] * count, caption
    assert kinds(tmp_path, person=False, size=128) == []  # without a word any placeholder may be it


LEFT, RIGHT = Face((10, 40, 40, 70), 1.0), Face((80, 30, 120, 70), 2.0)


@pytest.mark.parametrize("face", ["ask", "largest", "none", 1, 2, 3])
@pytest.mark.parametrize("faces", [(), (LEFT,), (RIGHT, LEFT)], ids=len)
@pytest.mark.parametrize("pictures", [1, 2])
def test_errors_are_what_reading_for_a_fit_refuses(tmp_path, face, faces, pictures):
    for k in range(pictures):
        texture((128, 128), k).save(tmp_path / f"{k}.png")
    errors = [f for f in check(tmp_path, face=face, detector=seeing(*faces), size=128) if f.level == "error"]
    try:
        Subject.read(tmp_path, "<maya>", "person", face=face, detector=seeing(*faces))
        refused = False
    except SemblantError:
        refused = True
    assert bool(errors) == refused
    assert len(errors) in (0, pictures)


def test_a_choice_that_names_no_face_is_refused(tmp_path):
    texture((128, 128), 1).save(tmp_path / "a.png")
    with pytest.raises(SemblantError, match="counted from 1 on the left"):
        check(tmp_path, face="left")
