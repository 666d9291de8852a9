"""The `get_` scripts as their users call them, on small data sets drawn here."""

import errno
import gzip
import io
import os
import runpy
import shutil
import subprocess
import sys
import tarfile
import zipfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from cubslib.datasets import Cars196
from cubslib.sample.layouts import draw_cars196, draw_tiny_imagenet

FOLDER = Path(__file__).parent.parent / "data_scripts"
TEST_MAT = "cars_test_annos_withlabels.mat"
SCRIPTS = {"cars196": "get_cars196.py", "tiny-imagenet-200": "get_tiny_imagenet.py"}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A folder that holds both data sets, small."""
    folder = tmp_path_factory.mktemp("drawn")
    draw_cars196(folder / "cars196", num_classes=4, per_class=4)
    draw_tiny_imagenet(folder / "tiny-imagenet-200", num_classes=2, per_class=10)
    return folder


def get(name, data_root, *sources):
    """Run a data set's script within this process; return its exit status and what it printed."""
    argv = [SCRIPTS[name], "--data-root", str(data_root)]
    for source in sources:
        argv += [source] if source == "--check" else ["--source", str(source)]
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed), redirect_stderr(printed):
        patch.setattr(sys, "argv", argv)
        patch.syspath_prepend(FOLDER)
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(FOLDER / SCRIPTS[name]), run_name="__main__")
    return ended.value.code, printed.getvalue()


def done(name, data_root, *sources):
    """Run a script that must succeed; return what it printed."""
    status, text = get(name, data_root, *sources)
    assert status == 0, text
    return text


def listing(folder):
    """The files of a folder with their bytes, packed copies and locks apart."""
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith((".", "packed"))
    }


def archive(path, files, at=""):
    """Write files (name → bytes), or a folder's, into a new archive under `at`."""
    files = files if isinstance(files, dict) else listing(files)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as file:
            for name, content in files.items():
                file.writestr(f"{at}{name}", content)
    else:
        packing = {".tgz": "w:gz", ".xz": "w:xz", ".tar": "w"}[path.suffix]
        with tarfile.open(path, packing) as file:
            for name, content in files.items():
                member = tarfile.TarInfo(f"{at}{name}")
                member.size = len(content)
                file.addfile(member, io.BytesIO(content))
    return path


def refused(name, data_root, *sources):
    """Run a script that must fail and leave nothing; return its one line (progress apart)."""
    status, text = get(name, data_root, *sources)
    assert status == 1, text
    assert "Traceback" not in text
    assert not data_root.exists() or not any(data_root.iterdir())
    return text.splitlines()[-1]


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("form", ["folder", "nested", "zip", "tgz", "tar.xz", "tar"])
def test_every_form_of_source_gives_the_same_folder(drawn, tmp_path, name, form):
    source = drawn / name
    if form == "nested":
        source = shutil.copytree(source, tmp_path / "a" / "b" / name).parent.parent
    elif form != "folder":
        source = archive(tmp_path / f"any.{form}", source, at=f"{name}/")
    assert "classes of one's own" in done(name, tmp_path / "data", source)
    assert listing(tmp_path / "data" / name) == listing(drawn / name)
    assert os.listdir(tmp_path / "data") == [name]
    assert "already" in done(name, tmp_path / "data", tmp_path / "whatever")


def test_official_pieces_of_cars196_make_one_whole(drawn, tmp_path):
    cars = drawn / "cars196"
    pieces = [
        archive(tmp_path / "cars_train.tgz", cars / "cars_train", at="cars_train/cars_train/"),
        archive(tmp_path / "cars_test.tgz", cars / "cars_test"),  # its top folder is missing
        archive(tmp_path / "car_devkit.tgz", cars / "devkit", at="devkit/"),
        cars / "cars_test_annos_withlabels.mat",
    ]
    assert "cars_test_annos_withlabels.mat" in refused("cars196", tmp_path / "data", *pieces[:3])
    done("cars196", tmp_path / "data", *pieces)
    assert listing(tmp_path / "data" / "cars196") == listing(cars)


