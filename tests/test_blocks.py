import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from cubslib import blocks
from cubslib.blocks import FASHIONS, CubsAttention, CubsBlock1, CubsBlock2

WAYS = pytest.mark.parametrize("way", [blocks.exact, blocks.interpolated])


def oracle(query, key, value):
    """The assignment's words in float64: hold the matrix, softmax each row, multiply by v."""
    matrix = query.double()[:, :, None] * key.double()[:, None, :]
    return (matrix.softmax(2) @ value.double()[:, :, None])[:, :, 0]


def scalars(largest, n=300, seed=0):
    """q, k, v (3, N) whose centred logits reach `largest`, away from zero in their means."""
    generator = torch.Generator().manual_seed(seed)
    q, k, v = torch.randn(3, 3, n, generator=generator)
    q, k = (x / x.abs().amax(1, keepdim=True) for x in (q, k))
    return q * largest + 1.7, k - 0.4, v


def assert_values_and_gradients(way, tensors, rtol):
    weights = torch.linspace(-1, 2, tensors[0].shape[1])
    results = []
    for function, dtype in ((way, torch.float32), (oracle, torch.float64)):
        leaves = [x.detach().to(dtype).requires_grad_() for x in tensors]
        out = function(*leaves)
        gradients = torch.autograd.grad((out * weights).sum(), leaves)
        results.append([x.double() for x in (out, *gradients)])
    for found, expected in zip(*results, strict=True):
        assert expected.abs().max() > 1e-3
        assert (found - expected).norm() <= rtol * expected.norm()


@WAYS
@pytest.mark.parametrize("largest", [1e-3, 0.1, 2.0])
@pytest.mark.parametrize("bias", [0.0, 5.0])
def test_both_ways_agree_with_the_matrix_values_and_gradients(way, largest, bias):
    q, k, v = scalars(largest)
    assert_values_and_gradients(way, (q, k, 0.3 * v + bias), 1e-4)


def test_the_exact_way_holds_for_large_logits():
    assert_values_and_gradients(blocks.exact, scalars(40.0), 1e-4)


@pytest.mark.parametrize(("spread", "n"), [(0.0, 50), (1.0, 1), (1.0, 2)])
def test_equal_queries_and_few_positions(spread, n):
    q, k, v = scalars(1.0, n)
    q = q.mean(1, keepdim=True) + spread * (q - q.mean(1, keepdim=True))
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    out = blocks.self_similarity(*leaves)
    torch.testing.assert_close(out.double(), oracle(q, k, v), atol=1e-5, rtol=1e-5)
    out.sum().backward()
    assert all(x.grad.isfinite().all() for x in leaves)


@pytest.mark.parametrize(("largest", "way"), [(2.0, "interpolated"), (6.0, "exact")])
def test_large_logits_take_the_exact_way(monkeypatch, largest, way):
    tensors = scalars(largest)
    monkeypatch.delattr(blocks, "exact" if way == "interpolated" else "interpolated")
    out = blocks.self_similarity(*tensors)
    torch.testing.assert_close(out.double(), oracle(*tensors), atol=1e-5, rtol=1e-5)


def test_interpolation_keeps_single_precision_up_to_its_limit():
    """The bound is of |q - centre|·|k - mean| over all images, keys being centred."""
    for seed in range(5):
        q, k, v = scalars(1.0, seed=seed)
        scale = blocks.MAX_LOGIT / blocks._largest_logit(q, k)
        out = blocks.interpolated(q * scale, k + 7, v)
        assert (out.double() - oracle(q * scale, k + 7, v)).abs().max() < 5e-6


@pytest.mark.parametrize("largest", [1.0, 6.0])
def test_half_precision_is_compared_in_single(device, largest):
    q, k, v = (x.to(device, torch.bfloat16) for x in scalars(largest))
    with torch.autocast(device, dtype=torch.bfloat16):
        out = blocks.self_similarity(q, k, v)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.double(), oracle(q, k, v), atol=1e-4, rtol=1e-4)


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


@pytest.mark.parametrize("way", [blocks.exact, blocks.interpolated, blocks.self_similarity])
def test_the_matrix_is_never_held(way, device):
    q, k, v = (x.to(device).requires_grad_() for x in scalars(2.0, 1024))
    with (
        NoMatrix(1024**2),
        sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]),
    ):
        way(q, k, v).sum().backward()
    assert all(x.grad.abs().max() > 0 for x in (q, k))


