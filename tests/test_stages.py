"""T4's two stages: what runs that have stage 1 in common share, and the control of stage 2."""

import pytest
import torch
from small import assert_same, checkpoints, shorten, small
from test_training import stop_at
from torch import nn

from cubslib import CubsError, losses, machine, models, sampling, scoring, training
from cubslib.runs import finished


def in_two_stages(run):
    """All that T4 does, on a small network; the number of epochs that were trained here."""
    trained, train = [], training.train_epoch
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "train_epoch", lambda s, *a: trained.append(s.name) or train(s, *a))
        model, stages = small(run), {}
        for name, criterion, batches in (
            ("classification", nn.CrossEntropyLoss(), sampling.shuffled),
            (
                "embedding",
                losses.MultiSimilarityLoss(margin=run["margin"]),
                sampling.class_balanced,
            ),
        ):
            torch.manual_seed(run.seed)
            model = model if name == "classification" else models.embed(model, 8)
            training.fit(run, name, model, criterion, scoring.recall, batches)
            stages[name] = scoring.gallery(run, name, model)
    scoring.record_retrieval(run, model, stages, {})
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


def test_a_run_that_is_killed_while_it_takes_stage_1_takes_it_again(begin):
    first = begin("T4")
    in_two_stages(first)
    second = begin("T4", margin=0.2)
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 2, True, KeyboardInterrupt)  # one copy is there, the other is not
        with pytest.raises(KeyboardInterrupt):
            in_two_stages(second)
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
