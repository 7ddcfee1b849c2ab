"""Latents of a subject's pictures, encoded once and drawn many times, and class pictures for prior preservation."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from semblant.backbones.base import Base
from semblant.backbones.rest import give_back
from semblant.errors import SemblantError, out_of_memory
from semblant.sampling.loop import Branches, noise, sample_latents
from semblant.training.learner import Example

logger = logging.getLogger(__name__)

Augment = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor] | tuple[Tensor, Tensor, str]]
"""`augment(image [3, S, S], mask [1, S, S], generator)` -> another image and mask of one size, and perhaps words to put
before the prompt, so that it tells of what was done ("very small ")."""


class View(NamedTuple):
    """One draw from a bank: latent, mask (None when no picture came with one), words to put before its prompt, and the
    index of the picture it shows."""

    latent: Float[Tensor, "channels h w"]
    mask: Float[Tensor, "1 h w"] | None
    words: str
    picture: int


class Bank:
    """Augmented draws of a few pictures as latents: what the autoencoder costs is paid once, before training.

    Holds mean and deviation of the autoencoder's posterior and the mask at latent size for `size` draws, or one of each
    picture if these are more, taken in turn; every draw from the bank has fresh posterior noise. With `exact` nothing
    is kept, and each draw is augmented and encoded anew.
    """

    def __init__(
        self,
        base: Base,
        images: Sequence[Float[Tensor, "3 size size"]],
        masks: Sequence[Float[Tensor, "1 size size"] | None] | None = None,
        *,
        size: int = 128,
        augment: Augment | None = None,
        generator: torch.Generator,
        exact: bool = False,
    ) -> None:
        """Images in -1..1, masks in 0..1 (None: unknown). Without `augment` there is one entry per image.

        Raises SemblantError when there are no images, or no views of them.
        """
        if not images:
            raise SemblantError("a bank of latents needs at least one picture; got none")
        if size < 1:
            raise SemblantError(f"views are 1 or more; got {size}")
        given: Sequence[Tensor | None] = [None] * len(images) if masks is None else masks
        self.base, self.augment, self.exact = base, augment, exact
        self.masked = any(mask is not None for mask in given)
        self.pictures = [
            (image, torch.ones_like(image[:1]) if mask is None else mask)
            for image, mask in zip(images, given, strict=True)
        ]
        count = max(size, len(images)) if augment is not None else len(images)
        self.means = self.deviations = self.masks = torch.empty(0)
        self.words: list[str] = []
        if not exact:
            self._fill(count, generator)

    def __len__(self) -> int:
        """How many entries it holds; 0 when every draw is exact."""
        return len(self.means)

    @property
    def bytes(self) -> int:
        """Memory of its entries."""
        return sum(t.numel() * t.element_size() for t in (self.means, self.deviations, self.masks))

    def draw(self, generator: torch.Generator) -> tuple[Float[Tensor, "channels h w"], Float[Tensor, "1 h w"] | None]:
        """Latent and mask of a random view."""
        drawn = self.view(generator)
        return drawn.latent, drawn.mask

    def view(self, generator: torch.Generator) -> View:
        """A random entry: a latent drawn from its posterior, its mask, and what tells where it came from."""
        count = len(self.pictures) if self.exact else len(self)
        chosen = int(torch.randint(count, (), generator=generator))
        if self.exact:
            picture = self._picture(chosen, generator)
            (mean, deviation, mask), words = (t[0] for t in self._encode([picture])), picture[2]
        else:
            mean, deviation, mask = self.means[chosen], self.deviations[chosen], self.masks[chosen]
            words = self.words[chosen]
        latent = mean + deviation * torch.randn(mean.shape, generator=generator).to(mean)
        return View(latent, mask if self.masked else None, words, chosen % len(self.pictures))

    def _picture(self, index: int, generator: torch.Generator) -> tuple[Tensor, Tensor, str]:
        image, mask = self.pictures[index % len(self.pictures)]
        if self.augment is None:
            return image, mask, ""
        image, mask, *words = self.augment(image, mask, generator)
        return image, mask, "".join(words)

    def _fill(self, count: int, generator: torch.Generator) -> None:
        """Encode the views, equal ones once: a few pictures that are mirrored at most have few."""
        # Four pictures of 512 pixels at a time keep the autoencoder's memory near one gigabyte. On a processor, where
        # many at a time are slower if anything, one does, and a fit's peak is in its steps.
        at_once = 2**16 if self.base.device.type == "cpu" else 2**20
        batch = max(1, at_once // self.pictures[0][0].shape[-1] ** 2)
        give_back()
        place: dict[bytes, int] = {}
        places: list[int] = []
        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        waiting: list[tuple[Tensor, Tensor, str]] = []
        for i in range(count):
            view = self._picture(i, generator)
            name = _content(*view[:2])
            if name not in place:
                place[name] = len(place)
                waiting.append(view)
            places.append(place[name])
            self.words.append(view[2])
            if waiting and (len(waiting) == batch or i == count - 1):
                parts.append(self._encode(waiting))
                waiting = []
        self.means, self.deviations, self.masks = (torch.cat(own)[places] for own in zip(*parts, strict=True))
        give_back()

    @torch.no_grad()
    def _encode(self, pictures: Sequence[tuple[Tensor, Tensor, str]]) -> tuple[Tensor, Tensor, Tensor]:
        images = torch.stack([image for image, _, _ in pictures]).to(self.base.device)
        masks = torch.stack([mask for _, mask, _ in pictures]).to(self.base.device)
        mean, deviation = self.base.posterior(images)
        height, width = mean.shape[-2:]
        return mean.float(), deviation.float(), F.adaptive_avg_pool2d(masks.float(), (height, width))


def _content(image: Tensor, mask: Tensor) -> bytes:
    """What tells a view from others."""
    pixels = (t.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() for t in (image, mask))
    return hashlib.sha256(b"".join(pixels)).digest()


def class_latents(
    base: Base, prompt: str, count: int, *, seed: int, steps: int = 50, guidance: float = 7.5, batch: int = 8
) -> list[Float[Tensor, "channels h w"]]:
    """Latents of `count` pictures that the base itself makes of a class prompt, picture k from seed `seed + k`.

    Defaults are Stable Diffusion's published sampling settings (Rombach et al. 2022). When memory runs out, fewer are
    made at once.
    """
    made: list[Tensor] = []
    while len(made) < count:
        seeds = range(seed + len(made), seed + min(len(made) + batch, count))
        try:
            branches = Branches.of(base.text([prompt] * len(seeds)), base.text(""))
            x = noise(base, seeds, (base.size, base.size))
            made += sample_latents(base, x, branches, steps=steps, guidance=guidance)
        except (MemoryError, RuntimeError) as problem:
            if len(seeds) == 1 or not out_of_memory(problem):
                raise
            batch = len(seeds) // 2
            logger.warning("there is not enough memory for more; making %d pictures of %r at a time", batch, prompt)
    return made


def prior_preservation(
    latents: Sequence[Float[Tensor, "channels h w"]],
    prompt: str,
    generator: torch.Generator,
    *,
    rows: int = 1,
    subject_rows: int = 1,
    weight: float = 1.0,
) -> list[Example]:
    """`rows` class pictures to train beside `subject_rows` pictures of the subject, read with plain words.

    A step's loss is the mean over all rows, so each row's weight is `weight * subject_rows / rows`: the loss is then
    proportional to (mean over the subject) + weight * (mean over the class), DreamBooth's Eq. 2 (Ruiz et al. 2022,
    arXiv 2208.12242). Raises SemblantError when there are no latents.
    """
    if not latents:
        raise SemblantError("prior preservation needs pictures of the class; got none")
    chosen = torch.randint(len(latents), (rows,), generator=generator).tolist()
    return [Example(latents[i], prompt, weight=weight * subject_rows / rows, patched=False) for i in chosen]


@dataclass(frozen=True)
class Prior:
    """What the base knows of a class, as its own pictures, and how much it counts that this is kept."""

    latents: Sequence[Float[Tensor, "channels h w"]]
    prompt: str
    weight: float

    @staticmethod
    def made(
        base: Base, prompt: str, *, count: int, weight: float, steps: int, guidance: float, generator: torch.Generator
    ) -> Prior | None:
        """`count` pictures that the base makes of a class prompt; None when they would count for nothing.

        Raises SemblantError for a count or weight below 0.
        """
        if count < 0:
            raise SemblantError(f"class pictures are 0 (none) or more; got {count}")
        if not weight >= 0:
            raise SemblantError(f"the weight of class pictures is 0 (they are left out) or more; got {weight}")
        if count == 0 or weight == 0:
            return None
        logger.info("making %d pictures of %r, so that the base keeps what it knows of the class", count, prompt)
        seed = int(torch.randint(2**31, (), generator=generator))
        return Prior(class_latents(base, prompt, count, seed=seed, steps=steps, guidance=guidance), prompt, weight)

    def draw(self, generator: torch.Generator, beside: int) -> list[Example]:
        """As many class pictures as the subject's pictures that they stand beside."""
        return prior_preservation(
            self.latents, self.prompt, generator, rows=beside, subject_rows=beside, weight=self.weight
        )
