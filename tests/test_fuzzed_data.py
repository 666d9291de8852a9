"""Tables and archives with bytes changed at random: read, or refused in a sentence.

CUBSLIB_FUZZ in the environment is how many of each are tried.
"""

import io
import os
import shutil
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.io import loadmat, savemat

from cubslib import CubsError
from cubslib.datasets import Cars196, TinyImageNet

sys.path.insert(0, str(Path(__file__).parent.parent / "data_scripts"))

from archives import copy  # noqa: E402
from lay_out import below  # noqa: E402

EXAMPLES = int(os.environ.get("CUBSLIB_FUZZ", "15"))
TABLES = ["wnids.txt", "words.txt", "val/val_annotations.txt", "devkit/cars_meta.mat",
          "devkit/cars_train_annos.mat", "cars_test_annos_withlabels.mat"]  # fmt: skip
EDITS = st.lists(  # where, how many bytes go, what comes
    st.tuples(st.floats(0, 1), st.integers(0, 40), st.binary(max_size=40)), min_size=1, max_size=4
)
fuzz = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def edited(content: bytes, edits) -> bytes:
    for where, gone, new in edits:
        at = int(where * len(content))
        content = content[:at] + new + content[at + gone :]
    return content


def read_or_refused(action) -> None:
    try:
        action()
    except CubsError as error:
        text = str(error)
        assert text.endswith(".")
        assert "\n" not in text


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
        read_or_refused(lambda: [kind(root, split).classes for split in ("train", "val", "test")])

    change()


def packed(form: str) -> bytes:
    content, files = io.BytesIO(), {f"set/train/n{i}/images/{i}.JPEG": bytes(50) for i in range(4)}
    if form == ".zip":
        with zipfile.ZipFile(content, "w") as archive:
            for name, text in files.items():
                archive.writestr(name, text)
    else:
        with tarfile.open(fileobj=content, mode="w:gz" if form == ".tgz" else "w") as archive:
            for name, text in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(text)
                archive.addfile(member, io.BytesIO(text))
    return content.getvalue()


@pytest.mark.parametrize("form", [".zip", ".tar", ".tgz"])
def test_a_changed_archive_is_copied_or_refused_and_stays_in_its_folder(form, tmp_path):
    content, source = packed(form), tmp_path / f"set{form}"
    target = tmp_path / "target"

    @fuzz
    @given(edits=EDITS)
    def change(edits):
        source.write_bytes(edited(content, edits))
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        read_or_refused(lambda: copy(source, target, below(("train",))))
        assert {path.name for path in tmp_path.iterdir()} == {source.name, "target"}

    change()
