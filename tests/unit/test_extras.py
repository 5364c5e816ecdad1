"""Libraries that only some programs need."""

from __future__ import annotations

import pickle
import sys

import pytest

from comfy_client import ComfyError, MissingExtra
from comfy_client.errors import needs_extra


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is caught as the ImportError that it is, or as an error of ours; also from a pickle."""
    monkeypatch.setitem(sys.modules, "PIL", None)
    with (
        pytest.raises(ImportError) as caught,
        needs_extra("image", "a contact sheet"),
    ):
        import PIL  # noqa: F401
    error = caught.value
    assert isinstance(error, MissingExtra)
    assert isinstance(error, ComfyError)
    assert str(error).startswith("a contact sheet needs PIL")
    assert 'pip install "comfy-client-blocking[image]"' in str(error)
    twin = pickle.loads(pickle.dumps(error))
    assert (twin.extra, twin.name, str(twin)) == ("image", "PIL", str(error))
