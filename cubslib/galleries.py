"""A photograph's nearest images: in a run's own gallery, or in a folder made into one file.

Shapes: N images in a gallery, K found, S pixels a side, D dimensions of an embedding.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn

from cubslib import CubsError, machine, metrics, training
from cubslib.augment import prepare
from cubslib.decoding import decode
from cubslib.disk import fingerprint, whole
from cubslib.progress import Progress
from cubslib.runs import finished, settle
from cubslib.scoring import EVAL_BATCH, outputs

SHOWN = 224  # pixels a side of a picture that shows what was found


@dataclass(frozen=True)
class Gallery:
    """Embedded images.

    Attributes:
        embeddings: (N, D), float32, each of length 1.
        names: N files relative to `folder`, with forward slashes.
        classes: what each shows; "" where that is not known.
        folder: where the files lie, or lay.
        network: the fingerprint of the checkpoint that embedded them.
        run: the name of that network's run.
    """

    embeddings: Tensor
    names: tuple[str, ...]
    classes: tuple[str, ...]
    folder: Path
    network: str
    run: str


def make(
    folder: str | Path, run_dir: str | Path, file: str | Path, model: nn.Module | None = None
) -> Gallery:
    """Embed all images under a folder, write the gallery to one file and return it.

    An image's class is the sub-folder that it lies in. Hidden files are passed over; what is no
    image that can be read is left out, which is said. The file holds no pickle and no absolute
    path: where the folder is, it says from where it is itself.

    Args:
        folder: of images in any format that Pillow reads.
        run_dir: a finished run, or its `best.ckpt`: one of T4 embeds, the features below the
            classification layer of any other serve as well.
        file: where to write, such as `holiday.npz`; whole or not at all.
        model: one's own network, as for `training.load`.

    Raises:
        CubsError: there is no such folder, no image in it, no such run, or the file cannot be
            written, which is tried before the images are read.
    """
    folder, file, model = Path(folder), Path(file), training.load(run_dir, model)
    if not folder.is_dir():
        raise CubsError(f"{folder} is no folder: name one that holds images.")
    if file.is_dir():
        raise CubsError(f"{file} is a folder: name a file to write, such as holiday.npz.")
    files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    files = sorted(path for path in files if not any(part[0] == "." for part in path.parts))
    with whole(file) as draft, open(draft, "wb") as out:
        names, embeddings, refused = _embed_files(model, folder, files)
        if not names:
            first = f" ({refused[0].rstrip('.')})" if refused else ""
            raise CubsError(f"{folder} holds no image that can be read{first}: name another.")
        classes = [path.parent.as_posix() for path in names]
        arrays = {
            "embeddings": embeddings.numpy(),
            "names": [path.as_posix() for path in names],
            "classes": ["" if name == "." else name for name in classes],
            "folder": os.path.relpath(folder.resolve(), file.resolve().parent),
            "network": _network(run_dir),
            "run": (finished.home(Path(run_dir)) or Path(run_dir)).resolve().name,
        }
        np.savez(out, **{name: np.array(values) for name, values in arrays.items()})
    left_out = f"; left out: {len(refused)}, the first as {refused[0]}" if refused else ""
    kinds = len(set(classes) - {"."})
    counted = f"{len(names):,} image{'s'[: len(names) > 1]}"
    counted += f" of {kinds:,} classes" if kinds > 1 else ""
    print(f"{file.name}: {counted}{left_out}")
    return read(file)


def read(file: str | Path) -> Gallery:
    """Return the gallery that `make` wrote to `file`.

    Raises:
        CubsError: it is missing, damaged or no gallery.
    """
    file = Path(file)
    try:
        with np.load(file, allow_pickle=False) as saved:
            embeddings = torch.from_numpy(saved["embeddings"])
            names, classes = (
                tuple(map(str, saved[name].tolist())) for name in ("names", "classes")
            )
            folder, network, run = (str(saved[name]) for name in ("folder", "network", "run"))
        if embeddings.ndim != 2 or not 0 < len(embeddings) == len(names) == len(classes):
            raise ValueError
        folder = Path(os.path.normpath(file.parent / folder))
        return Gallery(embeddings.float(), names, classes, folder, network, run)
    except FileNotFoundError:
        raise CubsError(f"{file} is missing: `python -m cubslib gallery` makes one.") from None
    except Exception as error:  # many kinds for what is no such file
        raise CubsError(
            f"{file} is no gallery that can be read: make it by `python -m cubslib gallery`."
        ) from error


def load(run_dir: str | Path, file: str | Path | None = None) -> Gallery:
    """Return a gallery of a run's network: the one in `file`, or its own of the unseen classes.

    Raises:
        CubsError: the file is no gallery or another network's, or the run, without `file`, is none
            of T4.
    """
    run_dir = Path(run_dir)
    if file is not None:
        found = read(file)
        if found.network != _network(run_dir):
            raise CubsError(
                f"{file} is a gallery of another network, that of {found.run}: name its run, or "
                f"make the gallery anew with {run_dir.name}."
            )
        return found
    config = finished.checkpoint(finished.weights(run_dir))["config"]
    if "embedding_dim" not in config or not (run_dir / "arrays.npz").is_file():
        raise CubsError(
            f"{run_dir.name} is no run of T4 and has no gallery, or its control, which has no "
            "embedding: name another, or make a gallery by `python -m cubslib gallery`."
        )
    arrays, kind = finished.arrays(run_dir), finished.read(run_dir)["dataset"]
    names, classes = (tuple(arrays[name].tolist()) for name in ("names", "classes"))
    folder = Path("data", "sample" if kind == "sample" else "", "cars196")
    embeddings = torch.from_numpy(arrays["embeddings_embedding"])
    if embeddings.ndim != 2 or not len(embeddings) == len(names) == len(classes):
        raise CubsError(f"{run_dir.name}/arrays.npz is damaged: restore it.")
    where = machine.project_root() / folder
    return Gallery(embeddings, names, classes, where, _network(run_dir), run_dir.name)


def rebuild(run_dir: str | Path, data_root: str | Path) -> str:
    """Embed the test photographs under `data_root` as the gallery of a published T4 run.

    They are embedded once, into the run's `arrays.npz`, which `search` reads; again where the
    network or the photographs are others, or the file cannot be read.

    Returns:
        What was done: of how many photographs, whether they are the run's own, and their Recall@1.

    Raises:
        CubsError: the run's network embeds nothing, or neither the photographs nor their gallery
            are there.
    """
    run_dir = Path(run_dir)
    saved, data = finished.checkpoint(finished.weights(run_dir)), Path(data_root) / "cars196"
    if "gallery" not in saved:
        raise CubsError(f"{run_dir.name} is no run of T4 and has no gallery: name one that is.")
    made, kept = {"network": _network(run_dir)}, {}
    with suppress(CubsError):  # there is none, or it is damaged
        kept = finished.arrays(run_dir)
    record = finished.read(run_dir)
    if data.is_dir():
        *_, test = settle.open_data("T4", data, record["settings"], saved["image_size"])
        made["images"] = test.fingerprint
    if all(str(kept.get(name)) == mark for name, mark in made.items()):
        return f"The gallery is the one made earlier, {run_dir.name}/arrays.npz."
    if not data.is_dir():
        raise CubsError(f"search needs the gallery's photographs, and {data.parent.name} holds no "
                        "cars196: lay it out with data_scripts/get_cars196.py.")  # fmt: skip
    fabric, model = Fabric(accelerator="auto", devices=1), training.load(run_dir)
    embeddings = F.normalize(outputs(fabric, model, test, model.image_size), dim=1)
    classes = [test.classes[target] for target in test.targets]
    arrays = {"embeddings_embedding": embeddings.numpy(), "labels": test.labels.numpy()}
    arrays |= {"names": np.array(test.names), "classes": np.array(classes)} | made
    with whole(run_dir / "arrays.npz") as draft, open(draft, "wb") as file:
        np.savez_compressed(file, **arrays)
    theirs = saved["gallery"]
    own = (theirs["names"], theirs["classes"]) == (test.names, classes)
    which = "those" if own else f"not the {len(theirs['names']):,}"
    recall = metrics.recall_at_k(embeddings, test.labels, (1,))[1]
    return (
        f"The gallery was made anew of {len(test):,} photographs under {data.name}, {which} that "
        f"the run was scored on: Recall@1 {recall:.1%}, in the record "
        f"{record['recall']['embedding']['1']:.1%}."
    )


@torch.no_grad()
def search(
    run_dir: str | Path,
    photo: str | Path,
    count: int = 8,
    gallery: str | Path | None = None,
    box: Sequence[int] | None = None,
    model: nn.Module | None = None,
) -> list[tuple[str, str, float]]:
    """Return a gallery's nearest images to one photograph: (file, class, cosine), best first.

    Args:
        run_dir: a finished run, whose network embeds the photograph.
        photo: an image file; it is squeezed to the square that the network reads.
        count: how many; all, where the gallery has fewer.
        gallery: a file that `make` wrote; None for the unseen classes of a run of T4.
        box: left, upper, right, lower in pixels of the upright photograph: only that is looked at.
        model: one's own network, as for `training.load`.

    Raises:
        CubsError: the photograph cannot be read, the box leads out of it, or the gallery is
            missing, damaged or another network's.
    """
    model, searched = training.load(run_dir, model), load(run_dir, gallery)
    query = _embed(model, [decode(Path(photo), model.image_size, box)])
    if searched.embeddings.shape[1:] != query.shape[1:]:
        raise CubsError(f"{gallery or f'{Path(run_dir).name}/arrays.npz'} is another network's: "
                        "restore it.")  # fmt: skip
    cosines, found = metrics.neighbours(query, searched.embeddings, count)
    return [
        (searched.names[i], searched.classes[i], cosine)
        for cosine, i in zip(cosines[0].tolist(), found[0].tolist(), strict=True)
    ]


def sheet(
    searched: Gallery,
    photo: str | Path,
    found: Sequence[tuple[str, str, float]],
    box: Sequence[int] | None = None,
) -> np.ndarray:
    """Return the photograph and what `search` found for it, uint8 (1 + K, 3, SHOWN, SHOWN).

    Raises:
        CubsError: an image is no longer where the gallery says.
    """
    for name, *_ in found:
        if not (searched.folder / name).is_file():
            raise CubsError(f"{searched.folder} has no {name}: put the gallery's images back "
                            "there, or make a gallery of where they are now.")  # fmt: skip
    images = [decode(searched.folder / name, SHOWN) for name, *_ in found]
    return np.stack([decode(Path(photo), SHOWN, box), *images])


def _network(run_dir: str | Path) -> str:
    """Return the fingerprint of a run's reported weights."""
    path = finished.weights(Path(run_dir))
    if not path.is_file():
        raise CubsError(f"{path} is missing: name a finished run or its checkpoint.")
    return fingerprint(path.read_bytes())


