"""T4's two stages: what runs that have stage 1 in common share, and the control of stage 2."""

import harm
import pytest
import torch
from small import assert_same, checkpoints, shorten
from test_training import stopped

from cubslib import CubsError, controls, losses, machine, training
from cubslib.pages import beside
from cubslib.runs import finished


def in_two_stages(run):
    """All that T4 does, on a small network; the fit of each epoch that was trained here."""
    trained, train = [], training.train_epoch
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "train_epoch", lambda s, *a: trained.append(s.name) or train(s, *a))
        harm.both_stages(run)
    return trained


@pytest.mark.parametrize("val_classes", [0, 2])
def test_a_run_of_t4_takes_the_stage_1_that_another_has_in_common(val_classes, begin, capsys):
    shorten(lr=0.02, ema_decay=0.5)
    first = begin("T4", val_classes=val_classes)
    assert in_two_stages(first) == 3 * ["classification"] + 3 * ["embedding"]
    capsys.readouterr()
    second = begin("T4", val_classes=val_classes, margin=0.4)
    assert second["classification_from"] == first.folder.name
    assert in_two_stages(second) == 3 * ["embedding"]
    assert f"classification is taken from {first.folder.name}" in capsys.readouterr().out
    saved = [checkpoints(run.folder / "checkpoints") for run in (first, second)]
    for name in ("best", "last"):
        assert_same(*(files[f"classification/{name}.ckpt"] for files in saved))
    assert first.epochs("classification") == second.epochs("classification")
    assert [first.record["recall"]["classification"], first["recipes"]] == [
        second.record["recall"]["classification"], second["recipes"]
    ]  # fmt: skip
    assert first.epochs("embedding") != second.epochs("embedding")
    assert finished.sharing(second.folder, second.resolved) == [(first.folder, first.record)]
    # trained by itself it would have been the same
    alone = begin("T4", val_classes=val_classes, margin=0.4, run_dir="elsewhere/alone")
    assert len(in_two_stages(alone)) == 6
    assert_same(saved[1], checkpoints(alone.folder / "checkpoints"))
    assert alone.record["measures"] == second.record["measures"]


@pytest.mark.parametrize(
    "changed", [{"seed": 1}, {"lr": 0.01}, {"classify_epochs": 2}, {"limit_classes": 4}, "models"]
)
def test_stage_1_is_not_shared_where_anything_that_it_depends_on_differs(
    changed, begin, monkeypatch
):
    first = begin("T4")
    in_two_stages(first)
    monkeypatch.setattr(machine, "refuse_edited_sources", lambda: None)
    if changed == "models":
        monkeypatch.setitem(machine.IMPORTED, "models", "0" * 16)
        changed = {}
    second = begin("T4", margin=0.2, **changed)
    assert "classification_from" not in second.resolved
    assert finished.sharing(second.folder, second.resolved) == []
    for module in finished.STAGE_TWO_ONLY:
        monkeypatch.setitem(machine.IMPORTED, module, "0" * 16)
    third = begin("T4", margin=0.3)
    assert ("classification_from" in third.resolved) == (machine.IMPORTED["models"] != "0" * 16)


def test_stage_1_is_taken_only_where_this_run_would_train_the_same(begin, monkeypatch):
    first = begin("T4", val_classes=2)
    in_two_stages(first)
    settled, sources = first.resolved, first["sources"]

    def taken(**changes):
        new = first.folder.with_name("new")
        return "classification_from" in finished.stage_taken(new, settled | changes)

    assert taken()
    assert taken(sources=sources | {"losses": "0" * 16})
    assert not taken(sources=sources | {"metrics": "0" * 16})  # it chose the epoch on val
    assert not any(taken(**{name: "another"}) for name in ("preset", "processes", "threads"))
    monkeypatch.setattr(machine, "hardware", lambda device: "another")
    assert not taken()


