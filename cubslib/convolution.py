"""A 3 × 3 convolution that stays fast where the maps are small.

Shapes: B images; maps of C channels, H × W positions, become O channels, h × w; T taps of the
kernel meet the map.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SMALL = 16  # positions of the result


class Conv3x3(nn.Conv2d):
    """A 3 × 3 convolution, padding 1, no bias: the weights and values of `nn.Conv2d`.

    In bf16 on a processor, where the result has at most 16 positions, the whole batch becomes one
    matrix product. oneDNN goes image by image, and a few positions do not fill its tiles: at 32
    pixels a step of ResNet-18 took 2.5 to 3 times as long. In float32 and on a GPU this is
    `nn.Conv2d`, to the bit.

    Args:
        in_channels, out_channels: C and O.
        stride: of both directions.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1):
        super().__init__(in_channels, out_channels, 3, stride, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, O, h, w) of x (B, C, H, W); h = ⌈H / stride⌉."""
        stride = self.stride[0]
        h, w = ((side - 1) // stride + 1 for side in x.shape[2:])
        autocast = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu")
        if x.device.type == "cpu" and autocast == torch.bfloat16 and h * w <= SMALL:
            return AsProduct.apply(x.bfloat16(), self.weight.bfloat16(), stride)
        return super().forward(x)


class AsProduct(torch.autograd.Function):
    """The convolution as a product of all windows, a row each, with the kernel as a matrix.

    Written by hand because autograd would fill a map of zeros for every tap on the way back.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        """Return (B, O, h, w) of x (B, C, H, W) and weight (O, C, 3, 3)."""
        rows, columns = (_taps(side, stride) for side in x.shape[2:])
        taps = [(i, j, (slice(None), row, column)) for i, row in rows for j, column in columns]
        padded = F.pad(x, (1, 1, 1, 1)).permute(0, 2, 3, 1)  # (B, H + 2, W + 2, C)
        windows = torch.cat([padded[place] for _, _, place in taps], -1)  # (B, h, w, T·C)
        matrix = torch.cat([weight[:, :, i, j] for i, j, _ in taps], 1)  # (O, T·C)
        ctx.save_for_backward(windows, matrix)
        ctx.taps, ctx.shapes = taps, (padded.shape, weight.shape)
        return F.linear(windows, matrix).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        """Return the gradients of x and weight from that of the result (B, O, h, w)."""
        windows, matrix = ctx.saved_tensors
        grad, (padded, weight) = grad.permute(0, 2, 3, 1), map(grad.new_zeros, ctx.shapes)
        products = grad.flatten(0, 2).T @ windows.flatten(0, 2), grad @ matrix
        parts = (product.split(padded.shape[-1], -1) for product in products)
        for (i, j, place), of_weight, of_x in zip(ctx.taps, *parts, strict=True):
            weight[:, :, i, j] = of_weight
            padded[place] += of_x
        return padded[:, 1:-1, 1:-1].permute(0, 3, 1, 2), weight, None


def _taps(side: int, stride: int) -> list[tuple[int, slice]]:
    """Return the rows of the kernel that meet a map, each with the padded map's rows it reads.

    >>> _taps(1, 1)
    [(1, slice(1, 2, 1))]
    """
    last = (side - 1) // stride * stride
    reads = ((i, slice(i, i + last + 1, stride)) for i in range(3))
    return [(i, rows) for i, rows in reads if i <= side and i + last > 0]
