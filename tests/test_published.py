"""Published runs: what is copied, what is refused, what the weights are read back as."""

import json
import shutil

import finished_runs
import pytest
import torch

from cubslib import CubsError, galleries, losses, scoring, training
from cubslib.pages import prose
from cubslib.runs import finished, published, settle


@pytest.fixture
def mine(t1, t4, tmp_path, monkeypatch):
    """A project whose runs T1 and T4 are as of real data: name → folder."""
    monkeypatch.chdir(tmp_path)

    def find(name, **changes):
        run = {"T1": t1, "T4": t4}[name[:2]]
        folder = shutil.copytree(run.folder, tmp_path / "runs" / name)
        finished_runs.change(folder, **{"dataset": "real"} | changes)
        return folder

    return find


def test_a_published_run_has_its_record_its_history_and_its_weights_in_half(mine, t1):
    folder = mine("T1")
    target = published.publish(folder)
    assert sorted(file.name for file in target.iterdir()) == ["history.csv", "metrics.json"]
    assert (target / "history.csv").read_bytes() == (folder / "history.csv").read_bytes()
    asked = json.loads((folder / "settings.json").read_text())["asked"]
    more = {"asked": asked, "test_images": len(t1.test)}
    assert finished.read(target) == finished.read(folder) | more
    assert published.find("T1") == []  # without weights
    assert published.publish(folder, weights=True) == target  # again, the same run
    assert [folder for folder, _ in published.find("T1", "T4")] == [target]
    small, whole = (finished.weights(one).stat().st_size for one in (target, folder))
    assert small < 0.6 * whole
    exact, rounded = training.load(folder), training.load("notebooks/results/T1")
    assert {x.dtype for x in rounded.state_dict().values()} == {torch.float32, torch.int64}
    for one, other in zip(exact.parameters(), rounded.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-7)
    photo = t1.test.root / t1.test.names[0]
    found = [dict(scoring.classify(model, photo)) for model in (exact, rounded)]
    assert found[0] == pytest.approx(found[1], abs=1e-2)


def test_what_is_not_published_is_refused_in_a_sentence_and_leaves_nothing(mine, t1):
    folder = mine("T1")

    def refused(sentence, folder, weights=False):
        with pytest.raises(CubsError, match=sentence):
            published.publish(folder, weights)

    refused("T1 was trained on drawn pictures", t1.folder)
    refused("nowhere/metrics.json is no record of a finished run", folder.with_name("nowhere"))
    refused("T1~1 was set aside", mine("T1~1"))
    refused("T1,a is a run of T2: only weights of T1 and T4", mine("T1,a", task="T2"), True)
    bare = mine("T1,b")
    (bare / "settings.json").unlink()
    refused("T1,b lacks its settings.json or history.csv", bare)
    (bare := mine("T1,d") / "history.csv").write_text("fit,epoch\nclassification,1\n")
    refused("T1,d lacks its settings.json or history.csv, or these lack", bare.parent)
    refused("is named after a path: rename its folder", mine("T4,init_from=_nowhere_best.ckpt"))
    control = mine("T4,c", settings={"mining": losses.CONTROL})
    refused("T4,c is the control, which embeds nothing: publish its record alone", control, True)
    large = mine("T1,c")
    path = finished.weights(large)
    saved = finished.checkpoint(path)
    saved["state_dict"]["fc.weight"][0, 0] = 1e5
    torch.save(saved, path)
    refused("T1,c has weights beyond half precision", large, True)
    assert not published.root().exists()
    published.publish(folder)
    refused("results/T1 holds another run", mine("T1/T1", finished="2026-01-01T00:00:00+00:00"))


def test_a_published_run_tells_no_path(mine):
    for begin, told in (("/nowhere/best.ckpt", "random"), ("published", "published")):
        folder = mine(f"T4,{told}")
        saved = json.loads((folder / "settings.json").read_text())
        saved["asked"]["init_from"] = begin
        (folder / "settings.json").write_text(json.dumps(saved))
        assert finished.read(published.publish(folder))["asked"]["init_from"] == told


def test_weights_that_are_too_large_are_refused(mine, monkeypatch):
    monkeypatch.setattr(published, "LARGEST", 1000)
    with pytest.raises(CubsError, match="T4's weights take 1?[0-9] MB; published are at most 0 MB"):
        published.publish(mine("T4"), weights=True)


