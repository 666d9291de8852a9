"""The README's Python does what the README says: its very lines are run, on drawn images."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from refusals import refused

from cubslib import CubsError, galleries, runs, training
from cubslib.pages import entries, site
from cubslib.runs import finished

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def draw(path, colour):
    """Write a small image of one colour and some noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(len(path.name)).normal(0, 20, (40, 30, 3))
    Image.fromarray((noise + colour).clip(0, 255).astype(np.uint8)).save(path)


@pytest.fixture
def flowers(begin):
    """Four class folders of 12 images, each class of a colour, in an empty project."""
    for kind, colour in (("aster", 40), ("dahlia", 100), ("iris", 160), ("rose", 220)):
        for number in range(12):
            draw(Path("flowers", kind, f"{number}.jpg"), (colour, 255 - colour, number))
    return Path("flowers")


@pytest.fixture
def names(flowers):
    """What the lines about class folders define."""
    found = {}
    exec(BLOCKS[2], found)
    return found


def test_there_is_no_python_that_is_not_run():
    assert len(BLOCKS) == 6


def test_a_photograph_is_classified_and_searched_for(begin, t1, t4, capsys):
    shutil.copytree(t4.folder, "runs/T4_retrieval")
    shutil.copytree(t1.folder, "runs/T1_custom_cnn")
    for place, colour in (("photo.jpg", 20), ("photos/cat/1.jpg", 90), ("photos/dog/2.jpg", 200)):
        draw(Path(place), colour)
    capsys.readouterr()
    for code in BLOCKS[:2]:
        exec(code.replace("56, 48", "30, 40"), {})
    classified, made, searched = capsys.readouterr().out.splitlines()
    assert len(eval(classified)) == 3
    assert made == "photos.npz: 2 images of 2 classes"
    assert {found[0] for found in eval(searched)} == {"cat/1.jpg", "dog/2.jpg"}


def test_class_folders_are_trained_on_as_the_official_data_are(names, t1, capsys):
    known, zero_shot = names["known"], names["zero_shot"]
    assert [len(split) for split in known] == [40, 4, 4]
    assert {split.classes for split in known} == {("aster", "dahlia", "iris", "rose")}
    assert [split and split.classes for split in zero_shot] == [
        ("aster", "dahlia"), None, ("iris", "rose"),
    ]  # fmt: skip
    exec(BLOCKS[3], names)
    assert "top1" in eval(capsys.readouterr().out.splitlines()[-1])
    record = finished.read("runs/flowers")
    assert record["settings"]["title"] == "flowers"
    assert (record["dataset"], record["settings"]["preset"]) in (("own", "cpu"), ("own", "gpu"))
    assert record["protocol"] == "40 images to train on, 4 to test"
    model = training.load("runs/flowers")
    assert model.classes == ["aster", "dahlia", "iris", "rose"]
    with pytest.raises(CubsError, match="began with splits of one's own: give them to runs.start"):
        runs.start("T1", {"epochs": 10, "run_dir": "runs/flowers"})
    names["run"].release()
    assert runs.start("T1", {"epochs": 10, "run_dir": "runs/flowers"}, known).finished
    shutil.copytree(t1.folder, "runs/T1")  # the sample's, newer or not, heads no site
    assert "flowers: 40 images to train on" in site.site(Path("runs")).read_text()
    folders = Path("runs/flowers"), t1.folder
    orders = [entries.entry(folder, finished.read(folder)).order for folder in folders]
    assert orders == sorted(orders)


def test_a_network_of_one_s_own_learns_retrieval_on_class_folders(names, capsys):
    exec(BLOCKS[4], names)
    exec(BLOCKS[5], names)
    recall = eval(capsys.readouterr().out.splitlines()[-1])
    assert recall["embedding"].keys() == {"1", "2", "4", "8"}
    (code,) = re.findall(r"`(training\.load\([^`]*MyNet[^`]*)`", README)
    model = eval(code, names)
    assert model.classes == ["aster", "dahlia"]
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(model(images), names["model"].eval()(images))
    found = names["run"].arrays["embeddings_embedding"]
    assert found.shape == (24, names["run"]["embedding_dim"])
    with pytest.raises(CubsError, match="'MyNet'; it is one of custom_cnn"):
        galleries.search("runs/T4_flowers", "flowers/iris/3.jpg")
    for gallery in (None, "own.npz"):
        if gallery:
            galleries.make("flowers", "runs/T4_flowers", gallery, names["MyNet"](2))
        more = {"gallery": gallery, "model": names["MyNet"](2)}
        found = galleries.search("runs/T4_flowers", "flowers/iris/3.jpg", 48, **more)
        assert len(found) == (48 if gallery else 24)
        assert max(cosine for name, _, cosine in found if name == "iris/3.jpg") > 0.99


@pytest.mark.parametrize(("task", "pick", "asked", "sentence"), [
    ("T1", lambda n: n["known"][:2], {}, "splits must be three PackedImages, train, val and"),
    ("T1", lambda n: n["zero_shot"], {}, "splits must be three PackedImages"),
    ("T4", lambda n: (None, None, n["known"][0]), {}, "splits must be three PackedImages"),
    ("T1", lambda n: n["known"], {"limit_classes": 2}, "limit_classes is 2; with splits"),
    ("T1", lambda n: n["known"], {"dataset": "real"}, "dataset is 'real'; with splits"),
    ("T4", lambda n: n["zero_shot"], {"val_classes": 2}, "val_classes is 2; with splits of"),
    ("T4", lambda n: n["known"], {}, "train and test share the class aster: T4 is tested on"),
    ("T1", lambda n: (*n["known"][:2], n["split"](n["labels"] < 3)), {}, "rose has no image"),
    ("T1", lambda n: (n["split"](n["labels"] < 1),) * 3, {}, "train has images of 1 classes"),
    ("T1", lambda n: (n["known"][0], n["split"]([]), n["known"][2]), {}, "val has images of 0"),
])  # fmt: skip
def test_splits_that_do_not_serve_are_refused(task, pick, asked, sentence, names):
    refused(lambda: runs.start(task, asked, pick(names)), sentence)
    assert not Path("runs").exists()


def test_an_image_that_is_none_is_named_before_training(names):
    Path("flowers/rose/3.jpg").write_text("no image")
    with pytest.raises(CubsError, match=r"3\.jpg is no image"):
        runs.start("T1", {}, names["known"])
