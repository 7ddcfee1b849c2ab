"""Sentences that pictures of a subject are shown under while it is learned; `{}` is where its word goes."""

from __future__ import annotations

import re

SEFI_TEMPLATES = (
    "a photo of a face of {}",
    "a photo of a rendering of a face of {}",
    "a close-up photo of the face of {}",
    "a photo of the cool face of {}",
    "a rendition of the face of {}",
    "an illustration of a face of {}",
    "a depiction of a face of {}",
)
"""SeFi-IDE (arXiv 2402.00631). All say "face of": the base already knows where the face of a person goes."""

IMAGENET_TEMPLATES = (
    "a photo of a {}",
    "a rendering of a {}",
    "a cropped photo of the {}",
    "the photo of a {}",
    "a photo of a clean {}",
    "a photo of a dirty {}",
    "a dark photo of the {}",
    "a photo of my {}",
    "a photo of the cool {}",
    "a close-up photo of a {}",
    "a bright photo of the {}",
    "a cropped photo of a {}",
    "a photo of the {}",
    "a good photo of the {}",
    "a photo of one {}",
    "a close-up photo of the {}",
    "a rendition of the {}",
    "a photo of the clean {}",
    "a rendition of a {}",
    "a photo of a nice {}",
    "a good photo of a {}",
    "a photo of the nice {}",
    "a photo of the small {}",
    "a photo of the weird {}",
    "a photo of the large {}",
    "a photo of a cool {}",
    "a photo of a small {}",
)
"""Textual Inversion (arXiv 2208.01618), a choice from CLIP's sentences for ImageNet."""


def without_face(template: str) -> str:
    """The template for a subject that is no face: "a rendition of the face of {}" becomes "a rendition of {}".

    An adjective stays, with its article: "the cool face of {}" becomes "the cool {}". Others come back unchanged.
    """
    found = re.search(r"\b(a|the) (?:(\w+) )?face of (?={})", template)
    if found is None:
        return template
    article, adjective = found.groups()
    return template[: found.start()] + (f"{article} {adjective} " if adjective else "") + template[found.end() :]
