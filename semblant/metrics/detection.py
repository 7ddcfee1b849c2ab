"""Detect: the share of pictures in which at least one face is found.

Part of the Detect / ID / ID(Prompt) suite (Celeb-Basis, arXiv 2306.00926). Other measures build on what is found here:
a picture without a face is never dropped from them, it counts as a stranger or as zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from semblant.backbones.faces import Face, Frame, as_pictures, frame_of, largest
from semblant.backbones.judges import Judges

AT_ONCE = 64


@dataclass(frozen=True)
class Seen:
    """Pictures with the faces found in them, so that several measures look only once."""

    images: Float[Tensor, "n 3 s s"]
    faces: list[list[Face]]
    frames: Frame
    """Around the largest face of each picture."""
    identities: list[Float[Tensor, "faces dim"]]
    """Identity vectors of all faces of each picture."""

    def __len__(self) -> int:
        return len(self.faces)


@torch.no_grad()
def look(images: Any, judges: Judges) -> Seen:
    """Find the faces in PIL pictures or tensors (0..1) and who they are; what was looked at is returned as it is."""
    if isinstance(images, Seen):
        return images
    pictures = as_pictures(images).to(judges.strangers.device)
    faces: list[list[Face]] = []
    identities: list[Tensor] = []
    for part in pictures.split(AT_ONCE):
        found, vectors = judges.identities(part)
        faces += found
        identities += vectors
    frames = torch.cat([frame_of(largest(found), pictures.shape[-1]) for found in faces]).to(pictures)
    return Seen(pictures, faces, frames, identities)


def detection(images: Any, judges: Judges) -> list[bool]:
    """Whether a face is found, per picture; the mean is Detect."""
    return [bool(faces) for faces in look(images, judges).faces]
