"""The 3 × 3 convolution of small maps: its values, its gradients, and where it is used."""

import pytest
import torch
from torch import nn

from cubslib.convolution import SMALL, AsProduct, Conv3x3

MAPS = [(1, 1), (2, 1), (2, 2), (3, 4), (4, 4)]


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("sides", [*MAPS, (7, 8), (8, 5)])
def test_the_product_is_the_convolution_and_so_are_its_gradients(sides, stride):
    draw = torch.Generator().manual_seed(0)
    shapes = (3, 5, *sides), (4, 5, 3, 3)
    x, weight = (torch.randn(s, generator=draw, dtype=torch.float64) for s in shapes)
    x, weight = x.requires_grad_(), weight.requires_grad_()
    ours = AsProduct.apply(x, weight, stride)
    theirs = nn.functional.conv2d(x, weight, None, stride, 1)
    torch.testing.assert_close(ours, theirs)
    upstream = torch.randn(theirs.shape, generator=draw, dtype=torch.float64)
    gradients = [torch.autograd.grad(y, (x, weight), upstream) for y in (ours, theirs)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("sides", MAPS)
def test_in_bf16_it_is_as_near_to_the_truth_as_conv2d(sides):
    torch.manual_seed(0)
    layer = Conv3x3(64, 32)
    x = torch.randn(8, 64, *sides).to(memory_format=torch.channels_last).requires_grad_()
    upstream = torch.randn(8, 32, *sides)

    def found(forward, dtype):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            y = forward(x.to(dtype))
        return y, *torch.autograd.grad(y, (x, layer.weight), upstream.to(y.dtype))

    truth = found(layer, torch.float32)
    peer = found(lambda x: nn.Conv2d.forward(layer, x), torch.bfloat16)
    for true, ours, theirs in zip(truth, found(layer, torch.bfloat16), peer, strict=True):
        assert ours.dtype == theirs.dtype
        errors = [(y.float() - true).norm() / true.norm() for y in (ours, theirs)]
        assert 0 < errors[0] < max(2 * errors[1], 0.005), errors


def test_float32_and_larger_maps_are_conv2d_to_the_bit(monkeypatch):
    monkeypatch.setattr(AsProduct, "apply", lambda *_: pytest.fail("not here"))
    layer = Conv3x3(8, 8)
    for sides, bf16 in (((4, 4), False), ((4, 5), True)):
        assert bf16 == (sides[0] * sides[1] > SMALL)
        x = torch.randn(2, 8, *sides)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            assert torch.equal(layer(x), nn.Conv2d.forward(layer, x))
