"""The two CUBS attention blocks and the three fashions of joining them (assignment, T3).

Both blocks compare scalars: the similarity of positions i and j is the product q_i·k_j. A row of
the similarity matrix, its softmax and its product with v are then softmax attention with head
dimension 1, which `scaled_dot_product_attention` computes exactly, tile by tile, without ever
holding the N × N or (H·W) × (H·W) matrix.

Shapes: B batch, C channels, H × W positions, N features of block 1.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FASHIONS = ("parallel", "serial_12", "serial_21")
# Where the gates start: σ(2) = 0.88, with a slope of 0.10; at 5 the slope is 0.007, no gradient
# reaches the attention and the gates stay constants. T2's weights want 5 (`gate_bias`).
GATE_BIAS = 2.0
NODES = 16  # M of the interpolation
MAX_LOGIT = 3.0  # up to which M nodes give float32's accuracy


def self_similarity(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return softmax_j(q_i·k_j)·v_j for each i: (B, N), float32, from three (B, N) of scalars.

    On the CPU, where the N² exponentials are what costs, small logits take `interpolated`, which
    agrees with the exact form to float32's accuracy and is linear in N.

    Raises:
        RuntimeError: the shapes differ (PyTorch's own).
    """
    # Half precision is too coarse for products of scalars under a softmax.
    with torch.autocast(query.device.type, enabled=False):
        query, key, value = query.float(), key.float(), value.float()
        if query.device.type == "cpu" and _largest_logit(query, key) <= MAX_LOGIT:
            return interpolated(query, key, value)
        return exact(query, key, value)


