"""The digests that identify the bytes of assets."""

from __future__ import annotations

import hashlib
from importlib import import_module
from typing import Any


def digest(data: bytes) -> str:
    """Return ``blake3:`` and the BLAKE3 digest of the data in hexadecimal.

    Without the library ``blake3``, it is a digest of BLAKE2s, as no client here can check it then.
    """
    try:
        blake3: Any = import_module("blake3").blake3
    except ModuleNotFoundError:
        return f"blake3:{hashlib.blake2s(data).hexdigest()}"
    return f"blake3:{blake3(data).hexdigest()}"
