"""The retrieval browser: all test images of a T4 run, their neighbours, and numbers to recompute.

The page carries both stages' embeddings as rows of int8. Their cosines are exact integers over the
product of two lengths, so that the library and the reader's browser count the same to the last
image.

Shapes: N images, D dimensions of an embedding, n queries in a block.
"""

import base64
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from cubslib import CubsError, metrics
from cubslib.pages import markup
from cubslib.pages.entries import STAGES, Entry
from cubslib.runs import finished, settle

KS = (1, 2, 4, 8)
LARGEST = 20_000_000  # bytes of the page
WIDEST = 2080  # D at which a sum of products, up to 127² each, stays below 2^25
SIZES = ((120, 90), (96, 72), (80, 60), (64, 48))  # of a thumbnail, pixels; what fits is taken
BODIES = ("Convertible", "Coupe", "Hatchback", "Sedan", "SUV", "Minivan", "Van", "Wagon", "Cab")
TWO_WORDS = ("AM", "Aston", "Land")  # makes of two words


def browser(entry: Entry, data: Path, path: Path, address: str) -> None:
    """Write the browser's page of a finished T4 run.

    Args:
        entry: the run.
        data: the folder of the data set that it was scored on.
        path: where the page goes.
        address: of the run's own page, as seen from there.

    Raises:
        CubsError: the run's arrays or its images are not at hand, or the page would be too large.
    """
    arrays = _arrays(entry)
    labels, names = arrays["labels"], [str(name) for name in arrays["names"]]
    _, first, numbers = np.unique(labels, return_index=True, return_inverse=True)
    classes = [str(name) for name in arrays["classes"][first]]
    rows, stages = zip(*(_stage(entry, name, arrays) for name in STAGES), strict=True)
    texts = [base64.b64encode(each.tobytes()).decode() for each in rows]
    _refuse_other_data(entry, data, names)
    thumbs = _thumbnails(data, names, LARGEST - 300_000 - sum(map(len, texts)))
    values = {
        "names": names,
        "labels": numbers.tolist(),
        "classes": classes,
        "makes": [make(name) for name in classes],
        "bodies": [body(name) for name in classes],
        "stages": stages,
    }
    markup.write(
        path, "browser.html.j2", ("browser.js",), title=f"{entry.name}: the images and their "
        "neighbours", entry=entry, address=address, stages=stages, agreement=_agreement(stages),
        data=markup.block(values), thumbs=markup.block(thumbs), texts=texts,
    )  # fmt: skip


def quantise(embeddings: NDArray) -> NDArray:
    """Round embeddings (N, D) to int8, each row by its own scale: its largest value is ±127.

    The scale is not kept: cosines do not depend on it.
    """
    largest = np.abs(embeddings).max(1, keepdims=True)
    return np.rint(embeddings / np.where(largest > 0, largest, 1) * 127).astype(np.int8)


def ranks(rows: NDArray, labels: NDArray) -> NDArray:
    """Return (N,) how many of another class are as near as the nearest of one's own.

    It is `metrics.recall_at_k`'s count, in double precision: a query is a hit at K where its rank
    is below K; one without another image of its class has rank N.

    Args:
        rows: (N, D) int8.
        labels: (N,).
    """
    exact = rows.astype(np.float64)  # holds every sum of products exactly
    norms = np.sqrt((exact**2).sum(1))
    norms[norms == 0] = 1
    found = np.empty(len(rows), np.int64)
    for start in range(0, len(rows), 512):
        queries = np.arange(start, min(start + 512, len(rows)))
        cosines = exact[queries] @ exact.T / (norms[queries, None] * norms)  # (n, N)
        same = labels[queries, None] == labels
        negatives = np.where(same, -np.inf, cosines)
        same[np.arange(len(queries)), queries] = False
        best = np.where(same, cosines, -np.inf).max(1, keepdims=True)
        nearer = (negatives >= best - metrics.TIE).sum(1)
        found[queries] = np.where(np.isinf(best[:, 0]), len(rows), nearer)
    return found


def _arrays(entry: Entry) -> dict[str, NDArray]:
    """Read and check the run's arrays."""
    try:
        arrays = finished.arrays(entry.folder)
        count = len(arrays["labels"])
        for name in STAGES:
            found = arrays[f"embeddings_{name}"]
            good = found.shape[0] == count and found.ndim == 2 and found.shape[1] <= WIDEST
            if not good or not np.isfinite(found).all():
                raise ValueError(f"embeddings_{name}")
        if not len(arrays["names"]) == len(arrays["classes"]) == count > 0:
            raise ValueError("names")
    except Exception as error:  # many kinds for what is no such file
        raise CubsError(f"{entry.name}/arrays.npz has no embeddings to browse: restore it "
                        f"({error}).") from None  # fmt: skip
    return arrays


