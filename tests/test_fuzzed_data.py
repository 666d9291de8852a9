"""Tables and archives with bytes changed at random: read, or refused in a sentence.

CUBSLIB_FUZZ in the environment is how many of each are tried.
"""

import shutil
import sys
from pathlib import Path

import pytest
from hypothesis import given
from scipy.io import loadmat, savemat
from test_data_scripts import archive
from test_fuzzed import EDITS, clear, edited, fuzz

from cubslib.datasets import Cars196, TinyImageNet

sys.path.insert(0, str(Path(__file__).parent.parent / "data_scripts"))

from archives import copy  # noqa: E402
from lay_out import below  # noqa: E402

TABLES = ["wnids.txt", "words.txt", "val/val_annotations.txt", "devkit/cars_meta.mat",
          "devkit/cars_train_annos.mat", "cars_test_annos_withlabels.mat"]  # fmt: skip
CHANGED = "tables and archives of the data sets changed: read or refused"


@pytest.mark.parametrize("name", TABLES)
def test_a_changed_table_is_read_or_refused(name, tiny_copy, cars_copy):
    kind, root = (TinyImageNet, tiny_copy) if name.endswith("txt") else (Cars196, cars_copy)
    if name.endswith("mat"):  # uncompressed, so that changes reach what is inside
        content = loadmat(root / name)
        savemat(root / name, {key: x for key, x in content.items() if not key.startswith("__")})
    content = (root / name).read_bytes()

    @fuzz
    @given(edits=EDITS)
    def change(edits):
        (root / name).write_bytes(edited(content, edits))
        clear(CHANGED, lambda: [kind(root, split).classes for split in ("train", "val", "test")])

    change()


@pytest.mark.parametrize("form", [".zip", ".tar", ".tgz"])
def test_a_changed_archive_is_copied_or_refused_and_stays_in_its_folder(form, tmp_path):
    files = {f"set/train/n{i}/images/{i}.JPEG": bytes(50) for i in range(4)}
    source, target = archive(tmp_path / f"set{form}", files), tmp_path / "target"
    content = source.read_bytes()

    @fuzz
    @given(edits=EDITS)
    def change(edits):
        source.write_bytes(edited(content, edits))
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        clear(CHANGED, lambda: copy(source, target, below(("train",))))
        assert {path.name for path in tmp_path.iterdir()} == {source.name, "target"}

    change()
