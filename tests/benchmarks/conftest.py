"""Benchmarks are run by hand and not collected: they need their peers and an idle machine."""

collect_ignore_glob = ["*.py"]
