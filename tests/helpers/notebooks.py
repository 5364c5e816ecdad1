"""A kernel of a notebook, as far as the client sees one."""

from __future__ import annotations

import itertools
import sys
from types import SimpleNamespace
from typing import Any

import pytest

#: No two tests run in the same cell.
NUMBERS = itertools.count(1)


class Notebook:
    """A kernel in which one cell runs; what it displays, in order, by display."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.shown: list[dict[str, str]] = []
        self.displays = 0
        shell = SimpleNamespace(kernel=object(), execution_count=next(NUMBERS))
        modules = {
            "IPython": SimpleNamespace(get_ipython=lambda: shell, display=self),
            "IPython.display": self,
        }
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, name, module)

    def DisplayHandle(self) -> Any:
        return SimpleNamespace(display=self._display, update=self._update)

    def _display(self, data: dict[str, str], *, raw: bool) -> None:
        self.displays += 1
        self._update(data, raw=raw)

    def _update(self, data: dict[str, str], *, raw: bool) -> None:
        assert raw
        self.shown.append(data)

    @property
    def last(self) -> str:
        return self.shown[-1]["text/html"]
