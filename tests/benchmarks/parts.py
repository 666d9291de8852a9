"""One benchmark, measured: what a new process is asked for, so that nothing heavy is imported."""

import importlib
import time
from pathlib import Path

CURVES = Path(__file__).parent / "growth.png"
PARTS = (
    *("pace", "loss", "recall", "attention", "steps", "loading", "share", "packing", "epoch"),
    *("startup", "growth", "profiling", "gpu"),
)


def measure(name: str, quick: bool, patience: float) -> dict:
    """Return title, machine and rows of one benchmark."""
    import timing
    import torch

    if quick:
        torch.set_num_threads(1)
    timing.PATIENCE[0] = patience
    part, machine, start = importlib.import_module(name), timing.this_machine(), time.time()
    rows = part.rows(quick)
    title, _, more = part.__doc__.strip().partition("\n")
    machine["took s"] = time.time() - start
    comment = part.comment(rows) if hasattr(part, "comment") else ""
    if name == "growth" and not quick:
        part.picture(rows, CURVES)
    return {"title": title, "notes": [more.strip(), comment], "machine": machine, "rows": rows}
