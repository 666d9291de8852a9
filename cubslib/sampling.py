"""Which images make a batch: pure functions of the labels and of (seed, fit, epoch, rank).

No generator runs on between epochs, so a resumed run draws what an unbroken one draws, and W
processes draw together what one would: each takes its share of every global batch.

Shapes: N images, n batches an epoch, B images in a global batch, W processes.
"""

import zlib

import numpy as np

from cubslib import CubsError

IMAGES_PER_CLASS = 4  # K of the P × K batches


def generator(seed: int, fit: str, epoch: int, purpose: str) -> np.random.Generator:
    """Return the generator of one epoch of one fit, the same on every machine.

    >>> generator(0, "embedding", 3, "order").integers(1000)
    np.int64(425)
    """
    return np.random.default_rng(
        [seed, zlib.crc32(fit.encode()), epoch, zlib.crc32(purpose.encode())]
    )


def shuffled(labels, batch_size: int, seed: int, fit: str, epoch: int) -> np.ndarray:
    """Return an epoch's global batches (n, B): every image at most once, in a new order.

    The incomplete last batch is dropped, unless it is the only one.

    Args:
        labels: N labels; only their number matters.
        batch_size: B, the global batch.
        seed: what the order follows from, with fit and epoch.
        fit: the fit's name.
        epoch: from 0.
    """
    order = generator(seed, fit, epoch, "order").permutation(len(labels))
    size = min(batch_size, len(order))
    return order[: len(order) // size * size].reshape(-1, size)


def class_balanced(labels, batch_size: int, seed: int, fit: str, epoch: int) -> np.ndarray:
    """Return an epoch's global batches (n, P·K): P classes with K = 4 images each.

    P = min(`batch_size` / 4, classes). Classes take turns, and so do the images of a class: none
    comes again before all had their turn. A class of fewer than 4 images repeats some in a batch.

    Args:
        labels: N labels, any integers.
        batch_size: the largest number of images in a global batch, a multiple of 4 from 8.
        seed: what the choice follows from, with fit and epoch.
        fit: the fit's name.
        epoch: from 0.
    """
    rng = generator(seed, fit, epoch, "order")
    labels = np.asarray(labels)
    images = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    per_batch = min(batch_size // IMAGES_PER_CLASS, len(images))
    num_batches = max(len(labels) // (per_batch * IMAGES_PER_CLASS), 1)
    turns = _turns(rng, len(images), num_batches * per_batch, per_batch)
    queues = [
        iter(_turns(rng, len(own), IMAGES_PER_CLASS * (turns == label).sum(), IMAGES_PER_CLASS))
        for label, own in enumerate(images)
    ]
    picks = [images[label][next(queues[label])] for label in np.repeat(turns, IMAGES_PER_CLASS)]
    return np.array(picks).reshape(num_batches, -1)


def _turns(rng: np.random.Generator, count: int, length: int, group: int) -> np.ndarray:
    """Return `length` draws from range(count) in which everyone waits until all had a turn.

    Within each aligned group of `group` draws nobody comes twice if `count` allows it.
    """
    drawn: list[int] = []
    while len(drawn) < length:
        begun = set(drawn[len(drawn) // group * group :])
        # Who is in the open group already goes to the end of the next round (False sorts first).
        drawn += sorted(rng.permutation(count).tolist(), key=begun.__contains__)
    return np.array(drawn[:length])


def shard(batches: np.ndarray, rank: int, world_size: int) -> np.ndarray:
    """Return the columns (n, B / W) of the global batches that fall to process `rank`.

    Raises:
        CubsError: the processes cannot share a batch evenly.

    >>> shard(np.arange(8).reshape(2, 4), rank=1, world_size=2)
    array([[2, 3],
           [6, 7]])
    """
    if batches.shape[1] % world_size:
        raise CubsError(
            f"batch_size is {batches.shape[1]}; with {world_size} processes it must be a "
            f"multiple of {world_size}."
        )
    return np.split(batches, world_size, axis=1)[rank]