def test_the_nearest_published_run_stands_in_for_an_earlier_one(mine, begin, monkeypatch):
    run = begin("T2", run_dir="elsewhere/T2")
    settings = run.resolved | {"dataset": "real", "epochs": 5}
    for name, changes in {
        "T1,far": {"preset": "gpu", "limit_classes": 3}, "T1,near": {"preset": "gpu"},
        "T1,few": {"epochs": 1, "stem": "3x3"},
    }.items():  # fmt: skip
        published.publish(mine(name, settings=settings | changes))
    assert published.nearest(run.resolved, "T1") is None  # the run is of the sample
    run.resolved["dataset"] = "real"
    assert published.nearest(run.resolved, "T3") is None
    assert published.nearest(run.resolved, "T1").folder.name == "T1,near"
    monkeypatch.setattr(type(run), "record", {})
    assert [row[2] for row in prose.with_earlier(run, "T1")] == ["published, preset='gpu'", ""]
    mine("T1", settings=settings).rename(run.folder.with_name("T1"))
    assert [row[2] for row in prose.with_earlier(run, "T1")] == ["", ""]  # one's own goes first


def test_t4_begins_from_published_weights_and_says_whose(begin, mine):
    with pytest.raises(CubsError, match="init_from is 'published', but notebooks/results/ holds"):
        begin("T4", init_from="published")
    target = published.publish(mine("T4"), weights=True)
    saved = torch.load(target / "best.ckpt", weights_only=True)
    saved["config"] = {"network": "cubs_resnet18", "stem": "7x7", "fashion": "serial_21"}
    torch.save(saved, target / "best.ckpt")
    run = begin("T4", init_from="published")
    assert (run["init_from"], run["fashion"]) == ("notebooks/results/T4", "serial_21")
    assert run["init_fingerprint"] == settle.fingerprint((target / "best.ckpt").read_bytes())
    found = settle.first_weights(run.folder, run.asked, run.resolved)
    assert found == target / "best.ckpt"


def test_a_published_gallery_is_made_anew_from_the_photographs_once(
    mine, t4, cars_root, cars_copy, tmp_path
):
    folder = mine("T4")
    target = published.publish(folder, weights=True)
    car = cars_root / t4.test.names[3]
    with pytest.raises(CubsError, match="has no gallery"):
        galleries.search(target, car)
    with pytest.raises(CubsError, match="data holds no cars196: lay it out"):
        galleries.rebuild(target, tmp_path / "data")
    said = galleries.rebuild(target, cars_root.parent)
    assert f"of {len(t4.test)} photographs under cars196, those that the run was scored on" in said
    recall = t4.record["recall"]["embedding"]["1"]
    assert said.endswith(f"in the record {recall:.1%}.")
    rounded, exact = ({file: cosine for file, _, cosine in galleries.search(one, car, 99)}
                      for one in (target, folder))  # fmt: skip
    assert rounded == pytest.approx(exact, abs=0.02)
    before = (target / "arrays.npz").stat().st_mtime_ns
    assert "made earlier" in galleries.rebuild(target, "nowhere")
    assert "made earlier" in galleries.rebuild(target, cars_root.parent)
    assert (target / "arrays.npz").stat().st_mtime_ns == before
    file = cars_copy / t4.test.names[3]
    shutil.copyfile(cars_copy / t4.test.names[0], file)  # another photograph of the same name
    (tmp_path / "changed").mkdir()
    (tmp_path / "changed/cars196").symlink_to(cars_copy)
    assert "made anew" in galleries.rebuild(target, tmp_path / "changed")
    assert "made anew" in galleries.rebuild(target, cars_root.parent)
    (target / "arrays.npz").write_bytes(b"damaged")
    with pytest.raises(CubsError, match="data holds no cars196: lay it out"):
        galleries.rebuild(target, tmp_path / "data")
    assert "made anew" in galleries.rebuild(target, cars_root.parent)
    saved = torch.load(target / "best.ckpt", weights_only=True)
    saved["gallery"]["names"][0] = "another.jpg"
    torch.save(saved, target / "best.ckpt")  # another network's gallery does not serve
    said = galleries.rebuild(target, cars_root.parent)
    assert f"not the {len(t4.test)} that the run was scored on" in said
    with pytest.raises(CubsError, match="T1 is no run of T4"):
        galleries.rebuild(published.publish(mine("T1"), weights=True), cars_root.parent)
