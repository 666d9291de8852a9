"""What all benchmarks share: time and memory of contenders, the machine."""

import multiprocessing
import os
import resource
import statistics
import time
from collections.abc import Callable

import torch

from cubslib import machine

PATIENCE = [10.0]  # seconds after which one run of a contender is enough


def seconds(contenders: dict[str, Callable], repeats: int = 5) -> dict[str, float]:
    """Return each contender's median time of `repeats`, taken in turn after one run unmeasured.

    Of a contender whose first run takes longer than `PATIENCE` this run is all that is measured.
    """
    first = {name: _time(work) for name, work in contenders.items()}
    quick = [name for name, taken in first.items() if taken <= PATIENCE[0]]
    times = [{name: _time(contenders[name]) for name in quick} for _ in range(repeats)]
    medians = {name: statistics.median(turn[name] for turn in times) for name in quick if times}
    return first | medians


def _time(work: Callable) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def peak_mib(work: Callable) -> float:
    """Return how much memory `work` takes at its height beyond what is held, in MiB.

    It is done in a child process with one thread. Call it before anything is timed: memory that
    was freed is used again and not counted.
    """

    def child(pipe):
        torch.set_num_threads(1)
        warm = torch.rand(64, 64, requires_grad=True)  # what the first backward pass takes once
        (warm @ warm.T).sum().backward()
        with open("/proc/self/smaps_rollup") as file:  # exact, where statm counts in batches
            held = next(int(line.split()[1]) for line in file if line.startswith("Rss:"))
        work()
        pipe.send((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held) / 1024)

    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=child, args=(theirs,))
    process.start()
    process.join()
    return ours.recv() if process.exitcode == 0 else float("nan")


def this_machine() -> dict:
    """Return what a time depends on."""
    return {
        "processor": machine.hardware("cpu"),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "precision": machine.precision("cpu"),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],  # ours is one a thread; more means a busy machine
        "torch": torch.__version__,
        "commit": machine.checkout()["commit"],
    }


def precisions() -> list[str]:
    """Return the precisions worth a measurement: bf16 without instructions for it takes minutes."""
    return list(dict.fromkeys(["32-true", machine.precision("cpu")]))
