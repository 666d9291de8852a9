"""The softmax of scalar products against the matrix held in float64."""

import math

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from cubslib import attention
from cubslib.attention import LARGEST, PAYS, Series, count_terms, self_similarity
from cubslib.check.oracles import attend


def oracle(query, key, value):
    return attend(query.double(), key.double(), value.double())


KEYS = {
    "random": lambda z, _: z,
    "large": lambda z, _: 5 * z,
    "bimodal": lambda z, _: 3 * z.sign() + 0.01 * z,
    "nearly equal": lambda z, _: torch.tensor([[1.0], [50.0]]) + 1e-3 * z,
    "equal but for rounding": lambda z, _: 0.7 + 1e-6 * z,
    "equal": lambda z, _: torch.ones_like(z),
    "heavy-tailed": lambda z, w: z / w.abs().sqrt(),
    "cubes": lambda z, _: z**3,
}


def scalars(keys="random", n=300, seed=0):
    """q, k, v (2, N), away from zero in their means."""
    q, z, v, w = torch.randn(4, 2, n, generator=torch.Generator().manual_seed(seed))
    return 2 * q + 1, KEYS[keys](z, w), v + 3


def assert_exact(q, k, v):
    """Output within 1e-5 and gradients within 1e-3 of float64, relative to its largest entry."""
    weights = torch.randn(q.shape, generator=torch.Generator().manual_seed(9))
    results = []
    for function, dtype in ((self_similarity, torch.float32), (oracle, torch.float64)):
        leaves = [x.detach().to(dtype).requires_grad_() for x in (q, k, v)]
        out = function(*leaves)
        results.append([out, *torch.autograd.grad((out * weights).sum(), leaves)])
    for found, expected, limit in zip(*results, (1e-5, 1e-3, 1e-3, 1e-3), strict=True):
        assert (found - expected).abs().max() <= limit * expected.abs().max() + 1e-9
    return results[0]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("n", [1, 2, 64, 512, 1000])
@pytest.mark.parametrize("keys", KEYS)
def test_output_and_gradients_are_those_of_the_matrix_in_double_precision(keys, n, seed):
    assert_exact(*scalars(keys, n, seed))


def test_nearly_equal_values_keep_their_digits():
    q, k, v = scalars()
    assert_exact(q, k, 100 + 1e-3 * v)


def test_two_keys_far_apart():
    """There f(q) is tanh(q), which no polynomial of few terms follows; its slope is positive."""
    keys = torch.tensor([1.0, -1.0]).repeat(128)[None]
    out, slope, *_ = assert_exact(torch.linspace(-2.95, 2.95, 256)[None], keys, keys)
    assert (out[0].diff() > 0).all()
    assert slope.abs().max() > 0


@pytest.mark.parametrize("largest", [0.5, 2.0, 0.999 * LARGEST])
@pytest.mark.parametrize("middle", [0.0, 10.0, -30.0])
@pytest.mark.parametrize("keys", KEYS)
def test_the_series_is_exact_wherever_it_is_used(keys, middle, largest, monkeypatch):
    z, k, v = scalars(keys, n=512)
    z = 2 * (z - z.amin(1, True)) / (z.amax(1, True) - z.amin(1, True)) - 1  # from -1 to 1
    start = torch.softmax(middle * k.double(), 1)
    spread = (k - (start * k).sum(1, True)).abs().amax(1, True).float().clamp(min=1e-3)
    q = middle + z * largest / spread
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", None)
    assert_exact(q, k, v)


def test_the_series_has_the_gradients_of_its_sum():
    draw = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, 6, generator=draw, dtype=torch.float64).requires_grad_()
    start = torch.full_like(k, 1 / 6).detach()

    def ours(q, k, v):
        return Series.apply(q, k, v, q.detach(), k.detach(), start, 60)

    torch.testing.assert_close(ours(q, k, v), oracle(q, k, v))
    assert torch.autograd.gradcheck(ours, (q, k, v))


@pytest.mark.parametrize("largest", [0.0, 1e-3, 1.0, 4.0, LARGEST])
def test_the_terms_are_as_few_as_float32_allows(largest):
    terms = count_terms(largest)
    powers = torch.arange(terms, dtype=torch.float64)
    for sign in (-1, 1):
        series = ((sign * largest) ** powers / torch.lgamma(powers + 1).exp()).sum().item()
        assert abs(series - math.exp(sign * largest)) < 2**-24
    assert terms < 3 * largest + 14


@pytest.mark.parametrize("x", [float("nan"), float("inf"), 1.01 * LARGEST])
def test_what_no_short_series_follows_goes_to_the_kernel(x, monkeypatch):
    assert count_terms(x) * PAYS > 1e9
    monkeypatch.setattr(attention.Series, "apply", lambda *_: pytest.fail("a series"))
    self_similarity(*scalars("large", n=512))
    line = torch.linspace(-1, 1, 512)[None]
    self_similarity(x * line, line, line)


def test_only_the_samples_that_need_it_go_to_the_kernel(monkeypatch):
    line = torch.linspace(-1, 1, 512)
    query = torch.stack([line, 2 * LARGEST * line, -3 * line])
    (_, v), kernel, seen = scalars(n=512)[2], attention._kernel, []
    monkeypatch.setattr(attention, "_kernel", lambda *x: seen.append(len(x[0])) or kernel(*x))
    assert_exact(query, line.expand(3, -1), v.expand(3, -1))
    assert seen == [1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_compared_in_single(device, dtype):
    q, k, v = (x.to(device, dtype) for x in scalars())
    with torch.autocast(device, dtype=dtype):
        out = self_similarity(q, k, v)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.double(), oracle(q, k, v), atol=1e-5, rtol=1e-5)


def test_a_sample_does_not_depend_on_its_neighbours(device):
    q, k, v = (x.to(device) for x in scalars())
    others = [torch.cat([x[:1], 1e3 * x[1:]]) for x in (q, k, v)]
    torch.testing.assert_close(self_similarity(*others)[0], self_similarity(q, k, v)[0])
    torch.testing.assert_close(self_similarity(q[:1], k[:1], v[:1]), self_similarity(q, k, v)[:1])


class NoMatrix(TorchDispatchMode):
    """Fails on any tensor of `limit` elements or more, forward or backward."""

    def __init__(self, limit):
        super().__init__()
        self.limit = limit

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else [out]:
            assert not isinstance(x, torch.Tensor) or x.numel() < self.limit, func
        return out


def test_the_matrix_is_never_held(device):
    q, k, v = (x.to(device).requires_grad_() for x in scalars(n=1024))
    kernels = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]  # not MATH
    with NoMatrix(1024**2), sdpa_kernel(kernels):
        self_similarity(q, k, v).sum().backward()
    assert all(x.grad.isfinite().all() for x in (q, k, v))


def test_the_watch_for_the_matrix_sees_one():
    with pytest.raises(AssertionError), NoMatrix(1024**2):
        oracle(*scalars(n=1024))


def test_it_is_one_graph_that_can_be_exported():
    class Block(torch.nn.Module):
        def forward(self, q, k, v):
            return self_similarity(q, k, v)

    tensors = scalars(n=16)
    exported = torch.export.export(Block(), tensors).module()
    for example in (tensors, scalars("large", 16, 1)):  # no branch was frozen by the first
        torch.testing.assert_close(exported(*example), self_similarity(*example))
