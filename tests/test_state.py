import dataclasses

import pytest
import torch
from torch import nn

from cubslib import recipes, state
from cubslib.blocks import CubsBlock2
from cubslib.models import cubs_resnet18
from cubslib.muon import SCALE

RECIPE = dataclasses.replace(recipes.recipe("recognition", "sample"), lr=0.01, weight_decay=0.1)


def test_gate_weights_learn_by_their_fan_in_and_all_else_at_the_full_rate():
    model = cubs_resnet18(3, "serial_12")
    groups = state._optimizer(model, RECIPE).param_groups
    found = {
        id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]
    }
    for name, p in model.named_parameters():
        gate = ".channel." in name or ".spatial." in name
        rate = 0.01 / p.shape[1] if gate and p.ndim > 1 else 0.01
        assert found.pop(id(p)) == pytest.approx((rate, 0.1 if p.ndim > 1 else 0.0)), name
    assert not found


def test_muon_is_for_kernels_that_mix_channels():
    recipe = dataclasses.replace(RECIPE, optimizer="muon")
    model = cubs_resnet18(3, "serial_12")
    groups = state._optimizer(model, recipe).param_groups
    kernels = [group for group in groups if group["orthogonal"]]
    moved = {id(p): group["lr"] for group in kernels for p in group["params"]}
    for name, p in model.named_parameters():
        gate = ".channel." in name or ".spatial." in name
        assert (id(p) in moved) == (p.ndim == 4 and name != "conv1.weight" and not gate), name
    assert min(moved.values()) == max(moved.values()) == pytest.approx(SCALE * recipe.lr)


@pytest.mark.parametrize("optimizer", ["sgd", "muon", "adamw"])
@pytest.mark.parametrize("channels", [8, 512])
def test_a_step_moves_a_gate_as_far_whatever_its_channels(optimizer, channels):
    torch.manual_seed(0)
    recipe = dataclasses.replace(RECIPE, optimizer=optimizer, weight_decay=0.0)
    block, x = CubsBlock2(channels), torch.rand(2, channels, 4, 4)
    model = nn.ModuleDict({"layer": nn.ModuleDict({"attention": block})})
    step = state._optimizer(model, recipe)
    before = block.gate(x).logit().mean()
    before.backward()
    step.step()
    moved = (before - block.gate(x).logit().mean()).item() / recipe.lr
    assert 1 < moved < 3.5  # at the full rate, 512 channels: over 200