def test_what_does_not_belong_is_left_out(drawn, tmp_path):
    junk = {"test/images/test_0.JPEG": b"x", "train/.DS_Store": b"x", "__MACOSX/train/x": b"x"}
    files = listing(drawn / "tiny-imagenet-200") | junk
    source = archive(tmp_path / "tiny.zip", files, at="tiny/")
    done("tiny-imagenet-200", tmp_path / "data", source)
    assert listing(tmp_path / "data" / "tiny-imagenet-200") == listing(drawn / "tiny-imagenet-200")


def cut_in_half(content):
    return content[: len(content) // 2]


def offset(content):
    with tarfile.open(fileobj=io.BytesIO(content)) as file:
        return file.getmembers()[-3].offset


def cut_between_members(content):
    """All members but the last few, without the mark of the end: what `head -c` may leave."""
    return content[: offset(content)]


def damage_a_head(content):
    at = offset(content)
    return content[: at + 5] + b"!" + content[at + 6 :]


def damage_a_stored_byte(content):
    """One wrong byte of a picture; a gzip keeps it as it is, so that its checksum alone tells."""
    if content[:2] == b"\x1f\x8b":
        content = gzip.compress(gzip.decompress(content), compresslevel=0)
    at = content.rindex(b"Exif" if b"Exif" in content else b"JFIF")
    return content[: at + 40] + bytes([content[at + 40] ^ 1]) + content[at + 41 :]


@pytest.mark.parametrize(("damage", "form", "says"), [
    *((cut_in_half, form, "cars.") for form in ("zip", "tgz", "tar", "tar.xz")),
    (cut_between_members, "tar", "is cut or damaged"), (damage_a_head, "tar", "is cut or damaged"),
    (damage_a_stored_byte, "zip", "CRC"), (damage_a_stored_byte, "tgz", "CRC"),
])  # fmt: skip
def test_an_archive_that_is_cut_or_damaged_is_refused(drawn, tmp_path, damage, form, says):
    files = listing(drawn / "cars196") | {"cars_test/x.jpg": bytes(10**6)}  # half falls in it
    source = archive(tmp_path / f"cars.{form}", files)
    source.write_bytes(damage(source.read_bytes()))
    assert says in refused("cars196", tmp_path / "data", source)


@pytest.mark.parametrize(
    ("limit", "value"), [("LARGEST_FILE", 500), ("LARGEST", 9000), ("MOST", 5)]
)
def test_more_than_a_data_set_is_refused(drawn, tmp_path, monkeypatch, limit, value):
    monkeypatch.syspath_prepend(FOLDER)
    import archives

    monkeypatch.setattr(archives, limit, value)
    source = archive(tmp_path / "cars.zip", drawn / "cars196")
    assert "more than a data set" in refused("cars196", tmp_path / "data", source)


@pytest.mark.parametrize("name", ["cars_train", "cars_train/00001.jpg", "devkit/cars_meta.mat"])
def test_a_link_in_a_folder_is_refused(drawn, tmp_path, name):
    source = shutil.copytree(drawn / "cars196", tmp_path / "cars")
    shutil.rmtree(source / name) if name == "cars_train" else (source / name).unlink()
    (source / name).symlink_to("/etc" if name == "cars_train" else "/etc/passwd")
    assert f"holds {name}, a link" in refused("cars196", tmp_path / "data", source)


def test_a_link_that_is_not_wanted_does_no_harm(drawn, tmp_path):
    source = shutil.copytree(drawn / "cars196", tmp_path / "cars")
    (source / "python").symlink_to("/usr/bin/python3")
    done("cars196", tmp_path / "data", source)
    assert listing(tmp_path / "data/cars196") == listing(drawn / "cars196")


def test_two_sources_that_differ_are_refused_and_two_that_agree_are_not(drawn, tmp_path):
    files = listing(drawn / "cars196")
    one = archive(tmp_path / "one.zip", files)
    done("cars196", tmp_path / "twice", one, one)
    name = Path("cars_train/00001.jpg")
    other = archive(tmp_path / "other.zip", {name: files[Path("cars_train/00002.jpg")]})
    assert f"a second, different {name}" in refused("cars196", tmp_path / "data", one, other)


def test_a_full_disk_is_no_fault_of_the_source(drawn, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    line = refused("cars196", tmp_path / "data", drawn / "cars196")
    assert line.endswith("cannot be written (No space left on device): make room.")


def test_a_missing_image_is_named(drawn, tmp_path):
    files = listing(drawn / "cars196")
    lost = min(name for name in files if name.suffix == ".jpg")
    del files[lost]
    line = refused("cars196", tmp_path / "data", archive(tmp_path / "cars.zip", files))
    assert lost.name in line
    assert ".part" not in line


@pytest.mark.parametrize("name", ["../train/x.JPEG", "/train/x.JPEG", "a/../../train/x.JPEG"])
@pytest.mark.parametrize("form", ["zip", "tar"])
def test_a_path_out_of_the_archive_is_refused(tmp_path, form, name):
    source = archive(tmp_path / f"evil.{form}", {name: b"x"})
    assert name in refused("tiny-imagenet-200", tmp_path / "data", source)
    assert not (tmp_path / "train").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, "zip"])
