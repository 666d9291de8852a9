"""A training step of T3, ResNet-18 with the CUBS blocks, against T2's; 7x7 stem, serial_12."""

import prepared
import timing

from cubslib import models


def compare(size: int, precision: str, batch: int, repeats: int) -> dict:
    """Compare at `size` pixels a side."""
    networks = {"T2": models.resnet18(200), "T3": models.cubs_resnet18(200, "serial_12")}
    steps = {name: prepared.step(model, batch, size, precision) for name, model in networks.items()}
    times = timing.seconds(steps, repeats)
    return {
        "px": size,
        "precision": precision,
        "batch": batch,
        "T2 ms": times["T2"] * 1e3,
        "T3 ms": times["T3"] * 1e3,
        "T3 / T2": times["T3"] / times["T2"],
    }


def rows(quick: bool) -> list[dict]:
    """Return a row a size and precision."""
    sizes, batch, repeats = ((32,), 2, 1) if quick else ((32, 48, 64), 128, 5)
    return [compare(size, p, batch, repeats) for p in timing.precisions() for size in sizes]