def exact(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return softmax_j(q_i·k_j)·v_j (B, N) as attention with head dimension 1, tile by tile."""
    # (B, N) → (B, 1, N, 1). A transpose in place of the index would leave a stride that the CPU's
    # flash kernel refuses; it would then hold the matrix.
    heads = [x.contiguous()[:, None, :, None] for x in (query, key, value)]
    if query.is_cuda:  # CUDA's memory-efficient kernel wants 8; zeros change no product
        heads = [F.pad(x, (0, 7)) for x in heads]
    return F.scaled_dot_product_attention(*heads, scale=1.0)[:, 0, :, 0]


def interpolated(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return softmax_j(q_i·k_j)·v_j (B, N) in time and memory linear in N.

    In one sample it is one smooth function f of the scalar q. We compute f at M Chebyshev nodes of
    the sample's range of q and evaluate the interpolating polynomial at every q_i (Trefethen,
    Approximation Theory and Approximation Practice, ch. 3; Clenshaw 1955). For logits up to
    `MAX_LOGIT` the error is that of float32.
    """
    key = key - key.mean(1, keepdim=True)  # softmax does not notice; the logits get smaller
    low, high = query.detach().aminmax(dim=1, keepdim=True)
    centre, spread = (high + low) / 2, key.detach().abs().amax(1, keepdim=True)
    # Where q hardly varies, nodes as close as that would drown its gradient in rounding; so would
    # the mean of v, which softmax passes on as it is.
    radius = torch.maximum((high - low) / 2, 1 / spread.clamp(min=1e-6))
    mean = value.mean(1, keepdim=True)
    angles = torch.arange(0.5, NODES, device=query.device) * (torch.pi / NODES)
    logits = (centre + radius * angles.cos())[:, :, None] * key[:, None, :]  # (B, M, N)
    f = (logits.softmax(2) * (value - mean)[:, None, :]).sum(2)  # (B, M)
    orders = torch.arange(NODES, device=query.device)
    coefficients = f @ (angles[:, None] * orders).cos() * (2 / NODES)  # (B, M)
    x = (query - centre) / radius  # in [-1, 1]
    last = before = torch.zeros_like(x)
    for order in range(NODES - 1, 0, -1):
        last, before = torch.addcmul(coefficients[:, order, None] - before, 2 * x, last), last
    return torch.addcmul(coefficients[:, :1] / 2 - before, x, last) + mean


def _largest_logit(query: Tensor, key: Tensor) -> float:
    """Bound |q - centre|·|k - mean| over the batch: what the interpolation's error grows with."""
    query, key = query.detach(), key.detach()
    low, high = query.aminmax(dim=1)
    spread = (key - key.mean(1, keepdim=True)).abs().amax(1)
    return ((high - low) / 2 * spread).max().item()


class CubsBlock1(nn.Module):
    """Channel attention by self-similarity: x times a gate in (0, 1) for each channel.

    gate = σ(project(softmax(q kᵀ) v) + g), where g is the global average pool of x and q, k, v
    are dense layers on g.

    To first order feature i is mean(v) + q_i·cov(k, v). Over 512 features drawn apart cov(k, v) is
    near zero: all features are the same, and q and k, whose gradients it scales, hardly learn.
    So `value` starts as `key` does, and the covariance as var(k).

    Args:
        channels: C.
        features: N.
        gate_bias: where the bias of `project` starts; ±5 starts the gate near 1 or 0.
    """

    def __init__(self, channels: int, features: int = 512, gate_bias: float = GATE_BIAS):
        super().__init__()
        self.query = nn.Linear(channels, features)
        self.key = nn.Linear(channels, features)
        self.value = nn.Linear(channels, features)
        self.project = nn.Linear(features, channels)
        self.value.load_state_dict(self.key.state_dict())
        nn.init.constant_(self.project.bias, gate_bias)

    def gate(self, x: Tensor) -> Tensor:
        """Return the gate (B, C) of x (B, C, H, W)."""
        g = x.mean((2, 3))  # (B, C, H, W) → (B, C)
        features = self_similarity(self.query(g), self.key(g), self.value(g))  # (B, N)
        return torch.sigmoid(self.project(features) + g)

    def forward(self, x: Tensor) -> Tensor:
        """Return x (B, C, H, W) times its gate, channel by channel."""
        return x * self.gate(x)[:, :, None, None].to(x.dtype)  # (B, C) → (B, C, 1, 1)


class CubsBlock2(nn.Module):
    """Spatial attention by self-similarity: x times a gate in (0, 1) for each position.

    gate = σ(softmax(q kᵀ) v), where q, k, v are 1 × 1 convolutions of x to one channel.

    Args:
        channels: C.
        gate_bias: where the bias of `value` starts; ±5 starts the gate near 1 or 0.
    """

    def __init__(self, channels: int, gate_bias: float = GATE_BIAS):
        super().__init__()
        self.query = nn.Conv2d(channels, 1, 1)
        self.key = nn.Conv2d(channels, 1, 1)
        self.value = nn.Conv2d(channels, 1, 1)
        nn.init.constant_(self.value.bias, gate_bias)

    def gate(self, x: Tensor) -> Tensor:
        """Return the gate (B, H, W) of x (B, C, H, W)."""
        q, k, v = (conv(x).flatten(1) for conv in (self.query, self.key, self.value))  # (B, H·W)
        return torch.sigmoid(self_similarity(q, k, v)).unflatten(1, x.shape[2:])

    def forward(self, x: Tensor) -> Tensor:
        """Return x (B, C, H, W) times its gate, position by position."""
        return x * self.gate(x)[:, None].to(x.dtype)  # (B, H, W) → (B, 1, H, W)


class CubsAttention(nn.Module):
    """Both blocks, joined in one of the three fashions.

    `parallel` is block 1 of x plus block 2 of x, `serial_12` block 1 then block 2, `serial_21`
    block 2 then block 1. All start near the identity: in series both gates near 1, in parallel
    the first near 1 and the second near 0 (block 1 adds g ≥ 0 inside its gate, so only this
    pairing sums to one).

    Args:
        channels: C.
        fashion: one of `FASHIONS`.
        gate_bias: where both gates' biases start, block 2's with a minus in `parallel`.

    Raises:
        ValueError: `fashion` is none of them.
    """

    def __init__(self, channels: int, fashion: str, gate_bias: float = GATE_BIAS):
        super().__init__()
        if fashion not in FASHIONS:
            raise ValueError(f"fashion is {fashion!r}; it is one of {', '.join(FASHIONS)}")
        self.fashion = fashion
        self.channel = CubsBlock1(channels, gate_bias=gate_bias)
        self.spatial = CubsBlock2(channels, -gate_bias if fashion == "parallel" else gate_bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return x (B, C, H, W), attended to, of the same shape."""
        if self.fashion == "parallel":
            return self.channel(x) + self.spatial(x)
        if self.fashion == "serial_12":
            return self.spatial(self.channel(x))
        return self.channel(self.spatial(x))
