"""What all tests share: two small data sets drawn once, runs on them, the real data, devices."""

import os
import shutil
from pathlib import Path

import pytest
import small
import torch
from torch import nn

from cubslib import losses, models, recipes, runs, sampling, scoring, training
from cubslib.sample.layouts import draw_cars196, draw_tiny_imagenet

torch.set_num_threads(1)  # more only wait for each other on so little work


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory):
    """Drawn Tiny ImageNet: 3 classes of 20 train and 5 official val images; not to be changed."""
    root = tmp_path_factory.mktemp("data") / "tiny-imagenet-200"
    draw_tiny_imagenet(root, num_classes=3, per_class=20)
    return root


@pytest.fixture(scope="session")
def cars_root(tmp_path_factory):
    """Drawn Cars196: 8 classes of 4 images; not to be changed."""
    root = tmp_path_factory.mktemp("data") / "cars196"
    draw_cars196(root, num_classes=8, per_class=4)
    return root


@pytest.fixture
def tiny_copy(tiny_root, tmp_path):
    """A copy of `tiny_root` to damage, without packed copies."""
    return shutil.copytree(tiny_root, tmp_path / "tiny", ignore=shutil.ignore_patterns("*packed*"))


@pytest.fixture
def cars_copy(cars_root, tmp_path):
    """A copy of `cars_root` to damage, without packed copies."""
    return shutil.copytree(cars_root, tmp_path / "cars", ignore=shutil.ignore_patterns("*packed*"))


@pytest.fixture(scope="session")
def data_root(tmp_path_factory, tiny_root, cars_root):
    """A `data_root` whose sample is small."""
    root = tmp_path_factory.mktemp("data_root")
    (root / "sample").mkdir()
    for folder in (tiny_root, cars_root):
        (root / "sample" / folder.name).symlink_to(folder)
    return root


@pytest.fixture
def begin(data_root, tmp_path, monkeypatch):
    """Start a run by its parameters, as a notebook in an empty project does; recipes are short."""
    monkeypatch.setattr(recipes, "RECIPES", dict(recipes.RECIPES))
    small.shorten()
    monkeypatch.chdir(tmp_path)
    return lambda task, **asked: runs.start(task, {"data_root": str(data_root)} | asked)


@pytest.fixture(scope="session")
def t1(data_root, tmp_path_factory) -> runs.Run:
    """A finished run of T1, of the custom CNN; not to be changed."""
    asked = {"data_root": str(data_root), "epochs": 1, "batch_size": 16, "lr": 0.01}
    run = runs.start("T1", asked | {"run_dir": str(tmp_path_factory.mktemp("t1") / "runs" / "T1")})
    model = models.CustomCNN(len(run.train.classes))
    training.fit(run, "classification", model, nn.CrossEntropyLoss(), scoring.accuracy)
    scoring.record_classifier(run, "classification", model)
    return run


@pytest.fixture(scope="session")
def t4(data_root, tmp_path_factory) -> runs.Run:
    """A finished run of T4, of the custom CNN; not to be changed."""
    asked = {"classify_epochs": 1, "embed_epochs": 1, "batch_size": 8, "image_size": 32}
    asked |= {"data_root": str(data_root)}
    run = runs.start("T4", asked | {"run_dir": str(tmp_path_factory.mktemp("t4") / "runs" / "T4")})
    model = models.CustomCNN(len(run.train.classes))
    training.fit(run, "classification", model, nn.CrossEntropyLoss(), scoring.recall)
    stages = {"classification": scoring.gallery(run, "classification", model)}
    seen = {"classification": scoring.gallery(run, "classification", model, seen=True)}
    more = scoring.untrained_rows(run, "classification", model)
    how = (losses.MultiSimilarityLoss(), scoring.recall, sampling.class_balanced)
    training.fit(run, "embedding", models.embed(model, 8), *how)
    stages["embedding"] = scoring.gallery(run, "embedding", model)
    seen["embedding"] = scoring.gallery(run, "embedding", model, seen=True)
    more |= scoring.untrained_rows(run, "embedding", model)
    scoring.record_retrieval(run, model, stages, seen, **more)
    return run


@pytest.fixture(scope="session")
def real():
    """Name of a data set → its folder; skips the test where the real one is not laid out."""
    data = Path(os.environ.get("CUBSLIB_DATA") or Path(__file__).parent.parent / "data")

    def find(name):
        if not (data / name).is_dir():
            pytest.skip(f"the real {name} is neither in data/ nor in $CUBSLIB_DATA")
        return data / name

    return find


@pytest.fixture(params=["cpu", "cuda"])
def device(request):
    """Each device that this machine has."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    return request.param
