"""An image file → pixels: upright, three channels, a square of the size asked for.

Shapes: S pixels a side.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from cubslib import CubsError

LARGEST = Image.MAX_IMAGE_PIXELS  # 89 million: from here on Pillow warns of decompression bombs


def decode(path: Path, size: int, box: Sequence[int] | None = None) -> np.ndarray:
    """Read one image as uint8 (3, S, S) in [0, 255]: upright, RGB, squeezed to a square.

    Args:
        path: an image in any format that Pillow reads; grayscale becomes three equal channels.
        size: S. The whole image is kept; its aspect is not.
        box: left, upper, right, lower in pixels, cut out before resizing.

    Raises:
        CubsError: the file is missing, no image or too large a one, or the box leads out of it.
    """
    if box is None and (pixels := _square_jpeg(path, size)) is not None:
        return pixels
    with _opened(path) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
    if box is not None:
        width, height = upright.size
        inside = len(box) == 4 and 0 <= box[0] < box[2] <= width and 0 <= box[1] < box[3] <= height
        if not inside:
            edges = ", ".join(f"{edge:g}" for edge in box)
            raise CubsError(
                f"{path} has {width} × {height} pixels, its box (left, upper, right, lower) is "
                f"{edges}: give one within (of a data set: correct its row, or leave crop False)."
            )
        upright = upright.crop(tuple(box))
    if upright.size != (size, size):
        upright = upright.resize((size, size), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(upright).transpose(2, 0, 1))


def image_size(path: Path) -> tuple[int, int]:
    """Return the width and height of an image, of which only the head is read.

    Raises:
        CubsError: the file is missing, no image or too large a one.
    """
    with _opened(path) as image:
        return image.size


def _square_jpeg(path: Path, size: int) -> np.ndarray | None:
    """Read a whole, plain JPEG of S × S as (3, S, S); None for any other, which is Pillow's.

    The pixels are Pillow's to the bit (both ask libjpeg) in half its time, and threads need not
    wait for each other. torchvision calls this function deprecated from 0.29 on: without it Pillow
    reads all.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(2**20)
        if _head(content) not in ((size, size, 1), (size, size, 3)):
            return None
        from torchvision.io import decode_jpeg  # takes a second to import: where it is needed

        coded = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        return decode_jpeg(coded).expand(3, size, size).numpy()
    except (OSError, RuntimeError, ImportError):
        return None


def _head(content: bytes) -> tuple[int, int, int] | None:
    """Height, width and channels of a JPEG that is whole and has nothing to be turned or mixed."""
    at = 2
    if not (content.startswith(b"\xff\xd8\xff") and content.endswith(b"\xff\xd9")):
        return None
    while at + 10 < len(content) and content[at] == 0xFF:
        kind, length = content[at + 1], int.from_bytes(content[at + 2 : at + 4])
        if kind in (0xC0, 0xC1, 0xC2):  # the frame's head
            height, width = (int.from_bytes(content[at + i : at + i + 2]) for i in (5, 7))
            return height, width, content[at + 9]
        if kind in (0xE1, 0xEE):  # Exif, Adobe
            return None
        at += 2 + length
    return None


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as image:
            if image.width * image.height > LARGEST:
                raise Image.DecompressionBombError
            yield image
    except FileNotFoundError:
        raise CubsError(f"{path} is missing: check the path.") from None
    except Image.DecompressionBombError:
        raise CubsError(f"{path} has more than {LARGEST:,} pixels: give a smaller image.") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise CubsError(f"{path} is no image that can be read; give a whole image file.") from error
