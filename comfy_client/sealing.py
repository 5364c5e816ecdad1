"""The former name of :mod:`comfy_client.redaction`, which pickles of earlier versions contain."""

from __future__ import annotations

from .redaction import Sealed

__all__ = ["Sealed"]
