"""From the command to the help, and from the first import to the first training step of T1."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import prepared
import timing

ROOT = Path(__file__).parents[2]
FIRST_STEP = str(Path(__file__).parent / "first_step.py")


def rows(quick: bool) -> list[dict]:
    """Return a row a command, the median of its calls in new processes."""
    data, told = prepared.open_set("Tiny ImageNet", quick)
    data_root = data.root.parent
    if "sample" in told:  # it lies where a run looks for one
        (prepared.scratch() / "data").mkdir()
        (prepared.scratch() / "data/sample").symlink_to(data_root)
        data_root = prepared.scratch() / "data"
    calls = iter(range(99))

    def call(*arguments) -> None:
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        subprocess.run([sys.executable, *arguments], env=os.environ | {"PYTHONPATH": path},
                       check=True, stdout=subprocess.DEVNULL)  # fmt: skip

    def first_step() -> None:
        arguments = [FIRST_STEP, str(data_root), str(prepared.scratch() / f"run{next(calls)}")]
        if quick:  # here, where all is imported
            sys.argv = arguments
            runpy.run_path(FIRST_STEP)
        else:
            call(*arguments)

    commands = {
        "python -m cubslib --help": lambda: call("-m", "cubslib", "--help"),
        f"first import to first step, {told}": first_step,
    }
    times = timing.seconds(commands, 0 if quick else 5)
    return [{"command": name, "s": taken} for name, taken in times.items()]
