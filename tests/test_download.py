"""Downloads from a server on this machine that does everything wrong."""

import base64
import dataclasses
import hashlib
import io
import re
import shutil
import subprocess
import sys
import threading
import time
import types
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cubslib import CubsError
from cubslib.sample.layouts import draw_tiny_imagenet

FOLDER = Path(__file__).parent.parent / "data_scripts"
sys.path.insert(0, str(FOLDER))

import download  # noqa: E402
from download import Archive, fetch  # noqa: E402


def zipped(files):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        for name, text in files.items():
            file.writestr(zipfile.ZipInfo(name), text)  # of a fixed time: the same bytes every time
    return content.getvalue()


CONTENT = zipped({"a.txt": bytes(range(256)) * 800})
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server(BaseHTTPRequestHandler):
    """Answers as the test's `how` says: a dict of faults."""

    how, content, asked = {}, CONTENT, []

    def do_GET(self):
        how, content = self.how, self.content
        start = int((re.findall(r"bytes=(\d+)-", self.headers.get("Range", "")) or [0])[0])
        self.asked.append(start)
        turn = len(self.asked)
        ranged = start and not how.get("no_range")
        status = how.get("status", 200) if turn <= how.get("first", 99) else 200
        if "to" in how and self.path == "/file.zip":
            status = 302
        elif status == 200 and ranged:
            status = 206 if start < len(content) else 416
        body = content[start:] if ranged else content
        if status not in (200, 206):
            body = b"<html>no</html>"
        self.send_response(status)
        self.send_header("Content-Type", how.get("type", "application/zip"))
        if status == 302:
            self.send_header("Location", how["to"])
        if status == 206:
            at = start + how.get("shift", 0)
            self.send_header("Content-Range", f"bytes {at}-{len(content) - 1}/{len(content)}")
        if status == 416:
            self.send_header("Content-Range", how.get("end", f"bytes */{len(content)}"))
        if "told" in how:
            told = base64.b64encode(bytes.fromhex(how["told"])).decode()
            self.send_header("x-goog-hash", f"crc32c=AAAAAA==, md5={told}")
        if not how.get("endless"):
            self.send_header("Content-Length", str(len(body) + how.get("more", 0)))
        self.end_headers()
        self.wfile.write(body[: how.get("drop", len(body))])
        if how.get("stall"):
            self.wfile.flush()
            time.sleep(1)
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def serve(monkeypatch):
    """Start the server with faults; return an archive there, as one knows it or not."""
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(download, "PAUSE", 0)
    monkeypatch.setattr(download, "TRIES", 3)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def start(known=True, content=CONTENT, **how):
        Server.how, Server.content, Server.asked = how, content, []
        # Only a server that stalls, for a second, is given up: a busy machine decides nothing.
        monkeypatch.setattr(download, "TIMEOUT", (9, 0.5 if how.get("stall") else 60))
        url = f"http://127.0.0.1:{server.server_port}/file.zip"
        archive = Archive("file.zip", url, hosts=("127.0.0.1",), unpacked=0)
        known = {"size": len(CONTENT), "md5": MD5} if known else {}
        return dataclasses.replace(archive, **known)

    yield start
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(("how", "asked"), [
    ({}, [0]),
    ({"drop": 90_000}, [0, 90_000, 180_000]),
    ({"drop": 90_000, "stall": True}, [0, 65_536, 131_072]),  # a whole buffer at a time
    ({"status": 503, "first": 2}, [0, 0, 0]),
    ({"to": "/other.zip"}, [0, 0]),
    ({"told": MD5}, [0]),
    ({"endless": True}, [0]),
])  # fmt: skip
def test_what_can_be_had_is_had(serve, tmp_path, known, how, asked):
    archive = serve(known, **how)
    path = fetch(archive, tmp_path / "data")
    assert path.read_bytes() == CONTENT
    assert Server.asked[: len(asked)] == asked
    count = len(Server.asked)
    assert fetch(archive, tmp_path / "data") == path
    assert len(Server.asked) == count
    assert [file.name for file in path.parent.iterdir()] == ["file.zip"]


def test_a_download_goes_on_in_another_process_or_begins_anew(serve, tmp_path):
    part = tmp_path / "file.zip.partial"
    part.write_bytes(CONTENT[:5000])
    assert fetch(serve(), tmp_path).read_bytes() == CONTENT
    assert Server.asked == [5000]
    for start, how, asked in (
        (CONTENT[:5000], {"no_range": True}, [5000]),
        (CONTENT[:5000], {"shift": 7, "first": 1}, [5000, 0]),
        (CONTENT, {}, [len(CONTENT)]),  # killed before its last step
        (b"", {"more": 100}, [0, len(CONTENT)]),  # a lie that the next try brings to light
        (CONTENT + b"more", {}, [len(CONTENT) + 4, 0]),
    ):
        (tmp_path / "file.zip").unlink()
        part.write_bytes(start)
        assert fetch(serve(known=False, **how), tmp_path).read_bytes() == CONTENT
        assert Server.asked == asked
    (tmp_path / "file.zip").unlink()
    part.write_bytes(CONTENT)
    fetch(serve(), tmp_path)
    assert Server.asked == []


WRONG = CONTENT[:9000] + b"x" + CONTENT[9001:]