def test_the_watch_for_the_matrix_sees_one():
    with pytest.raises(AssertionError), NoMatrix(1024**2):
        oracle(*scalars(2.0, 1024))


@pytest.mark.parametrize("block", [CubsBlock1(8, features=512), CubsBlock2(8)])
def test_blocks_hold_no_matrix_either(block):
    x = torch.rand(1, 8, 32, 32)  # 1,024 positions
    with NoMatrix(512**2):
        block(x).sum().backward()


def gate_by_hand(block, x):
    """A block's gate from its weights, loop by loop over images, in float64."""
    weights = {name: p.double().flatten(1) if p.ndim > 1 else p.double() for name, p in
               block.named_parameters()}  # fmt: skip

    def dense(name, g):
        return g @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    gates = []
    for image in x.double():
        if isinstance(block, CubsBlock1):
            g = image.mean((1, 2))[None]
            q, k, v = (dense(name, g) for name in ("query", "key", "value"))
            gates.append((dense("project", oracle(q, k, v)) + g)[0])
        else:
            positions = image.flatten(1).T
            q, k, v = (dense(name, positions).T for name in ("query", "key", "value"))
            gates.append(oracle(q, k, v)[0].view(image.shape[1:]))
    return torch.stack(gates).sigmoid()


@pytest.mark.parametrize("make", [CubsBlock1, CubsBlock2])
def test_blocks_are_the_assignments_formula_with_gradients(make):
    torch.manual_seed(0)
    block = make(6, gate_bias=0.3)
    x = torch.randn(2, 6, 5, 4)
    gate = gate_by_hand(block, x)
    assert gate.std() > 0.01
    full = gate[:, :, None, None] if make is CubsBlock1 else gate[:, None]
    torch.testing.assert_close(block(x).double(), x * full, atol=1e-6, rtol=1e-5)
    parameters = list(block.parameters())
    # The bias of `key` shifts a row of logits as a whole: its true gradient is 0.
    found = torch.autograd.grad(block.gate(x).square().sum(), parameters)
    expected = torch.autograd.grad(gate.square().sum(), parameters)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-3)
    named = dict(zip([n for n, _ in block.named_parameters()], found, strict=True))
    assert all(g.abs().max() > 1e-7 for name, g in named.items() if name != "key.bias")


def test_the_spatial_gate_moves_with_its_positions():
    torch.manual_seed(0)
    block, x, order = CubsBlock2(6, 0.0), torch.randn(2, 6, 1, 30), torch.randperm(30)
    torch.testing.assert_close(block.gate(x[..., order]), block.gate(x)[..., order])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("fashion", FASHIONS)
def test_fashions_join_the_blocks_and_start_near_the_identity(fashion, dtype):
    torch.manual_seed(0)
    attention = CubsAttention(16, fashion, gate_bias=4.0)
    x = torch.relu(torch.randn(4, 16, 6, 6)).to(dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        out, one, two = attention(x), attention.channel, attention.spatial
        expected = {"parallel": lambda: one(x) + two(x), "serial_12": lambda: two(one(x)),
                    "serial_21": lambda: one(two(x))}[fashion]()  # fmt: skip
    assert out.dtype == dtype
    assert torch.equal(out, expected)
    assert 0 < (out.float() - x.float()).norm() / x.float().norm() < 0.04


@pytest.mark.parametrize("channels", [64, 512])
def test_channel_attention_tells_its_features_apart_from_the_start(channels):
    """Were value and key drawn apart, every feature would be nearly the mean of the values."""
    torch.manual_seed(0)
    block, x = CubsBlock1(channels), torch.relu(torch.randn(4, channels, 8, 8))
    q, k, v = (layer(x.mean((2, 3))) for layer in (block.query, block.key, block.value))
    # To first order q·var(k); drawn apart the slope would be a twentieth of it.
    slope = blocks.self_similarity(q, k, v).std(1) / (q.std(1) * k.var(1))
    assert 0.8 < slope.min() <= slope.max() < 1.25


def test_parameters_have_the_agreed_names():
    both = ["query.weight", "query.bias", "key.weight", "key.bias", "value.weight", "value.bias"]
    assert list(CubsBlock2(4).state_dict()) == both
    assert list(CubsBlock1(4).state_dict()) == [*both, "project.weight", "project.bias"]
    assert isinstance(CubsBlock2(4).query, nn.Conv2d)
    assert CubsBlock1(4).query.weight.shape == (512, 4)
    with pytest.raises(ValueError, match="fashion is 'both'; it is one of parallel"):
        CubsAttention(4, "both")
