"""What patches do to a network: weights it has instead of its own, and hooks on its modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from semblant.backbones.moment import Moment
from semblant.backbones.patch import Branch, FeaturesPatch, WeightsPatch
from semblant.backbones.twin import Hook


def changed(patches: Sequence[WeightsPatch], name: str, weight: Tensor) -> Tensor:
    """The weight of this canonical name as all patches together leave it."""
    for patch in patches:
        if patch.select(name):
            weight = patch.delta(name, weight)
    return weight


def weights_of(
    part: str, network: nn.Module, patches: Sequence[WeightsPatch]
) -> tuple[dict[str, Tensor], dict[str, list[Hook]]]:
    """The weights a network has instead, and hooks of the linear layers to which every patch adds a branch; both by the
    network's own names. Canonical names begin with `part`."""
    weights: dict[str, Tensor] = {}
    hooks: dict[str, list[Hook]] = {}
    for name, weight in network.named_parameters() if patches else ():
        full = f"{part}.{name}"
        chosen = [patch for patch in patches if patch.select(full)]
        if not chosen:
            continue
        layer = name.removesuffix(".weight")
        linear = layer != name and isinstance(network.get_submodule(layer), nn.Linear)
        branches = [patch.branch(full) if linear else None for patch in chosen]
        if None not in branches:
            hooks[layer] = [_beside(branch) for branch in branches if branch is not None]
        elif (made := changed(chosen, full, weight)) is not weight:
            weights[name] = made
    return weights, hooks


def activations(patches: Sequence[FeaturesPatch], moment: Moment) -> dict[str, list[Hook]]:
    """Hooks of the modules whose outputs patches change, in the order of the patches."""
    hooks: dict[str, list[Hook]] = {}
    for patch in patches:
        for name in patch.modules:
            hooks.setdefault(name, []).append(_activation(patch, name, moment))
    return hooks


def together(first: Mapping[str, Sequence[Hook]], then: Mapping[str, Sequence[Hook]]) -> dict[str, list[Hook]]:
    """Hooks by module, those of `first` before those of `then`."""
    return {name: [*first.get(name, ()), *then.get(name, ())] for name in first.keys() | then.keys()}


def _beside(branch: Branch) -> Hook:
    return lambda _module, inputs, out: out + branch(inputs[0]).to(out)


def _activation(patch: FeaturesPatch, name: str, moment: Moment) -> Hook:
    return lambda _module, _inputs, h: patch.activation(name, h, moment)
