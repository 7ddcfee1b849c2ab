"""Pictures are learned under their captions where these say where the word goes, else under templates."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from semblant.backbones.base import Base
from semblant.data.subject import Subject
from semblant.methods.tokens.sefi_ide import SeFiIDE
from semblant.methods.tokens.textual_inversion import TextualInversion
from semblant.training.optimise import optimise

CAPTIONS = ("a photo of the old <a> on the beach", None, "a cup of {}")
QUICK = {"views": 6, "batch": 8, "steps": 2}


def subject(captions: tuple[str | None, ...]) -> Subject:
    pixels = np.random.default_rng(0)
    images = tuple(Image.fromarray(pixels.integers(0, 256, (16, 16, 3), dtype=np.uint8)) for _ in range(3))
    return Subject(images, "<a>", "person", captions=captions)


@pytest.mark.parametrize("method", [TextualInversion(**QUICK), SeFiIDE(**QUICK, calibration_draws=1, attention_size=8)])
def test_each_picture_has_its_caption_or_a_template(base: Base, method) -> None:
    made = method.learner(base, subject(CAPTIONS), torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    seen: dict[str, set[int]] = {}
    for _ in range(6):
        made.begin(generator)
        state = generator.get_state()
        drawn = [made.bank.view(generator).picture for _ in range(8)]
        generator.set_state(state)
        for picture, example in zip(drawn, made.draw(generator), strict=True):
            seen.setdefault(example.prompt, set()).add(picture)
        assert all("{}" in text for text in made.chosen)
    assert seen.pop("a photo of the old <a> on the beach") == {0} and seen.pop("a cup of <a>") == {2}
    assert set().union(*seen.values()) == {1} and set(seen) <= {t.replace("{}", "<a>") for t in made.templates}
    history = optimise(base, [made], seeds=[0])[0]
    assert all(np.isfinite(history.losses))


def test_without_captions_nothing_is_drawn_otherwise(base: Base) -> None:
    """The same random numbers in the same order: a concept fitted before there were captions comes out the same."""
    made = TextualInversion(**QUICK).learner(base, subject((None, "no word in it", None)), torch.Generator())
    generator, other = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    made.begin(generator)
    examples = made.draw(generator)
    which = torch.randint(len(made.templates), (8,), generator=other)
    assert [e.prompt for e in examples] == [made.templates[i].replace("{}", "<a>") for i in which]
    for example in examples:
        assert torch.equal(example.latent, made.bank.draw(other)[0])
