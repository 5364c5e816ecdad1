"""Names of local files from a template: ``"out/{seed}_{node}_{index:03}{ext}"``.

Only the template's own text may choose any folder.  Values of fields come from servers and
workflows: separators are removed from them, and each part of the path with a field is made safe
like any name from a server.
"""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from ..transport.local_files import distinct_names, folded, path_text, safe_name

#: The most characters of one value in a name, as file systems allow 255 bytes in all.
_LONGEST_NAME: Final = 80

_PIECE: Final = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_WIDTH: Final = re.compile(r"(.+):0?([1-9])", re.DOTALL)
_SEPARATORS: Final = re.compile(r"[/\\]")

#: Returns the value of a field; raises for an unknown one.
Values = Callable[[str], object]


class _Field(NamedTuple):
    name: str
    width: int = 0  #: The fewest digits of a number.


def is_template(path: str | os.PathLike[str]) -> bool:
    """Return whether a path contains a brace, as a template with fields does."""
    text = path_text(path)
    return "{" in text or "}" in text


def local_paths(
    template: str | os.PathLike[str], files: Iterable[tuple[Values, str]]
) -> list[Path]:
    """Return a different path for each file, none of which leads out of the template's folder.

    That folder is the part before the first field, up to a separator.  No folder below it is a
    link, and no path is an existing folder: such names are numbered, and so are names that two
    files would share.

    Args:
        template: The template, with fields in braces; ``{{`` and ``}}`` are braces.
        files: The values of the fields for each file, and its name on the server, which it keeps
            if the template ends in a separator.

    Raises:
        ValueError: A single brace, or ``..`` after a field.
    """
    base, parts = _parsed(os.fspath(template))
    found = [
        [_filled(part, values) if part else safe_name(name) for part in parts]
        for values, name in files
    ]
    chosen: dict[Path, Path] = {}
    folders = [_real_folder(base, names[:-1], chosen) for names in found]
    paths: dict[int, Path] = {}
    for indices in _grouped(folders):

        def is_folder(name: str, among: Sequence[int] = indices) -> bool:
            return any((folders[index] / name).is_dir() for index in among)

        names = distinct_names((found[index][-1] for index in indices), is_folder)
        paths |= {index: folders[index] / name for index, name in zip(indices, names, strict=True)}
    return [paths[index] for index in range(len(found))]


def _grouped(folders: Sequence[Path]) -> Iterable[list[int]]:
    """Return the positions of the folders, grouped by names that some file systems equate."""
    groups: dict[str, list[int]] = {}
    for index, folder in enumerate(folders):
        groups.setdefault(folded(os.fspath(folder)), []).append(index)
    return groups.values()


def _real_folder(base: Path, names: Sequence[str], chosen: dict[Path, Path]) -> Path:
    """Return the path of nested folders below ``base``, numbering names that a link or file has."""
    for name in names:
        wanted = base / name
        if wanted not in chosen:
            chosen[wanted] = next(path for path in _numbered(wanted) if _is_free(path))
        base = chosen[wanted]
    return base


def _numbered(path: Path) -> Iterator[Path]:
    yield path
    yield from (path.with_name(f"{path.name} ({number})") for number in itertools.count(1))


def _is_free(path: Path) -> bool:
    """Return whether a path is a folder, or could become one."""
    return not path.is_symlink() and (path.is_dir() or not os.path.lexists(path))


# -- the text -------------------------------------------------------------------------------


def _parsed(text: str) -> tuple[Path, list[list[str | _Field]]]:
    """Return the folder before the first field, and the remaining parts of the path."""
    parts: list[list[str | _Field]] = [[]]
    for piece in _pieces(text):
        names: Sequence[str | _Field] = [piece] if isinstance(piece, _Field) else _split(piece)
        parts += [[] for _ in names[1:]]
        for part, name in zip(parts[-len(names) :], names, strict=True):
            if name:
                part.append(name)
    start = next(
        (at for at, part in enumerate(parts) if any(isinstance(one, _Field) for one in part)),
        len(parts) - 1,
    )
    base = os.sep.join(["".join(map(str, part)) for part in parts[:start]] + [""] * (start > 0))
    *folders, last = parts[start:]
    if [".."] in (*folders, last):
        raise ValueError(f"{text!r:.200}: '..' is not allowed after a field")
    inner = [part for part in folders if part not in ([], ["."])]
    return Path(base), [*inner, [] if last == ["."] else last]


def _split(text: str) -> list[str]:
    return re.split(r"[/\\]" if os.sep == "\\" else "/", text)


def _pieces(text: str) -> Iterator[str | _Field]:
    literal, at = "", 0
    for found in _PIECE.finditer(text):
        literal += text[at : found.start()]
        at = found.end()
        if found[0] in ("{{", "}}"):
            literal += found[0][0]
        elif found[1]:
            yield literal
            literal = ""
            width = _WIDTH.fullmatch(found[1])
            yield _Field(width[1], int(width[2])) if width else _Field(found[1])
        else:
            raise ValueError(f"{text!r:.200}: a single brace; write '{{{{' or '}}}}' for a brace")
    yield literal + text[at:]


def _filled(part: Sequence[str | _Field], values: Values) -> str:
    """Fill in the fields of a part of a path; make the part safe if it has any."""
    text = "".join(_put_in(piece, values) if isinstance(piece, _Field) else piece for piece in part)
    return safe_name(text) if any(isinstance(piece, _Field) for piece in part) else text


def _put_in(field: _Field, values: Values) -> str:
    text = _text(values(field.name), field.width)
    return text or ("" if field.name == "ext" else "none")  # an extension alone is not a name


def _text(value: Any, width: int) -> str:
    if value is None:
        text = "none"
    elif isinstance(value, int) and not isinstance(value, bool):
        text = f"{value:0{width}}" if width else str(value)
    elif isinstance(value, str | float | bool):
        text = str(value)
    else:
        text = json.dumps(value, default=str)
    return _SEPARATORS.sub("_", text)[:_LONGEST_NAME].strip()
