"""Finished runs, read back: their records and checkpoints; where and on what they ran."""

import json
import os
import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch

from cubslib import CubsError

PACKAGES = ("cubslib", "torch", "torchvision", "lightning-fabric", "numpy")


def project_root() -> Path:
    """Return the nearest folder above the working directory with our pyproject.toml, else that."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        file = folder / "pyproject.toml"
        if file.exists() and 'name = "cubslib"' in file.read_text():
            return folder
    return here


def find(root: Path) -> list[tuple[Path, dict]]:
    """Return the finished runs directly under `root` with their records, newest first.

    Folders set aside (`~n`) are left out. A record is the content of `metrics.json`.
    """
    files = [file for file in root.glob("*/metrics.json") if "~" not in file.parent.name]
    files.sort(key=lambda file: file.stat().st_mtime, reverse=True)
    return [(file.parent, json.loads(file.read_text())) for file in files]


def earlier(
    folder: Path, task: str, dataset: str, stem: str, fashion: str = "best"
) -> tuple[Path, dict] | None:
    """Return the newest finished sibling of `folder` that fits, or None.

    Args:
        folder: the run that asks.
        task: the notebook sought, `T1` … `T4`.
        dataset: its kind of data, `real` or `sample`.
        stem: its ResNet-18 stem.
        fashion: the one that it reports; `best` for any.
    """
    for sibling, record in find(folder.parent):
        theirs = record["settings"]
        alike = (record["task"], record["dataset"], theirs["stem"]) == (task, dataset, stem)
        if alike and sibling != folder and fashion in ("best", theirs.get("fashion")):
            return sibling, record
    return None


def checkpoint(path: Path) -> dict:
    """Return a reported checkpoint, `state_dict`, `config`, `classes` and `image_size`.

    Raises:
        CubsError: the file is missing, damaged or no checkpoint of ours.
    """
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CubsError(f"{path} is missing: name a finished run or its checkpoint.") from None
    except Exception as error:  # torch raises many kinds for what is no checkpoint
        raise CubsError(f"{path} is no checkpoint that can be read: give a best.ckpt.") from error
    if not isinstance(saved, dict) or not {"state_dict", "config"} <= saved.keys():
        raise CubsError(f"{path} is no checkpoint of this library: give a best.ckpt.")
    return saved


def hardware(device: str) -> str:
    """Return the name of the GPU (`cuda`), or of the processor with the number of its cores."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        found = re.search(r"model name\s*: (.+)", cpuinfo.read_text())
        model = found[1] if found else model
    return f"{model}, {os.cpu_count()} cores"


def versions() -> dict[str, str]:
    """Return the versions of Python, of this library and of what a result may depend on."""
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}


def commit() -> str:
    """Return the first 12 digits of the project's commit; empty outside a git checkout."""
    command = ["git", "rev-parse", "--short=12", "HEAD"]
    try:
        answer = subprocess.run(command, cwd=project_root(), capture_output=True, text=True)
    except OSError:
        return ""
    return answer.stdout.strip()
