"""Masks of a subject where nobody drew one: an ellipse in a face, or what stands out from the edge of the picture."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from semblant.data.faces import Face

SIDE = 96
"""Pixels of the long side at which a picture is looked at: a mask is learned from at a latent's size anyway."""
EDGE = 0.05
"""Width of the edge that is taken for background, as a share of each side."""
NEAREST = 5
"""A colour is as far from the background as the mean of so many of its nearest colours there: one speck is no match."""
LEAST, MOST = 0.03, 0.85
"""Shares of the picture between which a mask is believed."""
MIDDLE = 0.8
"""Axes of the ellipse in the middle, in sides of the picture, that stands in where nothing stands out."""


def ellipse(size: tuple[int, int], face: Face) -> Image.Image:
    """A mask (mode L) that is white in the ellipse that fills the face's box."""
    mask = Image.new("L", size, 0)
    ImageDraw.Draw(mask).ellipse(face.box, fill=255)
    return mask


def share(mask: Image.Image) -> float:
    """How much of a mask is white, 0..1."""
    return float(np.asarray(mask.convert("L"), dtype=np.float64).mean() / 255)


def standing_out(image: Image.Image) -> Image.Image:
    """A mask (mode L) of the largest thing whose colours do not occur along the edge of the picture.

    Distances are Euclidean in CIE Lab, cut by Otsu's threshold (1979). Where that leaves less than 3 or more than 85 %
    of the picture, it is an ellipse in the middle.
    """
    # Imported here: scikit-image takes a while to load, and most runs never look for a mask.
    from scipy.ndimage import binary_fill_holes
    from scipy.spatial.distance import cdist
    from skimage.color import rgb2lab
    from skimage.filters import gaussian, threshold_otsu
    from skimage.measure import label

    small = image.convert("RGB")
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    lab = gaussian(rgb2lab(np.asarray(small)), 1.0, channel_axis=-1)
    rows, columns = lab.shape[:2]
    edge = np.ones((rows, columns), dtype=bool)
    width, height = max(1, round(EDGE * columns)), max(1, round(EDGE * rows))
    edge[height : rows - height, width : columns - width] = False
    colours = lab[edge][::3]
    far = cdist(lab.reshape(-1, 3), colours)
    nearest = np.partition(far, min(NEAREST, far.shape[1] - 1), axis=1)[:, :NEAREST]
    distance = nearest.mean(1).reshape(rows, columns)
    if float(distance.max()) > 1.0:  # one unit is a difference that can just be seen
        apart = label(distance > threshold_otsu(distance))
        counts = np.bincount(apart.ravel())[1:]
        if counts.size:
            found = binary_fill_holes(apart == 1 + int(counts.argmax()))
            if LEAST <= float(found.mean()) <= MOST:
                mask = Image.fromarray(found.astype(np.uint8) * 255)
                return mask.resize(image.size, Image.Resampling.BILINEAR).point(lambda value: 255 * (value >= 128))
    (w, h), rest = image.size, (1 - MIDDLE) / 2
    return ellipse(image.size, Face((rest * w, rest * h, (1 - rest) * w, (1 - rest) * h), 0.0))
