import io
import struct

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from cubslib import matlab
from cubslib.matlab import variable

TABLE = np.array([(1, 2.5, "é.jpg", "", np.zeros(0)), (300, -7, "b", [1, 2], np.nan)],
                 [(name, object) for name in ("a", "b", "fname", "d", "e")])  # fmt: skip


def saved(**values):
    content = io.BytesIO()
    compressed = values.pop("compressed", False)
    savemat(content, values, do_compression=compressed)
    return content.getvalue()


@pytest.mark.parametrize("compressed", [True, False])
def test_it_reads_what_scipy_writes(compressed):
    names = np.array(["Ram C/V", "Citroën", ""], object)
    content = saved(first=np.arange(3.0), annotations=TABLE, class_names=names, n=np.uint8(7),
                    text="a text", compressed=compressed)  # fmt: skip
    assert variable(content, "class_names") == ["Ram C/V", "Citroën", ""]
    first, second = variable(content, "annotations")
    assert first == {"a": 1, "b": 2.5, "fname": "é.jpg", "d": "", "e": []}
    assert np.isnan(second.pop("e"))
    assert second == {"a": 300, "b": -7, "fname": "b", "d": [1, 2]}
    assert variable(content, "first") == [0, 1, 2]
    assert (variable(content, "n"), variable(content, "text")) == (7, "a text")
    with pytest.raises(ValueError, match="it has no other"):
        variable(content, "other")


@pytest.mark.parametrize("end", ["<", ">"])
@pytest.mark.parametrize("encoding", [(4, "utf-16"), (16, "utf-8"), (17, "utf-16"), (18, "utf-32")])
def test_texts_of_every_encoding_and_byte_order_are_read(end, encoding):
    """As MATLAB itself writes them; SciPy writes but one."""

    def element(kind, data):
        if 0 < len(data) <= 4:  # with a short head
            return struct.pack(f"{end}I", len(data) << 16 | kind) + data.ljust(4, b"\0")
        return struct.pack(f"{end}II", kind, len(data)) + data + bytes(-len(data) % 8)

    code, name = encoding
    text = "Citroën" if code != 16 else "abc"
    coded = text.encode(name + ("" if code == 16 else {"<": "-le", ">": "-be"}[end]))
    flags = element(6, struct.pack(f"{end}II", 4, 0))
    dimensions = element(5, struct.pack(f"{end}ii", 1, len(text)))
    matrix = flags + dimensions + element(1, b"t") + element(code, coded)
    head = b"MATLAB 5.0".ljust(124) + struct.pack(f"{end}H", 0x100)
    content = head + {"<": b"IM", ">": b"MI"}[end] + element(14, matrix)
    assert variable(content, "t") == text
    if code != 4:  # which SciPy reads letters of ASCII from
        assert loadmat(io.BytesIO(content))["t"][0] == text


@pytest.mark.parametrize("compressed", [True, False])
def test_a_file_cut_anywhere_or_of_one_wrong_byte_never_ends_in_another_error(compressed):
    content = saved(annotations=TABLE, compressed=compressed)
    rng = np.random.default_rng(0)
    for at in range(0, len(content), 3):
        with pytest.raises(ValueError, match="^it "):
            variable(content[:at], "annotations")
        wrong = content[:at] + bytes([rng.integers(256)]) + content[at + 1 :]
        try:
            variable(wrong, "annotations")
        except ValueError:
            continue


@pytest.mark.parametrize(("value", "words"), [
    (np.zeros((60, 60), np.uint8), "cut or too large"),
    (["two", "lines"], "a text of another kind"),
    (np.eye(3, dtype=object), "0"),
])  # fmt: skip
def test_what_no_table_holds_is_refused(value, words, monkeypatch):
    monkeypatch.setattr(matlab, "LARGEST", 3000)
    content = saved(compressed=True, annotations=value)
    if words == "0":
        assert variable(content, "annotations") == [1, 0, 0, 0, 1, 0, 0, 0, 1]
    else:
        with pytest.raises(ValueError, match=words):
            variable(content, "annotations")


def test_what_is_nested_too_deep_is_refused():
    value = {"a": 1}
    for _ in range(9):
        value = {"a": value}
    with pytest.raises(ValueError, match="it is damaged"):
        variable(saved(annotations=value), "annotations")
