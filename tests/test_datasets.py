import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import loadmat, savemat

from cubslib import CubsError, datasets, decoding
from cubslib.datasets import Cars196, TinyImageNet
from cubslib.decoding import decode

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
        assert data.protocol == "75 images, not the official 110,000"
        assert data.title == "images of 3 classes of one's own"


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
            expected = decode(data.root / data.names[place], data.size)
            assert torch.equal(image, torch.from_numpy(expected))
            assert label == data.labels[place]


@pytest.mark.parametrize(("options", "train", "val", "test"), [
    ({}, [0, 1, 2, 3], [], [4, 5, 6, 7]),
    ({"val_classes": 2}, [0, 2], [1, 3], [4, 5, 6, 7]),
    ({"limit_classes": 3}, [0, 1, 2], [], [4, 5, 6]),
    ({"limit_classes": 3, "val_classes": 1}, [0, 1], [2], [4, 5, 6]),
])  # fmt: skip
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
        assert data.protocol == "32 images, not the official 16,185"
        assert data.title == "images of 8 classes of one's own"


def test_cars_are_cut_to_the_box_both_ends_within(cars_root):
    data = Cars196(cars_root, "test", size=32, crop=True)
    for place in (0, len(data) - 1):
        x1, y1, x2, y2 = cars_rows(cars_root)[data.names[place]][1]
        pixels = np.asarray(Image.open(cars_root / data.names[place]).convert("RGB"))
        cut = Image.fromarray(pixels[y1 - 1 : y2, x1 - 1 : x2]).resize((32, 32), Image.BICUBIC)
        assert (data.read([place])[0].permute(1, 2, 0).numpy() == np.asarray(cut)).all()
    assert data.fingerprint != Cars196(cars_root, "test", size=32).fingerprint


def edit(root, file, change):
    """Change the rows of a table of cars in place; `change` gets a list of rows as dicts."""
    field = "class_names" if "meta" in file else "annotations"
    table = loadmat(root / file, squeeze_me=True)[field]
    if field == "annotations":
        table = [dict(zip(table.dtype.names, row, strict=True)) for row in table.tolist()]
    rows = list(table)
    change(rows)
    if field == "annotations":
        columns = [(name, object) for name in rows[0]]
        rows = [tuple(row.values()) for row in rows]
        savemat(root / file, {field: np.array(rows, columns)})
    else:
        savemat(root / file, {field: np.array(rows, object)})


def span_every_image(root, less=0):
    """Let every box run from the image's first pixel to its last, `less` some columns."""
    for folder, file in (("cars_train", TRAIN_MAT), ("cars_test", TEST_MAT)):

        def change(rows, folder=folder):
            for row in rows:
                width, height = Image.open(root / folder / row["fname"]).size
                row |= {"bbox_x1": 1, "bbox_y1": 1, "bbox_x2": width - less, "bbox_y2": height}

        edit(root, file, change)


def test_boxes_that_span_every_image_are_a_cropped_copy(cars_copy):
    span_every_image(cars_copy, less=1)
    assert Cars196(cars_copy, "test").protocol == "32 images, not the official 16,185"
    span_every_image(cars_copy)
    assert Cars196(cars_copy, "test").protocol == "32 images, not the official 16,185, cropped copy"
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


remove = Path.unlink


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


