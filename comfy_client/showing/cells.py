"""What the cell that runs has shown already, so that nothing appears twice in it."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Final

from .screen import cell, shows_html

#: Galleries below one cell: a loop of runs must not swell the notebook.
MOST: Final = 20

_shown: list[tuple[int, Callable[[], object]]] = []  # cells, and what they have shown


def note_shown(value: object) -> None:
    """The cell that runs shows it."""
    now = cell()
    _shown[:] = [one for one in _shown if one[0] == now]
    _shown.append((now, _reference(value)))


def _reference(value: object) -> Callable[[], object]:
    """Weak, where there is such: of tuples there is none, which stay until the next cell."""
    try:
        return weakref.ref(value)
    except TypeError:
        return lambda: value


def was_shown(value: object) -> bool:
    """Whether the cell that runs has shown it."""
    now = cell()
    return any(one == now and ref() is value for one, ref in _shown)


def outcome_of(value: object, markup: Callable[[], str]) -> dict[str, str]:
    """What a bar in a notebook ends as: a text, once the cell has shown enough."""
    from .html import bundle

    now = cell()
    if sum(one[0] == now for one in _shown) >= MOST:
        return {"text/plain": repr(value)}
    note_shown(value)
    return bundle(repr(value), markup())


def shown(value: object, markup: Callable[[], str]) -> dict[str, str]:
    """What IPython asks for: both forms, or only the text where the other one would be in vain."""
    if shows_html() and not was_shown(value):
        from .html import bundle  # nothing is shown before something is there

        return bundle(repr(value), markup())
    return {"text/plain": repr(value)}
