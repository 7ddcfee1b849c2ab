"""The stand-in that scripts of diffusers import as torchvision: its transforms against known answers."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks.speed.standin.torchvision import transforms

ROOT = Path(__file__).parents[2]


def stripes(values: list[int], height: int = 4) -> Image.Image:
    """A grey picture with these columns."""
    picture = Image.new("L", (len(values), height))
    picture.putdata(values * height)
    return picture


def test_resizing_averages_what_it_shrinks():
    # Triangles of half-width 2 around 1 and 3: weights .75 .75 .25 of their sum 1.75 on columns at .5, 1.5, 2.5.
    shrunk = transforms.Resize(2, interpolation=transforms.InterpolationMode.BILINEAR)(stripes([0, 0, 255, 255]))
    assert [shrunk.getpixel((x, 0)) for x in (0, 1)] == [round(255 * 0.25 / 1.75), round(255 * 1.5 / 1.75)]


@pytest.mark.parametrize(
    ("given", "size", "made"), [((33, 20), 10, (16, 10)), ((20, 33), 10, (10, 16)), ((9, 7), (3, 5), (5, 3))]
)
def test_resizing_keeps_the_proportions_unless_both_sides_are_given(given, size, made):
    assert transforms.Resize(size)(Image.new("RGB", given)).size == made


def test_the_middle_is_cut_out():
    cut = transforms.CenterCrop(3)(stripes([0, 1, 2, 3, 4, 5, 6], height=7))
    assert [cut.getpixel((x, 0)) for x in range(3)] == [2, 3, 4] and cut.size == (3, 3)


def test_a_random_square_lies_anywhere_inside():
    torch.manual_seed(0)
    picture = stripes(list(range(6)), height=5)
    cuts = [transforms.RandomCrop(4)(picture) for _ in range(60)]
    assert {cut.size for cut in cuts} == {(4, 4)}
    assert {cut.getpixel((0, 0)) for cut in cuts} == {0, 1, 2}
    assert transforms.RandomCrop(5)(stripes([0] * 5, height=5)).size == (5, 5)


@pytest.mark.parametrize("kind", [transforms.RandomCrop, transforms.CenterCrop])
def test_a_square_larger_than_the_picture_is_refused(kind):
    with pytest.raises(ValueError, match="6x4"):
        kind(5)(Image.new("RGB", (6, 4)))


def test_pixels_become_numbers_around_nought():
    picture = Image.new("RGB", (3, 2), (0, 51, 255))
    tensor = transforms.Compose([transforms.ToTensor(), transforms.Normalize([0.5], [0.5])])(picture)
    assert tensor.shape == (3, 2, 3) and tensor.dtype == torch.float32
    torch.testing.assert_close(tensor[:, 0, 0], torch.tensor([-1.0, -0.6, 1.0]))
    assert transforms.ToTensor()(stripes([255])).tolist() == [[[1.0]] * 4]


def test_mirroring_obeys_its_probability():
    picture = stripes([1, 2])
    assert transforms.RandomHorizontalFlip(1.0)(picture).getpixel((0, 0)) == 2
    assert transforms.RandomHorizontalFlip(0.0)(picture).getpixel((0, 0)) == 1


def test_the_stand_in_is_torchvision_for_nobody_else():
    spec = importlib.util.find_spec("torchvision")
    assert spec is None or "benchmarks" not in str(spec.origin)
    assert not any("standin" in entry for entry in sys.path)


@pytest.mark.slow
def test_a_script_gets_the_stand_in_and_the_libraries_go_on_without_it():
    code = (
        "import sys; from benchmarks.speed.peers import lend_torchvision as lend; lend();"
        "from torchvision import transforms; import transformers, semblant.backbones.judges;"
        "print(transforms.__file__, transformers.utils.is_torchvision_available())"
    )
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert "standin" in told or told.split()[-1] == "True"
