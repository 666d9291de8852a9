"""A batch of uint8 images → an augmented, normalised float batch; every image its own draw.

It runs where the batch lives. Which draw an image gets follows from its place in the epoch's
global order, so neither the batch size nor the number of processes changes a pixel.

Shapes: B images in the batch, H × W pixels read, S × S pixels given; D draws an image.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cubslib.sampling import generator

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's train images, in [0, 1]
NUM_DRAWS = 12  # D: area, aspect, x, y, flip, brightness, contrast, saturation; erase?, area, x, y


@dataclass(frozen=True)
class Augmentation:
    """How far images are varied; the defaults vary nothing.

    Attributes:
        min_area: the smallest share of the image's area that a crop keeps, in (0, 1].
        max_aspect: the largest stretch of a crop, ≥ 1: its width to height, as shares of the
            image's, lies in [1/a, a]; it gives way where the crop would leave the image.
        flip: whether half the images are mirrored.
        native: whether a crop is S × S of the image's own pixels instead, anywhere within and not
            resized; of a smaller image it is the whole. It is as sharp as the image is at test.
        colour: the largest relative change of brightness, contrast and saturation, in [0, 1).
        erase: the share of images that lose a square of 1/16 to 1/4 of their area, in [0, 1].
    """

    min_area: float = 1.0
    max_aspect: float = 1.0
    flip: bool = False
    native: bool = False
    colour: float = 0.0
    erase: float = 0.0


def draws(count: int, seed: int, fit: str, epoch: int) -> Tensor:
    """Return an epoch's random numbers, uniform in [0, 1): a row (D,) a place in its order."""
    table = generator(seed, fit, epoch, "augmentation").random((count, NUM_DRAWS), np.float32)
    return torch.from_numpy(table)


def augment(images: Tensor, u: Tensor, how: Augmentation, size: int) -> Tensor:
    """Vary a batch and normalise it.

    Args:
        images: uint8 (B, 3, H, W).
        u: the images' draws (B, D), uniform in [0, 1).
        how: how far.
        size: S.

    Returns:
        float32 (B, 3, S, S) with about zero mean and unit variance.
    """
    u = u.to(images.device)
    with torch.autocast(images.device.type, enabled=False):
        batch = _resample(images, u[:, :5], how, size)
        batch = _recolour(batch, u[:, 5:8], how.colour)
        return _erase(_normalise(batch), u[:, 8:12], how.erase)


def prepare(images: Tensor, size: int) -> Tensor:
    """Resize and normalise a batch without varying it: what is done at val and test.

    Args:
        images: uint8 (B, 3, H, W).
        size: S; where it differs from H × W, bicubic with antialiasing.

    Returns:
        float32 (B, 3, S, S).
    """
    batch = images.float() / 255
    if batch.shape[-2:] != (size, size):
        batch = F.interpolate(batch, (size, size), mode="bicubic", antialias=True).clamp_(0, 1)
    return _normalise(batch)


def restore(batch: Tensor) -> Tensor:
    """Undo the normalisation: floats in [0, 1] that can be looked at, of the same shape."""
    mean, std = (batch.new_tensor(c).view(3, 1, 1) for c in (MEAN, STD))
    return (batch * std + mean).clamp(0, 1)


def _normalise(batch: Tensor) -> Tensor:
    """Normalise a batch (B, 3, S, S) of floats in [0, 1], in place."""
    mean, std = (batch.new_tensor(c).view(3, 1, 1) for c in (MEAN, STD))
    return batch.sub_(mean).div_(std)


