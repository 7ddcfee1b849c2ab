"""The protocol of a patch: five kinds of reversible change, each a set of hooks that do nothing unless overridden."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor

if TYPE_CHECKING:
    from semblant.backbones.context import Context, Encoded, Part
    from semblant.backbones.moment import Moment
    from semblant.backbones.site import Site

PatchKind = Literal["words", "weights", "attention", "features", "trajectory"]
Denoise = Callable[..., Tensor]
"""`denoise(x, moment)` or, to condition on something else, `denoise(x, moment, contexts)` -> noise prediction."""


class Patch:
    """A reversible change of a base. Subclass one of the five kinds below and override the hooks you need."""

    kind: ClassVar[PatchKind]

    def hooks(self) -> frozenset[str]:
        """Names of the hooks that this patch really has."""
        parent = next(c for c in type(self).__mro__ if c.__module__ == __name__)
        return frozenset(
            name
            for name in vars(parent)
            if not name.startswith("_") and getattr(type(self), name) is not getattr(parent, name)
        )

    def only(self, rows: Sequence[int]) -> Patch:
        """The patch for a pass of some rows alone, of those it was made for. Whoever holds something per row overrides
        it; for all others it is the patch itself."""
        return self


class WordsPatch(Patch):
    """Changes what a prompt becomes. Touches only prompts that hold its `word` (all prompts when `word` is None)."""

    kind = "words"
    word: str | None = None
    """The placeholder it gives a meaning to."""
    length: int = 1
    """How many token positions the word takes."""
    timed: bool = False
    """Whether its rows depend on the timestep."""
    layered: bool = False
    """Whether its rows depend on the site."""
    split: bool = False
    """Whether keys and values read different rows."""

    def prompt(self, text: str) -> str:
        """Rewrite the prompt before tokenising."""
        return text

    def variant(self, timestep: int, site: Site | None, part: Part) -> Hashable:
        """Which of its meanings holds here; equal variants are encoded once. `site` is None unless `layered`."""
        return ()

    def embed(self, rows: Tensor, encoded: Encoded, variant: Hashable) -> Tensor:
        """Rewrite the input embeddings [tokens, dim] of one prompt; those of two text encoders stand side by side."""
        return rows

    def after(self, encoding: Tensor, encoded: Encoded, variant: Hashable) -> Tensor:
        """Rewrite the text encoding [tokens, dim] of one prompt."""
        return encoding

    def contexts(self, site: Site, moment: Moment, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Choose what a cross-attention site reads as keys and values, each [rows, tokens, dim]."""
        return keys, values


Branch = Callable[[Tensor], Tensor]
"""From inputs of a linear layer [..., in] to what is added to its outputs [..., out]."""


class WeightsPatch(Patch):
    """Changes named parameters of the base while a call runs. Names start with `unet.`, `text.`, `autoencoder.` or, for
    the second text encoder of Stable Diffusion XL, `text_2.`."""

    kind = "weights"

    def select(self, name: str) -> bool:
        """Whether it changes the parameter of this name."""
        return False

    def delta(self, name: str, weight: Tensor) -> Tensor:
        """The parameter to use in place of `weight`."""
        return weight

    def branch(self, name: str) -> Branch | None:
        """What the change of a linear layer's matrix adds to its outputs, where that is less work than making the
        changed matrix: a function of the layer's inputs [..., in]. It is then used in place of `delta`."""
        return None


class AttentionPatch(Patch):
    """Changes what happens inside attention layers. q, k, v are [rows, heads, tokens, dim]."""

    kind = "attention"

    def rewrite(self, site: Site, moment: Moment, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Replace queries, keys, values."""
        return q, k, v

    def bias(self, site: Site, moment: Moment) -> Tensor | None:
        """Something to add to the logits, broadcastable to [rows, heads, queries, keys]."""
        return None

    def reads(self, site: Site, moment: Moment) -> bool:
        """Whether `reweight` wants the explicit map here; elsewhere fused attention runs."""
        return True

    def reweight(self, site: Site, moment: Moment, map: Tensor) -> Tensor:
        """Replace the attention map [rows, heads, queries, keys]."""
        return map

    def add(self, site: Site, moment: Moment, q: Tensor, out: Tensor) -> Tensor:
        """Add a branch to the attended values [rows, heads, queries, dim], before the output projection."""
        return out


class FeaturesPatch(Patch):
    """Changes what enters and flows through the U-Net."""

    kind = "features"
    modules: tuple[str, ...] = ()
    """Names of the U-Net's modules whose output `activation` may replace."""

    def extra(self, x: Tensor, moment: Moment) -> Tensor | None:
        """Channels [rows, n, height, width] to put behind the latent's own."""
        return None

    def residuals(self, x: Tensor, moment: Moment, context: Context) -> tuple[list[Tensor], Tensor] | None:
        """Residuals for the down blocks' outputs and for the middle block's."""
        return None

    def activation(self, module: str, h: Any, moment: Moment) -> Any:
        """Replace the output of one of `modules`."""
        return h


class TrajectoryPatch(Patch):
    """Changes the latent and the prediction at each sampling step."""

    kind = "trajectory"

    def before(self, x: Tensor, moment: Moment) -> Tensor:
        """Replace the latent before it is denoised."""
        return x

    def wrap(self, denoise: Denoise) -> Denoise:
        """Replace the guided denoiser."""
        return denoise

    def after(self, x: Tensor, stepped: Tensor, moment: Moment) -> Tensor:
        """Replace the latent that the solver stepped to."""
        return stepped

    def solve(self, eps_x0: Tensor, eps_dir: Tensor, moment: Moment) -> tuple[Tensor, Tensor]:
        """Give the solver different predictions for the clean latent and for the direction back."""
        return eps_x0, eps_dir
