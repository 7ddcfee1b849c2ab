"""A real photograph goes the whole way: found, cropped, masked, learned, saved, loaded, sampled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image

import semblant as sb
from semblant.backbones.loading import miniature
from semblant.data.pictures import to_tensor
from semblant.training.concepts import load, save


def test_a_photograph_becomes_a_concept_and_a_concept_a_picture(tmp_path: Path) -> None:
    photo = tmp_path / "astronaut.jpg"
    Image.fromarray(skimage.data.astronaut()).save(photo, quality=92)

    subject = sb.Subject.read(photo, word="<eileen>", class_word="person")
    assert len(subject.images) == 1
    side = subject.images[0].size[0]
    assert subject.images[0].size == (side, side) and side < 512  # a crop around the face, not the picture
    mask = subject.masks[0]
    assert mask is not None and mask.size == (side, side)
    inside = np.asarray(mask.convert("L"))
    assert inside[side // 2, side // 2] > 127 and inside[0, 0] == 0

    # The form of Stable Diffusion 1.5, made small: four levels, the last without attention, two layers a block.
    base = miniature(channels=(16, 16, 32, 32), layers=2, size=16)
    before = base.hashes()
    concept = sb.fit("sefi-ide", base, subject, steps=3, lr=0.1, expansion="direct", views=4, calibration_draws=2)
    save(concept, tmp_path / "eileen.safetensors")
    again = load(tmp_path / "eileen.safetensors", base)
    assert again.pictures == subject.sources and len(again.pictures[0]) == 64

    made = sb.sample(base, "a photo of <eileen> on the beach", concepts=[again], steps=3)[0]
    same = sb.sample(base, "a photo of <eileen> on the beach", concepts=[concept], steps=3)[0]
    other = sb.sample(base, "a photo of person on the beach", steps=3)[0]
    assert np.array_equal(np.asarray(made), np.asarray(same))
    assert float((to_tensor(made, 32) - to_tensor(other, 32)).abs().max()) > 0
    assert base.hashes() == before
