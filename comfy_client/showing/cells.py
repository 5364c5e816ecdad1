"""A record of the values that the running cell has shown, to avoid repeats and limit their size."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, cast

from .screen import cell, is_notebook, shell, shows_html

if TYPE_CHECKING:
    from .tables import Table

#: The most galleries below one cell, and the most bytes of its HTML: a loop of runs must not swell
#: the notebook.
MOST: Final = 20
MOST_BYTES: Final = 8 << 20


class _Cell:
    """The values that a notebook cell has shown, and the space that is left for more."""

    def __init__(self, key: object) -> None:
        self.key = key
        self.values: list[Callable[[], object]] = []
        self.room = MOST_BYTES
        self.is_told = False  #: Whether a note has said that the cell is full.


_cells: Final = [_Cell(None)]  # the latest one


def _now() -> _Cell:
    """Return the record of the running cell."""
    key = cell()
    if _cells[0].key != key:
        _cells[0] = _Cell(key)
    return _cells[0]


def note_shown(value: object) -> None:
    """Record that the running cell shows a value."""
    _now().values.append(_reference(value))


def _reference(value: object) -> Callable[[], object]:
    """Return a weak reference to a value; a strong one if its type allows none, as tuple does."""
    try:
        return weakref.ref(value)
    except TypeError:
        return lambda: value


def was_shown(value: object) -> bool:
    """Return whether the running cell has shown this object."""
    return any(reference() is value for reference in _now().values)


def has_space() -> bool:
    """Return whether the running cell may show another gallery."""
    return len(_now().values) < MOST


def is_full() -> bool:
    """Return whether the running cell has left a value out, as it does with all further ones."""
    return _now().is_told


def render_outcome(value: object, markup: Callable[[], str]) -> dict[str, str]:
    """Return the text and HTML of a value shown in place of a bar; its repr if the cell is full."""
    now = _now()
    if len(now.values) >= MOST:
        if now.is_told:  # said once, not for each of a thousand runs
            return {"text/plain": repr(value)}
        return _left_out(value, f"this cell shows {MOST} galleries already")
    found = _both(value, markup)
    note_shown(value)
    return found


def shown(value: object, markup: Callable[[], str]) -> dict[str, str]:
    """Return the text and, where it can be shown, the HTML of a value for IPython.

    The HTML is left out if the running cell has already shown the value.
    """
    if not shows_html() or was_shown(value):
        return {"text/plain": plain(value)}
    return _both(value, markup)


def show_lists(is_wanted: Callable[[list[Any]], bool], markup: Callable[[list[Any]], str]) -> None:
    """Make a notebook show wanted lists by ``markup``, unless another program shows lists."""
    if not is_notebook():
        return
    forms = getattr(getattr(shell(), "display_formatter", None), "formatters", {})
    form = forms.get("text/html")

    def html(values: list[Any]) -> str | None:
        from IPython.utils.dir2 import get_real_method

        own = get_real_method(values, "_repr_html_")  # of a subclass; IPython would not ask it
        if own is not None:
            return cast("str | None", own())
        return shown(values, lambda: markup(values)).get("text/html") if is_wanted(values) else None

    if form is not None and form.for_type(list) is None:
        form.for_type(list, html)


class Shown:
    """Mixin for values that a notebook shows as HTML."""

    __slots__ = ()

    def _html(self) -> str:
        """Return the HTML; each class has its own."""
        raise NotImplementedError

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        """Return the representations of the value for a notebook, by MIME type."""
        return shown(self, self._html)


class ShownAsTable(Shown):
    """Mixin for values that ``print`` and notebooks show as a table."""

    __slots__ = ()

    def _table(self) -> Table:
        """Return the table; each class has its own."""
        raise NotImplementedError

    def __str__(self) -> str:
        return self._table().text()

    def _html(self) -> str:
        return self._table().html()


def write_plain(value: object, printer: Any, _: object) -> None:
    """Write the text of a value for IPython: ``_repr_pretty_`` of dicts, lists and tuples of ours.

    IPython formats these as plain ones unless the class that has the ``__repr__`` has this, too.
    """
    printer.text(plain(value))


def plain(value: object) -> str:
    """Return the text of a value for IPython.

    Return its ``repr`` where HTML is shown as well, else its ``str``.
    """
    return repr(value) if shows_html() else str(value)


def _both(value: object, markup: Callable[[], str]) -> dict[str, str]:
    """Return the text and HTML of a value; if the cell is full, only its repr and a note."""
    from .html import bundle  # needed only when something is shown

    if not is_notebook():  # nothing is saved to a file
        return bundle(repr(value), markup())
    now = _now()
    found = bundle(repr(value), markup() if now.room > 0 else "")
    size = len(found["text/html"])
    if 0 < now.room < size:
        now.room = 0  # so that nothing more is fetched
    if now.room <= 0:
        return _left_out(value, f"what this cell shows would take more than {MOST_BYTES >> 20} MB")
    now.room -= size
    return found


def _left_out(value: object, why: str) -> dict[str, str]:
    """Return the repr of a value, with a note on how to see all; record that the cell has one."""
    from .html import bundle, escape, remark

    _now().is_told = True
    said = remark(f"not shown, because {why}: show it in another cell")
    return bundle(repr(value), escape(repr(value)) + said)
