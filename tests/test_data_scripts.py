"""The `get_` scripts as their users call them, on small data sets drawn here."""

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

import pytest

from cubslib.sample.layouts import draw_cars196, draw_tiny_imagenet

FOLDER = Path(__file__).parent.parent / "data_scripts"
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
    argv += [text for source in sources for text in ("--source", str(source))]
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed), redirect_stderr(printed):
        patch.setattr(sys, "argv", argv)
        patch.syspath_prepend(FOLDER)
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(FOLDER / SCRIPTS[name]), run_name="__main__")
    return ended.value.code, printed.getvalue()


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
    status, text = get(name, tmp_path / "data", source)
    assert status == 0, text
    assert "subset:" in text
    assert listing(tmp_path / "data" / name) == listing(drawn / name)
    assert os.listdir(tmp_path / "data") == [name]
    again = get(name, tmp_path / "data", tmp_path / "whatever")
    assert again[0] == 0
    assert "already" in again[1]


def test_official_pieces_of_cars196_make_one_whole(drawn, tmp_path):
    cars = drawn / "cars196"
    pieces = [
        archive(tmp_path / "cars_train.tgz", cars / "cars_train", at="cars_train/cars_train/"),
        archive(tmp_path / "cars_test.tgz", cars / "cars_test"),  # its top folder is missing
        archive(tmp_path / "car_devkit.tgz", cars / "devkit", at="devkit/"),
        cars / "cars_test_annos_withlabels.mat",
    ]
    assert "cars_test_annos_withlabels.mat" in refused("cars196", tmp_path / "data", *pieces[:3])
    status, text = get("cars196", tmp_path / "data", *pieces)
    assert status == 0, text
    assert listing(tmp_path / "data" / "cars196") == listing(cars)


def test_what_does_not_belong_is_left_out(drawn, tmp_path):
    junk = {"test/images/test_0.JPEG": b"x", "train/.DS_Store": b"x", "__MACOSX/train/x": b"x"}
    files = listing(drawn / "tiny-imagenet-200") | junk
    source = archive(tmp_path / "tiny.zip", files, at="tiny/")
    assert get("tiny-imagenet-200", tmp_path / "data", source)[0] == 0
    assert listing(tmp_path / "data" / "tiny-imagenet-200") == listing(drawn / "tiny-imagenet-200")


@pytest.mark.parametrize("form", ["zip", "tgz", "tar", "tar.xz"])
def test_a_cut_archive_is_refused(drawn, tmp_path, form):
    files = listing(drawn / "cars196") | {"cars_test/x.jpg": bytes(10**6)}  # the cut falls in it
    source = archive(tmp_path / f"cut.{form}", files)
    source.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    assert "cut." in refused("cars196", tmp_path / "data", source)


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


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path, kind):
    member = tarfile.TarInfo("train/odd")
    member.type, member.linkname = kind, "/etc/passwd"
    with tarfile.open(tmp_path / "evil.tar", "w") as file:
        file.addfile(member)
    assert "train/odd" in refused("tiny-imagenet-200", tmp_path / "data", tmp_path / "evil.tar")


def test_a_link_in_a_zip_is_refused(tmp_path):
    entry = zipfile.ZipInfo("train/odd")
    entry.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as file:
        file.writestr(entry, "/etc/passwd")
    assert "train/odd" in refused("tiny-imagenet-200", tmp_path / "data", tmp_path / "evil.zip")


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


@pytest.mark.parametrize("name", SCRIPTS)
def test_as_a_command_without_a_source_it_says_where_one_is(tmp_path, name):
    command = [sys.executable, FOLDER / SCRIPTS[name], "--data-root", tmp_path / "data"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert "--source" in done.stderr
    assert not (tmp_path / "data").exists()
