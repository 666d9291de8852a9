import pytest
import torch
from test_attention import NoMatrix
from torch import nn

from cubslib.attention import self_similarity
from cubslib.blocks import FASHIONS, GATE_BIAS, CubsAttention, CubsBlock1, CubsBlock2
from cubslib.check import oracles


@pytest.mark.parametrize("block", [CubsBlock1(8, features=512), CubsBlock2(8)])
def test_blocks_hold_no_matrix(block):
    x = torch.rand(1, 8, 32, 32)  # 1,024 positions
    with NoMatrix(512**2):
        block(x).sum().backward()


@pytest.mark.parametrize(
    ("make", "oracle"), [(CubsBlock1, oracles.Block1), (CubsBlock2, oracles.Block2)]
)
def test_blocks_are_the_assignments_formula_with_gradients(make, oracle):
    torch.manual_seed(0)
    block, exact = make(6, gate_bias=0.3), oracle(6).double()
    exact.load_state_dict(block.state_dict())
    x = torch.randn(2, 6, 5, 4)
    out, right = block(x), exact(x.double())
    assert block.gate(x).std() > 0.01
    torch.testing.assert_close(out.double(), right, atol=1e-6, rtol=1e-5)
    # The bias of `key` shifts a row of logits as a whole: its true gradient is 0.
    found = torch.autograd.grad(out.square().sum(), list(block.parameters()))
    expected = torch.autograd.grad(right.square().sum(), list(exact.parameters()))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.double(), b, atol=2e-5, rtol=1e-3)
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
    slope = self_similarity(q, k, v).std(1) / (q.std(1) * k.var(1))
    assert 0.8 < slope.min() <= slope.max() < 1.25


@pytest.mark.parametrize("fashion", FASHIONS)
@pytest.mark.parametrize("bias", [None, 3.0])
def test_the_gates_biases_start_where_they_are_asked_to(fashion, bias):
    attention = CubsAttention(4, fashion, *([] if bias is None else [bias]))
    b = GATE_BIAS if bias is None else bias
    assert (attention.channel.project.bias == b).all()
    assert attention.spatial.value.bias.item() == (-b if fashion == "parallel" else b)


def test_parameters_have_the_agreed_names():
    both = ["query.weight", "query.bias", "key.weight", "key.bias", "value.weight", "value.bias"]
    assert list(CubsBlock2(4).state_dict()) == both
    assert list(CubsBlock1(4).state_dict()) == [*both, "project.weight", "project.bias"]
    assert isinstance(CubsBlock2(4).query, nn.Conv2d)
    assert CubsBlock1(4).query.weight.shape == (512, 4)
    with pytest.raises(ValueError, match="fashion is 'both'; it is one of parallel"):
        CubsAttention(4, "both")
