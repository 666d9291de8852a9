"""The four notebooks by one command: order, parameters, what stops them, what is shown."""

import finished_runs
import pytest

from cubslib import CubsError, course
from cubslib.runs import parameters


@pytest.fixture
def ran(data_root, tmp_path, monkeypatch):
    """Run all by parameters in an empty project; return the calls, whose runs end at once."""
    monkeypatch.chdir(tmp_path)

    def run(fails="", **given):
        calls = []

        def run_notebook(task, own):
            calls.append((task, own))
            if task == fails:
                raise CubsError("the loss is nan.")
            name = f"runs/{parameters.run_name(task, parameters.check(task, own))}"
            name = own.get("run_dir") or name
            if not (tmp_path / name).exists():
                finished_runs.run(tmp_path, name, task=task, dataset="sample")

        run.calls = calls
        course.run({"data_root": str(data_root)} | given, run_notebook)
        return [(task, {k: x for k, x in own.items() if k != "data_root"}) for task, own in calls]

    return run


def test_each_gets_its_own_parameters_in_order_and_all_are_shown(ran, tmp_path, capsys):
    given = {"dataset": "sample", "epochs": 2, "fashion": "parallel", "margin": 0.2}
    both = {"dataset": "sample", "epochs": 2}
    assert ran(**given) == [
        ("T1", both), ("T2", both), ("T3", both | {"fashion": "parallel"}),
        ("T4", {"dataset": "sample", "fashion": "parallel", "margin": 0.2}),
    ]  # fmt: skip
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if line.endswith(" of 4:")] == [
        f"T{i}, {i} of 4:" for i in (1, 2, 3, 4)
    ]
    *_, last = out.splitlines()
    assert last == f"report: {tmp_path / 'runs/report/index.html'}"
    shown = out[out.rindex("of 4:") :]
    assert [shown.count(f"\n{task} ") for task in parameters.TASKS] == [1, 1, 1, 2]  # T4 by stage


def test_run_dir_holds_a_folder_for_each(ran, tmp_path, capsys):
    dirs = [own["run_dir"] for _, own in ran(run_dir="drive", seed=1)]
    assert dirs == [f"drive/{row.notebook},seed=1" for row in parameters.TASKS.values()]
    assert capsys.readouterr().out.endswith(f"report: {tmp_path / 'drive/report/index.html'}\n")


def test_the_first_that_fails_stops_the_rest(ran):
    with pytest.raises(CubsError, match=r"^the loss is nan\.$"):
        ran(fails="T3")
    assert [task for task, _ in ran.calls] == ["T1", "T2", "T3"]


@pytest.mark.parametrize(("given", "sentence"), [
    ({"margn": 0.2}, "run all has no parameter margn: did you mean margin"),
    ({"epochs": -1}, "epochs is -1; it must be"),
    ({"batch_size": 18}, "batch_size is 18; it must be 0, or 8 to 1,000,000, a multiple of 4"),
    ({"dataset": "real"}, "dataset is 'real', but data_root holds no tiny-imagenet-200"),
    ({"val_classes": 4}, "val_classes is 4; it must be 0, or 2 to half"),
])  # fmt: skip
def test_what_is_wrong_for_one_is_said_before_the_first_begins(given, sentence, ran):
    with pytest.raises(CubsError, match=sentence):
        ran(**given)
    assert ran.calls == []
