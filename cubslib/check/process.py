"""A file's code in processes of its own, with limits of time and memory.

They are forked by a server that holds no more than the library. The asking process reads back
tensors and sentences only.
"""

import multiprocessing
import os
import resource
import runpy
import signal
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import torch

from cubslib import CubsError
from cubslib.check import held
from cubslib.check.compare import Report, Verdict, judge

APART = multiprocessing.get_context("forkserver")
APART.set_forkserver_preload(["cubslib.check.held"])
MEMORY = 4 * 2**30  # bytes that a process may hold


def check(file: Path, seconds: float = 20.0) -> Report:
    """Return the verdicts on a file; each of its names has `seconds`, and so has its import.

    Raises:
        CubsError: the file cannot be read or imported, or has no documented name.
    """
    if not file.is_file():
        raise CubsError(f"{file} is not there: give a Python file or a folder of them.")
    names = _result(file, "", seconds)
    if isinstance(names, str):
        raise CubsError(f"{file.name}: its import {names}; let it only define names.")
    if not names:
        wanted = ", ".join(held.INPUTS)
        raise CubsError(f"{file.name} has none of the documented names: {wanted}.")
    results = {name: _result(file, name, seconds) for name in names}
    return Report(
        Verdict(name, f"unknown: it {result}") if isinstance(result, str) else judge(name, *result)
        for name, result in results.items()
    )


def _result(file: Path, name: str, seconds: float):
    """Return what `_work` finds, or how its process ended, in words."""
    with tempfile.TemporaryDirectory() as scratch:
        process = APART.Process(target=_work, args=(file.resolve(), name, scratch))
        process.start()
        process.join(seconds)
        if process.exitcode is None:
            process.kill()
            process.join()
            return f"still runs after {seconds:g} s (an endless loop, or training?)"
        with suppress(FileNotFoundError):
            return torch.load(Path(scratch, "result"), weights_only=True)
        status = process.exitcode
        how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        return f"ends the process ({how})"


def _work(file: Path, name: str, scratch: str) -> None:
    """Leave what a name of the file leads to; for no name, which names the file has."""
    os.chdir(scratch)
    tempfile.tempdir = scratch  # what is drawn goes with it
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    sys.path.insert(0, str(file.parent))
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    try:
        space = runpy.run_path(str(file))
        known = [documented for documented in held.INPUTS if documented in space]
        result = held.observed(name, space[name]) if name else known
    except (Exception, SystemExit) as error:
        result = held.sentence(error)
    torch.save(result, "part")
    os.replace("part", "result")
    os._exit(0)  # whatever threads the file has begun
