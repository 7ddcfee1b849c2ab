"""The sampling loop: guidance, batches, hooks, inversion."""

from __future__ import annotations

import pytest
import torch

from semblant.backbones.loading import miniature
from semblant.backbones.patch import AttentionPatch, FeaturesPatch, TrajectoryPatch
from semblant.patches.weights import Offsets
from semblant.patches.words import LearnedWord
from semblant.sampling.loop import Branches, ddim_invert, guided, noise, optimise_step, sample_latents
from semblant.sampling.solvers import SOLVERS, ddim, points


@pytest.fixture(scope="module")
def base():
    return miniature()


def near(a, b, tolerance=1e-5):
    return bool((a - b).abs().max() <= tolerance * b.abs().max())


PROMPTS = ["a photo of a dog", "the beach", "a old cup"]


@pytest.mark.parametrize("solve", SOLVERS)
def test_picture_k_of_n_is_picture_k_alone(base, solve):
    x = noise(base, [3, 4, 5], (16, 16))
    branches = Branches.of(base.text(PROMPTS), base.text(""))
    guidance = [7.5, 1.0, 3.0]
    together = sample_latents(base, x, branches, steps=4, guidance=guidance, solve=solve)
    for k, prompt in enumerate(PROMPTS):
        own = Branches.of(base.text(prompt), base.text(""))
        start = noise(base, [3 + k], (16, 16))
        alone = sample_latents(base, start, own, steps=4, guidance=guidance[k], solve=solve)
        assert near(together[k : k + 1], alone)


