"""The picture doctor names what is wrong and says nothing when all is well."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image, ImageFilter
from skimage import data

from semblant.data.doctor import check, sharpness


@pytest.fixture(scope="module")
def portrait() -> Image.Image:
    return Image.fromarray(data.astronaut()).crop((60, 0, 400, 340))


def problems(*args, **kwargs) -> list[tuple[str, str]]:
    return [(f.file.rsplit("/", 1)[-1], f.problem) for f in check(*args, **kwargs)]


def test_a_good_portrait_has_no_findings(tmp_path, portrait):
    portrait.save(tmp_path / "a.png")
    assert check(tmp_path) == []
    assert check([tmp_path / "a.png"]) == []


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
    findings = check(tmp_path)
    assert [f.file.rsplit("/", 1)[-1][0] for f in findings] == ["b", "c", "d", "e", "f", "g"]
    said = [f.problem for f in findings]
    for part, problem in zip(
        ("a.png", "not a picture", "blurred", "small: 120 x 120", "no face", "2 faces"), said, strict=True
    ):
        assert part in problem
    assert all(f.advice for f in findings)


def test_things_need_no_face(tmp_path):
    Image.fromarray(data.coffee()).save(tmp_path / "a.png")
    assert problems(tmp_path) == [("a.png", "no face was found")]
    assert problems(tmp_path, person=False) == []


def test_a_missing_or_empty_folder_is_a_finding(tmp_path):
    (tmp_path / "empty").mkdir()
    findings = check([tmp_path / "empty", tmp_path / "gone"])
    assert ["no pictures" in findings[0].problem, "no file or folder" in findings[1].problem] == [True, True]


@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea", "rocket", "camera"])
def test_blur_lowers_sharpness_and_a_soft_background_does_not_count(name):
    image = Image.fromarray(getattr(data, name)()).convert("RGB")
    values = [sharpness(image.filter(ImageFilter.GaussianBlur(radius))) for radius in (0.5, 1, 2, 4)]
    assert values == sorted(values, reverse=True)
    soft = Image.new("RGB", (image.width * 2, image.height), "grey")
    soft.paste(image, (0, 0))
    assert sharpness(soft) > 60 > values[2]


def test_a_sliver_has_a_sharpness_too():
    assert sharpness(Image.new("L", (3000, 32))) == 0
