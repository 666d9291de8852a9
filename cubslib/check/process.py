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


def names_in(file: Path) -> list[str]:
    """Return the documented names that the file's text defines or imports.

    Raises:
        CubsError: there is no such file, it is not Python, or it has none of the names.
    """
    try:
        tree = ast.parse(file.read_bytes())
    except OSError as error:
        raise CubsError(f"{file}: {error.strerror}; give a Python file or a folder.") from None
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None) or 1
        raise CubsError(f"{file.name}, line {line}, is not Python: {error.args[0]}.") from None
    there = set()
    for node in tree.body:
        there |= {getattr(node, "name", "")} | {
            a.asname or a.name for a in getattr(node, "names", ())
        }
        there |= {getattr(target, "id", "") for target in getattr(node, "targets", ())}
    if found := [name for name in held.SUBJECTS if name in there]:
        return found
    raise CubsError(
        f"{file.name} defines none of the documented names: {', '.join(held.SUBJECTS)}."
    )


def check(file: Path, seconds: float = 20.0, gigabytes: float = 4.0) -> Report:
    """Return the verdicts on a file; each of its names has `seconds`, and so has its import.

    Raises:
        CubsError: the file cannot be read, or its import fails.
    """
    names, verdicts = names_in(file), {}
    with tempfile.TemporaryDirectory() as scratch:
        while left := [name for name in names if name not in verdicts]:
            at, end = _run(file.resolve(), Path(scratch), left, seconds, gigabytes)
            for name in left:
                if (result := Path(scratch) / f"{name}.pt").exists():
                    verdicts[name] = judge(name, *torch.load(result, weights_only=True))
            if at in ("", "import"):
                raise CubsError(f"{file.name}: {end} at its import; let it only define names.")
            if at not in verdicts:
                verdicts[at or left[0]] = Verdict(at or left[0], "unknown", end)
    return Report(verdicts[name] for name in names)


def _run(file: Path, scratch: Path, names: list[str], seconds: float, gigabytes: float):
    """Run `child` once; return at what it was when it ended, and how it ended."""
    now, code = scratch / "now", "from cubslib.check.process import child; child()"
    now.write_text("")
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(file), str(scratch), str(gigabytes), *names],
        cwd=scratch, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )  # fmt: skip
    at, since, end = "", time.monotonic(), ""
    try:
        while process.poll() is None and not end:
            time.sleep(0.02)
            if (text := now.read_text()) != at:
                at, since = text, time.monotonic()
            elif time.monotonic() - since > (seconds if at else 120):
                end = f"was still running after {seconds:g} s (an endless loop, or training?)"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with whatever it has started
        code = process.wait()
    at = now.read_text()
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
    failed = scratch / "failed"
    return at, end or (failed.read_text() if failed.exists() else f"ended the process ({how})")


def child() -> None:
    """Import the file and leave what its names lead to, a file a name: runs in the new process."""
    file, scratch, gigabytes, *names = sys.argv[1:]
    now = Path("now").resolve()
    _limit_memory(float(gigabytes))
    torch.set_num_threads(1)
    _say(now, "import")
    sys.path.insert(0, str(Path(file).parent))
    spec = importlib.util.spec_from_file_location("submission", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules["submission"] = module
    try:
        spec.loader.exec_module(module)
        things = {name: getattr(module, name) for name in names}
    except (Exception, SystemExit) as error:
        now.with_name("failed").write_text(f"raises {held.sentence(error)}")
        os._exit(1)
    for name, thing in things.items():
        _say(now, name)
        found = held.outcomes(name, thing)
        remarks = held.remarks(name, thing, found)
        torch.save((found, remarks), now.with_name("part"))
        os.replace(now.with_name("part"), now.with_name(f"{name}.pt"))
    os._exit(0)  # whatever threads the file has begun


def _say(now: Path, what: str) -> None:
    part = now.with_name("saying")
    part.write_text(what)
    os.replace(part, now)


def _limit_memory(gigabytes: float) -> None:
    with suppress(ImportError, ValueError, OSError):  # a system without such a limit
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (int(gigabytes * 2**30),) * 2)
