"""Names of the forms that a base can have, told from the sizes of its U-Net."""

from __future__ import annotations

XL = "sdxl"
"""The form with two text encoders, whose U-Net also reads a prompt as a whole and how a picture came to its size."""
ARCHITECTURES = {192: "embedded", 768: "sd-1", 1024: "sd-2", 2048: XL}
"""Architectures by the width of their text encodings."""
INPAINTING = 5
"""Channels that an inpainting U-Net takes beside the latent: a mask, and the latent of what the mask leaves."""


def architecture_of(width: int, extra_channels: int = 0, xl: bool | None = None) -> str:
    """The name of an architecture: sd-1, sd-2, sdxl, sd-1-inpainting; `sd-1-plus-4` takes four channels beside the
    latent. `xl` says whether it has the form of Stable Diffusion XL; None: where its width is that."""
    known = ARCHITECTURES.get(width)
    if xl is not None and xl != (known == XL):
        known = XL if xl else None
    plain = known or f"width-{width}"
    if extra_channels == 0:
        return plain
    return f"{plain}-inpainting" if extra_channels == INPAINTING else f"{plain}-plus-{extra_channels}"


def is_xl(architecture: str) -> bool:
    """Whether it is the name of an architecture in the form of Stable Diffusion XL."""
    return architecture == XL or architecture.startswith(f"{XL}-")
