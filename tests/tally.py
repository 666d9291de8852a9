"""What the tests of hard cases tried and what came through, as the table that the README quotes.

CUBSLIB_LONG in the environment asks for all cases, and for the table to be written anew;
CUBSLIB_FUZZ is how many inputs each fuzzed test tries.
"""

import atexit
import os
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

LONG = bool(os.environ.get("CUBSLIB_LONG"))
EXAMPLES = int(os.environ.get("CUBSLIB_FUZZ", "15"))
RESULTS = Path(__file__).parent / "SURVIVED.md"
GOOD, TRIED = Counter(), Counter()


@contextmanager
def case(what: str, count: int = 1):
    """Count `count` cases of `what` as tried and, where the body does not fail, as come through."""
    TRIED[what] += count
    yield
    GOOD[what] += count


def table() -> str:
    """Return the counts as a Markdown table."""
    rows = [f"| {what} | {GOOD[what]:,} of {tried:,} |" for what, tried in TRIED.items()]
    return "\n".join(["| what is done | comes through |", "|---|---|", *rows]) + "\n"


if LONG:
    atexit.register(lambda: TRIED and RESULTS.write_text(table()))
