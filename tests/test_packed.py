import errno
import hashlib
import io
import os
import shutil
import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image

from cubslib import CubsError, packed
from cubslib.decoding import decode
from cubslib.packed import PackedImages
from cubslib.progress import Progress

NAMES = ["a.png", "b/c.png", "d.png", "e.png", "f.png"]
LABELS = [7, 2, 7, 5, 2]
ROWS = [4, 0, 1, 2]  # of the split: all but e, in an order of its own
CLASS_NAMES = [f"class {n}" for n in range(9)]


@pytest.fixture
def folder(tmp_path):
    """Five images of noise, 8 × 6 pixels."""
    rng = np.random.default_rng(0)
    (tmp_path / "b").mkdir()
    for name in NAMES:
        Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).save(tmp_path / name)
    return tmp_path


def split(folder, rows=ROWS, **options):
    return PackedImages(folder, "all", NAMES, LABELS, CLASS_NAMES, rows, **{"size": 6} | options)


def packs(folder):
    return sorted(path.name for path in folder.iterdir() if "packed" in path.name)


def test_a_batch_is_the_decoded_files_in_the_order_asked_for(folder):
    data = split(folder)
    batch = data.read([2, 0, 2])
    expected = [decode(folder / NAMES[ROWS[i]], 6) for i in (2, 0, 2)]
    assert batch.dtype == torch.uint8
    assert torch.equal(batch, torch.from_numpy(np.stack(expected)))
    pairs = data.__getitems__([3, 1])
    assert [label for _, label in pairs] == [7, 7]
    assert torch.equal(pairs[0][0], data[3][0])
    assert torch.equal(data[-1][0], data[3][0])
    assert len(list(data)) == len(data) == 4  # an index past the end raises IndexError
    loaded = torch.utils.data.DataLoader(data, batch_size=3)
    assert [len(labels) for _, labels in loaded] == [3, 1]


def test_labels_are_official_and_targets_renumbered(folder):
    data = split(folder)
    assert data.labels.tolist() == [2, 7, 2, 7]
    assert data.targets.tolist() == [0, 1, 0, 1]
    assert data.classes == ("class 2", "class 7")
    assert data.names == ["f.png", "a.png", "b/c.png", "d.png"]


def test_the_pack_stays_on_disk_and_cannot_be_changed_through_a_batch(folder):
    data = split(folder)
    assert isinstance(data._pack[0], np.memmap)
    before = data.read([0])
    data.read([0]).zero_()
    assert torch.equal(data.read([0]), before)


def test_a_whole_pack_serves_all_splits_and_is_never_made_again(folder, monkeypatch):
    first = split(folder).read([0, 1])
    monkeypatch.delattr(packed, "_write")
    monkeypatch.delattr(packed, "lock")  # nor is a lock taken: the data may be read-only
    assert torch.equal(split(folder, [4, 0]).read([0, 1]), first)


