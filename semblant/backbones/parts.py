"""The parts of a folder in diffusers' layout: how they are called, which classes they may have, which settings."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, UNet2DConditionModel

from semblant.backbones.site import BESIDE_THE_PROMPT, XL_READS
from semblant.errors import FileProblem

PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
SECOND = ("text_encoder_2", "tokenizer_2")
"""The parts that Stable Diffusion XL has beside those."""
WEIGHTS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "text_encoder_2": "model",
}
"""Parts with weights, and how their files' names begin."""
CONFIGS = {
    "unet": "config.json",
    "vae": "config.json",
    "text_encoder": "config.json",
    "text_encoder_2": "config.json",
    "tokenizer": "tokenizer_config.json",
    "tokenizer_2": "tokenizer_config.json",
    "scheduler": "scheduler_config.json",
}
INDEX = "model_index.json"
_NOISE = "DDIM DDPM PNDM LMSDiscrete EulerDiscrete EulerAncestralDiscrete HeunDiscrete DPMSolverMultistep".split()
_NOISE += "DPMSolverSinglestep KDPM2Discrete KDPM2AncestralDiscrete DEISMultistep UniPCMultistep".split()
_TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast")
CLASSES: dict[str, tuple[str, ...]] = {
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
    "text_encoder": ("CLIPTextModel",),
    "text_encoder_2": ("CLIPTextModelWithProjection",),
    "tokenizer": _TOKENIZERS,
    "tokenizer_2": _TOKENIZERS,
    "scheduler": tuple(f"{name}Scheduler" for name in _NOISE),
    "safety_checker": ("StableDiffusionSafetyChecker",),
    "feature_extractor": (
        "CLIPFeatureExtractor",
        "CLIPImageProcessor",
        "CLIPImageProcessorFast",
        "CLIPImageProcessorPil",
    ),
    "image_encoder": ("CLIPVisionModelWithProjection",),
}
"""Classes that a folder may name, by part. The last three parts are never read."""
PIPELINES = ("StableDiffusionPipeline", "StableDiffusionInpaintPipeline", "StableDiffusionImg2ImgPipeline")
XL_PIPELINES = ("StableDiffusionXLPipeline", "StableDiffusionXLInpaintPipeline", "StableDiffusionXLImg2ImgPipeline")
ZEROS = "force_zeros_for_empty_prompt"
"""The entry of XL's index that says whether an empty negative prompt is all zeros. It is, unless it says no."""
_XL_INDEX = (ZEROS, "add_watermarker", "requires_aesthetics_score")
REFINER = (
    "is the refiner of Stable Diffusion XL, which goes on from another base's latents and reads one text encoder; "
    "use the base, such as stable-diffusion-xl-base-1.0"
)


def parts_of(folder: Path, index: Mapping[str, Any]) -> tuple[str, ...]:
    """The parts that a folder has to have, by its index or, where that says nothing, by what lies there."""
    named = str(index.get("_class_name", ""))
    xl = named in XL_PIPELINES if named else (folder / SECOND[0]).exists()
    return (*PARTS, *SECOND) if xl or _entry(index, SECOND[0]) else PARTS


def allow(folder: Path, part: str, name: str) -> None:
    """Raise FileProblem for a class that a part may not have."""
    if name not in CLASSES.get(part, ()):
        possible = ", ".join(CLASSES.get(part, ())) or f"no such part, only {', '.join((*PARTS, *SECOND))}"
        raise FileProblem(
            f"{folder} names the class {name} for {part}, which semblant does not read; possible: {possible}. "
            "Use a Stable Diffusion 1.x, 2.x or XL base"
        )


def require_index(folder: Path, index: Mapping[str, Any]) -> None:
    """Raise FileProblem for an index of another pipeline, of unknown classes or, for XL, with unknown settings."""
    named = index.get("_class_name")
    if named in XL_PIPELINES and (index.get("requires_aesthetics_score") or not _entry(index, "text_encoder", True)):
        raise FileProblem(f"{folder} {REFINER}")
    if named is not None and named not in (*PIPELINES, *XL_PIPELINES):
        raise FileProblem(f"{folder} is made for {named}; possible: {', '.join((*PIPELINES, *XL_PIPELINES))} ({INDEX})")
    for part, entry in index.items():
        if isinstance(entry, list) and entry and entry[-1] is not None:
            allow(folder, part, str(entry[-1]))
        elif named in XL_PIPELINES and not isinstance(entry, list) and part[:1] != "_" and part not in _XL_INDEX:
            raise FileProblem(f"{folder} asks in {INDEX} for {part} = {entry!r}, which is not known here")
    if not isinstance(index.get(ZEROS, True), bool):
        raise FileProblem(f"{folder} says {ZEROS} = {index[ZEROS]!r} in {INDEX}, which is true or false")


def require_plain(folder: Path, configs: Mapping[str, Mapping[str, Any]], parts: Sequence[str]) -> None:
    """Raise FileProblem for networks that take more than is given here."""
    unet, vae = configs.get("unet", {}), configs.get("vae", {})
    xl = SECOND[0] in parts
    if "unet" in parts and xl != (unet.get(XL_READS[0]) == XL_READS[1]):
        lacks = "has two text encoders, and its U-Net reads one" if xl else f"lacks {', '.join(SECOND)}"
        raise FileProblem(
            f"{folder} {lacks}: a U-Net with {XL_READS[0]} = {XL_READS[1]!r} (unet/config.json) and two text encoders "
            "are Stable Diffusion XL together"
        )
    for key in BESIDE_THE_PROMPT:
        if unet.get(key) is not None and (key, unet[key]) != XL_READS:
            raise FileProblem(
                f"{folder} has a U-Net that takes more than a prompt ({key} = {unet[key]!r} in unet/config.json); "
                "use a plain Stable Diffusion 1.x, 2.x or XL base"
            )
    for part, config, kind in (("unet", unet, UNet2DConditionModel), ("vae", vae, AutoencoderKL)):
        _require_known(folder, part, config, kind)


_UNHANDLED = ("time_cond_proj_dim", "latents_mean", "latents_std", "shift_factor")
"""Settings of networks that nothing here computes: guidance as an input, and latents that are shifted."""
_NOTES = "decay inv_gamma min_decay optimization_step power update_after_step use_ema_warmup".split()
"""Notes of training scripts in a U-Net's configuration on how its weights were averaged, which change nothing."""


def unfollowed(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a network that ask for what is not followed here."""
    return {key: config[key] for key in _UNHANDLED if config.get(key) not in (None, 0)}


def _require_known(folder: Path, part: str, config: Mapping[str, Any], kind: Any) -> None:
    """Raise FileProblem for a setting that a network's class does not have, or that is not followed here.

    The present classes have every setting that a release of diffusers since 0.2 wrote. What is null asks for nothing,
    and what begins with an underscore is no setting.
    """
    known = (*inspect.signature(kind.__init__).parameters, *_NOTES)
    strange = {k: value for k, value in config.items() if k not in known and k[:1] != "_" and value is not None}
    for key, value in {**strange, **unfollowed(config)}.items():
        raise FileProblem(
            f"{folder} asks in {part}/{CONFIGS[part]} for {key} = {value!r}, which is not followed here; "
            "use a plain Stable Diffusion 1.x, 2.x or XL base"
        )


def _entry(index: Mapping[str, Any], part: str, otherwise: bool = False) -> bool:
    """Whether an index names a class for a part; `otherwise` where it says nothing of the part."""
    entry = index.get(part)
    return otherwise if entry is None else isinstance(entry, list) and bool(entry) and entry[-1] is not None
