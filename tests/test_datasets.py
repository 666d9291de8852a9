import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import loadmat, savemat

from cubslib import CubsError
from cubslib.datasets import Cars196, TinyImageNet
from cubslib.packed import decode

TRAIN_MAT, TEST_MAT = "devkit/cars_train_annos.mat", "cars_test_annos_withlabels.mat"


def cars_rows(root):
    """File → (official label from 0, box) by a loop over the annotations."""
    found = {}
    for folder, file in (("cars_train", TRAIN_MAT), ("cars_test", TEST_MAT)):
        for row in loadmat(root / file)["annotations"][0]:
            box = [int(row[f"bbox_{side}"][0, 0]) for side in ("x1", "y1", "x2", "y2")]
            found[f"{folder}/{row['fname'][0]}"] = (int(row["class"][0, 0]) - 1, box)
    return found


def test_every_tenth_train_image_of_a_class_is_val(tiny_root):
    wnids = sorted((tiny_root / "wnids.txt").read_text().split())
    splits = {"train": [], "val": []}
    for label, wnid in enumerate(wnids):
        for number in range(20):
            split = "val" if number in (9, 19) else "train"
            splits[split].append((f"train/{wnid}/images/{wnid}_{number}.JPEG", label))
    for split, expected in splits.items():
        data = TinyImageNet(tiny_root, split)
        assert list(zip(data.names, data.labels.tolist(), strict=True)) == expected
        assert data.targets.tolist() == data.labels.tolist()
        assert data.protocol == "subset: 75 of 110,000"