def _stage(entry: Entry, name: str, arrays: dict[str, NDArray]) -> tuple[NDArray, dict]:
    """Return a stage's rounded rows, and what the page says of them."""
    embeddings, labels = arrays[f"embeddings_{name}"], arrays["labels"]
    rows = quantise(embeddings)
    found, count = ranks(rows, labels), len(labels)
    exact = metrics.recall_at_k(torch.from_numpy(embeddings), torch.from_numpy(labels), KS)
    hits = {k: int((found < k).sum()) for k in KS}
    return rows, {
        "name": name,
        "title": STAGES[name].capitalize(),
        "dim": rows.shape[1],
        "ranks": found.tolist(),
        "rounded": {str(k): hits[k] / count for k in KS},
        "apart": {str(k): round(exact[k] * count) - hits[k] for k in KS},
        "exact": {str(k): exact[k] for k in KS},
        "record": {str(k): entry.record["recall"][name][str(k)] for k in KS},
    }


def _agreement(stages: tuple[dict, ...]) -> str:
    wrong = [f"{told['name']}, K {k}: the record says {told['record'][k]!r}, the embeddings give "
             f"{told['exact'][k]!r}" for told in stages for k in told["record"]
             if told["record"][k] != told["exact"][k]]  # fmt: skip
    if wrong:
        return f"✗ The record and the run's embeddings do not agree: {'; '.join(wrong)}."
    apart = max(abs(value) for told in stages for value in told["apart"].values())
    return ("When this page was made the library found the record's numbers in the unrounded "
            f"embeddings, to the last digit; rounding moves at most {apart} hits.")  # fmt: skip


def _refuse_other_data(entry: Entry, data: Path, names: list[str]) -> None:
    """Refuse images that are not the run's, by the fingerprint of all their pixels and labels."""
    record, settings = entry.record, entry.record["settings"]
    try:
        train, _, test = settle.open_data(entry.task, data, settings, settings["image_size"])
        here = settle.describe(train, test, record["dataset"], settings["limit_classes"])
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise CubsError(f"{data.name} under data_root cannot be opened by the run's settings "
                        f"({error}).") from None  # fmt: skip
    if here["data_fingerprint"] != record["data_fingerprint"] or test.names != names:
        raise CubsError(f"{data.name} under data_root holds other images than those of the run.")


def make(name: str) -> str:
    """Return the make in the name of a class.

    >>> make("Land Rover Range Rover SUV 2012"), make("Ford GT Coupe 2006")
    ('Land Rover', 'Ford')
    """
    words = name.split()
    return " ".join(words[: 2 if words[:1] and words[0] in TWO_WORDS else 1])


def body(name: str) -> str:
    """Return the body type in the name of a class, "" where it tells none.

    >>> body("Ford F-150 Regular Cab 2012"), body("Fiat 500 Abarth 2012")
    ('Cab', '')
    """
    found = [body for body in BODIES if re.search(rf"\b{body}\b", name)]
    return found[-1] if found else ""


def _thumbnails(data: Path, names: list[str], room: int) -> list[str]:
    """Return the images' thumbnails, WebP in base64, as large as `room` bytes allow."""
    files = [data / name for name in names]
    few = files[:: -(-len(files) // 100)]
    for size, quality in [*((size, 60) for size in SIZES), (SIZES[-1], 30)]:
        sample = sum(len(_thumbnail(file, size, quality)) + 3 for file in few)
        if 1.05 * sample * len(files) / len(few) < room:
            with ThreadPoolExecutor() as pool:
                found = list(pool.map(lambda file: _thumbnail(file, size, quality), files))  # noqa: B023
            if sum(map(len, found)) + 3 * len(found) < room:
                return found
    raise CubsError(f"{len(names):,} images do not fit a page of {LARGEST / 1e6:.0f} MB.")


def _thumbnail(file: Path, size: tuple[int, int], quality: int) -> str:
    try:
        with Image.open(file) as image:
            image.draft("RGB", (2 * size[0], 2 * size[1]))  # JPEG decodes small in less time
            small = ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise CubsError(f"{file.name} is no image that can be read.") from None
    small.thumbnail(size, Image.Resampling.LANCZOS)
    return base64.b64encode(markup.webp(small, quality)).decode()
