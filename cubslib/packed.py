"""A data set decoded once into one memory-mapped uint8 file; whole batches are read by position.

Decoding JPEGs in every epoch costs more than training a small network on them. The packed copy
holds the decoded pixels, so a batch is one indexed read and memory is bounded by the batch.

It is kept in the data set's folder, or under the folder that the environment variable
CUBSLIB_CACHE names (for data that cannot be written, or another disk). A copy that is there
already is used wherever it lies, and nothing is written then. It is made anew when the list of
files, one's length in bytes, date or box changes; an image that is replaced by another of the same
length and date is not noticed: delete the copy (`packed-*.npy`) after such an edit.

Shapes: N images in the packed copy, B in a batch, S pixels a side.
"""

import errno
import hashlib
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from cubslib import CubsError
from cubslib.decoding import decode
from cubslib.disk import fingerprint, lock, whole
from cubslib.progress import Progress

CHUNK = 256  # images a thread decodes at a time


class PackedImages(Dataset):
    """Labelled images, read from a packed copy that is made at the first read.

    Args:
        root: the data set's folder; the packed copy is kept in it.
        name: what the packed copy is called; splits that share `files` share it.
        files: N names relative to `root`, with forward slashes.
        labels: N official labels from 0.
        class_names: the name of each official label.
        rows: which of the files are in this split, by position.
        size: S.
        boxes: (N, 4) boxes to cut out, or None for whole images.
        title: which data set it is, by its classes.
        protocol: how the files at hand stand to the official data set.

    Attributes:
        names: the split's file names. labels: its official labels, int64.
        targets: its labels renumbered from 0 among the classes present: what trains a classifier.
        classes: the names of the present classes, in the order of `targets`.
    """

    def __init__(
        self, root, name, files, labels, class_names, rows, size,
        boxes=None, title="images", protocol="complete",
    ):  # fmt: skip
        self.root, self.files, self.size, self.boxes = Path(root), files, size, boxes
        self.title, self.protocol, self.pack_name = title, protocol, name
        self.rows = np.asarray(rows, dtype=np.int64)
        self.names = [files[row] for row in self.rows]
        self.labels = torch.as_tensor(np.asarray(labels, dtype=np.int64)[self.rows])
        present, self.targets = self.labels.unique(return_inverse=True)
        self.classes = tuple(class_names[label] for label in present.tolist())

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        """Return the image at `position`, uint8 (3, S, S), and its official label."""
        return self.__getitems__([range(len(self))[position]])[0]

    def __getitems__(self, positions: Sequence[int]) -> list[tuple[Tensor, int]]:
        """Return one (image, label) a position, read at once: what a `DataLoader` asks for."""
        labels = self.labels[torch.as_tensor(positions)].tolist()
        return list(zip(self.read(positions), labels, strict=True))

    def read(self, positions: Sequence[int]) -> Tensor:
        """Return the images at `positions`, uint8 (B, 3, S, S)."""
        return torch.from_numpy(self._pack[0][self.rows[np.asarray(positions)]])

    def summary(self) -> dict[str, object]:
        """Return counts, and the channels' mean and standard deviation in [0, 1].

        The last two are of at most 256 images, evenly spaced.
        """
        pixels = self.read(np.arange(0, len(self), -(-len(self) // 256))).float() / 255
        counts = self.targets.bincount()
        counted = sorted({counts.min().item(), counts.max().item()})
        return {
            "images": len(self),
            "classes": len(self.classes),
            "images a class": "–".join(map(str, counted)),
            "mean of R, G, B": " ".join(f"{x:.3f}" for x in pixels.mean((0, 2, 3)).tolist()),
            "std of R, G, B": " ".join(f"{x:.3f}" for x in pixels.std((0, 2, 3)).tolist()),
        }  # fmt: skip

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of all packed pixels and of this split's rows and labels."""
        return fingerprint(self._pack[1], self.rows.tobytes(), self.labels.numpy().tobytes())

    @cached_property
    def _pack(self) -> tuple[np.ndarray, bytes]:
        """The packed copy (N, 3, S, S) and its digest, made anew where stale or damaged."""
        stem = f"packed-{self.pack_name}-{self.size}px"
        name = f"{stem}-{self._source()}.npy"
        shape = len(self.files), 3, self.size, self.size
        cache = os.environ.get("CUBSLIB_CACHE")
        own = f"{self.root.name}-{fingerprint(str(self.root.resolve()))}"
        folder = Path(cache).expanduser() / own if cache else self.root
        for place in (folder, self.root):  # without a lock: a copy appears whole
            if pack := _open(place / name, shape):
                return pack
        if not (cache or os.access(folder, os.W_OK)):
            raise CubsError(
                f"{folder} cannot be written and has no packed copy yet: make it writable, or name "
                "a folder for the copy by the environment variable CUBSLIB_CACHE."
            )
        with lock(folder / f".{stem}.lock"):
            pack = _open(folder / name, shape)  # another process may have made it meanwhile
            if pack is None:
                _write(folder / name, self.root, self.files, self.size, self.boxes)
                pack = _open(folder / name, shape)
                for other in folder.glob(f"*{stem}-*"):
                    if other.name != name:
                        other.unlink()  # made from other files, or left by a killed process
        return pack

    def _source(self) -> str:
        """What the packed copy is made from, without reading it."""
        try:
            # os.path joins in half of pathlib's time, and there may be 110,000 files.
            stats = [(file, os.stat(os.path.join(self.root, file))) for file in self.files]
        except OSError as error:
            raise CubsError(
                f"{error.filename} cannot be read ({error.strerror}): unpack the whole data set."
            ) from error
        boxes = None if self.boxes is None else self.boxes.tobytes()
        return fingerprint(*((file, s.st_size, s.st_mtime_ns) for file, s in stats), boxes)


def _open(path: Path, shape: tuple[int, ...]) -> tuple[np.ndarray, bytes] | None:
    """Map the packed copy at `path`; None where there is none or its digest does not match."""
    try:
        images = np.lib.format.open_memmap(path, "r")
        digest = _trailer(path)
    except (OSError, ValueError, EOFError):
        return None
    fits = (images.shape, images.dtype) == (shape, np.uint8)
    return (images, digest) if fits and hashlib.sha256(images).digest() == digest else None


def _trailer(path: Path) -> bytes:
    with open(path, "rb") as file:
        file.seek(-32, 2)
        return file.read()


def _write(path, root, files, size, boxes) -> None:
    """Decode all files into `path`, an .npy file followed by the SHA-256 of its array."""
    with whole(path) as draft, Progress(len(files), unit="img", desc="packing") as bar:
        images = np.lib.format.open_memmap(draft, "w+", np.uint8, (len(files), 3, size, size))
        _reserve(draft)

        def decode_chunk(start: int) -> int:
            stop = min(start + CHUNK, len(files))
            for row in range(start, stop):
                box = None if boxes is None else boxes[row]
                images[row] = decode(root / files[row], size, box)
            return stop - start

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for done in pool.map(decode_chunk, range(0, len(files), CHUNK)):
                bar.update(done)
        images.flush()
        with open(draft, "ab") as file:
            file.write(hashlib.sha256(images).digest())


def _reserve(draft: Path) -> None:
    """Take the disk that a sparse file will fill: a memory map that finds none ends the process."""
    needed, free = draft.stat().st_size, shutil.disk_usage(draft.parent).free
    try:
        if free < needed:
            raise OSError(errno.ENOSPC, "No space left on device")
        if hasattr(os, "posix_fallocate"):  # macOS has none
            with open(draft, "rb+") as file:
                os.posix_fallocate(file.fileno(), 0, needed)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise CubsError(
            f"{draft.parent} has {free / 1e9:.1f} GB free, the packed copy takes "
            f"{needed / 1e9:.1f} GB ({error.strerror}): make room, or name another folder by the "
            "environment variable CUBSLIB_CACHE."
        ) from error
