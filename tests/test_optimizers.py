import dataclasses

import pytest
import torch
from torch import nn

from cubslib import optimizers, recipes
from cubslib.blocks import CubsBlock2
from cubslib.models import cubs_resnet18
from cubslib.optimizers import MOMENTUM, SCALE, Muon, orthogonal

RECIPE = dataclasses.replace(recipes.recipe("recognition", "sample"), lr=0.01, weight_decay=0.1)


@pytest.mark.parametrize("shape", [(8, 40), (40, 8), (16, 16), (1, 5)])
def test_singular_values_become_about_one_and_vectors_stay(shape):
    matrix = torch.randn(shape, generator=torch.manual_seed(0), dtype=torch.float64)
    made = orthogonal(matrix)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    inner = left.T @ made @ right.T
    assert ((inner.diagonal() > 0.6) & (inner.diagonal() < 1.3)).all()
    assert (inner - inner.diagonal().diag()).abs().max() < 1e-9


def test_a_gradient_of_low_rank_keeps_its_digits():
    """Singular values from 1 to 1e-3, in float32, against a plain iteration in float64."""
    torch.manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(n, 24, dtype=torch.float64))[0] for n in (24, 90))
    matrix = left @ torch.logspace(0, -3, 24, dtype=torch.float64).diag() @ right.T
    expected = matrix / matrix.norm()
    for _ in range(5):
        gram = expected @ expected.T
        expected = 3.4445 * expected + (-4.7750 * gram + 2.0315 * gram @ gram) @ expected
    torch.testing.assert_close(orthogonal(matrix), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(orthogonal(matrix.float()).double(), expected, atol=1e-3, rtol=0)


def test_no_gradient_gives_no_step():
    assert (orthogonal(torch.zeros(3, 4)) == 0).all()


def test_steps_are_those_of_a_loop():
    """Kernels by their orthogonal momentum, a tall one further; all else as SGD does it."""
    torch.manual_seed(0)
    kernels = [nn.Parameter(torch.randn(6, 2, 3, 3)), nn.Parameter(torch.randn(32, 2, 2, 2))]
    bias = nn.Parameter(torch.randn(6))
    twin = nn.Parameter(bias.detach().clone())
    expected = [kernel.detach().double() for kernel in kernels]
    momenta = [torch.zeros_like(x) for x in expected]
    groups = [
        {"params": kernels, "lr": 0.1, "weight_decay": 0.5, "orthogonal": True},
        {"params": [bias], "lr": 0.3, "weight_decay": 0.1, "orthogonal": False},
    ]
    optimizer = Muon(groups)
    plain = torch.optim.SGD([twin], 0.3, momentum=0.9, nesterov=True, weight_decay=0.1)
    for _ in range(3):
        for parameter in (*kernels, bias):
            parameter.grad = torch.randn_like(parameter)
        twin.grad = bias.grad.clone()
        for i, kernel in enumerate(kernels):
            grad, rate = kernel.grad.double(), 0.1 * (1, 2)[i]  # sqrt(32 / 8) = 2
            momenta[i] = MOMENTUM * momenta[i] + grad
            step = orthogonal((grad + MOMENTUM * momenta[i]).flatten(1)).view(kernel.shape)
            expected[i] = (1 - rate * 0.5) * expected[i] - rate * step
        optimizer.step()
        plain.step()
    for kernel, value in zip(kernels, expected, strict=True):
        torch.testing.assert_close(kernel.detach().double(), value, atol=1e-4, rtol=0)
    assert torch.equal(bias, twin)


def test_saved_and_loaded_it_goes_on_to_the_bit():
    def trained(steps, state=None):
        kernel = nn.Parameter(torch.ones(4, 2, 3, 3) if state is None else state[0].clone())
        groups = [{"params": [kernel], "lr": 0.1, "weight_decay": 0.0, "orthogonal": True}]
        optimizer = Muon(groups)
        if state is not None:
            optimizer.load_state_dict(state[1])
        for step in steps:
            kernel.grad = torch.randn(4, 2, 3, 3, generator=torch.manual_seed(step))
            optimizer.step()
        return kernel.detach(), optimizer.state_dict()

    whole, parts = trained(range(4)), trained(range(2, 4), trained(range(2)))
    assert torch.equal(whole[0], parts[0])


def test_gate_weights_learn_by_their_fan_in_and_all_else_at_the_full_rate():
    model = cubs_resnet18(3, "serial_12")
    groups = optimizers.build(model, RECIPE).param_groups
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
    groups = optimizers.build(model, recipe).param_groups
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
    step = optimizers.build(model, recipe)
    before = block.gate(x).logit().mean()
    before.backward()
    step.step()
    moved = (before - block.gate(x).logit().mean()).item() / recipe.lr
    assert 1 < moved < 3.5  # at the full rate, 512 channels: over 200


def test_a_step_is_timed_in_full_precision_as_training_takes_it(monkeypatch):
    """Half of it would be told to a user whose network computes in bf16."""
    halved = []
    monkeypatch.setattr(optimizers, "orthogonal", lambda x: halved.append((x @ x.T).dtype) or x)
    model, recipe = nn.Conv2d(8, 4, 3), dataclasses.replace(RECIPE, optimizer="muon")
    before = model.weight.detach().clone()
    with torch.autocast("cpu", torch.bfloat16):
        assert optimizers.step_seconds(model, recipe) > 0
    assert set(halved) == {torch.float32}
    assert torch.equal(model.weight, before)
    assert model.weight.grad is None
