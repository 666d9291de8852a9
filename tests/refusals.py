"""What every refusal is: one sentence, and nothing else."""

import pytest

from cubslib import CubsError


def assert_sentence(text: str) -> None:
    assert text.endswith(".")
    assert "\n" not in text
    assert len(text) < 2000


def refused(action, *says) -> str:
    """Assert that `action` ends in one sentence that says all of `says`; return it."""
    with pytest.raises(CubsError) as caught:
        action()
    text = str(caught.value)
    assert_sentence(text)
    assert [part for part in says if part not in text] == []
    return text
