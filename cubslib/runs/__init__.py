"""Runs: parameters as asked → settled → an open run → its folder and record → read back."""

from cubslib.runs.run import Run, start

__all__ = ["Run", "start"]
