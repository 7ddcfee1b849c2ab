"""Faces of people are found, other things are none."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageOps
from skimage import data

from semblant.data.faces import Face, find_faces, overlap

FACE = (175, 65, 270, 165)
"""Where the astronaut's face is, measured by hand from brows to chin."""


@pytest.fixture(scope="module")
def astronaut() -> Image.Image:
    return Image.fromarray(data.astronaut())


def scaled(box, by):
    return tuple(edge * by for edge in box)


def test_the_astronaut_has_one_face(astronaut):
    (face,) = find_faces(astronaut)
    assert overlap(face.box, FACE) > 0.8
    assert find_faces(astronaut) == [face]


@pytest.mark.parametrize("size", [128, 1400])
def test_the_face_is_found_at_any_size(astronaut, size):
    (face,) = find_faces(astronaut.resize((size, size), Image.Resampling.LANCZOS))
    assert overlap(scaled(face.box, 512 / size), FACE) > 0.6


@pytest.mark.parametrize("change", [ImageOps.mirror, ImageOps.grayscale, lambda i: i.point(lambda v: v * 0.4)])
def test_the_face_is_found_mirrored_grey_and_dark(astronaut, change):
    assert len(find_faces(change(astronaut))) == 1


def test_two_faces_are_two_largest_first(astronaut):
    face = astronaut.crop((120, 0, 330, 210))
    both = Image.new("RGB", (500, 240), "white")
    both.paste(face.resize((150, 150)), (10, 40))
    both.paste(face, (250, 10))
    first, second = find_faces(both)
    assert first.centre[0] > 250 > second.centre[0]
    assert first.width > second.width


@pytest.mark.parametrize("name", ["coffee", "chelsea", "rocket", "camera", "page"])
def test_no_face_where_there_is_none(name):
    assert find_faces(Image.fromarray(getattr(data, name)())) == []


@pytest.mark.parametrize("seed", range(2))
def test_no_face_in_noise(seed):
    noise = np.random.default_rng(seed).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    assert find_faces(Image.fromarray(noise)) == []


@pytest.mark.parametrize("size", [(32, 32), (32, 4000), (40, 40), (1000, 33)])
def test_odd_sizes_are_no_trouble(size):
    assert find_faces(Image.new("RGB", size, "grey")) == []


def test_small_faces_are_found_and_other_patches_are_not():
    # Ten of the hundred faces and hundred other patches of LFW, 25 px, pasted into a picture.
    patches = data.lfw_subset()
    coffee = Image.fromarray(data.coffee()).resize((256, 256))
    found = []
    for k in range(0, 200, 20):
        picture = coffee.copy()
        patch = Image.fromarray((patches[k] * 255).astype(np.uint8)).resize((100, 100), Image.Resampling.BICUBIC)
        picture.paste(patch, (78, 78))
        found.append(any(overlap(f.box, (84, 84, 172, 172)) > 0.3 for f in find_faces(picture)))
    assert sum(found[:5]) >= 4
    assert sum(found[5:]) == 0


def test_overlap_by_hand():
    assert overlap((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3)
    assert overlap((0, 0, 2, 2), (2, 0, 3, 2)) == 0
    assert Face((1, 2, 5, 8), 1.0).centre == (3, 5)
