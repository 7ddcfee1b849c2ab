"""Low-rank changes of layers, whatever file they come from: joined from their halves, checked, and rescaled."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from torch import Tensor

from semblant.errors import FileProblem

Side = Literal["up", "down"]
LISTED = 4
"""Names that a message lists."""
_SWAPPED = {"A": "B", "B": "A", "up": "down", "down": "up"}
_SIDE = re.compile(r"(?<=[._])(?:A|B|up|down)(?=\.(?:\w+\.)?weight$)")
_KNOWN_STRANGERS = (
    (r"dora_scale|lora_magnitude_vector", "DoRA, which scales whole rows of a weight beside changing it"),
    (r"hada_|lokr_|oft_", "LyCORIS, whose changes are no product of two matrices"),
    (r"lora_mid|lora_embedding", "a decomposition in more than two matrices, or one of token embeddings"),
    (r"\.bias$|\.diff", "changes of biases or whole weights beside low-rank ones"),
    (r"^(?:lora_)?transformer|(?:double|single)_(?:transformer_)?blocks|^diffusion_model", "another architecture"),
)


@dataclass(frozen=True)
class Layer:
    """A change of one weight: alpha / rank times `up` @ `down`.

    Matrices are `up` [out, rank] and `down` [rank, in]. Of a convolution `up` is [out, rank, 1, 1] and `down`
    [rank, in, height, width].
    """

    up: Tensor
    down: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        """Rows of `down`, columns of `up`."""
        return int(self.down.shape[0])

    @property
    def scale(self) -> float:
        """What `up` @ `down` is multiplied by."""
        return self.alpha / self.rank

    def with_alpha(self, alpha: float) -> Layer:
        """The same change under another alpha; what differs goes into `up`, which stays as it is when nothing does."""
        if same(self.alpha, alpha):
            return replace(self, alpha=alpha)
        return Layer(self.up * (self.alpha / alpha), self.down, alpha)


class Half(NamedTuple):
    """One of a layer's two matrices, as a file has it."""

    key: str
    place: str
    side: Side
    tensor: Tensor


def same(one: float, other: float) -> bool:
    """Whether two alphas are one number, up to the rounding of single precision."""
    return math.isclose(one, other, rel_tol=1e-6)


def usual(values: Iterable[float]) -> float:
    """The value that most have, other than 0 unless there is no other."""
    counted = Counter(values)
    return max(counted, key=lambda value: (value != 0, counted[value]))


def joined(halves: Iterable[Half], file: str) -> dict[str, tuple[Tensor, Tensor]]:
    """`up` and `down` in single precision by place.

    Raises FileProblem, naming the tensor, for a half without the other, a place that is there twice, shapes that do not
    fit together, whole numbers, NaN and infinity.
    """
    found: dict[str, dict[str, Half]] = {}
    for half in halves:
        sides = found.setdefault(half.place, {})
        if half.side in sides:
            raise FileProblem(f"{file} has {half.place} twice, as {sides[half.side].key} and as {half.key}")
        require_usable(half.key, half.tensor, file)
        sides[half.side] = half
    made = {}
    for sides in found.values():
        if len(sides) == 1:
            [half] = sides.values()
            missing = _SIDE.sub(lambda match: _SWAPPED[match[0]], half.key)
            raise FileProblem(f"{file} lacks {missing}, without which {half.key} means nothing")
        _require_fitting(sides["up"], sides["down"], file)
        made[sides["up"].place] = (sides["up"].tensor.float(), sides["down"].tensor.float())
    return made


def require_usable(key: str, tensor: Tensor, file: str) -> None:
    """Raise FileProblem for a tensor of whole numbers, or with NaN or infinity."""
    if not tensor.is_floating_point():
        kind = str(tensor.dtype).removeprefix("torch.")
        raise FileProblem(f"{file} has {key} in {kind}, and only floating-point numbers can be learned weights")
    if not bool(tensor.float().isfinite().all()):
        raise FileProblem(f"{file} is unusable: {key} holds NaN or infinity")


def require_known(unknown: Iterable[str], form: str, file: str) -> None:
    """Raise FileProblem when there are tensors that a form does not have, naming them and what they seem to be."""
    names = sorted(unknown)
    if not names:
        return
    kinds = [kind for pattern, kind in _KNOWN_STRANGERS if any(re.search(pattern, name) for name in names)]
    what = f" ({kinds[0]})" if kinds else ""
    raise FileProblem(
        f"{file} is not converted, because nothing may be dropped, and a LoRA for Stable Diffusion 1.x, 2.x or XL in "
        f"{form} form has nothing called {listed(names)}{what}"
    )


def listed(names: list[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def _require_fitting(up: Half, down: Half, file: str) -> None:
    shapes = [tuple(half.tensor.shape) for half in (up, down)]
    sides = {len(shape) for shape in shapes}
    fits = sides in ({2}, {4}) and shapes[0][1] == shapes[1][0] > 0 and shapes[0][2:] in ((), (1, 1))
    if not fits:
        raise FileProblem(
            f"{file} has {up.key} {list(shapes[0])} and {down.key} {list(shapes[1])}, which do not fit together; "
            "they are [out, rank] and [rank, in], of convolutions [out, rank, 1, 1] and [rank, in, height, width]"
        )


def alphas_of_ranks(pairs: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Alpha as it is where a file says nothing of it: the rank, so that changes count once."""
    return {place: float(down.shape[0]) for place, (_, down) in pairs.items()}
