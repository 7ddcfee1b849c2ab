"""Banks of latents and prior preservation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from semblant.backbones.base import Base
from semblant.errors import SemblantError
from semblant.training.bank import Bank, Prior, class_latents, prior_preservation


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int = 3) -> list[Tensor]:
    return list(torch.rand(count, 3, 16, 16, generator=seeded(5)) * 2 - 1)


def flip(image: Tensor, mask: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    if torch.rand((), generator=generator) < 0.5:
        return image.flip(-1), mask.flip(-1)
    return image, mask


def half() -> Tensor:
    mask = torch.zeros(1, 16, 16)
    mask[..., :5] = 1
    return mask


def test_draws_are_the_posterior_of_the_pictures(base: Base) -> None:
    images = pictures()
    bank = Bank(base, images, generator=seeded(0))
    mean, deviation = base.posterior(torch.stack(images))
    assert len(bank) == 3 and torch.equal(bank.means, mean)
    draws = torch.stack([bank.draw(generator)[0] for generator in [seeded(1)] for _ in range(300)])
    nearest = torch.cdist(draws.flatten(1), mean.flatten(1)).argmin(1)
    assert set(nearest.tolist()) == {0, 1, 2}
    residual = (draws - mean[nearest]) / deviation[nearest]
    assert abs(float(residual.mean())) < 0.02 and float(residual.std()) == pytest.approx(1, abs=0.02)
    assert bank.draw(seeded(1))[1] is None


def test_masks_shrink_by_area_and_follow_the_augmentation(base: Base) -> None:
    bank = Bank(base, pictures(1), [half()], size=16, augment=flip, generator=seeded(0))
    assert len(bank) == 16
    kinds = {tuple(mask[0, 0].tolist()) for mask in bank.masks}
    left = (1.0, 1.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0)
    assert kinds == {left, left[::-1]}
    flipped = base.posterior(torch.stack([pictures(1)[0], pictures(1)[0].flip(-1)]))[0]
    for mean, mask in zip(bank.means, bank.masks, strict=True):
        expected = flipped[int(mask[0, 0, 0] == 0)]
        assert float((mean - expected).abs().max()) < 1e-5


def test_equal_views_are_encoded_once(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[int] = []
    posterior = base.posterior
    monkeypatch.setattr(base, "posterior", lambda images: encoded.append(len(images)) or posterior(images))
    bank = Bank(base, pictures(3), size=60, augment=flip, generator=seeded(0))
    assert sum(encoded) == 6 and len(bank) == 60
    expected = posterior(torch.stack([view for image in pictures(3) for view in (image, image.flip(-1))]))[0]
    nearest = [int((expected - mean).flatten(1).norm(dim=1).argmin()) for mean in bank.means]
    assert [k // 2 for k in nearest] == [i % 3 for i in range(60)]
    assert all(float((expected[k] - mean).abs().max()) < 1e-5 for k, mean in zip(nearest, bank.means, strict=True))


def test_a_mask_tells_views_of_one_picture_apart(base: Base) -> None:
    bank = Bank(base, pictures(1) * 2, [half(), 1 - half()], generator=seeded(0))
    assert torch.equal(bank.means[0], bank.means[1]) and not torch.equal(bank.masks[0], bank.masks[1])


def test_exact_draws_keep_nothing_and_encode_anew(base: Base) -> None:
    bank = Bank(base, pictures(1), [half()], augment=flip, generator=seeded(0), exact=True)
    assert len(bank) == bank.bytes == 0
    generator = seeded(0)
    drawn = [bank.draw(generator) for _ in range(12)]
    assert {float(mask[0, 0, 0]) for _, mask in drawn if mask is not None} == {0.0, 1.0}
    assert drawn[0][0].shape == (4, 8, 8) and not torch.equal(drawn[0][0], drawn[1][0])


def test_a_bank_is_small_and_repeats_with_its_seed(base: Base) -> None:
    banks = [Bank(base, pictures(), size=20, augment=flip, generator=seeded(s)) for s in (0, 0, 1)]
    assert torch.equal(banks[0].means, banks[1].means) and not torch.equal(banks[0].means, banks[2].means)
    assert banks[0].bytes == 20 * (4 + 4 + 1) * 8 * 8 * 4
    assert not banks[0].means.requires_grad


def telling(image: Tensor, mask: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, str]:
    image, mask = flip(image, mask, generator)
    return image, mask, "mirrored " if mask[0, 0, 0] == 0 else ""


@pytest.mark.parametrize("exact", [False, True])
def test_a_view_says_what_was_done_to_its_own_picture(base: Base, exact: bool) -> None:
    bank = Bank(base, pictures(1), [half()], size=16, augment=telling, generator=seeded(0), exact=exact)
    views = [bank.view(generator) for generator in [seeded(3)] for _ in range(12)]
    assert {view.words for view in views} == {"", "mirrored "}
    assert all((view.words == "mirrored ") == (view.mask is not None and view.mask[0, 0, 0] == 0) for view in views)
    plain = Bank(base, pictures(1), size=2, augment=flip, generator=seeded(0))
    assert plain.view(seeded(0)).words == "" and plain.view(seeded(0)).mask is None


def test_every_picture_is_drawn_also_when_there_are_more_than_views(base: Base) -> None:
    bank = Bank(base, pictures(5), size=2, augment=flip, generator=seeded(0))
    assert {bank.view(generator).picture for generator in [seeded(0)] for _ in range(60)} == {0, 1, 2, 3, 4}


def test_a_prior_is_made_from_the_generator_or_not_at_all(base: Base) -> None:
    settings = {"count": 2, "weight": 0.5, "steps": 1, "guidance": 2.0}
    one, other = (Prior.made(base, "a dog", **settings, generator=seeded(0)) for _ in range(2))
    assert one is not None and other is not None and torch.equal(one.latents[1], other.latents[1])
    rows = one.draw(seeded(1), beside=3)
    assert [(row.prompt, row.weight, row.patched) for row in rows] == [("a dog", 0.5, False)] * 3
    for nothing in ({"count": 0}, {"weight": 0.0}):
        assert Prior.made(base, "a dog", **{**settings, **nothing}, generator=seeded(0)) is None
    with pytest.raises(SemblantError, match="got -1"):
        Prior.made(base, "a dog", **{**settings, "count": -1}, generator=seeded(0))


def test_no_pictures_are_refused(base: Base) -> None:
    with pytest.raises(SemblantError, match="at least one picture"):
        Bank(base, [], generator=seeded(0))
    with pytest.raises(SemblantError, match="pictures of the class"):
        prior_preservation([], "a photo of person", seeded(0))


def test_class_pictures_are_made_fewer_at_a_time_where_memory_is_scarce(
    base: Base, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plenty = class_latents(base, "a photo of person", 3, seed=4, steps=2, batch=3)
    denoise, passes = Base.denoise, []

    def limited(self: Base, x: Tensor, *given: Any) -> Tensor:
        passes.append(len(x))
        if len(x) > 2:  # one picture, both halves of guidance
            raise torch.OutOfMemoryError("CUDA out of memory")
        return denoise(self, x, *given)

    monkeypatch.setattr(Base, "denoise", limited)
    scarce = class_latents(base, "a photo of person", 3, seed=4, steps=2, batch=3)
    assert passes == [6, 2, 2, 2, 2, 2, 2] and "making 1 pictures" in caplog.text
    assert all(torch.allclose(one, other, atol=1e-4) for one, other in zip(scarce, plenty, strict=True))
    monkeypatch.setattr(Base, "denoise", lambda *_: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(MemoryError):
        class_latents(base, "a photo of person", 3, seed=4, steps=2)


def test_class_rows_weigh_as_in_equation_2(base: Base) -> None:
    latents = class_latents(base, "a photo of person", 3, seed=4, steps=2, batch=2)
    assert len(latents) == 3 and latents[0].shape == (4, 8, 8)
    (alone,) = class_latents(base, "a photo of person", 1, seed=5, steps=2)
    assert float((alone - latents[1]).abs().max()) < 1e-4
    rows = prior_preservation(latents, "a photo of person", seeded(0), rows=2, subject_rows=4, weight=0.5)
    assert all(not row.patched and row.prompt == "a photo of person" for row in rows)
    assert all(any(row.latent is latent for latent in latents) for row in rows)
    # Mean over 4 rows of loss 1 and 2 weighted rows of loss 3, times 6 / 4, is 1 + 0.5 * 3.
    total = (4 * 1.0 + sum(row.weight * 3.0 for row in rows)) / 6
    assert total * 6 / 4 == pytest.approx(1 + 0.5 * 3)