def saved(array):
    """A packed copy of `array`, its sum included."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue() + hashlib.sha256(array).digest()


DAMAGES = {
    "cut": lambda content: content[:-40],
    "cut in its header": lambda content: content[:50],
    "empty": lambda content: b"",
    "garbage": lambda content: b"not an array" * 100,
    "a bit of a pixel": lambda content: content[:200] + bytes([content[200] ^ 1]) + content[201:],
    "a bit of its sum": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    "of another shape": lambda content: saved(np.zeros((5, 3, 6, 5), np.uint8)),
    "of another type": lambda content: saved(np.zeros((5, 3, 6, 6), np.int8)),
    "a pickle": lambda content: saved(np.array([print])),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_pack_is_made_again(folder, damage):
    before = split(folder).read(range(4))
    (path,) = folder.glob("packed-*")
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert torch.equal(split(folder).read(range(4)), before)
    assert path.read_bytes() == whole


def test_a_stale_pack_and_a_killed_process_leavings_go(folder):
    before = split(folder).read(range(4))
    names = packs(folder)
    (folder / f".{names[-1]}.12345.part").write_bytes(b"half")
    other = split(folder, size=4)
    other.read([0])
    Image.new("RGB", (6, 6), (9, 8, 7)).save(folder / "d.png")
    after = split(folder).read(range(4))
    assert torch.equal(after[:3], before[:3])
    assert after[3, :, 0, 0].tolist() == [9, 8, 7]
    assert len(set(packs(folder)) - set(names)) == 3  # the new one; the other size and its lock
    assert len(packs(folder)) == 4


def test_packed_copies_may_lie_elsewhere(folder, tmp_path_factory, monkeypatch):
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("CUBSLIB_CACHE", str(cache))
    before, other = split(folder).read([0]), split(folder, size=4)
    assert packs(folder) == []
    (place,) = cache.iterdir()
    assert len(list(place.glob("packed-all-6px-*.npy"))) == 1
    monkeypatch.delenv("CUBSLIB_CACHE")
    assert other.read([0]).shape == (1, 3, 4, 4)
    monkeypatch.setenv("CUBSLIB_CACHE", str(cache))
    monkeypatch.delattr(packed, "_write")
    assert torch.equal(split(folder).read([0]), before)
    assert split(folder, size=4).read([0]).shape == (1, 3, 4, 4)  # one in the data's own folder


def test_data_that_cannot_be_written_need_a_packed_copy_or_a_folder_for_it(
    folder, tmp_path_factory, monkeypatch
):
    before = split(folder).read([0])
    monkeypatch.setattr(os, "access", lambda path, mode: path != folder)
    assert torch.equal(split(folder).read([0]), before)
    with pytest.raises(CubsError, match=r"cannot be written and has no packed copy .*_CACHE\.$"):
        split(folder, size=4).read([0])
    monkeypatch.setenv("CUBSLIB_CACHE", str(tmp_path_factory.mktemp("cache")))
    assert split(folder, size=4).read([0]).shape == (1, 3, 4, 4)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("at", ["disk_usage", "posix_fallocate"])
def test_a_disk_without_room_for_the_copy_is_a_sentence(folder, monkeypatch, at, code):
    if at == "disk_usage":
        monkeypatch.setattr(shutil, at, lambda path: types.SimpleNamespace(free=100))
    else:
        assert hasattr(os, at) or sys.platform == "darwin"

        def full(*arguments):
            raise OSError(code, "No room")

        monkeypatch.setattr(os, at, full, raising=False)
    with pytest.raises(CubsError, match=r"GB free, the packed copy takes .* CUBSLIB_CACHE\.$"):
        split(folder).read([0])
    assert packs(folder) == [".packed-all-6px.lock"]


def test_an_image_that_is_gone_is_named(folder):
    data = split(folder)
    (folder / "d.png").unlink()
    with pytest.raises(CubsError, match=r"d\.png cannot be read \(No such file"):
        data.read([0])


def test_packing_that_is_interrupted_leaves_nothing(folder, monkeypatch):
    def interrupted(path, size, box):
        if path.name == "d.png":
            raise KeyboardInterrupt
        return decode(path, size, box)

    with monkeypatch.context() as patch:
        patch.setattr(packed, "decode", interrupted)
        with pytest.raises(KeyboardInterrupt):
            split(folder).read([0])
    assert packs(folder) == [".packed-all-6px.lock"]
    assert split(folder).read([0]).shape == (1, 3, 6, 6)


def test_the_fingerprint_follows_pixels_rows_and_labels_not_places_or_dates(folder, tmp_path):
    mark = split(folder).fingerprint
    (folder / "a.png").touch()
    assert split(folder).fingerprint == mark
    assert split(folder, [1, 0, 4, 2]).fingerprint != mark  # other files of the same labels
    Image.new("RGB", (8, 6)).save(folder / "e.png")  # packed, though not of this split
    assert split(folder).fingerprint != mark


def test_the_summary_counts_and_averages_as_loops_do(folder):
    summary = split(folder, range(5)).summary()
    pixels = np.stack([decode(folder / name, 6) for name in NAMES]) / 255
    red = [pixels[i, 0, y, x] for i in range(5) for y in range(6) for x in range(6)]
    assert (summary["images"], summary["classes"]) == (5, 3)
    assert summary["images a class"] == "1–2"
    assert summary["mean of R, G, B"].split()[0] == f"{sum(red) / len(red):.3f}"
    assert summary["std of R, G, B"].split()[0] == f"{np.std(red, ddof=1):.3f}"


def test_progress_is_a_line_in_a_terminal_and_one_output_in_a_notebook(monkeypatch, capsys):
    with Progress(3, desc="packing") as bar:
        bar.update(3)
    assert "packing: 100%" in capsys.readouterr().err
    shown = []
    output = types.SimpleNamespace(update=lambda data, raw: shown.append(data["text/plain"]))
    display = types.SimpleNamespace(display=lambda *args, **options: output)
    shell = types.SimpleNamespace(kernel=None)
    fake = types.SimpleNamespace(get_ipython=lambda: shell, display=display)
    monkeypatch.setitem(sys.modules, "IPython", fake)
    with Progress(3, desc="packing") as bar:
        bar.update(3)
    assert "packing: 100%" in shown[-1]
    assert capsys.readouterr() == ("", "")
