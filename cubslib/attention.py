"""Softmax attention over scalars, what both CUBS blocks compute (assignment, T3).

The similarity of positions i and j is the product q_i·k_j. Its softmax over j and the product
with v are softmax attention with head dimension 1. Neither way here holds the N × N matrix:

- `scaled_dot_product_attention` computes it tile by tile, in N² steps.
- For scalars the exponential series exp(q·k) = Σ_p q^p·k^p / p! is short, so that a
  sum over j is P sums of powers, once for all i: N·P steps. With finitely many features in place of
  the exponential this is linear attention (Katharopoulos et al., ICML 2020, eq. 4 to 6); here the
  rest of the series is below float32's rounding.

Shapes: B batch, N positions or features, P terms of the series.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

LARGEST = 8.0  # product in the series: its rounding is at most e^8 float32 steps, and rarely 10
PAYS = 8  # keys a term: with fewer the series is not faster


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
        parts = query, key, value - mean
        if query.device.type == "cpu" and not torch.compiler.is_compiling():
            return _on_a_processor(*parts) + mean
        return _kernel(*parts) + mean


def _on_a_processor(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attend by the series, and by the kernel in samples that no short series follows: (B, N)."""
    x, y, share = _about_the_middle(query.detach(), key.detach())
    largest = x.abs().amax(1) * y.abs().amax(1)  # (B,)
    short = largest <= LARGEST
    terms = count_terms(largest[short].amax().item() if short.any() else torch.inf)
    if terms * PAYS > query.shape[1]:
        return _kernel(query, key, value)
    parts = query, key, value, x, y, share
    if short.all():
        return Series.apply(*parts, terms)
    out, others = torch.empty_like(query), ~short
    out[short] = Series.apply(*(part[short] for part in parts), terms)
    out[others] = _kernel(query[others], key[others], value[others])
    return out


def _kernel(*parts: Tensor) -> Tensor:
    """Attend by PyTorch's kernel: (B, N) from query, key and value (B, N)."""
    # (B, N) → (B, 1, N, 1). A transpose in place of the index would leave a stride that the
    # CPU's flash kernel refuses; it would then hold the matrix.
    heads = [x.contiguous()[:, None, :, None] for x in parts]
    if heads[0].is_cuda:  # CUDA's memory-efficient kernel wants 8; zeros change no product
        heads = [F.pad(x, (0, 7)) for x in heads]
    return F.scaled_dot_product_attention(*heads, scale=1.0)[:, 0, :, 0]


def _about_the_middle(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return x, y and w (B, N): softmax_j(q_i·k_j) is w_j·exp(x_i·y_j) over its sum.

    x is counted from the middle of the queries, w is the softmax there, and y is counted from the
    keys' mean under w: then the sum is nowhere less than 1 (Jensen), and nothing cancels in it.
    """
    middle = (query.amax(1, keepdim=True) + query.amin(1, keepdim=True)) / 2
    share = torch.softmax(middle * key, 1)
    return query - middle, key - (share * key).sum(1, keepdim=True), share


def count_terms(largest: float) -> int:
    """Return P for products up to `largest`: the rest of the series is below float32's step.

    2³⁰ where that is more than `LARGEST`, or no number.
    """
    if not largest <= LARGEST:
        return 2**30
    terms, term = 0, 1.0
    while term > 2**-26 or terms < 2 * largest:  # from there on each is less than half the last
        terms += 1
        term *= largest / terms
    return terms


class Series(torch.autograd.Function):
    """Softmax attention by the exponential series, forward and backward."""

    @staticmethod
    def forward(ctx, query, key, value, x, y, share, terms) -> Tensor:
        """Return softmax_j(q_i·k_j)·v_j (B, N); x, y and share as of `_about_the_middle`."""
        # The powers of both are about as large, and none overflows.
        largest = (each.abs().amax(1, keepdim=True).clamp(min=1e-30) for each in (x, y))
        scale = torch.sqrt(next(largest) / next(largest))
        x, scaled_y = x / scale, y * scale
        of_x, of_y = _powers(x, terms), _powers(scaled_y, terms)
        mean = (share * value).sum(1, keepdim=True)  # where one key has all, nothing cancels
        total, out = _sums(of_x, of_y, share, share * (value - mean))
        out = out / total
        ctx.terms = terms  # the powers are made again: kept, they would be P times the rest
        ctx.save_for_backward(query, y, value - mean, share, total, out, x, scaled_y)
        return out + mean

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple:
        """Return the gradients, with the softmax p: p_ij in v_j, p_ij·(v_j − out_i) in q_i·k_j."""
        query, key, value, share, total, out, x, y = ctx.saved_tensors
        of_x, of_y = _powers(x, ctx.terms), _powers(y, ctx.terms)
        scaled = grad / total
        sums = _sums(of_y, of_x, scaled, scaled * query, scaled * query * out)
        in_value, by_query, by_both = (share * each for each in sums)
        keys, both = _sums(of_x, of_y, share * key, share * key * value)
        in_query, in_key = scaled * (both - out * keys), by_query * value - by_both
        return in_query, in_key, in_value, None, None, None, None


def _powers(x: Tensor, terms: int) -> Tensor:
    """Return x^p for p = 0 … P − 1 as (B, P, N), and 0 for what no sum would notice.

    Processors are slow at products that are too small for float32's usual form.
    """
    powers = x.new_empty(terms, *x.shape)  # one after the other in memory
    powers[0] = 1
    for p in range(1, terms):
        torch.hardshrink(powers[p - 1] * x, 1e-25, out=powers[p])
    return powers.transpose(0, 1)


def _sums(at: Tensor, of: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
    """Return Σ_j w_j·exp(x_i·y_j) (B, N) for each w (B, N) from the powers of x and y (B, P, N)."""
    sums = torch.stack(weights, 1) @ of.mT  # (B, W, P)
    factorials = torch.arange(sums.shape[2], dtype=torch.double).clamp(min=1).cumprod(0)
    return (sums.div_(factorials.to(sums)) @ at).unbind(1)