def test_a_prompt_given_twice_is_one_prompt(base):
    """Equal prompts are encoded once, and each row reads what it should."""
    counts = []
    hook = base.text_encoder.register_forward_pre_hook(
        lambda _m, _a, kwargs: counts.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    x = noise(base, [1, 1, 1], (16, 16))
    branches = Branches.of(base.text(["a dog", "a cup", "a dog"]), base.text(""))
    made = sample_latents(base, x, branches, steps=3)
    view = base.patched(LearnedWord("<v>", torch.randn(1, 7, 1, 1, base.width), base.token_row("dog")))
    sample_latents(view, x, Branches.of(view.text(["a <v>"] * 3), view.text("")), steps=3)
    hook.remove()
    assert counts == [3, 8]
    assert near(made[0], made[2]) and not near(made[0], made[1], 1e-3)


def test_guidance_1_is_the_condition_alone_and_0_the_null(base):
    x = noise(base, [0], (16, 16))
    make = lambda prompt, null, guidance: sample_latents(
        base, x, Branches.of(base.text(prompt), base.text(null)), steps=3, guidance=guidance
    )
    assert torch.equal(make("a dog", "", 1.0), make("a dog", "a cup", 1.0))
    assert near(make("a dog", "a cup", 0.0), make("a cup", "", 1.0))
    assert not near(make("a dog", "a cup", 7.5), make("a dog", "", 7.5), 1e-3)


@torch.no_grad()
def test_guidance_moves_from_null_towards_the_condition(base):
    x, branches = noise(base, [0, 1], (16, 16)), Branches.of(base.text(["a dog", "a cup"]), base.text("the beach"))
    moment = branches.moment(500, 1, 4, x.device)
    conditional = base.denoise(x, moment, branches.conditional)
    null = base.denoise(x, moment, branches.null)
    for scale in ([7.5, 2.0], [1.0, 1.0], [1.0, 4.0]):
        expected = null + torch.tensor(scale).view(2, 1, 1, 1) * (conditional - null)
        assert near(guided(base, branches, scale)(x, moment), expected)
    assert near(guided(base, branches, 3.0)(x, moment), null + 3 * (conditional - null))


def test_hooks_know_the_half_the_row_and_the_step(base):
    seen = []

    class Watch(AttentionPatch):
        def rewrite(self, site, moment, q, k, v):
            if site == base.sites[0]:
                seen.append(
                    (moment.step, moment.steps, int(moment.timestep[0]), moment.guidance, moment.role, moment.picture)
                )
            return q, k, v

    branches = Branches.of(base.text(["a", "a"]), base.text(""), ["source", "target"], [0, 0])
    sample_latents(base.patched(Watch()), noise(base, [0, 0], (16, 16)), branches, steps=4, start=2)
    labels = ("null", "null", "conditional", "conditional"), ("source", "target") * 2, (0,) * 4
    assert seen == [(2, 4, 251, *labels), (3, 4, 1, *labels)]


def test_trajectory_hooks_run_in_order_and_are_obeyed(base):
    calls = []

    class Named(TrajectoryPatch):
        def __init__(self, name):
            self.name = name

        def before(self, x, moment):
            calls.append(f"before {self.name}")
            return x

        def wrap(self, denoise):
            def wrapped(x, moment):
                calls.append(f"wrap {self.name}")
                return denoise(x, moment)

            return wrapped

        def solve(self, eps_x0, eps_dir, moment):
            calls.append(f"solve {self.name}")
            return eps_x0, torch.zeros_like(eps_dir)

        def after(self, x, stepped, moment):
            calls.append(f"after {self.name}")
            return stepped

    x, branches = noise(base, [0], (16, 16)), Branches.of(base.text("a dog"), base.text(""))
    made = sample_latents(base.patched(Named("a"), Named("b")), x, branches, steps=1)
    assert calls == "before a,before b,wrap b,wrap a,solve a,solve b,after a,after b".split(",")
    (point,) = points(base.schedule, 1)
    eps = guided(base, branches, 7.5)(x, branches.moment(1, 0, 1, x.device)).detach()
    assert near(made, ddim(point, x, eps, torch.zeros_like(eps), []))


def test_progress_reports_the_clean_prediction(base):
    heard = []
    branches = Branches.of(base.text("a dog"), base.text(""))
    made = sample_latents(
        base, noise(base, [0], (16, 16)), branches, steps=3, solve="euler", progress=lambda *args: heard.append(args)
    )
    assert [(step, steps) for step, steps, _ in heard] == [(1, 3), (2, 3), (3, 3)]
    assert torch.equal(heard[-1][2], made), "Euler ends at the clean prediction"


def test_noise_is_each_pictures_own(base):
    a, b = noise(base, [7, 8], (16, 24)), noise(base, [8], (16, 24))
    assert a.shape == (2, 4, 8, 12) and torch.equal(a[1:], b) and not torch.equal(a[0], a[1])


class Calm(FeaturesPatch):
    """Makes a random network smooth enough to be followed in few steps: its answers are a tenth."""

    modules = ("conv_out",)

    def activation(self, module, h, moment):
        return 0.1 * h


@torch.no_grad()
def test_a_step_of_sampling_undoes_a_step_of_inversion(base):
    """With the prediction that the inversion took: where it came from, at the timestep it went to."""
    x0 = 0.5 * torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    branches = Branches.of(base.text(["a dog", "a cup"]), base.text("the beach"))
    for guidance in (1.0, 3.0):
        path = ddim_invert(base, x0, branches, steps=4, guidance=guidance)
        assert len(path) == 5 and torch.equal(path[4], x0)
        for k, point in enumerate(points(base.schedule, 4)):
            eps = guided(base, branches, guidance)(path[k + 1], branches.moment(point.t, k, 4, x0.device))
            assert near(ddim(point, path[k], eps, eps, []), path[k + 1])


def test_inversion_and_back(base):
    base = base.patched(Calm())
    x0 = 0.5 * torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    branches = Branches.of(base.text(["a dog"]), base.text(""))

    def error(steps, start=0):
        path = ddim_invert(base, x0, branches, steps=steps)
        back = sample_latents(base, path[start], branches, steps=steps, guidance=1.0, start=start)
        return float((back - x0).norm() / x0.norm())

    coarse, fine = error(8), error(24)
    assert fine < 0.075 and fine < 0.85 * coarse
    assert error(24, start=18) < 0.5 * fine, "less noise, less to go wrong"


def test_a_run_encodes_anew_what_changed_since_the_last(base):
    x, rows = noise(base, [0], (16, 16)), torch.randn(1, 1, 1, 1, base.width)
    view = base.patched(LearnedWord("<v>", rows, base.token_row("dog")))
    branches = Branches.of(view.text("a <v>"), view.text(""))
    first = sample_latents(view, x, branches, steps=2)
    rows.copy_(torch.randn(1, 1, 1, 1, base.width))
    assert not near(sample_latents(view, x, branches, steps=2), first, 1e-4)


def test_text_weights_hold_for_prompts_of_an_earlier_run(base):
    name = "text.encoder.layers.0.self_attn.v_proj.weight"
    view = base.patched(Offsets({name: torch.randn(base.width, base.width)}))
    x, branches = noise(base, [0], (16, 16)), Branches.of(base.text("a dog"), base.text(""))
    first = sample_latents(base, x, branches, steps=2)
    assert not near(sample_latents(view, x, branches, steps=2), first, 1e-4)
    assert torch.equal(sample_latents(base, x, branches, steps=2), first)


def test_optimise_step_stops_when_it_is_enough(base):
    asked = []

    def loss(value):
        asked.append(1)
        return (value - 3).square().sum()

    with torch.no_grad():
        start = torch.zeros(2)
        near_enough = optimise_step(start, loss, steps=500, lr=0.1, enough=0.1)
    assert len(asked) < 500 and (near_enough - 3).square().sum() < 0.1
    assert torch.equal(start, torch.zeros(2)) and not near_enough.requires_grad
    assert torch.equal(optimise_step(start, loss, steps=0, lr=0.1), start)
