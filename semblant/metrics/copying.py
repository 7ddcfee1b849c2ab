"""Copy rate: the share of pictures that lie nearer to a training picture than pictures of one person ever lie to each
other.

The distance is perceptual (features of the attribute reader, each place a unit vector, as in LPIPS, arXiv 1801.03924);
the bar is the 1st percentile of distances between different pictures of one person, measured when the judges were
trained.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from semblant.backbones.faces import as_pictures
from semblant.backbones.judges import Judges
from semblant.metrics.detection import AT_ONCE, Seen


@torch.no_grad()
def perceptual_distances(a: Any, b: Any, judges: Judges) -> Float[Tensor, "a b"]:
    """Distance of every picture of `a` to every picture of `b`: 0 for equal pictures, at most 4."""
    features = []
    for images in (a, b):
        pictures = images.images if isinstance(images, Seen) else as_pictures(images).to(judges.strangers.device)
        features.append(torch.cat([judges.attributes.features(part) for part in pictures.split(AT_ONCE)]))
    return torch.cdist(features[0], features[1], compute_mode="donot_use_mm_for_euclid_dist").square()


def copies(images: Any, trained_on: Any, judges: Judges) -> list[bool]:
    """Whether each picture is a copy of one of the training pictures; the mean is the copy rate."""
    nearest = perceptual_distances(images, trained_on, judges).min(1).values
    return (nearest < judges.card["copy_distance"]).tolist()
