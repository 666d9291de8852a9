"""One file from the web → the disk: resumed, tried again, and checked before it counts.

requests does the transfer: it comes with JupyterLab anyway, and all that a resumable download needs
beyond it is a `Range` header and a loop.
"""

import base64
import hashlib
import os
import re
import shutil
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import requests
from tqdm import tqdm
from urllib3.exceptions import HTTPError

from cubslib import CubsError

TRIES = 6  # in a row without a byte more
PAUSE = 1.0  # seconds before the second try; doubled before each further one
TIMEOUT = (15, 60)  # seconds to connect; seconds without a byte
LARGEST = 2**33  # bytes, where neither we nor the server know how many there are
MOVED = (301, 302, 303, 307, 308)
BUSY = (408, 429, 500, 502, 503, 504)
ZIP = b"PK\x03\x04"  # how a zip begins
ELSE = "fetch the archive by other means and name it by --source"


class Broken(Exception):
    """The transfer ended early; its text says why. Another try may go on from there."""


@dataclass(frozen=True)
class Archive:
    """A file on the web.

    Args:
        name: what it is called on the disk.
        url: where it is, `http` or `https`.
        hosts: who may serve it, with their sub-domains: redirects lead nowhere else.
        unpacked: bytes that its content takes, about.
        size: its bytes; 0 where only the server knows.
        md5: its checksum, hexadecimal; empty where only the server knows (`x-goog-hash`).
    """

    name: str
    url: str
    hosts: tuple[str, ...]
    unpacked: int
    size: int = 0
    md5: str = ""


def fetch(archive: Archive, folder: Path) -> Path:
    """Download `archive` into `folder`, or what is lacking of it; return its path.

    The part that is there stays when the download breaks off, as `<name>.partial`.

    Raises:
        CubsError: the disk is too small, or the server does not give what it should.
    """
    path, part = folder / archive.name, folder / f"{archive.name}.partial"
    if path.exists():
        return path  # it was checked before it was given this name
    folder.mkdir(parents=True, exist_ok=True)
    failures, most, told = 0, _length(part), ""
    while not (archive.size and _length(part) == archive.size):
        try:
            told = _pull(archive, part)
            break
        except (requests.ConnectionError, requests.Timeout, HTTPError, Broken) as error:
            failures = failures + 1 if _length(part) <= most else 1
            most = max(most, _length(part))
            why = _why(archive, error)
        except (requests.RequestException, ValueError) as error:
            raise CubsError(f"{_why(archive, error)}: {ELSE}.") from error
        if failures == TRIES:
            raise CubsError(
                f"{why}, {TRIES} times in a row: call this again later, which goes on after the "
                f"{_length(part):,} bytes that are here, or {ELSE}."
            )
        tqdm.write(f"{why}; {_length(part):,} bytes are here, trying again.")
        time.sleep(PAUSE * 2 ** (failures - 1))
    if trouble := _unsound(part, archive.md5 or told):
        part.unlink()
        raise CubsError(
            f"{archive.url} gave other bytes than it should ({trouble}): they are thrown away; "
            f"call this again, or {ELSE}."
        )
    os.replace(part, path)
    return path


def _pull(archive: Archive, part: Path) -> str:
    """Append what is lacking to `part`; return the MD5 that the server tells, or nothing."""
    with requests.Session() as session, _answer(session, archive, _length(part)) as response:
        start, total = _span(response, archive, part)
        if archive.size and total not in (0, archive.size):
            raise CubsError(
                f"{archive.url} offers {total:,} bytes, not the {archive.size:,} of the archive: "
                f"{ELSE}."
            )
        total = total or archive.size
        if not total or start < total:
            _need(part.parent, total - start + archive.unpacked)
            _save(response, archive, part, start, total)
        told = re.search(r"md5=([\w+/]+={0,2})", response.headers.get("x-goog-hash", ""))
    return base64.b64decode(told[1]).hex() if told else ""


