"""All benchmarks, or those named, each in a process of its own: tables, JSON, curves.

What was measured before stays in tests/benchmarks/results.json, one result an instruction set, and
tests/SPEED.md is written from all of it. A machine that does nothing else is a condition.
"""

import argparse
import json
import multiprocessing
import sys
import traceback
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from parts import PARTS, measure

HERE = Path(__file__).parent
RESULTS, TABLES = HERE / "results.json", HERE.parent / "SPEED.md"


def told(value: object) -> str:
    """Return a number with three digits, or as it is where it is whole."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def markdown(title: str, *results: dict) -> str:
    """Return one benchmark as Markdown, a table a result."""
    parts = [f"## {title}"]
    for result in results:
        columns = list(dict.fromkeys(name for row in result["rows"] for name in row))
        lines = [columns, ["---"] * len(columns)]
        lines += [[told(row[name]) if name in row else "" for name in columns]
                  for row in result["rows"]]  # fmt: skip
        parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
        parts += filter(None, result["notes"])
        parts.append(", ".join(f"{name} {told(x)}" for name, x in result["machine"].items()))
    return "\n\n".join(parts) + "\n"


def keep(name: str, result: dict) -> None:
    """Put a result in place of the earlier one of its instruction set, and write all as tables."""
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    found.setdefault(name, {})[result["machine"]["instructions"]] = result
    RESULTS.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    ordered = [[kept for _, kept in sorted(found[part].items())] for part in PARTS if part in found]
    tables = [markdown(results[-1]["title"], *results) for results in ordered]
    TABLES.write_text("# Speed, measured by `make bench`\n\n" + "\n".join(tables))


def main() -> int:
    """Measure; return 1 where a benchmark failed."""
    parser = argparse.ArgumentParser(prog="python tests/benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that all run")
    parser.add_argument("--patience", type=float, default=10.0, metavar="SECONDS",
                        help="what takes longer is run once (default: %(default)s)")  # fmt: skip
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"{', '.join(sorted(unknown))}: the parts are {', '.join(PARTS)}")
    context = multiprocessing.get_context("forkserver")  # each part begins with a clean memory
    context.set_forkserver_preload(["cubslib.training", "cubslib.scoring"])
    failed = 0
    for name in options.parts or PARTS:
        try:
            with ProcessPoolExecutor(1, context) as pool:
                result = pool.submit(measure, name, options.quick, options.patience).result()
        except Exception:
            traceback.print_exc()
            failed = 1
            continue
        print(markdown(result["title"], result), flush=True)
        if not options.quick:
            keep(name, result)
    return failed


if __name__ == "__main__":
    sys.exit(main())
