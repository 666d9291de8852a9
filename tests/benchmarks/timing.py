"""What all benchmarks share: time and memory of contenders, one table and JSON."""

import json
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable

import torch


def seconds(contenders: dict[str, Callable], repeats: int = 5) -> dict[str, float]:
    """Return each contender's median time of `repeats`, taken in turn after one run unmeasured."""
    times = {name: [] for name in contenders}
    for turn in range(repeats + 1):
        for name, work in contenders.items():
            start = time.perf_counter()
            work()
            if turn:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(found) for name, found in times.items()}


def peak_mib(work: Callable) -> float:
    """Return how much memory `work` takes at its height beyond what is held, in MiB.

    It is done in a child process with one thread. Call it before anything is timed: memory that
    was freed is used again and not counted.
    """

    def child(pipe):
        torch.set_num_threads(1)
        warm = torch.rand(64, 64, requires_grad=True)  # what the first backward pass takes once
        (warm @ warm.T).sum().backward()
        with open("/proc/self/statm") as file:
            held = int(file.read().split()[1]) * resource.getpagesize()
        work()
        pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - held / 2**20)

    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=child, args=(theirs,))
    process.start()
    process.join()
    return ours.recv() if process.exitcode == 0 else float("nan")


def report(title: str, rows: list[dict]) -> None:
    """Print the rows as a table with the machine, then all of it as one line of JSON."""
    machine = {
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],  # ours is one a thread; more means a busy machine
        "torch": torch.__version__,
    }
    print(title)
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    widths = {name: max(len(name), 8) for name in rows[0]}
    print("  ".join(name.rjust(width) for name, width in widths.items()))
    for row in rows:
        print("  ".join(f"{row[name]:.4g}".rjust(width) for name, width in widths.items()))
    print(json.dumps({"benchmark": title, "machine": machine, "rows": rows}))
    sys.stdout.flush()


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(": ")[1].strip() for line in file if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
