"""Finished runs written by hand, so that pages can be tested without training."""

import base64
import csv
import json
from pathlib import Path

import nbformat
import numpy as np
import torch
from nbformat import v4
from PIL import Image, PngImagePlugin

from cubslib import metrics
from cubslib.runs import parameters, settle

STEMS = {"T1": "T1_custom_cnn", "T2": "T2_resnet18", "T3": "T3_cubs_resnet18", "T4": "T4_retrieval"}


def png(path: Path, alt: str = "", size=(90, 60), seed: int = 0) -> bytes:
    """Write a small picture of noise with its description."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8)
    info = PngImagePlugin.PngInfo()
    info.add_itxt("Description", alt)
    Image.fromarray(pixels).save(path, pnginfo=info)
    return path.read_bytes()


def shown(content: bytes, alt: str = ""):
    """Return a code cell that shows a picture."""
    data = {"image/png": base64.b64encode(content).decode(), "text/plain": "<Figure>"}
    output = v4.new_output("display_data", data, metadata={"image/png": {"alt": alt}})
    return v4.new_code_cell("plots.show(plots.curves(run.history()), path)", outputs=[output])


def save(path: Path, *cells) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(v4.new_notebook(cells=list(cells)), path)
    return path


def run(root: Path, name: str, notebook: bool = True, **changes) -> Path:
    """Write the folder of a finished run `name`; its first two letters are its `task`."""
    task, folder = changes.get("task", name[:2]), root / name
    asked = parameters.compared(parameters.check(task, changes.pop("asked", {})))
    record = {
        "schema": 2, "task": task, "dataset": "real", "protocol": "complete",
        "seed": asked["seed"], "data_fingerprint": "0" * 16,
        "settings": asked | {"preset": "cpu", "image_size": 32},
        "finished": "2026-01-02T03:04:05+00:00", "commit": "", "dirty": False,
        "hardware": "a CPU <8>", "versions": {"python": "3.12"}, "num_parameters": 1_234_567,
        "seconds": 90.0,
    }  # fmt: skip
    if "fashion" in asked:
        record["settings"]["fashion"] = "serial_12"
    if task != "T4":
        record |= {"val": {"top1": 0.5, "top5": 0.75}, "test": {"top1": 0.25, "top5": 0.625}}
        record["test_mirrored"] = {"top1": 0.375, "top5": 0.75}
    labels = np.arange(40) % 8
    arrays = {"labels": labels, "logits": np.eye(8)[labels]}
    if task == "T4":
        arrays = changes.pop("arrays", None) or _retrieval(labels)
        record["recall"] = _recalls(arrays)
    record |= changes
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(record))
    (folder / "settings.json").write_text(json.dumps({"asked": asked, "resolved": {}}))
    fits = ("serial_12",) if task == "T3" else ("classification", "embedding")[: 1 + (task == "T4")]
    rows = [f"{fit},{epoch},{3 / epoch},{epoch / 10},22.5" for fit in fits for epoch in range(1, 5)]
    head = "fit,epoch,loss," + ("val_recall_at_1" if task == "T4" else "val_top1") + ",seconds"
    (folder / "history.csv").write_text("\n".join([head, *rows]) + "\n")
    np.savez(folder / "arrays.npz", **arrays)
    curves = png(folder / "figures/curves.png", f"Curves of {name}", seed=len(name))
    (folder / "figures/classes.csv").write_text("class,right\n<b>cat</b>,0.5\n")
    classes = png(folder / "figures/classes.png", f"Classes of {name}", (1500, 300), len(name) + 1)
    if notebook:
        text = f"# {task}: a question\n\n**Does it work?** $x_i > 1$\n\n## Training"
        said = v4.new_output("stream", name="stdout", text="one epoch <done>\n")
        cells = [
            v4.new_markdown_cell(text),
            shown(curves, f"Curves of {name}"),
            v4.new_code_cell("record_classifier(run)", outputs=[said]),
            v4.new_markdown_cell("## Where it fails"),
            shown(classes, f"Classes of {name}"),
        ]
        save(folder / f"{STEMS[task]}.ipynb", *cells)
    return folder


def checkpoint(path: Path, state: dict | None = None, **config) -> None:
    """Write the checkpoint of a network with CUBS blocks, or another; usually without weights."""
    config = {"network": "cubs_resnet18", "stem": "7x7"} | config
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": state or {}, "config": config}, path)


def change(folder: Path, settings: dict | None = None, **changes) -> dict:
    """Change the record of a finished run, and some of its settings; return it."""
    path = folder / "metrics.json"
    record = json.loads(path.read_text()) | changes
    record["settings"] |= settings or {}
    path.write_text(json.dumps(record))
    return record


def cars(root: Path) -> dict:
    """Return `arrays` and fingerprint of a T4 run on the test images of the data set in `root`."""
    train, _, test = settle.open_data("T4", root, parameters.defaults("T4"), 32)
    arrays = _retrieval(test.labels.numpy())
    arrays["names"] = np.array(test.names)
    arrays["classes"] = np.array([test.classes[target] for target in test.targets])
    mark = settle.describe(train, test, "real", 0)["data_fingerprint"]
    return {"arrays": arrays, "data_fingerprint": mark}


def _retrieval(labels: np.ndarray) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(7)
    places = draw.normal(size=(labels.max() + 1, 24))
    arrays = {"labels": labels, "names": np.array([f"{i}.jpg" for i in range(len(labels))])}
    arrays["classes"] = np.array([f"Make{i % 3} Sedan {i}" for i in labels])
    for stage, strength in (("classification", 0.5), ("embedding", 0.8)):
        found = strength * places[labels] + draw.normal(size=(len(labels), 24))
        found /= np.linalg.norm(found, axis=1, keepdims=True)
        arrays[f"embeddings_{stage}"] = found.astype(np.float32)
    return arrays


def _recalls(arrays: dict) -> dict:
    stages = "classification", "embedding"
    found = {
        stage: metrics.recall_at_k(
            torch.from_numpy(arrays[f"embeddings_{stage}"]), torch.from_numpy(arrays["labels"])
        )
        for stage in stages
    }
    return {stage: {str(k): value for k, value in row.items()} for stage, row in found.items()}


def rows_of(text: str) -> list[list[str]]:
    return list(csv.reader(text.splitlines()))
