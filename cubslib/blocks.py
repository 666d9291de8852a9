"""The two CUBS attention blocks and the three fashions of joining them (assignment, T3).

Both compare scalars and multiply their input by a gate in (0, 1).

Shapes: B batch, C channels, H × W positions, N features of block 1.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cubslib.attention import self_similarity

FASHIONS = ("parallel", "serial_12", "serial_21")
# Where the gates start: σ(2) = 0.88, with a slope of 0.10; at 5 the slope is 0.007, so little
# gradient reaches the attention that the gates stay constants. T2's weights want 5 (`gate_bias`).
GATE_BIAS = 2.0


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
        layers = self.query, self.key, self.value
        weight = torch.cat([layer.weight for layer in layers])  # as one, x is read once
        bias = torch.cat([layer.bias for layer in layers])
        q, k, v = F.conv2d(x, weight, bias).flatten(2).unbind(1)  # (B, H·W) each
        return torch.sigmoid(self_similarity(q, k, v)).unflatten(1, x.shape[2:])

    def forward(self, x: Tensor) -> Tensor:
        """Return x (B, C, H, W) times its gate, position by position."""
        return x * self.gate(x)[:, None].to(x.dtype)  # (B, H, W) → (B, 1, H, W)


class CubsAttention(nn.Module):
    """Both blocks, joined in one of the three fashions.

    `parallel` is block 1 of x plus block 2 of x, `serial_12` block 1 then block 2, `serial_21`
    block 2 then block 1. All start towards the identity: in series both gates towards 1, in
    parallel the first towards 1 and the second towards 0 (block 1 adds g ≥ 0 inside its gate, so
    only this pairing sums to one).

    Args:
        channels: C.
        fashion: one of `FASHIONS`.
        gate_bias: where the gates' biases start: both at +b, in parallel the second at -b.

    Raises:
        ValueError: `fashion` is none of them.
    """

    def __init__(self, channels: int, fashion: str, gate_bias: float = GATE_BIAS):
        super().__init__()
        if fashion not in FASHIONS:
            raise ValueError(f"fashion is {fashion!r}; it is one of {', '.join(FASHIONS)}")
        self.fashion = fashion
        second = -gate_bias if fashion == "parallel" else gate_bias
        self.channel = CubsBlock1(channels, gate_bias=gate_bias)
        self.spatial = CubsBlock2(channels, second)

    def forward(self, x: Tensor) -> Tensor:
        """Return x (B, C, H, W), attended to, of the same shape."""
        if self.fashion == "parallel":
            return self.channel(x) + self.spatial(x)
        if self.fashion == "serial_12":
            return self.spatial(self.channel(x))
        return self.channel(self.spatial(x))
