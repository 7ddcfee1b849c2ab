"""The settings in configurations of a base that are computed with here: what each may be."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from semblant.backbones.parts import CONFIGS
from semblant.errors import FileProblem

PREDICTIONS = ("epsilon", "v_prediction")
"""What a U-Net may predict: the noise, or the velocity."""


class Setting(NamedTuple):
    """What a value has to be, and how that is said."""

    fits: Callable[[Any], bool]
    possible: str


def _count(value: Any) -> bool:
    return type(value) is int and value > 0


def _counts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(_count(one) for one in value)


def _sides(value: Any) -> bool:
    return value is None or _count(value) or (_counts(value) and len(value) == 2)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _share(value: Any) -> bool:
    return _number(value) and 0 < value < 1


def _shares(value: Any) -> bool:
    return value is None or (isinstance(value, list) and bool(value) and all(_share(one) for one in value))


CHANNELS = Setting(_count, "a whole number, such as 4")
LEVELS = Setting(_counts, "a list of whole numbers, such as [320, 640]")
SETTINGS: dict[str, dict[str, Setting]] = {
    "unet": {
        "sample_size": Setting(_sides, "the side of its latents, such as 64, or both, such as [64, 64]"),
        "in_channels": CHANNELS,
        "block_out_channels": LEVELS,
        "cross_attention_dim": Setting(_count, "one width for all layers, such as 768"),
    },
    "vae": {
        "latent_channels": CHANNELS,
        "block_out_channels": LEVELS,
        "scaling_factor": Setting(
            lambda value: _number(value) and value != 0, "a number other than 0, such as 0.18215"
        ),
    },
    "scheduler": {
        "num_train_timesteps": Setting(_count, "a whole number, such as 1000"),
        "beta_start": Setting(_share, "a number between 0 and 1, such as 0.00085"),
        "beta_end": Setting(_share, "a number between 0 and 1, such as 0.012"),
        "trained_betas": Setting(_shares, "null, or a list of numbers between 0 and 1"),
        "prediction_type": Setting(lambda value: value in PREDICTIONS, " or ".join(PREDICTIONS)),
    },
}
"""By part. What a configuration leaves out is as diffusers has it."""


def require_settings(folder: Path, configs: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise FileProblem for a setting that is not what it may be."""
    for part, settings in SETTINGS.items():
        config = configs.get(part, {})
        for key, setting in settings.items():
            if key in config and not setting.fits(config[key]):
                raise FileProblem(
                    f"{folder} has {key} = {json.dumps(config[key])} in {part}/{CONFIGS[part]}; "
                    f"possible: {setting.possible}"
                )


def larger_side(sample_size: Any) -> int | None:
    """The larger side of the latents that a U-Net was trained on, of which diffusers notes one or both; None where it
    notes none."""
    if sample_size is None:
        return None
    return max(int(side) for side in (sample_size if isinstance(sample_size, list | tuple) else [sample_size]))
