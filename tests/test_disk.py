import errno
import fcntl
import os
import re
import subprocess
import sys
import tempfile

import pytest

from cubslib import CubsError, disk

BEGIN = "import os, sys, time; from pathlib import Path; from cubslib import disk; "
LOCK = "with disk.lock(path, 'busy'): "


def other(code, path):
    """Run `code` on `path` in another process."""
    command = [sys.executable, "-c", f"{BEGIN}path = Path(sys.argv[1])\n{code}", path]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def write(path, form, text):
    """Write a file, or a folder that holds one, whole; raise if `text` is None."""
    with disk.whole(path) as draft:
        target = draft
        if form == "folder":
            draft.mkdir()
            target = draft / "inside"
        target.write_text(text or "a part")
        assert draft.parent == path.parent, "another file system could not be renamed from"
        if text is None:
            raise KeyboardInterrupt


@pytest.mark.parametrize("form", ["file", "folder"])
def test_what_is_written_appears_at_the_end(tmp_path, form):
    path = tmp_path / "new" / "name"
    write(path, form, "all")
    assert (path / "inside" if form == "folder" else path).read_text() == "all"
    assert [p.name for p in path.parent.iterdir()] == ["name"]


@pytest.mark.parametrize("form", ["file", "folder"])
def test_nothing_is_left_of_what_was_broken_off(tmp_path, form):
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "name", form, None)
    assert list(tmp_path.iterdir()) == []


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "name"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        write(path, "file", None)
    with disk.whole(path) as draft:
        draft.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_a_killed_process_leaves_the_old_file(tmp_path):
    path = tmp_path / "name"
    path.write_text("old")
    code = "with disk.whole(path) as draft: draft.write_text('a part'); os._exit(9)"
    assert other(code, path).wait() == 9
    assert path.read_text() == "old"


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(CubsError, match=re.escape(str(tmp_path))):
        write(tmp_path / "name", "file", "all")
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_a_folder_s_place_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CubsError, match="file cannot be written"):
        write(tmp_path / "file" / "name", "file", "all")


def test_a_lock_is_refused_while_held_and_freed_by_the_death_of_its_process(tmp_path):
    path = tmp_path / "new" / "lock"
    with other(LOCK + "print('held', flush=True); time.sleep(60)", path) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(CubsError, match="^it is in use$"), disk.lock(path, "it is in use"):
            pass
        holder.kill()
    for busy in ("it is in use", ""):
        with disk.lock(path, busy):
            pass


@pytest.mark.parametrize("refusal", ["ENOSYS", "ENOTSUP", "ENOLCK"])
def test_where_a_file_system_has_no_locks_one_of_this_machine_stands_in(
    tmp_path, monkeypatch, refusal
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "here"))
    (tmp_path / "here").mkdir()
    far, flock = tmp_path / "far/lock", fcntl.flock

    def refuse(descriptor, operation):
        if os.path.samestat(os.fstat(descriptor), far.stat()):
            raise OSError(getattr(errno, refusal), "no locks here")
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", refuse)
    with disk.lock(far, "busy"):
        (held,) = (tmp_path / "here").iterdir()
        assert other(LOCK + "pass", held).communicate()[1].endswith("CubsError: busy\n")
    assert other(LOCK + "pass", held).wait() == 0
    disk.clear(far.parent)


def test_a_lock_is_freed_by_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), disk.lock(tmp_path / "lock"):
        raise ZeroDivisionError
    assert other(LOCK + "pass", tmp_path / "lock").wait() == 0


def leave(path):
    """Let a process write `path` and hold a lock beside it; kill it; return its number."""
    code = (
        "lock = disk.lock(path.with_name('.x.lock')); lock.__enter__()\n"
        "with disk.whole(path) as draft:\n draft.mkdir(); (draft / 'a').touch(); os._exit(9)"
    )
    done = other(code, path)
    assert done.wait() == 9
    return done.pid


def test_what_dead_processes_left_is_cleared_and_nothing_else(tmp_path):
    pid = leave(tmp_path / "name")
    (tmp_path / "mine.part").touch()
    (tmp_path / f".far.ffffff-{pid}.part").touch()  # of another host
    with disk.whole(tmp_path / "new") as draft, disk.lock(tmp_path / ".held.lock"):
        draft.touch()
        assert len(list(tmp_path.iterdir())) == 6
        disk.clear(tmp_path)
        left = {path.name for path in tmp_path.iterdir()}
        assert left == {"mine.part", f".far.ffffff-{pid}.part", draft.name, ".held.lock"}
        assert other("disk.clear(path)", tmp_path).wait() == 0  # nor does another process take it
        assert left == {path.name for path in tmp_path.iterdir()}
    disk.clear(tmp_path / "nowhere")


def test_a_lock_is_taken_though_its_file_was_cleared_meanwhile(tmp_path):
    path = tmp_path / ".x.lock"
    for _ in range(3):
        with disk.lock(path, "busy"):
            assert path.exists()
        disk.clear(tmp_path)
        assert not path.exists()


def test_a_fingerprint_tells_parts_and_their_borders_apart():
    parts = [("ab", "c"), ("a", "bc"), (b"ab", b"c"), (b"a", b"bc"), ()]
    parts += [(one,) for one in ("abc", 1, 1.0, "1", None)]
    prints = [disk.fingerprint(*part) for part in parts]
    assert len(set(prints)) == len(parts)
    assert all(re.fullmatch("[0-9a-f]{16}", text) for text in prints)