@pytest.mark.parametrize(("known", "how", "sentence"), [
    (True, {"drop": 0}, r"ended after 0 of .* or broke off|3 times in a row"),
    (True, {"more": 100}, r"offers 205,\d+ bytes, not the 20\d,\d+ of the archive"),
    (False, {"more": 100, "end": ""}, "3 times in a row: call this again later, which goes on"),
    (True, {"more": -100}, r"offers .* bytes, not the 20"),
    (False, {"more": -100}, r"gave other bytes than it should .* thrown away"),
    (True, {"content": WRONG}, rf"gave other bytes than it should \(MD5 .*, not {MD5}\)"),
    (False, {"content": WRONG}, r"gave other bytes than it should \(a.txt is damaged\)"),
    (False, {"told": "0" * 32}, r"gave other bytes than it should \(MD5 .*, not 0{32}\)"),
    (True, {"type": "text/html; charset=utf-8"}, r"is a web page \(a log-in, or an error\)"),
    (False, {"content": b"<html>log in</html>"}, "gives something else than a zip"),
    (True, {"status": 404, "type": "text/html"}, r"answers 404 \(Not Found\)"),
    (True, {"status": 403}, r"answers 403 \(Forbidden\)"),
    (True, {"status": 503}, r"answers 503 \(Service Unavailable\), 3 times in a row"),
    (True, {"to": "file:///etc/passwd"}, "sends us on to file://, which is not http or https at"),
    (True, {"to": "http://evil.example/x"}, "sends us on to http://evil.example, which is not"),
    (True, {"to": "http://x127.0.0.1/x"}, "sends us on to http://x127.0.0.1, which is not"),
    (True, {"to": "ftp://127.0.0.1/x"}, "sends us on to ftp://127.0.0.1, which is not"),
    (True, {"to": "http://[::1/x"}, "cannot be reached, or broke off"),
    (True, {"to": "/file.zip"}, "sends us on and on"),
    (True, {"drop": 0, "stall": True}, "has sent nothing for a while, 3 times in a row"),
])  # fmt: skip
def test_what_cannot_be_had_is_a_sentence(serve, tmp_path, known, how, sentence):
    archive = serve(known, **how)
    with pytest.raises(CubsError, match=rf"{sentence}.*--source\.$") as caught:
        fetch(archive, tmp_path)
    assert archive.url in str(caught.value)
    assert not (tmp_path / "file.zip").exists()
    if "thrown away" in str(caught.value):
        assert list(tmp_path.iterdir()) == []


def test_https_is_not_left_for_http(serve, tmp_path, monkeypatch):
    archive = dataclasses.replace(serve(), url="https://127.0.0.1/file.zip")
    moved = types.SimpleNamespace(status_code=301, headers={"Location": "http://127.0.0.1/x"})
    moved.close = lambda: None
    monkeypatch.setattr(download.requests.Session, "get", lambda *_, **options: moved)
    with pytest.raises(CubsError, match="sends us on to http://127.0.0.1, which is not https at"):
        fetch(archive, tmp_path)


def test_pauses_grow_while_nobody_answers(serve, tmp_path, monkeypatch):
    pauses = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    monkeypatch.setattr(download, "PAUSE", 1)
    monkeypatch.setattr(download, "TRIES", 5)
    archive = dataclasses.replace(serve(), url="http://127.0.0.1:9/file.zip")
    with pytest.raises(
        CubsError, match=r"cannot be reached, or broke off \(ConnectionError\), 5 ti"
    ):
        fetch(archive, tmp_path)
    assert pauses == [1, 2, 4, 8]


def test_a_small_disk_is_seen_before_the_download(serve, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: types.SimpleNamespace(free=300_000))
    fetch(serve(), tmp_path / "fits")
    archive = dataclasses.replace(serve(), unpacked=100_000)
    with pytest.raises(CubsError, match=r"0\.0 GB free, the download and what it unpacks to take"):
        fetch(archive, tmp_path / "not")
    assert list((tmp_path / "not").iterdir()) == []


def test_no_more_than_a_data_set_is_taken(serve, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "LARGEST", 100_000)
    with pytest.raises(CubsError, match="gives more than 100,000 bytes"):
        fetch(serve(known=False, endless=True), tmp_path)


COMMAND = """
import dataclasses, sys
sys.path.insert(0, sys.argv.pop(1))
url = sys.argv.pop(1)
import cubslib.datasets, get_tiny_imagenet as script, lay_out
cubslib.datasets._protocol = lambda *_: {protocol!r}
archive = dataclasses.replace(script.ARCHIVE, url=url, hosts=("127.0.0.1",), size=0, md5="")
sys.exit(lay_out.command("", dataclasses.replace(script.WANTED, archive=archive)))
"""


def run(archive, data_root, protocol="complete"):
    code = COMMAND.format(protocol=protocol)
    command = [sys.executable, "-c", code, FOLDER, archive.url, "--data-root", data_root]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_one_command_downloads_and_two_at_once_do_it_once(serve, tmp_path):
    draw_tiny_imagenet(tmp_path / "tiny", num_classes=2, per_class=10)
    files = {path.relative_to(tmp_path): path for path in (tmp_path / "tiny").rglob("*.*")}
    content = zipped({str(name): path.read_bytes() for name, path in files.items()})
    archive = serve(known=False, content=content)
    refused = run(archive, tmp_path / "data", protocol="subset: 1 of 2")
    assert "is not the official data set (subset: 1 of 2)" in refused.communicate()[0]
    assert refused.returncode == 1
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["tiny-imagenet-200.zip"]
    (tmp_path / "data/tiny-imagenet-200.zip").unlink()
    Server.asked.clear()
    both = [run(archive, tmp_path / "data") for _ in "12"]
    said = sorted(process.communicate()[0].splitlines()[-1] for process in both)
    assert [process.returncode for process in both] == [0, 0], said
    assert Server.asked == [0]
    assert "is laid out" in "".join(said)
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["tiny-imagenet-200"]
