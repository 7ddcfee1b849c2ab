"""Who looks for faces in the pictures of a subject: on the embedded base a detector of drawn faces goes first."""

from __future__ import annotations

import logging

from PIL import Image

from semblant.backbones.base import Base
from semblant.backbones.faces import SIZE, as_pictures
from semblant.backbones.judges import Detector as Network
from semblant.backbones.judges import load, weights_folder
from semblant.data.faces import Detector, Face, find_faces
from semblant.errors import FileProblem

logger = logging.getLogger(__name__)


def finder(base: Base) -> Detector:
    """What finds faces in a subject's pictures for this base.

    On the embedded base it is the detector of drawn faces, and the one for photographs where that finds nothing.
    """
    if base.architecture != "embedded":
        return find_faces
    try:
        network = load(weights_folder() / "detector.safetensors", base.device)
    except FileProblem as problem:
        logger.warning("drawn faces may go unseen: %s", problem)
        return find_faces
    assert isinstance(network, Network)
    return lambda image: drawn_faces(image, network) or find_faces(image)


def drawn_faces(image: Image.Image, network: Network) -> list[Face]:
    """The faces that the detector of drawn faces finds, in pixels of the picture, largest first."""
    found = network.detect(as_pictures(image).to(next(network.parameters()).device))[0]
    # The network looks at a square of 128 pixels, padded evenly on the shorter sides.
    side = max(image.size)
    left, top, scale = (side - image.width) // 2, (side - image.height) // 2, side / SIZE
    faces = []
    for face in found:
        x0, y0, x1, y1 = (value * scale for value in face.box)
        # The network may place a box partly beside the picture.
        box = (max(x0 - left, 0.0), max(y0 - top, 0.0), min(x1 - left, image.width), min(y1 - top, image.height))
        if box[2] > box[0] and box[3] > box[1]:
            faces.append(Face((box[0], box[1], float(box[2]), float(box[3])), face.score, head=True))
    return sorted(faces, key=lambda face: -face.width * face.height)
