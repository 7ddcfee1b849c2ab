"""Augmentation: the mask follows the picture, ranges hold, and one generator gives one result."""

from __future__ import annotations

import colorsys

import pytest
import torch

from semblant.data.augmentation import augment, canvas, enlarge, flip, jitter, turn_hue

SIZE = 64


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(seed: int = 0) -> torch.Tensor:
    return torch.rand(3, SIZE, SIZE, generator=seeded(seed)) * 2 - 1


def box_of(mask: torch.Tensor) -> tuple[int, int, int, int]:
    """Top, left, height, width of what is not 0."""
    _, rows, columns = mask.nonzero(as_tuple=True)
    top, left = int(rows.min()), int(columns.min())
    return top, left, int(rows.max()) - top + 1, int(columns.max()) - left + 1


@pytest.mark.parametrize("kind", ["black", "mean", "reflect"])
def test_the_mask_follows_the_picture(kind):
    # A picture that is its own mask: a bright square on black.
    mask = torch.zeros(1, SIZE, SIZE)
    mask[:, 10:40, 20:50] = 1
    for seed in range(30):
        image, moved = canvas(mask.expand(3, -1, -1) * 2 - 1, mask, seeded(seed), canvas=kind)
        inside = moved > 0
        assert inside.any()
        assert torch.allclose((image.mean(0, keepdim=True)[inside] + 1) / 2, moved[inside], atol=1e-5)
        if kind == "black":
            assert (image.amax(0, keepdim=True)[~inside] < -0.999).all()


def test_scale_aspect_and_place_stay_in_their_ranges_and_fill_them():
    boxes = []
    for seed in range(300):
        image, mask = canvas(torch.ones(3, SIZE, SIZE), torch.ones(1, SIZE, SIZE), seeded(seed))
        boxes.append(box_of(mask))
        top, left, height, width = boxes[-1]
        assert 0.1 * SIZE - 0.5 <= height <= SIZE and 0.9 * height - 0.5 <= width <= min(SIZE, 1.1 * height + 0.5)
        assert (image[:, top : top + height, left : left + width] > 0.999).all()
        assert (image == -1).sum() == 3 * (SIZE * SIZE - height * width)
    heights = torch.tensor([b[2] for b in boxes]) / SIZE
    assert heights.min() < 0.15 and heights.max() > 0.95
    assert heights.mean() == pytest.approx(0.55, abs=0.05)
    assert any(b[0] == 0 for b in boxes) and any(b[0] + b[2] == SIZE and b[2] < SIZE for b in boxes)
    assert any(b[2] < b[3] for b in boxes) and any(b[2] > b[3] for b in boxes)


def test_at_full_scale_nothing_changes():
    image = noise()
    for kind in ("black", "mean", "reflect"):
        pasted, none = canvas(image, None, seeded(0), scale=(1, 1), aspect=(1, 1), canvas=kind)
        assert torch.equal(pasted, image) and none is None


def test_around_the_paste_is_the_mean_or_the_reflection():
    image = noise()
    ones = torch.ones(1, SIZE, SIZE)
    pasted, mask = canvas(image, ones, seeded(3), scale=(0.4, 0.4), canvas="mean")
    outside = pasted[:, mask[0] == 0]
    assert torch.allclose(outside, image.mean((1, 2))[:, None].expand_as(outside))
    pasted, mask = canvas(image, ones, seeded(3), scale=(0.4, 0.4), canvas="reflect")
    top, left, height, width = box_of(mask)
    assert top > 2 and left > 2
    assert torch.equal(pasted[:, top - 1], pasted[:, top + 1])
    assert torch.equal(pasted[:, :, left + width], pasted[:, :, left + width - 2])


def test_tiny_pictures_and_scales_survive():
    for seed in range(10):
        image, mask = canvas(torch.zeros(3, 4, 4), torch.ones(1, 4, 4), seeded(seed), (0.01, 0.3), canvas="reflect")
        assert image.shape == (3, 4, 4) and mask.sum() > 0.999


@pytest.mark.parametrize(
    "wrong", [{"canvas": "white"}, {"scale": (0.0, 1.0)}, {"scale": (0.5, 1.5)}, {"scale": (1, 0.5)}]
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=r"canvas is|scale is"):
        canvas(noise(), None, seeded(0), **wrong)


def test_flip_mirrors_both_half_of_the_time():
    image, mask = noise(), (noise(1)[:1] > 0).float()
    turned = 0
    generator = seeded(0)
    for _ in range(400):
        new, moved = flip(image, mask, generator)
        was = torch.equal(new, image.flip(-1))
        assert torch.equal(moved, mask.flip(-1) if was else mask)
        assert was or torch.equal(new, image)
        turned += was
    assert 160 < turned < 240
    assert torch.equal(flip(image, None, generator, p=0)[0], image)
    assert torch.equal(flip(image, None, generator, p=1)[0], image.flip(-1))


