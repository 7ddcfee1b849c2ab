"""Every part of the schedule teaching alike.

The denoising error is far from even over the schedule: where almost no noise is, nearly all of it is noise that nobody
could know, and where the most is, almost none is left to be wrong about. Summed as it comes, a word learns from the
first alone. Divided by what is wrong at each level of noise anyway, all levels weigh alike. Karras et al. (2024, arXiv
2312.02696) weigh the levels of a base so while it trains, by magnitudes that are learned; here they are measured once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from semblant.backbones.moment import Moment
from semblant.backbones.prompt import placeholder
from semblant.training.learner import Batch, Example, denoising_error

if TYPE_CHECKING:
    from semblant.training.words import WordLearner

PARTS, DRAWS = 20, 8
"""Equal parts of the schedule, and draws of picture, noise and timestep in each: magnitudes spread over three powers of
ten, and each is known to some 10 %."""


@torch.no_grad()
def evenness(learner: WordLearner, generator: torch.Generator) -> Float[Tensor, " timesteps"]:
    """The factor of the error at every timestep: the mean error under the class word, over that at this timestep.

    The mean of the error over the schedule stays what it was. Draws are those of the learner, about its class word.
    """
    base, total = learner.base, learner.base.schedule.timesteps
    part_of = torch.arange(total) * PARTS // total
    word, errors = placeholder([learner.word]), []
    for part in range(PARTS):
        examples: list[Example] = []
        while len(examples) < DRAWS:
            learner.begin(generator)
            examples += learner.draw(generator)
        own = (part_of == part).nonzero()[:, 0]
        timesteps = own[torch.randint(len(own), (len(examples),), generator=generator)].to(base.device)
        latent = torch.stack([example.latent for example in examples])
        noise = torch.randn(latent.shape, generator=generator).to(latent)
        prompts = [word.sub(learner.class_word, example.prompt) for example in examples]
        context, x = base.text(prompts), base.schedule.noised(latent, noise, timesteps)
        masks = [example.mask for example in examples if example.mask is not None]
        mask = torch.stack(masks).to(latent) if learner.mask_loss and len(masks) == len(examples) else None
        batch = Batch(latent, noise, x, timesteps, mask, context, torch.ones(len(x)))
        errors.append(denoising_error(base.denoise(x, Moment.of(timesteps), context), batch, mask).mean())
    found = torch.stack(errors).clamp_min(1e-8)
    return (found.mean() / found).to(base.device)[part_of.to(base.device)]
