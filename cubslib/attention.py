"""Softmax attention over scalars, what both CUBS blocks compute (assignment, T3).

The similarity of positions i and j is the product q_i·k_j. Its softmax over j and the product
with v are softmax attention with head dimension 1: `scaled_dot_product_attention` computes it
exactly, tile by tile, without ever holding the N × N matrix.

Shapes: B batch, N positions or features.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def self_similarity(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return softmax_j(q_i·k_j)·v_j for each i: (B, N), float32, from three (B, N) of scalars.

    Computed in float32 under autocast too: half precision is too coarse for products of scalars
    under a softmax.

    Raises:
        RuntimeError: the shapes differ (PyTorch's own).
    """
    with torch.autocast(query.device.type, enabled=False):
        query, key, value = query.float(), key.float(), value.float()
        # Softmax does not notice a shift of all keys and passes on a shift of all values; without
        # them nearly equal keys and values keep their digits. What cancels needs no gradient.
        key = key - key.detach().mean(1, keepdim=True)
        mean = value.detach().mean(1, keepdim=True)
        # (B, N) → (B, 1, N, 1). A transpose in place of the index would leave a stride that the
        # CPU's flash kernel refuses; it would then hold the matrix.
        heads = [x.contiguous()[:, None, :, None] for x in (query, key, value - mean)]
        if query.is_cuda:  # CUDA's memory-efficient kernel wants 8; zeros change no product
            heads = [F.pad(x, (0, 7)) for x in heads]
        return F.scaled_dot_product_attention(*heads, scale=1.0)[:, 0, :, 0] + mean
