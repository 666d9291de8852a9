"""The benchmarks run, at tiny sizes, so that their code cannot rot; no time is judged."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BENCHMARKS = ROOT / "tests" / "benchmarks"
sys.path.append(str(BENCHMARKS))  # it is a folder of programs
import gpu  # noqa: E402
import growth  # noqa: E402
import parts  # noqa: E402
import timing  # noqa: E402


def benchmarks(*arguments):
    command = [sys.executable, str(BENCHMARKS), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def files():
    """What lies beside the tests and the benchmarks, whatever Python keeps of them apart."""
    places = [*BENCHMARKS.iterdir(), *BENCHMARKS.parent.iterdir()]
    return sorted(path for path in places if path.name != "__pycache__")


def test_every_benchmark_runs_and_writes_nothing():
    before = files()
    done = benchmarks("--quick")
    assert done.returncode == 0, done.stderr
    tables = done.stdout.split("## ")[1:]
    assert len(tables) == len(parts.PARTS)
    for table in tables:
        assert re.search(r"\| [\d.e-]+ \|", table)
        assert not re.search(r"\b(nan|inf)\b", table)
    assert files() == before


def test_a_benchmark_that_is_none_is_refused():
    done = benchmarks("speed")
    assert done.returncode == 2
    assert "speed: the parts are pace, loss" in done.stderr


def test_contenders_take_turns_and_the_median_counts(monkeypatch):
    calls, clock = [], iter([0, 1, 1, 3, 3, 5, 5, 9, 9, 10, 10, 17, 17, 21, 21, 24])
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    own = {name: lambda name=name: calls.append(name) for name in "ab"}
    assert timing.seconds(own, 3) == {"a": 2, "b": 4}
    assert calls == ["a", "b"] * 4


def test_what_takes_long_is_run_once(monkeypatch):
    monkeypatch.setattr(timing, "PATIENCE", [0.0])
    calls = []
    assert timing.seconds({"a": lambda: calls.append(1)}, 3)["a"] > 0
    assert calls == [1]


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="only Linux tells it")
def test_the_memory_of_a_tensor_is_seen():
    # 65 MiB: the kernel counts the peak's pages in batches and may miss a quarter of a MiB.
    code = "import timing, torch; print(timing.peak_mib(lambda: torch.ones(65 * 2**18)))"
    command = [sys.executable, "-c", code]  # a process that has freed nothing yet
    done = subprocess.run(command, cwd=BENCHMARKS, capture_output=True, text=True)
    assert 64 <= float(done.stdout) < 80, done.stderr


def test_the_slope_of_a_square_is_two():
    one, other = ({"size": n, "cost": 3 * n**2} for n in (10, 80))
    assert growth.slope(one, other) == pytest.approx(2)


def test_a_million_is_reckoned_from_the_last_two_points():
    rows = [{"what grows": "recall", "size": n, "cost": (n / 1000) ** 2} for n in (1, 1000, 2000)]
    assert "slope 2.00): 2.8e+02 hours" in growth.comment(rows)


def test_a_step_of_every_gpu_recipe_fits_a_colab_t4():
    rows = gpu.rows(False)
    assert len(rows) == 5
    assert all(0.5 < row["GiB"] < 13 for row in rows)
