import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cubslib import CubsError, machine


@pytest.mark.parametrize(
    ("cuda", "mps", "name"), [(True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")]
)
def test_the_best_device_is_taken(monkeypatch, cuda, mps, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert machine.device() == name


@pytest.mark.parametrize(
    ("device", "can", "name"),
    [("cuda", True, "bf16-mixed"), ("cuda", False, "16-mixed"), ("cpu", True, "bf16-mixed"),
     ("cpu", False, "32-true"), ("mps", True, "32-true")],
)  # fmt: skip
def test_half_precision_is_used_where_the_hardware_has_it(monkeypatch, device, can, name):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: can)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: can)
    monkeypatch.setattr(machine, "hardware", lambda device: "Intel(R) Xeon(R), 2 cores")
    assert machine.precision(device) == name


@pytest.mark.parametrize(
    ("processor", "can", "name"),
    [("AMD EPYC, 2 cores", True, "bf16-mixed"), ("AMD EPYC, 2 cores", False, "32-true"),
     ("Intel(R) Xeon(R), 2 cores", True, "32-true")],
)  # fmt: skip
def test_vectors_of_half_precision_pay_on_an_amd(monkeypatch, processor, can, name):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: can)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(machine, "hardware", lambda device: processor)
    assert machine.precision("cpu") == name


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators stay as they are")
def test_freed_memory_is_kept_and_not_asked_for_again():
    """In a process of its own: how often the system hands over a page of a large tensor."""
    code = (
        "import resource, torch\nfrom cubslib import machine\n"
        "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "def asked():\n"
        "    torch.ones(2**25).sum()\n    before = faults()\n    torch.ones(2**25).sum()\n"
        "    return faults() - before\n"
        "first = asked()\nmachine.keep_freed_memory()\nprint(first, asked())\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = map(int, said.stdout.split())
    assert after < before / 10


def test_the_pace_is_that_of_this_processor_and_draws_no_number():
    before = torch.random.get_rng_state()
    assert 1 < machine.pace(steps=1) < 1e5
    assert torch.equal(torch.random.get_rng_state(), before)


def test_project_root_is_the_nearest_folder_with_our_pyproject(tmp_path, monkeypatch):
    deep = tmp_path / "project" / "other" / "deep"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    assert machine.project_root() == deep
    (tmp_path / "project/pyproject.toml").write_text('[project]\nname = "cubslib"\n')
    (tmp_path / "project/other/pyproject.toml").write_text('[project]\nname = "theirs"\n')
    assert machine.project_root() == tmp_path / "project"


def test_where_and_on_what_it_runs(tmp_path, monkeypatch):
    assert re.search(r"\d+ cores$", machine.hardware("cpu"))
    versions = machine.versions()
    assert versions["torch"] == torch.__version__.split("+")[0] or torch.__version__
    assert set(versions) == {"python", *machine.PACKAGES}
    found = machine.checkout()
    assert re.fullmatch(r"[0-9a-f]{12}|", found["commit"])
    assert isinstance(found["dirty"], bool)
    monkeypatch.setattr(machine, "CODE", tmp_path)
    assert machine.checkout() == {"commit": "", "dirty": False}
    monkeypatch.setenv("PATH", "")
    assert machine.checkout() == {"commit": "", "dirty": False}


def test_a_checkout_with_a_changed_file_is_dirty_and_with_a_new_one_is_not(monkeypatch):
    answers = {"rev-parse": "0123456789ab"}
    monkeypatch.setattr(machine, "_git", lambda command, *_: answers.get(command, ""))
    assert machine.checkout() == {"commit": "0123456789ab", "dirty": False}
    answers["status"] = " M cubslib/losses.py"
    assert machine.checkout()["dirty"]


@pytest.fixture
def losses(tmp_path, monkeypatch):
    """The file of `losses` in a copy of the library, which this process was imported from."""
    (tmp_path / "runs").mkdir()
    for name in machine.USED:
        shutil.copyfile(Path(machine.__file__).parent / f"{name}.py", tmp_path / f"{name}.py")
    monkeypatch.setattr(machine, "CODE", tmp_path)
    machine.refuse_edited_sources()
    return tmp_path / "losses.py"


EDITS = {
    "a comment": lambda text: text.replace("\n\n\n", "\n\n\n# now\n"),
    "docstrings": lambda text: re.sub(r'"""\w+', '"""Otherwise', text),
    "layout": lambda text: text + "\n\n\n",
    "a number": lambda text: text.replace("1", "2", 1) + "\nANOTHER = 1\n",
    "a default": lambda text: re.sub(r"margin: float = [\d.]+", "margin: float = 0.3", text),
    "a text": lambda text: text + "\n1\n'a text that is no docstring'\n",
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_start_is_refused_when_code_changed_since_it_was_imported(edit, losses, begin):
    text = EDITS[edit](losses.read_text())
    assert text != losses.read_text()
    losses.write_text(text)
    if edit in ("a comment", "docstrings", "layout"):
        machine.refuse_edited_sources()
        return
    sentence = r"^cubslib/losses\.py has changed since it was imported: restart the kernel, .*\.$"
    with pytest.raises(CubsError, match=sentence):
        machine.refuse_edited_sources()
    with pytest.raises(CubsError, match=sentence):
        begin("T1")
