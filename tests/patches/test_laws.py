"""The laws of patches, over one small example of each kind."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from semblant.backbones.base import Base
from semblant.backbones.loading import miniature
from semblant.backbones.moment import Moment
from semblant.backbones.patch import AttentionPatch, FeaturesPatch, Patch, TrajectoryPatch
from semblant.patches.attention import Branch, Recorder
from semblant.patches.features import Residuals
from semblant.patches.weights import LowRank, Offsets
from semblant.patches.words import LearnedWord
from semblant.sampling.loop import Branches, sample_latents

KEY = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"
TEXT = "text.encoder.layers.0.self_attn.q_proj.weight"
DECODER = "autoencoder.decoder.conv_out.weight"


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Sharper(AttentionPatch):
    """Raises attention maps to a power."""

    def __init__(self, strength: float) -> None:
        self.strength = strength

    def reweight(self, site, moment, map):
        sharp = map ** (1 + self.strength)
        return sharp / sharp.sum(-1, keepdim=True)


class Louder(FeaturesPatch):
    """Scales what the middle block answers."""

    modules = ("mid_block", "up_blocks.0.resnets.0")

    def __init__(self, strength: float) -> None:
        self.strength = strength

    def activation(self, module, h, moment):
        return h * (1 + self.strength)


class Push(TrajectoryPatch):
    """Moves the latent at every hook, and the direction away from the clean prediction."""

    def __init__(self, strength: float) -> None:
        self.strength = strength

    def before(self, x, moment):
        return x + 0.01 * self.strength

    def wrap(self, denoise):
        return lambda x, moment: denoise(x, moment) * (1 + 0.01 * self.strength)

    def after(self, x, stepped, moment):
        return stepped * (1 + 0.01 * self.strength)

    def solve(self, eps_x0, eps_dir, moment):
        return eps_x0, eps_dir + 0.01 * self.strength


def weight(base: Base, name: str) -> Tensor:
    return dict(base.named_parameters())[name]


def branch(base: Base, strength: float) -> Branch:
    def keys_values(site, moment):
        if site.kind != "cross":
            return None
        tokens = drawn(len(moment.role), 3, base.width, seed=1)[:1].expand(len(moment.role), -1, -1)
        return site.keys(tokens), site.values(tokens)

    return Branch(keys_values, strength)


def residuals(base: Base, strength: float) -> Residuals:
    channels, layers, side = base.unet.config.block_out_channels, base.unet.config.layers_per_block, 8
    skips = [(channels[0], side, side)]
    for level, wide in enumerate(channels):
        skips += [(wide, side, side)] * layers
        if level < len(channels) - 1:
            side //= 2
            skips.append((wide, side, side))
    down, mid = [0.3 * drawn(1, *s, seed=2) for s in skips], 0.3 * drawn(1, channels[-1], side, side, seed=2)
    return Residuals(lambda x, moment, context: (down, mid), strength)


def low_rank(base: Base, strength: float, name: str = KEY) -> LowRank:
    out, wide = weight(base, name).shape
    return LowRank({name: (0.3 * drawn(out, 2, seed=3), drawn(2, wide, seed=4))}, strength)


def word(base: Base, strength: float) -> LearnedWord:
    return LearnedWord("<v>", drawn(1, 1, 2, 1, base.width, seed=5), base.token_row("dog"), strength=strength)


@dataclass(frozen=True)
class Row:
    """`make(base, strength)`; strength 0 is neutral: the picture of `plain`."""

    name: str
    kind: str
    make: Callable[[Base, float], Patch]
    plain: str = "a photo of a person"
    prompt: str = "a photo of a person"


ROWS = [
    Row("learned word", "words", word, "a photo of dog", "a photo of <v>"),
    Row("low rank", "weights", low_rank),
    Row("low rank in the text", "weights", lambda base, strength: low_rank(base, strength, TEXT)),
    Row("offsets", "weights", lambda base, s: Offsets({KEY: 0.3 * torch.randn_like(weight(base, KEY))}, s)),
    Row("sharper maps", "attention", lambda base, strength: Sharper(strength)),
    Row("branch", "attention", branch),
    Row("activations", "features", lambda base, strength: Louder(strength)),
    Row("residuals", "features", residuals),
    Row("push", "trajectory", lambda base, strength: Push(strength)),
]
each = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


@pytest.fixture(scope="module")
def base() -> Base:
    return miniature()


def make(view: Base, prompt: str = "a photo of a person", seed: int = 7) -> Tensor:
    return sample_latents(view, drawn(1, 4, 8, 8, seed=seed), Branches.of(view.text(prompt), view.text("")), steps=3)


def near(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> bool:
    return bool((a - b).abs().max() <= tolerance * b.abs().max())


@each
def test_every_kind_is_named(row, base):
    assert row.make(base, 1.0).kind == row.kind


@each
def test_taken_off_it_leaves_no_trace(row, base):
    before, hashes = make(base), base.hashes()
    torch.manual_seed(0)
    view = base.patched(row.make(base, 1.0))
    assert not near(make(view, row.prompt), make(base, row.plain), 1e-4), "it has no effect"
    assert torch.equal(make(base), before)
    assert base.hashes() == hashes == view.hashes()
    assert not any(
        m._forward_hooks or m._forward_pre_hooks for part in (base.unet, base.text_encoder) for m in part.modules()
    )


@each
def test_neutral_strength_is_the_base(row, base):
    assert near(make(base.patched(row.make(base, 0.0)), row.prompt), make(base, row.plain))


@each
def test_it_comes_off_after_an_error_too(row, base):
    class Broken(AttentionPatch):
        def rewrite(self, site, moment, q, k, v):
            raise ArithmeticError("on purpose")

    before = make(base)
    with pytest.raises(ArithmeticError):
        make(base.patched(row.make(base, 1.0), Broken()), row.prompt)
    assert torch.equal(make(base), before)


@each
def test_it_composes_with_low_rank(row, base):
    torch.manual_seed(0)
    patch, other = row.make(base, 1.0), low_rank(base, 1.0, KEY.replace("mid_block", "up_blocks.1"))
    both = make(base.patched(patch, other), row.prompt)
    assert torch.isfinite(both).all()
    assert not near(both, make(base.patched(patch), row.prompt), 1e-4)
    assert not near(both, make(base.patched(other), row.plain), 1e-4)


FIVE = [ROWS[0], ROWS[1], ROWS[5], ROWS[7], ROWS[8]]


def test_nested_views_keep_both(base):
    patches = [row.make(base, 1.0) for row in FIVE]
    view = base
    for patch in patches:
        view = view.patched(patch)
    assert torch.equal(make(view, "a photo of <v>"), make(base.patched(*patches), "a photo of <v>"))
    for gone in range(5):
        rest = [patch for i, patch in enumerate(patches) if i != gone]
        prompt = "a photo of <v>" if gone else "a photo of dog"
        assert not near(make(base.patched(*rest), prompt), make(view, "a photo of <v>"), 1e-4)


def test_the_order_of_attachment_across_kinds_is_irrelevant(base):
    patches = [row.make(base, 1.0) for row in FIVE]
    expected = make(base.patched(*patches), "a photo of <v>")
    for order in itertools.islice(itertools.permutations(patches), 0, None, 29):
        assert torch.equal(make(base.patched(*order), "a photo of <v>"), expected)


@pytest.mark.parametrize("pair", [(0, 1), (1, 2), (3, 6), (2, 0), (4, 7)])
def test_threads_with_views_of_one_base_do_not_meet(pair, base):
    """Each thread's pictures are those it makes alone, beside other views and the plain base."""
    torch.manual_seed(0)
    views = [(base, "a photo of dog")]
    views += [(base.patched(ROWS[i].make(base, 1.0)), ROWS[i].prompt) for i in pair]
    alone = [make(view, prompt) for view, prompt in views]
    wrong: list[int] = []

    def work(i: int) -> None:
        for _ in range(3):
            if not torch.equal(make(*views[i]), alone[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(views))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("name", [DECODER, "autoencoder.encoder.conv_in.weight"])
def test_weights_of_the_autoencoder_can_be_patched(base, name):
    picture = drawn(1, 3, 16, 16)
    round_trip = lambda view: view.decode(view.encode(picture))
    patched = base.patched(Offsets({name: drawn(*weight(base, name).shape)}))
    before = round_trip(base)
    assert not near(round_trip(patched), before, 1e-3)
    assert torch.equal(round_trip(base), before)


def test_gradient_checkpointing_sees_what_the_forward_pass_saw():
    """It runs layers again in the backward pass, when the call is over: with the same weights, hooks and records."""
    gradients = []
    for checkpointing in (False, True):
        base = miniature()
        if checkpointing:
            base.unet.enable_gradient_checkpointing()
        learned = {
            "offset": torch.zeros_like(weight(base, KEY)).requires_grad_(),
            "table": drawn(1, 1, 2, 1, base.width).requires_grad_(),
        }
        view = base.patched(
            Recorder(),
            Louder(0.5),
            Offsets({KEY: learned["offset"]}),
            LearnedWord("<v>", learned["table"], base.token_row("dog")),
        )
        moment = Moment.of(torch.tensor([400]))
        out = view.denoise(drawn(1, 4, 8, 8), moment, view.text("a photo of <v>"))
        maps = moment.recorded("map")
        assert len(maps) == 7
        loss = (out - drawn(1, 4, 8, 8, seed=1)).square().mean() + sum((m**2).mean() for m in maps)
        gradients.append(torch.autograd.grad(loss, learned.values()))
        assert len(moment.recorded("map")) == 7
    for stock, again in zip(*gradients, strict=True):
        assert stock.abs().max() > 0
        assert torch.allclose(stock, again, rtol=1e-5, atol=1e-8)
