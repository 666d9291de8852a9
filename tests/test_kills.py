"""Runs killed at any moment and called again end as unbroken ones do, to the bit.

All cases are tried by `make test-long`, a few by `make test`.
"""

import json
import random
import signal

import harm
import pytest
import small
import tally

MOMENTS = 25 if tally.LONG else 2  # kills of each task
WRITES = {"T1": range(1, 99), "T4": range(1, 99)} if tally.LONG else {"T1": (2,), "T4": (3, 20)}


@pytest.fixture(scope="module", params=["T1", "T4"])
def unbroken(request, tmp_path_factory, data_root):
    """A task, what an unbroken run of it leaves, the names it writes, its seconds."""
    for _ in range(2):  # the first packs the data
        project = tmp_path_factory.mktemp("unbroken")
        assert small.apart(harm.apart, request.param, project, data_root) == 0
    done = json.loads((project / "done.json").read_text())
    return request.param, harm.result(project), done["names"], done["seconds"]


def finish(task, project, data_root):
    assert small.apart(harm.apart, task, project, data_root) == 0
    return harm.result(project)


def test_a_run_killed_at_a_write_ends_as_an_unbroken_one(unbroken, data_root, tmp_path):
    task, expected, names, _ = unbroken
    assert {"settings.json", "last.ckpt", "best.ckpt", "history.csv", "arrays.npz",
            "metrics.json"} <= set(names)  # fmt: skip
    for write in sorted(set(WRITES[task]) & set(range(1, len(names) + 1))):
        project = tmp_path / str(write)
        project.mkdir()
        after = bool(write % 2)
        with tally.case(f"{task} killed at a write, begun again: the same bits"):
            killed = small.apart(harm.apart, task, project, data_root, write, after)
            assert killed == -signal.SIGKILL
            small.assert_same(finish(task, project, data_root), expected)


def test_a_run_killed_at_any_moment_ends_as_an_unbroken_one(unbroken, data_root, tmp_path):
    task, expected, _, seconds = unbroken
    moments, kills, round = random.Random(7), 0, 0
    while kills < MOMENTS:
        project, here = tmp_path / str(round), 0
        project.mkdir()
        while kills + here < MOMENTS:
            if not harm.killed_after(moments.uniform(0, seconds), task, project, data_root):
                break
            here += 1
        with tally.case(f"{task} killed at a random moment, begun again: the same bits", here):
            small.assert_same(finish(task, project, data_root), expected)
        kills, round = kills + here, round + 1


def test_the_readme_quotes_what_the_long_tests_found():
    readme = tally.RESULTS.parent.parent / "README.md"
    assert tally.RESULTS.read_text() in readme.read_text()
