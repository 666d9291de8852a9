from itertools import pairwise

import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat
from small import content

from cubslib import CubsError
from cubslib.sample import layouts, painting
from cubslib.sample.cars import BODY, bodies, car, name
from cubslib.sample.layouts import draw_cars196, draw_tiny_imagenet

CARS = {"num_classes": 4, "per_class": 5}
THINGS = {"num_classes": 3, "per_class": 8}
BOTH = pytest.mark.parametrize(
    ("draw", "size"), [(draw_cars196, CARS), (draw_tiny_imagenet, THINGS)]
)


@pytest.fixture(scope="module")
def cars(tmp_path_factory):
    root = tmp_path_factory.mktemp("drawn") / "cars196"
    draw_cars196(root, **CARS)
    return root


@pytest.fixture(scope="module")
def things(tmp_path_factory):
    root = tmp_path_factory.mktemp("drawn") / "tiny-imagenet-200"
    draw_tiny_imagenet(root, **THINGS)
    return root


@pytest.mark.parametrize(("annotations", "part", "per_class"), [
    ("devkit/cars_train_annos.mat", "cars_train", 3),
    ("cars_test_annos_withlabels.mat", "cars_test", 2),
])  # fmt: skip
def test_cars_have_the_official_layout(cars, annotations, part, per_class):
    rows = loadmat(cars / annotations)["annotations"]
    assert rows.dtype.names == ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")
    assert rows.shape == (1, 4 * per_class)
    assert rows["class"][0, 0].shape == (1, 1)
    files = [str(row["fname"][0]) for row in rows[0]]
    assert files == [f"{n:05}.jpg" for n in range(1, 4 * per_class + 1)]
    assert sorted(p.name for p in (cars / part).iterdir()) == files
    labels = [int(row["class"][0, 0]) for row in rows[0]]
    assert np.bincount(labels).tolist() == [0] + 4 * [per_class]
    assert labels != sorted(labels)


def test_car_boxes_lie_in_the_picture_without_spanning_it(cars):
    rows = loadmat(cars / "devkit/cars_train_annos.mat")["annotations"][0]
    for row in rows:
        x1, y1, x2, y2 = (int(row[f"bbox_{corner}"][0, 0]) for corner in ("x1", "y1", "x2", "y2"))
        width, height = Image.open(cars / "cars_train" / str(row["fname"][0])).size
        assert 1 <= x1 < x2 <= width
        assert 1 <= y1 < y2 <= height
        assert (x2 - x1) * (y2 - y1) < 0.8 * width * height


def test_car_box_follows_the_car(monkeypatch):
    night = ((0, 0, 0), painting.box(0, 0, 120, 90))
    monkeypatch.setattr(painting, "place", lambda *_: [night])
    faces = car(bodies(np.random.default_rng(0), 4)[0], np.random.default_rng(1))
    white = [((255, 255, 255) if len(c) == 3 else (*night[0], 99), points) for c, points in faces]
    image, box = painting.picture(white, np.array([120, 90]), np.random.default_rng(3))
    x1, y1, x2, y2 = image.convert("L").point(lambda v: 255 * (v > 40)).getbbox()
    assert np.abs(np.array(box) - (x1, y1, x2 - 1, y2 - 1)).max() <= 1


def test_bodies_are_spread_alike_over_both_halves():
    drawn = bodies(np.random.default_rng(0), 32)
    for measure, (low, high) in BODY.items():
        for half in (drawn[:16], drawn[16:]):
            steps = [b - a for a, b in pairwise(sorted(body[measure] for body in half))]
            np.testing.assert_allclose(steps, (high - low) / 16)


def test_class_names_differ(cars):
    assert len(loadmat(cars / "devkit/cars_meta.mat")["class_names"][0]) == 4
    drawn = bodies(np.random.default_rng(0), 32)
    assert len({name(body, label) for label, body in enumerate(drawn, 1)}) == 32


def test_things_have_the_official_layout(things):
    wnids = (things / "wnids.txt").read_text().split()
    assert len(wnids) == 3
    assert wnids != sorted(wnids)
    words = [line.split("\t") for line in (things / "words.txt").read_text().splitlines()]
    assert dict(words).keys() == set(wnids)
    for wnid in wnids:
        rows = (things / f"train/{wnid}/{wnid}_boxes.txt").read_text().splitlines()
        files = [row.split("\t")[0] for row in rows]
        assert files == [f"{wnid}_{i}.JPEG" for i in range(8)]
        assert all((things / f"train/{wnid}/images" / file).is_file() for file in files)
    rows = [r.split("\t") for r in (things / "val/val_annotations.txt").read_text().splitlines()]
    assert [row[0] for row in rows] == [f"val_{i}.JPEG" for i in range(6)]
    assert sorted(row[1] for row in rows) == sorted(2 * wnids)
    for file, _, *box in rows:
        assert Image.open(things / "val/images" / file).size == (64, 64)
        xmin, ymin, xmax, ymax = map(int, box)
        assert 0 <= xmin < xmax < 64
        assert 0 <= ymin < ymax < 64


@BOTH
def test_same_arguments_draw_the_same_bytes(draw, size, tmp_path, request):
    first = request.getfixturevalue("cars" if draw is draw_cars196 else "things")
    draw(tmp_path / "again", **size)
    draw(tmp_path / "other", seed=1, **size)
    assert content(tmp_path / "again") == content(first)
    drawn = {p.read_bytes() for p in first.rglob("*.[jJ]*")}
    assert drawn.isdisjoint(p.read_bytes() for p in (tmp_path / "other").rglob("*.[jJ]*"))


@BOTH
def test_some_pictures_are_grayscale(draw, size, tmp_path, monkeypatch):
    monkeypatch.setattr(painting, "GRAY", 10 * painting.GRAY)  # 0 or far too many are seen
    draw(tmp_path / "set", **size)
    pictures = [p for p in (tmp_path / "set").rglob("*") if p.suffix.lower() in (".jpg", ".jpeg")]
    assert {Image.open(picture).mode for picture in pictures} == {"L", "RGB"}


@BOTH
def test_interrupted_drawing_leaves_nothing(draw, size, tmp_path, monkeypatch):
    save = layouts._save_image

    def interrupted(path, image):
        if "4" in path.stem:
            raise KeyboardInterrupt
        save(path, image)

    monkeypatch.setattr(layouts, "_save_image", interrupted)
    with pytest.raises(KeyboardInterrupt):
        draw(tmp_path / "set", **size)
    assert list(tmp_path.iterdir()) == []


@BOTH
def test_existing_folder_is_refused_untouched(draw, size, tmp_path):
    (tmp_path / "note").write_text("mine")
    with pytest.raises(CubsError, match="move it away"):
        draw(tmp_path, **size)
    assert [p.name for p in tmp_path.iterdir()] == ["note"]