def test_links_and_devices_in_an_archive_are_refused(tmp_path, kind):
    member, entry = tarfile.TarInfo("train/odd"), zipfile.ZipInfo("train/odd")
    member.type, member.linkname, entry.external_attr = kind, "/etc/passwd", 0o120777 << 16
    if kind == "zip":
        with zipfile.ZipFile(tmp_path / "evil", "w") as file:
            file.writestr(entry, "/etc/passwd")
    else:
        with tarfile.open(tmp_path / "evil", "w") as file:
            file.addfile(member)
    source = (tmp_path / "evil").rename(tmp_path / f"evil.{kind if kind == 'zip' else 'tar'}")
    assert "train/odd" in refused("tiny-imagenet-200", tmp_path / "data", source)


@pytest.mark.parametrize("source", ["nowhere.zip", "nowhere", "photo.jpg", "text.zip", "empty"])
def test_a_source_that_is_none_is_named(tmp_path, source):
    (tmp_path / "photo.jpg").write_bytes(b"x")
    (tmp_path / "text.zip").write_text("no zip")
    (tmp_path / "empty").mkdir()
    assert source in refused("cars196", tmp_path / "data", tmp_path / source)


def test_a_folder_already_there_is_never_written_to(drawn, tmp_path):
    (tmp_path / "cars196").mkdir()
    (tmp_path / "cars196" / "mine.txt").write_text("mine")
    status, text = get("cars196", tmp_path, drawn)
    assert status == 1
    assert "move it away" in text
    assert [path.name for path in tmp_path.rglob("*")] == ["cars196", "mine.txt"]


def test_check_lists_all_that_is_wrong_at_once(drawn, tmp_path):
    root = shutil.copytree(drawn / "cars196", tmp_path / "cars196")
    assert "every image can be read" in done("cars196", tmp_path, "--check")
    for number in (3, 5):
        (root / f"cars_test/0000{number}.jpg").write_bytes(b"no image")
    table = loadmat(root / TEST_MAT)["annotations"]
    table[0, 5]["bbox_x2"] = 500
    savemat(root / TEST_MAT, {"annotations": table})
    status, text = get("cars196", tmp_path, "--check")
    assert status == 1
    for words in ("00003.jpg is no image", "00005.jpg is no image", "00006.jpg has", "3 troubles"):
        assert words in text
    table[0, 0]["class"] = table[0, 7]["class"] = 0
    savemat(root / TEST_MAT, {"annotations": table})
    (root / "cars_train/00002.jpg").unlink()
    status, text = get("cars196", tmp_path, "--check")
    assert status == 1
    for words in ("row 1 (00001.jpg)", "row 8 (00008.jpg)", "lacks 1 of 8", "3 troubles"):
        assert words in text
    assert get("tiny-imagenet-200", tmp_path, "--check")[0] == 1


def rows_of(root):
    """(pixels' file, label, box or None, half) of a laid-out Cars196, in any order."""
    found, boxes = [], Cars196(root, "train").annotated
    for split in ("train", "test"):
        data = Cars196(root, split)
        for name, row, label in zip(data.names, data.rows, data.labels.tolist(), strict=True):
            box = None if boxes is None else tuple(boxes[row])
            found.append(((root / name).read_bytes(), label, box, name.split("/")[0]))
    return sorted(found)


def annotated(official):
    """(half, file, corners of its box, label from 1) of the images of a data set in layout A."""
    for half, table in (("train", "devkit/cars_train_annos.mat"), ("test", TEST_MAT)):
        for row in loadmat(official / table, squeeze_me=True)["annotations"]:
            corners = [row[f"bbox_{corner}"] for corner in ("x1", "y1", "x2", "y2")]
            yield half, official / f"cars_{half}" / row["fname"], corners, row["class"]


