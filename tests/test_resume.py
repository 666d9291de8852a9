"""Runs that are killed or interrupted and begun again."""

import itertools
import signal

import pytest
import small
from small import apart, assert_same, checkpoints, fit, shorten

from cubslib import records, runs, scoring, training

begin, data_root, short = small.begin, small.data_root, small.short


def test_a_run_killed_at_every_write_and_begun_again_ends_as_an_unbroken_one(data_root, tmp_path):
    for name in ("unbroken", "killed"):
        (tmp_path / name).mkdir()
    assert apart(small.whole_run, tmp_path / "unbroken", data_root, 99) == 0
    statuses = []
    for writes in itertools.cycle((1, 2, 3, 4)):
        statuses.append(apart(small.whole_run, tmp_path / "killed", data_root, writes))
        if statuses[-1] != -signal.SIGKILL:
            break
    assert statuses[-1] == 0
    assert len(statuses) > 12
    found = [records.find(tmp_path / name / "runs")[0] for name in ("unbroken", "killed")]
    (one, record), (other, other_record) = found
    histories = [runs._read_csv((folder / "history.csv").read_text()) for folder in (one, other)]
    assert [row["epoch"] for row in histories[0]] == [1, 2, 3]
    assert checkpoints(one)["checkpoints/best.ckpt"]["epoch"] == 3
    assert "averaged" in checkpoints(one)["classification/last.ckpt"]
    assert_same(histories[0], histories[1])
    assert_same(checkpoints(one), checkpoints(other))
    assert_same(record, other_record)


@pytest.mark.parametrize("ema_decay", [0.0, 0.8])
@pytest.mark.parametrize("where", ["augment", "score", "_save"])
def test_an_interrupted_run_says_what_is_saved_and_goes_on_from_there(
    where, ema_decay, begin, monkeypatch, capsys
):
    shorten(ema_decay=ema_decay)
    unbroken = begin("T1", run_dir="unbroken")
    expected = fit(unbroken)
    run, calls = begin("T1", run_dir="broken"), itertools.count(1)

    def interrupted(*arguments, **options):
        if next(calls) == (5 if where == "augment" else 2):  # in the second epoch
            raise KeyboardInterrupt
        return usual(*arguments, **options)

    place, name = (scoring, "accuracy") if where == "score" else (training, where)
    usual = getattr(place, name)
    with monkeypatch.context() as patch:
        patch.setattr(place, name, interrupted)
        with pytest.raises(KeyboardInterrupt):
            fit(run)
    said = "Interrupted; classification is saved to epoch 1: run again to go on."
    assert (said in capsys.readouterr().out) == (where != "_save")
    found = fit(run)
    assert_same(found.state_dict(), expected.state_dict())
    assert_same(checkpoints(run.folder), checkpoints(unbroken.folder))
    assert_same(run.history(), unbroken.history())


def test_a_complete_fit_is_read_from_its_files(begin, monkeypatch, capsys):
    run = begin("T1")
    expected = fit(run).state_dict()
    monkeypatch.setattr(training, "train_epoch", lambda *_: pytest.fail("trained again"))
    assert_same(fit(run).state_dict(), expected)
    assert "3 epochs read from T1_custom_cnn; nothing is trained" in capsys.readouterr().out
