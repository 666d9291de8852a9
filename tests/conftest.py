"""What all tests share: two small data sets drawn once, the real ones, the devices at hand."""

import os
import shutil
from pathlib import Path

import pytest
import torch

from cubslib.sample.layouts import draw_cars196, draw_tiny_imagenet

torch.set_num_threads(min(2, torch.get_num_threads()))  # $OMP_NUM_THREADS may ask for 1


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