def test_a_run_that_is_killed_while_it_takes_stage_1_takes_it_again(begin):
    first = begin("T4")
    in_two_stages(first)
    second = begin("T4", margin=0.2)
    with pytest.raises(KeyboardInterrupt), stopped(2, True, KeyboardInterrupt):
        in_two_stages(second)  # one copy is there, the other is not
    second.release()
    assert [path.name for path in second.folder.rglob("*.ckpt")] == ["best.ckpt"]
    second = begin("T4", margin=0.2)
    assert in_two_stages(second) == 3 * ["embedding"]


def test_a_stage_1_that_is_gone_is_said_to_be(begin):
    first = begin("T4")
    in_two_stages(first)
    second = begin("T4", margin=0.2)
    first.checkpoint("classification").write_bytes(b"another")
    with pytest.raises(CubsError, match=f"{first.folder.name} has no longer the classification"):
        in_two_stages(second)
    first.checkpoint("classification").unlink()
    with pytest.raises(CubsError, match="restore it, or ask for restart=True"):
        in_two_stages(second)
    second.release()
    again = begin("T4", margin=0.2, restart=True)
    assert "classification_from" not in again.resolved


def test_a_run_stands_beside_its_control_and_the_others_that_share_stage_1(begin):
    shorten(lr=0.02)
    control = begin("T4", mining=losses.CONTROL)
    in_two_stages(control)
    assert beside.stage_one(control).data.startswith("Stage 1 is this run's own. **This run is")
    assert "is the control itself" in beside.verdict(control).data
    assert "No other finished run" in beside.runs(control).data
    smoothing = [control.recipe(fit).label_smoothing for fit in ("classification", "embedding")]
    assert smoothing[0] == smoothing[1]
    run = begin("T4", margin=0.3)
    in_two_stages(run)
    assert f"Stage 1 is that of `{control.folder.name}`" in beside.stage_one(run).data
    found = run.record["differences"]["cross_entropy"]
    last, its = (torch.from_numpy(r.arrays["embeddings_embedding"]) for r in (run, control))
    assert found == controls.compare(last, its, run.test.labels) | {"run": control.folder.name}
    rows = {row["embedding against"]: row for row in beside.differences(run).rows}
    assert rows.keys() == {"classification", f"cross-entropy going on ({control.folder.name})"}
    assert f"{100 * found['recall_at_1'][0]:+.1f} (".replace("-", "−") in beside.verdict(run).data
    assert [row["row"] for row in beside.measures(run).rows] == list(controls.STAGES)
    own, other = beside.runs(run).rows
    assert (own["run"], other["run"]) == (run.folder.name, control.folder.name)
    assert other["differs in"] == "margin=0.1, mining='cross_entropy'"
    # shown from its files, also after the control, and without it
    control.checkpoint("classification").unlink()
    (control.folder / "arrays.npz").unlink()
    assert beside.runs(run).data == "No other finished run shares this one's stage 1 yet."
    assert len(beside.differences(run).rows) == 2


def test_a_control_that_is_finished_later_or_trains_longer_is_told_from_one(begin):
    shorten(lr=0.02)
    run = begin("T4", margin=0.3, limit_classes=4)
    in_two_stages(run)
    assert "cross_entropy" not in run.record["differences"]
    said = beside.verdict(run).data
    assert "-p mining cross_entropy" in said
    assert "-p limit_classes 4" in said
    assert "margin" not in said
    assert "This one would, in the second stage's time: `" in said
    run.checkpoint("classification", "last").rename(kept := run.folder / "last.ckpt")
    run.asked["run_dir"] = "mine/all/one"
    said = beside.verdict(run).data
    assert "This one would: `" in said
    assert f"-p run_dir mine/all/{run.folder.name},control" in said
    run.asked["run_dir"] = ""
    kept.rename(run.checkpoint("classification", "last"))
    longer = begin("T4", mining=losses.CONTROL, limit_classes=4, embed_epochs=4)
    in_two_stages(longer)
    assert controls.control(run) is None
    assert beside.runs(run).rows[1]["differs in"] == "margin=0.1, mining='cross_entropy', epochs=4"
    in_two_stages(begin("T4", mining=losses.CONTROL, limit_classes=4))
    assert "as many epochs more of cross-entropy" in beside.verdict(run).data
    assert len(beside.differences(run).rows) == 2