def test_the_official_val_is_test_and_classes_are_named_by_sorted_wnid(tiny_root):
    words = dict(line.split("\t") for line in (tiny_root / "words.txt").read_text().splitlines())
    data = TinyImageNet(tiny_root, "test")
    rows = (tiny_root / "val" / "val_annotations.txt").read_text().splitlines()
    assert (tiny_root / "wnids.txt").read_text().split() != sorted(words)
    assert data.classes == tuple(words[wnid] for wnid in sorted(words))
    assert len(data) == len(rows) == 15
    for name, target, row in zip(data.names, data.targets.tolist(), rows, strict=True):
        assert name == f"val/images/{row.split()[0]}"
        assert data.classes[target] == words[row.split()[1]]


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_images_are_those_of_the_names(tiny_root, cars_root, split):
    for data in (TinyImageNet(tiny_root, split), Cars196(cars_root, split, size=40, val_classes=2)):
        places = [len(data) - 1, 0, len(data) // 2]
        for place, (image, label) in zip(places, data.__getitems__(places), strict=True):
            assert torch.equal(
                image, torch.from_numpy(decode(data.root / data.names[place], data.size))
            )
            assert label == data.labels[place]


@pytest.mark.parametrize(
    ("options", "train", "val", "test"),
    [
        ({}, [0, 1, 2, 3], [], [4, 5, 6, 7]),
        ({"val_classes": 2}, [0, 2], [1, 3], [4, 5, 6, 7]),
        ({"limit_classes": 3}, [0, 1, 2], [], [4, 5, 6]),
        ({"limit_classes": 3, "val_classes": 1}, [0, 1], [2], [4, 5, 6]),
    ],
)
def test_cars_are_split_by_class_over_both_official_halves(cars_root, options, train, val, test):
    labels = {file: label for file, (label, _) in cars_rows(cars_root).items()}
    names = loadmat(cars_root / "devkit/cars_meta.mat", squeeze_me=True)["class_names"]
    for split, classes in (("train", train), ("val", val), ("test", test)):
        data = Cars196(cars_root, split, **options)
        assert data.labels.unique().tolist() == classes
        assert data.labels.tolist() == [labels[name] for name in data.names]
        assert data.classes == tuple(names[classes])
        assert [classes[target] for target in data.targets] == data.labels.tolist()
        assert set(data.names) == {name for name, label in labels.items() if label in classes}
        assert data.protocol == "subset: 32 of 16,185"


def test_cars_are_cut_to_the_box_both_ends_within(cars_root):
    data = Cars196(cars_root, "test", size=32, crop=True)
    for place in (0, len(data) - 1):
        x1, y1, x2, y2 = cars_rows(cars_root)[data.names[place]][1]
        pixels = np.asarray(Image.open(cars_root / data.names[place]).convert("RGB"))
        cut = Image.fromarray(pixels[y1 - 1 : y2, x1 - 1 : x2]).resize((32, 32), Image.BICUBIC)
        assert (data.read([place])[0].permute(1, 2, 0).numpy() == np.asarray(cut)).all()
    assert data.fingerprint != Cars196(cars_root, "test", size=32).fingerprint


def span_every_image(root, less=0):
    """Let every box run from the image's first pixel to its last, `less` some columns."""
    for folder, file in (("cars_train", TRAIN_MAT), ("cars_test", TEST_MAT)):
        table = loadmat(root / file)["annotations"]
        for row in table[0]:
            size = Image.open(root / folder / row["fname"][0]).size
            corners = zip(("x1", "y1", "x2", "y2"), (1, 1, size[0] - less, size[1]), strict=True)
            for side, value in corners:
                row[f"bbox_{side}"] = value
        savemat(root / file, {"annotations": table})


def test_boxes_that_span_every_image_are_a_cropped_copy(cars_copy):
    span_every_image(cars_copy, less=1)
    assert Cars196(cars_copy, "test").protocol == "subset: 32 of 16,185"
    span_every_image(cars_copy)
    assert Cars196(cars_copy, "test").protocol == "subset: 32 of 16,185, cropped copy"
    file = next(cars_copy.glob("cars_train/*"))
    file.write_text("no image")
    with pytest.raises(CubsError, match=f"{file.name} is no image"):
        Cars196(cars_copy, "test")


def test_grayscale_images_have_three_equal_channels(tiny_copy):
    data = TinyImageNet(tiny_copy, "test")
    Image.effect_noise((64, 64), 60).save(tiny_copy / data.names[4])
    red, green, blue = data.read([4])[0]
    assert red.float().std() > 20
    assert torch.equal(red, green)
    assert torch.equal(red, blue)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def flip(path):
    content = path.read_bytes()
    path.write_bytes(content[:300] + bytes([content[300] ^ 8]) + content[301:])


def empty(path):
    shutil.rmtree(path)
    path.mkdir()


def garbage(path):
    path.write_bytes(b"no such file" * 40)


@pytest.mark.parametrize(
    "damage", ["remove", cut, flip, garbage, lambda path: path.write_bytes(b"")]
)
@pytest.mark.parametrize("file", ["devkit/cars_meta.mat", TRAIN_MAT, TEST_MAT])
def test_a_damaged_table_of_cars_is_named(cars_copy, file, damage):
    (cars_copy / file).unlink() if damage == "remove" else damage(cars_copy / file)
    with pytest.raises(CubsError, match=rf"{re.escape(file)} is .*\.$"):
        Cars196(cars_copy, "train")


@pytest.mark.parametrize(
    ("name", "damage", "sentence"),
    [
        ("wnids.txt", "remove", "wnids.txt is missing"),
        ("words.txt", "remove", "words.txt is missing"),
        ("val/val_annotations.txt", "remove", "val_annotations.txt is missing"),
        ("val/val_annotations.txt", cut, "val_annotations.txt has a row without"),
        (
            "val/images/val_7.JPEG",
            "remove",
            "val/images lacks 1 of 15 annotated images, val_7.JPEG",
        ),
        ("val/images", empty, "val/images lacks 15 of 15"),
        ("train/n90000137", shutil.rmtree, "n90000137/images holds no images"),
        ("train/n90000137/images", empty, "n90000137/images holds no images"),
        ("cars_train/00002.jpg", "remove", "cars_train lacks 1 of 16 annotated images, 00002.jpg"),
        ("cars_test", shutil.rmtree, "cars_test lacks 16 of 16"),
    ],
)
def test_half_unpacked_data_are_refused_at_once(tiny_copy, cars_copy, name, damage, sentence):
    kind, root = (Cars196, cars_copy) if "cars" in name else (TinyImageNet, tiny_copy)
    (root / name).unlink() if damage == "remove" else damage(root / name)
    for split in ("train", "test"):
        with pytest.raises(CubsError, match=rf"{re.escape(sentence)}.*\.$"):
            kind(root, split)


@pytest.mark.parametrize("kind", [TinyImageNet, Cars196])
def test_a_split_that_is_none_and_an_image_that_is_none(tiny_copy, cars_copy, kind):
    root = tiny_copy if kind is TinyImageNet else cars_copy
    with pytest.raises(CubsError, match="split is 'valid'; it is one of train, val, test"):
        kind(root, "valid")
    data = kind(root, "train")
    cut(root / data.names[3])
    with pytest.raises(CubsError, match=f"{re.escape(data.names[3])} is no image"):
        data.read([0])
    assert not list(root.glob("packed*"))


def assert_a_few_images(data, pattern):
    """Read through the packed copy if it is there already; making it would take minutes."""
    places = [0, len(data) // 2, len(data) - 1]
    expected = np.stack([decode(data.root / data.names[i], data.size) for i in places])
    assert expected.std() > 10
    if list(data.root.glob(pattern)):
        assert torch.equal(data.read(places), torch.from_numpy(expected))


def test_real_tiny_imagenet_has_the_official_counts(real):
    root = real("tiny-imagenet-200")
    for split, count, per_class in (
        ("train", 90_000, 450),
        ("val", 10_000, 50),
        ("test", 10_000, 50),
    ):
        data = TinyImageNet(root, split)
        assert len(data) == len(set(data.names)) == count
        assert data.targets.bincount().tolist() == [per_class] * 200
        assert len(data.classes) == 200
        assert data.protocol == "complete"
    assert data.classes[0] == "goldfish"
    assert_a_few_images(data, "packed-test-64px-*.npy")


def test_real_cars_have_98_classes_on_either_side(real):
    root = real("cars196")
    train, test = Cars196(root, "train"), Cars196(root, "test")
    assert (len(train), len(train.classes), len(test.classes)) == (8_054, 98, 98)
    assert len(test) in (4_092, 8_131)  # the official train half alone; both halves
    assert train.classes[0] == "AM General Hummer SUV 2000"
    held_back = Cars196(root, "val", val_classes=14)
    assert held_back.labels.unique().tolist() == list(range(6, 98, 7))  # every seventh
    total = len(train) + len(test)
    assert train.protocol.startswith("complete" if total == 16_185 else f"subset: {total:,} of")
    assert_a_few_images(test, "packed-full-128px-*.npy")