def _resample(images: Tensor, u: Tensor, how: Augmentation, size: int) -> Tensor:
    """Crop, stretch, scale and mirror: uint8 (B, 3, H, W) → floats (B, 3, S, S) in [0, 1].

    Columns and rows are one matrix product an image each: in memory the channels lie between the
    two, so none needs a copy of the weights.
    """
    if how.native:
        (left, width), (top, height) = (
            _own_pixels(u[:, draw], images.shape[axis], size) for draw, axis in ((2, 3), (3, 2))
        )
    else:
        side = (how.min_area + (1 - how.min_area) * u[:, 0]).sqrt()
        # exp: a power is rounded by the place in the batch, which processes share differently
        stretch = (math.log(how.max_aspect) * (u[:, 1] - 0.5)).exp()
        stretch = stretch.clamp(side, 1 / side)  # the area stays
        (left, width), (top, height) = (u[:, 2], side * stretch), (u[:, 3], side / stretch)
    mirrored = (u[:, 4] < 0.5) & how.flip
    columns = _weights(width, left, images.shape[3], size, mirrored)
    rows = _weights(height, top, images.shape[2], size)
    lines = images.permute(0, 2, 1, 3).contiguous().float()  # (B, H, 3, W)
    batch = rows @ (lines.flatten(1, 2) @ columns.mT).view(*lines.shape[:2], -1)  # (B, S, 3·S)
    return batch.unflatten(2, (3, size)).permute(0, 2, 1, 3).div_(255).clamp_(0, 1)


def _own_pixels(u: Tensor, pixels: int, size: int) -> tuple[Tensor, Tensor]:
    """Return `place` and `share` of `_weights` (B,) for which S pixels are kept as they are."""
    spare = max(pixels - size, 0)
    start = (u * (spare + 1)).floor().clamp(max=spare)  # rounded up, a draw may come to spare + 1
    return start / max(spare, 1), torch.full_like(u, 1 - spare / pixels)


def _weights(
    share: Tensor, place: Tensor, pixels: int, size: int, mirrored: Tensor | None = None
) -> Tensor:
    """Return how much each pixel of a line counts for each that is made: (B, S, `pixels`).

    Bicubic with antialiasing, as `prepare` resizes: Keys's cubic (1981, a = −1/2) about the
    pixel's centre, two pixels to each side, of those that are made or read, whichever are larger.

    Args:
        share: how much of the line is kept (B,), in (0, 1].
        place: where the kept part lies (B,), from 0 at the start to 1 at the end.
        pixels: H or W.
        size: S.
        mirrored: which lines are read from their end (B,); None for no line.
    """
    step = share * (pixels / size)  # (B,), pixels that are read for one that is made
    index = torch.arange(size, device=share.device) + 0.5
    if mirrored is not None:
        index = index.where(~mirrored[:, None], size - index)  # (B, S)
    centre = ((1 - share) * place * pixels)[:, None] + step[:, None] * index  # (B, S)
    pixel = torch.arange(pixels, device=share.device) + 0.5
    distance = (pixel - centre[:, :, None]).abs_().div_(step.clamp(min=1)[:, None, None])
    near, far = (1 - distance).clamp_(min=0), (2 - distance).clamp_(min=0)  # 0 from 1, from 2 on
    weights = near.square_().mul_(2 * distance - 1) - (distance - 1) * far.square_() / 2
    return weights.div_(weights.sum(2, keepdim=True))


def _recolour(batch: Tensor, u: Tensor, strength: float) -> Tensor:
    """Scale brightness, then contrast about the image's mean, then saturation about its gray."""
    if not strength:
        return batch
    brightness, contrast, saturation = (1 + strength * (2 * u - 1)).T.view(3, -1, 1, 1, 1)
    batch *= brightness
    batch.lerp_(batch.mean((1, 2, 3), keepdim=True), 1 - contrast)
    return batch.lerp_(batch.mean(1, keepdim=True), 1 - saturation).clamp_(0, 1)


def _erase(batch: Tensor, u: Tensor, share: float) -> Tensor:
    """Set a square of some images to the mean, 0 after normalisation (cf. Zhong et al. 2020)."""
    if not share:
        return batch
    size = batch.shape[-1]
    side = size * (1 / 16 + (1 / 4 - 1 / 16) * u[:, 1]).sqrt()
    left, top = ((size - side) * u[:, i] for i in (2, 3))
    pixel = torch.arange(size, device=batch.device)
    within = [
        (pixel >= start[:, None]) & (pixel < (start + side)[:, None]) for start in (top, left)
    ]
    square = within[0][:, :, None] & within[1][:, None, :] & (u[:, 0] < share)[:, None, None]
    return batch.masked_fill(square[:, None], 0.0)