def test_a_grey_canvas_is_0_where_no_picture_lies():
    image, mask = canvas(noise(), torch.ones(1, SIZE, SIZE), seeded(0), (0.5, 0.5), (1.0, 1.0), "grey")
    assert box_of(mask)[2:] == (32, 32) and (image[:, mask[0] == 0] == 0).all()


def test_enlarging_cuts_a_piece_of_the_old_size_at_a_random_place():
    ramp = torch.linspace(-1, 1, SIZE).expand(3, SIZE, SIZE)
    mask, starts = (ramp[:1] > 0).float(), []
    for seed in range(20):
        image, moved = enlarge(ramp, mask, seeded(seed), (2.0, 2.0))
        assert image.shape == ramp.shape and moved is not None
        # Twice as large, the ramp climbs half as fast, and half of it is seen.
        assert float(image[0, 0].diff()[4:-4].mean() / ramp[0, 0].diff()[0]) == pytest.approx(0.5, abs=0.02)
        sure = image[:1].abs() > 0.05
        assert torch.equal(moved[sure] > 0.5, image[:1][sure] > 0)
        starts.append(round(float(image[0, 0, 0]), 3))
    assert len(set(starts)) > 10 and max(starts) <= 0.02
    same, none = enlarge(ramp, None, seeded(0), (1.0, 1.0))
    assert torch.equal(same, ramp) and none is None
    with pytest.raises(ValueError, match="from 1 on"):
        enlarge(ramp, mask, seeded(0), (0.5, 2.0))


def test_jitter_at_neutral_strength_is_the_picture():
    image = noise()
    same = jitter(image, seeded(0), (1, 1), (1, 1), (1, 1), 0.0)
    assert torch.allclose(same, image, atol=1e-5)


def test_jitter_changes_colours_a_little_and_stays_in_range():
    image = noise()
    changes = []
    for seed in range(50):
        new = jitter(image, seeded(seed))
        assert new.min() >= -1 and new.max() <= 1
        changes.append(float((new - image).abs().mean()))
    assert min(changes) > 0.01 and max(changes) < 0.35


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        ("brightness", lambda c, g, m: c * 0.5),
        ("contrast", lambda c, g, m: m + (c - m) * 0.5),
        ("saturation", lambda c, g, m: g + (c - g) * 0.5),
    ],
)
def test_each_jitter_by_hand(which, expected):
    image = noise()
    ranges = {"brightness": (1.0, 1.0), "contrast": (1.0, 1.0), "saturation": (1.0, 1.0), which: (0.5, 0.5)}
    colours = (image + 1) / 2
    grey = 0.299 * colours[0] + 0.587 * colours[1] + 0.114 * colours[2]
    assert torch.allclose(
        (jitter(image, seeded(0), **ranges, hue=0) + 1) / 2, expected(colours, grey, grey.mean()), atol=1e-5
    )


@pytest.mark.parametrize("turn", [0.0, 0.01, -0.01, 1 / 3, 0.5, -0.25])
def test_hue_turns_as_the_standard_library_says(turn):
    colours = torch.rand(3, 8, 8, generator=seeded(0), dtype=torch.float64)
    colours[:, 0, :4] = torch.tensor([[0.0, 1, 0.5, 1], [0, 1, 0.5, 0], [0, 1, 0.5, 0]], dtype=torch.float64)
    turned = turn_hue(colours, turn)
    for y in range(8):
        for x in range(8):
            hue, saturation, value = colorsys.rgb_to_hsv(*colours[:, y, x].tolist())
            expected = colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)
            assert turned[:, y, x].tolist() == pytest.approx(expected, abs=1e-6)


def test_the_same_generator_gives_the_same_picture_and_nothing_else_draws():
    image, mask = noise(), (noise(1)[:1] > 0).float()
    before = (image.clone(), mask.clone(), torch.random.get_rng_state())
    one, two, other = (augment(image, mask, seeded(seed)) for seed in (5, 5, 6))
    assert torch.equal(one[0], two[0]) and torch.equal(one[1], two[1])
    assert not torch.equal(one[0], other[0])
    assert torch.equal(image, before[0]) and torch.equal(mask, before[1])
    assert torch.equal(torch.random.get_rng_state(), before[2])


def test_augmenting_keeps_the_canvas_black():
    for seed in range(20):
        image, mask = augment(noise(), torch.ones(1, SIZE, SIZE), seeded(seed))
        assert (image[:, mask[0] == 0] == -1).all()