def _answer(session: requests.Session, archive: Archive, start: int) -> requests.Response:
    """Ask for the bytes from `start` on, following redirects to hosts that may serve them."""
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    url, how = archive.url, {"stream": True, "timeout": TIMEOUT, "allow_redirects": False}
    for _ in range(8):
        response = session.get(url, headers=headers, **how)
        if response.status_code not in MOVED:
            return response
        response.close()
        old, url = url, urljoin(url, response.headers.get("Location", ""))
        new, safe = urlsplit(url), ("https",) if old.startswith("https:") else ("http", "https")
        known = any(f".{new.hostname}".endswith(f".{host}") for host in archive.hosts)
        if new.scheme not in safe or not known:
            raise CubsError(
                f"{archive.url} sends us on to {new.scheme}://{new.hostname or ''}, which is not "
                f"{' or '.join(safe)} at {' or '.join(archive.hosts)}: {ELSE}."
            )
    raise CubsError(f"{archive.url} sends us on and on: {ELSE}.")


def _span(response: requests.Response, archive: Archive, part: Path) -> tuple[int, int]:
    """Return where the answer starts and where it ends, in bytes of the file; 0 where it is open.

    Raises:
        Broken: another try may help.
        CubsError: the answer is not the archive.
    """
    status, headers, had = response.status_code, response.headers, _length(part)
    what = f"{archive.url} answers {status} ({response.reason})"
    if status in BUSY:
        raise Broken(what)
    if "html" in headers.get("Content-Type", "") and status < 400:
        raise CubsError(f"{archive.url} is a web page (a log-in, or an error), no archive: {ELSE}.")
    total = re.search(r"(?:bytes (\d+)-\d+|\*)/(\d+)$", headers.get("Content-Range", ""))
    if status == 206 and total and total[1] == str(had):
        return had, int(total[2])
    if status == 416 and total and int(total[2]) == had:
        return had, had
    if status in (206, 416):
        part.unlink(missing_ok=True)
        raise Broken(f"{what} to what it should continue")
    if status != 200:
        raise CubsError(f"{what}: {ELSE}.")
    length = headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else 0


def _save(response, archive: Archive, part: Path, start: int, total: int) -> None:
    """Write the body from `start` on, with a progress bar."""
    bar = tqdm(desc=archive.name, initial=start, total=total or None, unit="B", unit_scale=True)
    with bar, open(part, "ab" if start else "wb") as file:
        for chunk in response.raw.stream(2**16, decode_content=False):
            if not file.tell() and not chunk.startswith(ZIP):
                raise CubsError(f"{archive.url} gives something else than a zip: {ELSE}.")
            if file.tell() + len(chunk) > (total or LARGEST):
                raise CubsError(
                    f"{archive.url} gives more than {total or LARGEST:,} bytes: {ELSE}."
                )
            try:
                file.write(chunk)
            except OSError as error:
                raise CubsError(
                    f"{part} cannot be written ({error.strerror}): make room."
                ) from error
            bar.update(len(chunk))
    if _length(part) < total:
        raise Broken(f"{archive.url} ended after {_length(part):,} of {total:,} bytes")


def _unsound(part: Path, md5: str) -> str:
    """Say what is wrong with a whole zip, by its MD5 if it is known and by its own checksums."""
    with open(part, "rb") as file:
        found = hashlib.file_digest(file, "md5").hexdigest()
    if md5 and found != md5:
        return f"MD5 {found}, not {md5}"
    try:
        with zipfile.ZipFile(part) as archive:
            broken = archive.testzip()
    except Exception as error:  # a damaged zip leads zipfile to raise almost anything
        return str(error)
    return f"{broken} is damaged" if broken else ""


def _need(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise CubsError(
            f"{folder} has {free / 1e9:.1f} GB free, the download and what it unpacks to take "
            f"{needed / 1e9:.1f} GB: make room, or name another folder by --data-root."
        )


def _length(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _why(archive: Archive, error: Exception) -> str:
    """Say what went wrong without the names of Python's objects."""
    if isinstance(error, Broken):
        return str(error)
    if isinstance(error, requests.Timeout) or "timed out" in str(error):
        return f"{archive.url} has sent nothing for a while"
    return f"{archive.url} cannot be reached, or broke off ({type(error).__name__})"
