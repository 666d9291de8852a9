"""A file's code in a process of its own, with limits of time and memory.

The asking process only parses the file's text, and reads tensors and sentences back.
"""

import ast
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import torch

from cubslib import CubsError
from cubslib.check import held
from cubslib.check.compare import Report, Verdict, judge

STARTING = 120.0  # seconds that PyTorch may take to start


def check(file: Path, seconds: float = 20.0, gigabytes: float = 4.0) -> Report:
    """Return the verdicts on a file; each of its names has `seconds`, and so has its import.

    Raises:
        CubsError: the file cannot be read, is not Python, has no documented name, or its import
            fails.
    """
    names, verdicts = _names(file), {}
    with tempfile.TemporaryDirectory() as scratch:
        while left := [name for name in names if name not in verdicts]:
            at, end = _run(file.resolve(), Path(scratch), left, seconds, gigabytes)
            for name in left:
                if (result := Path(scratch, f"{name}.pt")).exists():
                    verdicts[name] = judge(name, *torch.load(result, weights_only=True))
            if at not in names:
                raise CubsError(f"{file.name}: its import {end}; let it only define names.")
            verdicts.setdefault(at, Verdict(at, "unknown", end))
    return Report(verdicts[name] for name in names)


def _names(file: Path) -> list[str]:
    """Return the documented names that the file's text defines, assigns or imports."""
    try:
        tree, there = ast.parse(file.read_bytes()), set()
    except OSError as error:
        raise CubsError(f"{file}: {error.strerror}; give a Python file or a folder.") from None
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None) or 1
        raise CubsError(f"{file.name}, line {line}, is not Python: {error.args[0]}.") from None
    for node in tree.body:
        there |= {getattr(node, "name", "")}
        there |= {alias.asname or alias.name for alias in getattr(node, "names", [])}
        there |= {getattr(target, "id", "") for target in getattr(node, "targets", [])}
    if found := [name for name in held.INPUTS if name in there]:
        return found
    raise CubsError(f"{file.name} has none of the documented names: {', '.join(held.INPUTS)}.")


def _run(file: Path, scratch: Path, names: list[str], seconds: float, gigabytes: float):
    """Run `main` below once; return at what it was when it ended, and how it ended."""
    (now := scratch / "now").write_text("")
    paths = str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])
    process = subprocess.Popen(
        [sys.executable, "-m", __name__, str(file), str(gigabytes), *names],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)}, cwd=scratch,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    at, since, end = "", time.monotonic(), ""
    try:
        while process.poll() is None and not end:
            time.sleep(0.02)
            if (text := now.read_text()) != at:
                at, since = text, time.monotonic()
            elif time.monotonic() - since > (seconds if at else STARTING):
                end = f"still runs after {seconds:g} s (an endless loop, or training?)"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with whatever it has begun
        status = process.wait()
    how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
    failed = scratch / "failed"
    end = end or (failed.read_text() if failed.exists() else f"ends the process ({how})")
    return now.read_text(), end


def main(file: str, gigabytes: str, *names: str) -> None:
    """Import a file and leave what its names lead to in the working folder, a file a name."""
    scratch = Path.cwd()
    tempfile.tempdir = str(scratch)  # what is drawn goes with it
    with suppress(ImportError, ValueError, OSError):  # a system without such a limit
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (int(float(gigabytes) * 2**30),) * 2)
    torch.set_num_threads(1)

    def leave(name, write):
        write(scratch / "part")
        os.replace(scratch / "part", scratch / name)

    leave("now", lambda part: part.write_text("the import"))
    sys.path.insert(0, str(Path(file).parent))
    try:
        spec = importlib.util.spec_from_file_location("submission", file)
        module = sys.modules["submission"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        things = {name: getattr(module, name) for name in names}
    except (Exception, SystemExit) as error:
        (scratch / "failed").write_text(f"raises {held.sentence(error)}")
        os._exit(1)
    for name, thing in things.items():
        leave("now", lambda part, name=name: part.write_text(name))
        found = held.outcomes(name, thing)
        result = found, held.remarks(name, thing, found)
        leave(f"{name}.pt", lambda part, result=result: torch.save(result, part))
    os._exit(0)  # whatever threads the file has begun


if __name__ == "__main__":
    main(*sys.argv[1:])