@torch.no_grad()
def _embed_files(model: nn.Module, folder: Path, files: list[Path]) -> tuple[list, Tensor, list]:
    """Return the files that are images, their embeddings, and a sentence for each other."""
    names, embeddings, refused = [], [torch.empty(0)], []

    def attempt(path: Path) -> np.ndarray | CubsError:
        try:
            return decode(folder / path, model.image_size)
        except CubsError as error:
            return error

    model.to(machine.device())
    bar = Progress(len(files), unit="img", desc="embedding", leave=False)
    with bar, ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(files), EVAL_BATCH):
            chunk = files[start : start + EVAL_BATCH]
            found = dict(zip(chunk, pool.map(attempt, chunk), strict=True))
            good = {path: x for path, x in found.items() if not isinstance(x, CubsError)}
            refused += [str(x) for path, x in found.items() if path not in good]
            if good:
                embeddings.append(_embed(model, list(good.values())))
            names += good
            bar.update(len(chunk))
    return names, torch.cat(embeddings[1:] or embeddings), refused


def _embed(model: nn.Module, pixels: list[np.ndarray]) -> Tensor:
    """Return embeddings (N, D), each of length 1, of N images uint8 (3, S, S)."""
    function = model if "embedding_dim" in model.config else model.features
    batch = torch.from_numpy(np.stack(pixels)).to(next(model.parameters()).device)
    return F.normalize(function(prepare(batch, model.image_size)).float(), dim=1).cpu()
