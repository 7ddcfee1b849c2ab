"""The tasks, told to both sides: what the scripts of diffusers are given, and the same as settings of semblant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

WORD, CLASS_WORD = "<new>", "person"
IDENTIFIER, RARE = "sks", "ktn"
"""The rare words of DreamBooth and of Custom Diffusion."""
PICTURES = 5
PROMPT, NEGATIVE = "a photo of a person", ""
SAMPLING_STEPS, GUIDANCE = 50, 7.5


@dataclass(frozen=True)
class Recipe:
    """One method, as both sides call it. Neither has class pictures, which no script has by default."""

    script: str
    """File name of diffusers' example."""
    method: str
    """Ours, by its command name."""
    prompt: str
    """The prompt of the bank; `{}` is where the subject's word goes."""
    subject: str
    """What stands there for the script."""
    pictures: str
    """The script's flag for the folder of pictures."""
    flags: tuple[str, ...]
    """What makes the script do this task."""
    settings: Mapping[str, Any]
    """What makes ours do it."""
    best: tuple[str, ...] = ()
    """Flags that make the script faster, beside bfloat16."""
    parity_flags: tuple[str, ...] = ()
    """Further flags where both sides are to compute the same numbers."""
    parity_settings: Mapping[str, Any] = field(default_factory=dict)
    parity_scale: float = 1.0
    """The script's loss in units of ours."""


RECIPES = {
    "textual-inversion": Recipe(
        script="textual_inversion.py",
        method="textual-inversion",
        prompt="a photo of a {}",
        subject=WORD,
        pictures="--train_data_dir",
        flags=(
            *("--placeholder_token", WORD, "--initializer_token", CLASS_WORD, "--learnable_property", "object"),
            *("--learning_rate", "5e-3"),
        ),
        settings={"lr": 5e-3, "scale_lr": False, "flip": 0.5},
    ),
    "dreambooth-lora": Recipe(
        script="train_dreambooth_lora.py",
        method="lora-dreambooth",
        prompt="a photo of {}",
        subject=f"{IDENTIFIER} {CLASS_WORD}",
        pictures="--instance_data_dir",
        flags=("--instance_prompt", f"a photo of {IDENTIFIER} {CLASS_WORD}", "--learning_rate", "1e-4"),
        settings={"lr": 1e-4, "rank": 4, "identifier": IDENTIFIER, "prior_weight": 0.0},
        best=("--pre_compute_text_embeddings",),
    ),
    "custom-diffusion": Recipe(
        script="train_custom_diffusion.py",
        method="custom-diffusion",
        prompt="photo of a {}",
        subject=f"{WORD} {CLASS_WORD}",
        pictures="--instance_data_dir",
        flags=(
            *("--instance_prompt", f"photo of a {WORD} {CLASS_WORD}", "--modifier_token", WORD),
            *("--initializer_token", RARE, "--learning_rate", "1e-5"),
        ),
        settings={"lr": 1e-5, "flip": 0.0, "identifier": RARE, "prior_weight": 0.0},
        best=("--set_grads_to_none",),
        # The script's loss sums over the four channels of a latent, so that clipping would not be the same.
        parity_flags=("--max_grad_norm", "1e9", "--dataloader_num_workers", "0"),
        parity_settings={"clip": 1e9},
        parity_scale=4.0,
    ),
}
