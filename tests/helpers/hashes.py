"""BLAKE3 as tests have it, whether or not the library is installed."""

from __future__ import annotations

import hashlib
import sys
import types

import pytest

#: A hash that needs no library, in the place of BLAKE3.
Hash = hashlib.blake2s


def hash_of(data: bytes) -> str:
    """Return the hash of data as servers write it."""
    return f"blake3:{Hash(data).hexdigest()}"


def install(patch: pytest.MonkeyPatch) -> None:
    """Let the client and the embedded server find the library."""
    module = types.ModuleType("blake3")
    module.blake3 = Hash  # type: ignore[attr-defined]
    patch.setitem(sys.modules, "blake3", module)


def uninstall(patch: pytest.MonkeyPatch) -> None:
    """Let nobody find the library."""
    patch.setitem(sys.modules, "blake3", None)