def in_one_folder(official, folder):
    """Layout B of a data set in layout A."""
    (folder / "car_ims").mkdir(parents=True)
    rows = []
    for half, file, corners, label in annotated(official):
        name = f"car_ims/{len(rows) + 1:06}.jpg"
        shutil.copy(file, folder / name)
        rows.append((name, *corners, label, int(half == "test")))
    columns = ("relative_im_path", "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "test")
    table = np.array(rows, [(column, object) for column in columns])
    names = loadmat(official / "devkit/cars_meta.mat")["class_names"]
    savemat(folder / "cars_annos.mat", {"annotations": table, "class_names": names})
    return folder


def in_class_folders(official, folder, names, boxes=True):
    """Layout C of a data set in layout A, its classes called `names`."""
    for half, file, corners, label in annotated(official):
        place = folder / "car_data" / half / names[label - 1] / file.name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place)
        if boxes:
            with open(folder / f"anno_{half}.csv", "a") as table:
                print(file.name, *corners, label, sep=",", file=table)
    return folder


def test_cars_in_one_folder_are_laid_out(drawn, tmp_path):
    source = in_one_folder(drawn / "cars196", tmp_path / "b")
    (source / "car_ims/999999.jpg").write_bytes(b"x")
    assert "1 files without labels" in done("cars196", tmp_path / "data", source)
    assert rows_of(tmp_path / "data/cars196") == rows_of(drawn / "cars196")
    (source / "car_ims/000003.jpg").unlink()
    assert "lacks 1 of" in refused("cars196", tmp_path / "other", source)


@pytest.mark.parametrize(("field", "value", "words"), [
    ("relative_im_path", "car_ims/..", "row 2 is not a file and its half"),
    ("test", float("nan"), "row 2 is not a file and its half"),
    ("class", 0, "the class 0"),
])  # fmt: skip
def test_a_wrong_row_of_the_one_folder_is_named(drawn, tmp_path, field, value, words):
    source = in_one_folder(drawn / "cars196", tmp_path / "b")
    content = loadmat(source / "cars_annos.mat")
    content["annotations"][0, 1][field] = value
    content = {name: content[name] for name in ("annotations", "class_names")}
    savemat(source / "cars_annos.mat", content)
    assert words in refused("cars196", tmp_path / "data", source)


@pytest.mark.parametrize("boxes", [True, False])
def test_cars_in_folders_of_classes_are_laid_out(drawn, tmp_path, boxes):
    source = in_class_folders(drawn / "cars196", tmp_path / "c", list("abcd"), boxes)
    said = done("cars196", tmp_path / "data", source)
    assert "images of 4 classes of one's own" in said
    assert Cars196(tmp_path / "data/cars196", "test").classes == ("c", "d")
    expected = rows_of(drawn / "cars196")
    if not boxes:
        expected = [(content, label, None, half) for content, label, _, half in expected]
    assert rows_of(tmp_path / "data/cars196") == expected
    if boxes:
        (source / "anno_test.csv").write_text("a.jpg,1,2,3,4,1\na.jpg,1,2,low,4,1\n")
        assert "row 2 is not a file" in refused("cars196", tmp_path / "other", source)


def test_folders_of_official_classes_are_in_the_official_order(drawn, tmp_path):
    """Whose names sort otherwise, and hold a slash."""
    names = ["Acura Integra Type R 2001", "acura rl sedan 2012", "AM General Hummer SUV 2000",
             "Ram C-V Cargo Van Minivan 2012"]  # fmt: skip
    source = in_class_folders(drawn / "cars196", tmp_path / "c", names)
    assert "Cars196: subset: 16 of 16,185" in done("cars196", tmp_path / "data", source)
    train, test = (Cars196(tmp_path / "data/cars196", split) for split in ("train", "test"))
    assert train.classes == (
        "AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Acura Integra Type R 2001"
    )  # fmt: skip
    assert test.classes == ("Ram C/V Cargo Van Minivan 2012",)


@pytest.mark.parametrize("name", SCRIPTS)
def test_as_a_command_it_says_what_it_does(name):
    command = [sys.executable, FOLDER / SCRIPTS[name], "--help"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.count("--source") > 1
    assert "--check" in said
