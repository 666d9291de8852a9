"""What computes: project and machine, precision, versions, and the code as it was imported."""

import ast
import ctypes
import os
import platform
import re
import subprocess
import time
from importlib.metadata import version
from pathlib import Path

import torch
import torchvision

from cubslib import CubsError
from cubslib.disk import fingerprint

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # of malloc.h
CODE = Path(__file__).parent
PACKAGES = ("cubslib", "torch", "torchvision", "lightning-fabric", "numpy")
# The modules that a fit or a score runs through, or that choose its epoch or fashion.
USED = (
    *("datasets", "annotations", "matlab", "packed", "decoding", "augment", "sampling"),
    *("attention", "blocks", "convolution", "models", "interface", "losses", "metrics"),
    *("optimizers", "state", "training", "scoring", "controls", "runs/history"),
)


def project_root() -> Path:
    """Return the nearest folder above the working directory with our pyproject.toml, else that."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        file = folder / "pyproject.toml"
        if file.exists() and 'name = "cubslib"' in file.read_text(errors="replace"):
            return folder
    return here


def device() -> str:
    """Return `cuda`, `mps` (untried) or `cpu`: the best that this machine has."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def precision(device: str) -> str:
    """Return Fabric's name of the fastest safe precision of `device`.

    bf16 pays on a processor with tiles for it (AMX), and on AMD's with AVX512_BF16, where T1 trains
    at 1.6 to 2.1 times its speed in float32. On Intel's with AVX512_BF16 alone that is 0.73 to
    0.78, and with neither many times slower.
    """
    if device == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16-mixed" if native else "16-mixed"
    if device != "cpu":
        return "32-true"
    # torch has no public names for these
    vectors = torch.cpu._is_avx512_bf16_supported() and "AMD" in hardware("cpu")
    return "bf16-mixed" if vectors or torch.cpu._is_amx_tile_supported() else "32-true"


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


def free_memory(device: str) -> int | None:
    """Return the bytes that are free on `device`; None where that cannot be told."""
    if device == "cuda":
        kept = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()  # free again, by torch
        return torch.cuda.mem_get_info()[0] + kept
    meminfo = Path("/proc/meminfo")  # of Linux
    text = meminfo.read_text() if device == "cpu" and meminfo.exists() else ""
    found = re.search(r"MemAvailable:\s*(\d+) kB", text)
    return 1024 * int(found[1]) if found else None


def keep_freed_memory() -> None:
    """Let this process keep what it frees, for its next use; only glibc knows how.

    By default each large tensor is asked from the system, which hands it over in pages of 4 KiB
    filled with zeros, and given back at once: a step of T1 took 1.0 to 1.18 times as long.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(MMAP_MAX, 0)
        libc.mallopt(TRIM_THRESHOLD, 2**31 - 1)


def pace(steps: int = 6) -> float:
    """Return the images a second at which this processor trains ResNet-18, the fastest of `steps`.

    It is torchvision's, 7 × 7 stem, on 128 images of 64 × 64, in `precision("cpu")`, which is the
    faster one. Other work on the machine slows some steps: the fastest is least disturbed, and one
    thread is timed by its own clock.
    """
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    bf16, seconds = precision("cpu") == "bf16-mixed", []
    with torch.random.fork_rng(devices=[]):
        model = torchvision.models.resnet18(num_classes=200).to(memory_format=torch.channels_last)
        images = torch.randn(128, 3, 64, 64).contiguous(memory_format=torch.channels_last)
        targets = torch.randint(200, (128,))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for _ in range(steps + 1):  # the first one warms up
        start = clock()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = torch.nn.functional.cross_entropy(model(images), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(clock() - start)
    return round(len(images) / min(seconds[1:]), 1)


def versions() -> dict[str, str]:
    """Return the versions of Python, of this library and of what a result may depend on."""
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}


def checkout() -> dict[str, object]:
    """Return the library's `commit`, 12 digits, and `dirty`, whether a tracked file was changed.

    Outside a git checkout the commit is empty and nothing is dirty.
    """
    commit = _git("rev-parse", "--short=12", "HEAD")
    return {"commit": commit, "dirty": bool(_git("status", "--porcelain", "-uno"))}


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    try:
        answer = subprocess.run(command, cwd=CODE, capture_output=True, text=True)
    except OSError:
        return ""
    return answer.stdout.strip()


def sources() -> dict[str, str]:
    """Return a fingerprint of each module in `USED` as its file is now, by name.

    Comments and docstrings do not enter.
    """
    return {name: fingerprint(_code((CODE / f"{name}.py").read_text())) for name in USED}


def _code(text: str) -> str:
    tree = ast.parse(text)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            node.body = body[isinstance(getattr(body[0].value, "value", None), str) :]
    return ast.dump(tree)


IMPORTED = sources()  # what this process computes with, whatever becomes of the files


def refuse_edited_sources() -> None:
    """Refuse a process that would show newer code than it computes with.

    Raises:
        CubsError: a module's file has changed since it was imported.
    """
    edited = [name for name, mark in sources().items() if mark != IMPORTED[name]]
    if edited:
        raise CubsError(f"cubslib/{edited[0]}.py has changed since it was imported: restart the "
                        "kernel, so that what runs is what the page shows.")  # fmt: skip