@pytest.mark.parametrize("damage", [remove, cut, flip, garbage, lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("file", ["devkit/cars_meta.mat", TRAIN_MAT, TEST_MAT])
def test_a_damaged_table_of_cars_is_named(cars_copy, file, damage):
    damage(cars_copy / file)
    with pytest.raises(CubsError, match=rf"{re.escape(file)} is .*\.$"):
        Cars196(cars_copy, "train")


def row(number, text):
    """A damage: another text in a row, counted from 1, of a table."""

    def damage(path):
        rows = path.read_text().splitlines()
        rows[number - 1] = text
        path.write_text("\n".join(rows), encoding="latin-1")

    return damage


def dangle(path):
    path.unlink()
    path.symlink_to(path.with_name("nowhere"))


IMAGES, VAL = "train/n90000137/images", "val/val_annotations.txt"


@pytest.mark.parametrize(("name", "damage", "sentence"), [
    ("wnids.txt", remove, "wnids.txt is missing"),
    ("wnids.txt", row(2, "../../secret"), "wnids.txt row 2 lists '../../secret', which is no"),
    ("wnids.txt", row(2, "n90000137"), "wnids.txt row 2 lists 'n90000137', again"),
    ("wnids.txt", row(2, ""), "wnids.txt row 2 lists '', which is no name"),
    ("wnids.txt", lambda path: path.write_text(""), "wnids.txt lists no class"),
    ("wnids.txt", lambda path: path.write_text("n90000000"), "n90000137 is no class of wnids"),
    ("words.txt", remove, "words.txt is missing"),
    ("words.txt", row(2, "n90000137\tcaf\xe9"), "words.txt row 2 is not UTF-8 text"),
    ("words.txt", row(2, "n90000137"), "words.txt row 2 is not a wnid, a tab and words"),
    (VAL, remove, "val_annotations.txt is missing"),
    (VAL, cut, "val_annotations.txt row 11 (va) has '', no class"),
    (VAL, row(2, "val_0.JPEG\tn90000000"), "row 2 names val_0.JPEG a sec"),
    (VAL, row(2, "val_1.JPEG\tn7"), "row 2 (val_1.JPEG) has 'n7', no cl"),
    (VAL, row(2, "val_1.JPEG"), "row 2 (val_1.JPEG) has '', no class"),
    (VAL, row(2, "/etc/x\tn90000000"), "row 2 names no file but '/etc/x'"),
    (VAL, lambda path: path.write_text(""), "names no image"),
    ("val/images/val_7.JPEG", remove, "val/images lacks 1 of 15 annotated images, val_7.JPEG"),
    ("val/images/val_3.JPEG", dangle, "val/images/val_3.JPEG is a link to nothing"),
    ("val/images", empty, "val/images lacks 15 of 15"),
    ("train/n90000137", shutil.rmtree, "n90000137/images holds no images"),
    (IMAGES, empty, "n90000137/images holds no images"),
    (f"{IMAGES}/n90000137_4.JPEG", dangle, f"{IMAGES}/n90000137_4.JPEG is a link to nothing"),
    ("cars_train/00002.jpg", remove, "cars_train lacks 1 of 16 annotated images, 00002.jpg"),
    ("cars_train/00002.jpg", dangle, "cars_train/00002.jpg is a link to nothing"),
    ("cars_test", shutil.rmtree, "cars_test lacks 16 of 16"),
])  # fmt: skip
def test_half_unpacked_or_damaged_data_are_refused_at_once(
    tiny_copy, cars_copy, name, damage, sentence
):
    kind, root = (Cars196, cars_copy) if "cars" in name else (TinyImageNet, tiny_copy)
    damage(root / name)
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


def put(row, **values):
    """A change of a table: these values in one row, counted from 1."""
    return lambda rows: rows[row - 1].update(values)


def drop(column):
    return lambda rows: [row.pop(column) for row in rows]


NAN, NOTHING = float("nan"), np.empty(0)
BOX_OF_3 = r"row 3 \(00003.jpg\) has the box"


@pytest.mark.parametrize(("change", "sentence"), [
    (put(3, **{"class": 0}), r"row 3 \(00003.jpg\) has the class 0; there are 8 names, from 1"),
    (put(16, **{"class": 9}), r"row 16 \(00016.jpg\) has the class 9; there are 8 names"),
    (put(3, **{"class": NAN}), r"row 3 \(00003.jpg\) has the class nan, which is no whole"),
    (put(3, **{"class": 1.5}), r"row 3 \(00003.jpg\) has the class 1.5, which is no whole"),
    (put(3, **{"class": "car"}), r"row 3 \(00003.jpg\) has the class 'car'"),
    (put(3, **{"class": NOTHING}), r"row 3 \(00003.jpg\) has the class \[\], which is no"),
    (drop("class"), "has no column class: the official test rows have theirs in"),
    (put(3, fname="00002.jpg"), "row 3 names 00002.jpg, as row 2 does"),
    (put(3, fname="../b.jpg"), r"row 3 has '\.\./b\.jpg' where the name of a file must stand"),
    (put(3, fname=NAN), "row 3 has nan where the name of a file must stand"),
    (put(3, bbox_x1=NAN), rf"{BOX_OF_3} \[nan, .* not four whole numbers"),
    (put(3, bbox_y2="low"), rf"{BOX_OF_3} .*'low'.* not four whole numbers"),
    (put(3, bbox_x1=90, bbox_x2=20), rf"{BOX_OF_3} 90, \d+, 20, \d+; x1 ≤ x2"),
    (put(3, bbox_y1=0), rf"{BOX_OF_3} .* count from 1"),
])  # fmt: skip
@pytest.mark.parametrize("file", [TRAIN_MAT, TEST_MAT])
def test_a_row_of_cars_that_cannot_be_is_named(cars_copy, file, change, sentence):
    edit(cars_copy, file, change)
    with pytest.raises(CubsError, match=rf"{re.escape(file)} {sentence}.*\.$"):
        Cars196(cars_copy, "train")


def test_names_fewer_than_classes_and_labels_from_0_are_refused(cars_copy):
    for file in (TRAIN_MAT, TEST_MAT):
        edit(cars_copy, file, lambda rows: [x.update({"class": x["class"] - 1}) for x in rows])
    with pytest.raises(CubsError, match="has the class 0; .* more are listed .*--check") as caught:
        Cars196(cars_copy, "train")
    assert len(caught.value.troubles) == 4  # each image of that class
    edit(cars_copy, "devkit/cars_meta.mat", lambda names: names.__delitem__(slice(4, None)))
    with pytest.raises(CubsError) as caught:
        Cars196(cars_copy, "train")
    assert len(caught.value.troubles) == 4 + 3 * 4
    edit(cars_copy, "devkit/cars_meta.mat", lambda names: names.__setitem__(1, NAN))
    with pytest.raises(CubsError, match=r"cars_meta.mat row 2 of class_names is no text"):
        Cars196(cars_copy, "train")


def test_a_box_outside_its_picture_is_refused_where_it_is_cut(cars_copy):
    edit(cars_copy, TEST_MAT, put(3, bbox_x2=500))
    assert Cars196(cars_copy, "test").read([0]).shape == (1, 3, 128, 128)
    with pytest.raises(CubsError, match=r"cars_test/00003.jpg has \d+ × \d+ pixels, its box .*500"):
        Cars196(cars_copy, "test", crop=True).read([0])


def test_cars_without_boxes_are_not_cut(cars_copy):
    for corner in ("x1", "y1", "x2", "y2"):
        edit(cars_copy, TEST_MAT, drop(f"bbox_{corner}"))
    assert "cropped" not in Cars196(cars_copy, "test").protocol
    with pytest.raises(CubsError, match="crop is True, but .* has no boxes"):
        Cars196(cars_copy, "test", crop=True)


def test_files_without_labels_are_counted_and_said(tiny_copy, cars_copy):
    (tiny_copy / "val/images/more.JPEG").touch()
    (tiny_copy / "train/n90000137/images/list.txt").touch()
    (tiny_copy / "train/n90000137/images/.DS_Store").touch()
    (cars_copy / "cars_test/99999.jpg").touch()
    for split in ("train", "test"):
        assert TinyImageNet(tiny_copy, split).protocol.endswith("110,000, 2 files without labels")
        assert Cars196(cars_copy, split).protocol.endswith("16,185, 1 files without labels")


def test_a_bomb_in_a_cropped_copy_is_named(cars_copy, monkeypatch):
    span_every_image(cars_copy)
    monkeypatch.setattr(decoding, "LARGEST", 100)
    with pytest.raises(CubsError, match=r"cars_train/\d+.jpg has more than 100 pixels"):
        Cars196(cars_copy, "test")


def test_all_troubles_are_found_at_once(tiny_copy):
    garbage(tiny_copy / "words.txt")
    (tiny_copy / "val/images/val_7.JPEG").unlink()
    empty(tiny_copy / "train/n90000137/images")
    with pytest.raises(CubsError, match=r"words.*\(2 more are ") as caught:
        TinyImageNet(tiny_copy, "train")
    assert len(caught.value.troubles) == 3


@pytest.mark.parametrize(("official", "counts_agree", "found", "text"), [
    (True, True, 99, "complete"),
    (True, False, 98, "subset: 98 of 99"),
    (True, False, 99, "99 images, not the official 99"),  # of other numbers a class
    (False, True, 99, "99 images, not the official 99"),  # of other classes
])  # fmt: skip
def test_complete_means_the_official_counts_and_classes(official, counts_agree, found, text):
    assert datasets._protocol(official, counts_agree, found, 99, 0) == text


def assert_a_few_images(data, pattern):
    """Read through the packed copy if it is there already; making it would take minutes."""
    places = [0, len(data) // 2, len(data) - 1]
    expected = np.stack([decode(data.root / data.names[i], data.size) for i in places])
    assert expected.std() > 10
    if list(data.root.glob(pattern)):
        assert torch.equal(data.read(places), torch.from_numpy(expected))


def test_real_tiny_imagenet_has_the_official_counts(real):
    root = real("tiny-imagenet-200")
    for split, per_class in (("train", 450), ("val", 50), ("test", 50)):
        data = TinyImageNet(root, split)
        assert len(data) == len(set(data.names)) == 200 * per_class
        assert data.targets.bincount().tolist() == [per_class] * 200
        assert len(data.classes) == 200
        assert (data.title, data.protocol) == ("Tiny ImageNet", "complete")
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
    assert train.title == "Cars196"
    total = len(train) + len(test)
    assert train.protocol.startswith("complete" if total == 16_185 else f"subset: {total:,} of")
    assert_a_few_images(test, "packed-full-128px-*.npy")
