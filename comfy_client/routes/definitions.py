"""A cache of the server's node definitions, kept while they are certain to be current.

On disk, too, for the next process that asks the same server.  A file is one server's.  Its first
line is a JSON object with the server, the start of the server and the names of all classes; each
further line has a class, a tab and its definition.

A server has no id of its start, but its log does: each line in memory has the time to the
microsecond.  While the server still has one of the lines that it had when the definitions were
read, it was not restarted since, and has the same node packs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import stat
import tempfile
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs

from .. import runtime
from ..errors import ApiError, ComfyError, RequestTimeout, UnexpectedResponse
from ..locks import shared_lock
from ..replacing import discard, replace
from ..transport.deadline import Deadline, in_parallel
from ..transport.http import SMALL, Http, segment
from ..transport.pieces import GROWTH, JsonMember
from ..values import T, mapping
from ..workflow.definition_source import FromDisk

if TYPE_CHECKING:
    from .class_packs import ClassPacks

_FORMAT: Final = 1
#: The names of our files, and how those that are not complete yet begin.
_PREFIX: Final = "definitions-"
_OURS: Final = re.compile(rf"[0-9a-f]{{32}}\.jsonl|{_PREFIX}\w+\.new")
#: The most bytes of a file and of a definition in it, and the most files.
MOST_BYTES: Final = 16 << 20
_MOST_OF_ONE: Final = 2 << 20
MOST_FILES: Final = 16
#: The memory that a definition takes, for each byte of its line.
_GROWTH: Final = 4
#: Seconds for which definitions serve: choices of files may change while a server runs.
MAX_AGE: Final = 3600.0
#: A link is not followed, and nothing waits for the writer of a pipe.
_READ: Final = os.O_RDONLY | sum(
    getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY")
)
#: The shortest time of a log line that has microseconds.
_TIME: Final = len("2024-01-01T00:00:00.0")


def marks_in(answer: object) -> frozenset[str]:
    """Return a mark of each line in the answer of ``GET /internal/logs/raw``.

    It is a digest, as terminal output is nobody's business.
    """
    entries = mapping(answer, "GET /internal/logs/raw").get("entries")
    return frozenset(_marks(entries)) if isinstance(entries, list) else frozenset()


def _marks(entries: list[Any]) -> Iterator[str]:
    for entry in entries:
        match entry:
            case {"t": str(at), "m": str(text)} if len(at) >= _TIME:
                data = f"{at}\0{text}".encode("utf-8", "surrogatepass")
                yield hashlib.sha256(data).hexdigest()[:16]


class DefinitionFile:
    """The file of a server's definitions, readable by its owner only.

    A file that is damaged, too large or another user's counts as missing, and so does a folder
    that cannot be written: nothing here raises.
    """

    def __init__(self, folder: Path, server: str) -> None:
        self._server = hashlib.sha256(server.encode("utf-8", "surrogatepass")).hexdigest()
        self._folder = folder
        self._path = folder / f"{self._server[:32]}.jsonl"

    @property
    def exists(self) -> bool:
        """Whether there is a file, which may be of an earlier start of the server."""
        return self._path.exists()

    def read(self, marks: Collection[str], classes: Collection[str]) -> tuple[dict[str, Any], int]:
        """Return those of these classes that are known, and the memory that they take.

        ``marks`` are those of the server as it runs now.
        """
        content, found, size = self._content(marks), dict[str, Any](), 0
        if content is None:
            return found, size
        for name in classes:
            line = content.lines.get(name, b"")
            if (definition := _decoded(line[line.find(b"\t") + 1 :])) is not None:
                found[name] = FromDisk(definition)
                size += _GROWTH * len(line)
        if 2 * len(content.marks & set(marks)) < len(content.marks):
            # The server soon forgets the lines by which the file is known.
            self._write(attrs.evolve(content, marks=frozenset(marks)))
        return found, size

    def names(self, marks: Collection[str]) -> tuple[str, ...] | None:
        """Return the names of all classes; None if they are not known."""
        content = self._content(marks)
        return content.names if content else None

    def write(
        self,
        marks: Collection[str],
        definitions: Mapping[str, Any],
        names: tuple[str, ...] | None = None,
    ) -> None:
        """Add definitions, and the names of all classes unless None.

        ``marks`` are of the server before it was asked for them.
        """
        if not marks:
            return
        known = self._content(marks) or _Content(runtime.wall_time())
        lines = {
            name: f"{json.dumps(name)}\t{json.dumps(one)}".encode()
            for name, one in definitions.items()
            if not isinstance(one, FromDisk)
        }
        lines = {name: line for name, line in lines.items() if len(line) <= _MOST_OF_ONE}
        names = known.names if names is None else names
        self._write(_Content(known.since, frozenset(marks), names, {**known.lines, **lines}))

    def drop(self, classes: Collection[str]) -> None:
        """Forget classes, as their definitions are no longer true."""
        content = self._read()
        if content is None or content.lines.keys().isdisjoint(classes):
            return
        lines = {name: line for name, line in content.lines.items() if name not in classes}
        self._write(attrs.evolve(content, lines=lines))

    # -- the file on disk ----------------------------------------------------------------

    def _content(self, marks: Collection[str]) -> _Content | None:
        """Return what the file has about the server as it runs now; None if it has nothing."""
        content = self._read() if marks else None
        if content is None or content.marks.isdisjoint(marks):
            return None
        return content if 0 <= runtime.wall_time() - content.since < MAX_AGE else None

    def _read(self) -> _Content | None:
        with contextlib.suppress(OSError, ValueError), open(self._path, "rb", opener=_open) as file:
            if _is_ours(file.fileno()):
                return self._parsed(file.read(MOST_BYTES))
        return None

    def _parsed(self, content: bytes) -> _Content | None:
        head, _, rest = content.partition(b"\n")
        match _decoded(head):
            case {
                "format": format_,
                "server": self._server,
                "since": int() | float() as since,
                "marks": [*marks],
                "names": None | [*_] as names,
            } if format_ == _FORMAT and all(
                isinstance(one, str) for one in (*marks, *(names or ()))
            ):
                pass
            case _:
                return None
        lines = {}
        for line in rest.splitlines():
            try:
                name = json.loads(line[: line.find(b"\t")])
            except (ValueError, RecursionError):
                return None
            if not isinstance(name, str):
                return None
            lines[name] = line
        return _Content(since, frozenset(marks), None if names is None else tuple(names), lines)

    def _write(self, content: _Content) -> None:
        """Replace the file by one with this content, at once."""
        names = None if content.names is None else list(content.names)
        head = {
            "format": _FORMAT,
            "server": self._server,
            "since": content.since,
            "marks": sorted(content.marks),
            "names": names,
        }
        lines, size = [json.dumps(head).encode()], 0
        for line in content.lines.values():
            size += len(line) + 1
            if size + len(lines[0]) >= MOST_BYTES:
                break
            lines.append(line)
        with contextlib.suppress(OSError, ValueError):
            self._folder.mkdir(0o700, parents=True, exist_ok=True)
            if not _is_private(self._folder.stat()):
                return
            self._make_room()
            descriptor, name = tempfile.mkstemp(".new", _PREFIX, self._folder)
            try:
                with open(descriptor, "wb") as file:
                    file.write(b"\n".join(lines))
                replace(Path(name), self._path)
            finally:
                discard(Path(name))

    def _make_room(self) -> None:
        """Delete the oldest of our files if there are too many, those of a crash included.

        The folder may hold files of the user.
        """
        there = (file for file in self._folder.iterdir() if file != self._path)
        files = [file for file in there if _OURS.fullmatch(file.name)]
        files.sort(key=lambda file: file.stat().st_mtime, reverse=True)
        for file in files[MOST_FILES - 1 :]:
            discard(file)


@attrs.frozen
class _Content:
    """The content of a file.

    Attributes:
        since: When the first of the definitions was read, as seconds since 1970.
        marks: Marks of the server at that time.
        names: The names of all classes; ``None``: unknown.
        lines: The lines with definitions, by class.
    """

    since: float
    marks: frozenset[str] = frozenset()
    names: tuple[str, ...] | None = None
    lines: Mapping[str, bytes] = attrs.field(factory=dict)


def _decoded(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _open(path: str, _: int) -> int:
    return os.open(path, _READ)


def _is_ours(descriptor: int) -> bool:
    """Return whether an open file is a private one of this user's, and not too large."""
    found = os.fstat(descriptor)
    return stat.S_ISREG(found.st_mode) and found.st_size < MOST_BYTES and _is_private(found)


def _is_private(found: os.stat_result) -> bool:
    """Return whether a file or folder is this user's, and nobody else may write it (on POSIX)."""
    if os.name != "posix":
        return True
    return found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


#: Seconds for all definitions: the server reads its model folders for them, and these may lie
#: on slow network drives.
ALL: Final = 300.0
#: The most classes that are requested one by one.  More take longer than all at once even on a
#: server whose answer with all classes is large.
_MOST_BY_ONE: Final = 256
#: The most classes that are kept, and the memory that their definitions may take; likewise for an
#: answer with all classes.
MOST_KEPT: Final = 10_000
KEPT: Final = 64 << 20
#: The memory that all definitions may take if they are fetched for a hint.
FOR_A_HINT: Final = 32 << 20
#: The fewest classes that are looked up in the file, which takes a request.
_FEWEST_IN_FILE: Final = 8
#: Seconds for the request that shows whether the file is of the server as it runs now.
_PROOF: Final = 5.0
#: The most characters of a name that goes into a URL.
_MAX_NAME: Final = 200
_NO_NAMES: Final = ("", ".", "..")
#: Seconds between two checks of whether another thread still asks: it may have been interrupted
#: before it said that it no longer does.
_CHECK_ASKER: Final = 1.0


def check_size(http: Http, size: int) -> None:
    """Raise if definitions take too much memory together: ten times ``max_json``."""
    most = http.max_json
    if size > GROWTH * most:
        raise UnexpectedResponse(
            f"GET /object_info: the definitions would take more than {GROWTH * most >> 20} MiB "
            f"decoded; ask for some classes, or max_json={2 * most} allows twice as much",
            method="GET",
            path="/object_info",
            status=200,
        )


class NodeDefinitions:
    """Cache of a server's node definitions.

    A change of ``link``, the number of the connected socket, empties it, as the server may have
    been restarted with other node packs.  A ``file`` keeps some for other processes.
    """

    def __init__(
        self,
        http: Http,
        link: Callable[[], int | None],
        file: DefinitionFile | None = None,
        *,
        kept: int = KEPT,
        most_kept: int = MOST_KEPT,
    ) -> None:
        self._http = http
        self._link = link
        self._file = file
        self._kept = kept
        self._most_kept = most_kept
        self._lock = shared_lock()  # guards everything below
        self._changed = runtime.Condition(self._lock)  # within ``with self._lock`` only
        self._asking: int | None = None  # the thread that asks the server
        self._of_link: int | None = None
        self._forget()

    @cached_property
    def packs(self) -> ClassPacks:
        """The node packs that have classes which the server lacks."""
        from .class_packs import ClassPacks  # most programs lack none

        return ClassPacks(self._http, self._link)

    def _forget(self) -> None:
        self._known: dict[str, Any] = {}
        self._size = 0  # of ``_known`` in memory, at most
        self._absent: set[str] = set()
        self._is_all = False
        self._names: tuple[str, ...] | None = None  # of all classes
        self._is_huge = False  # too large for a hint

    # -- questions -----------------------------------------------------------------------

    def get(
        self, classes: Collection[str] | None, *, refresh: bool, deadline: Deadline
    ) -> dict[str, Any]:
        """Return the definitions of ``classes`` (None: all), by name; unknown ones are left out.

        One thread asks at a time; other threads wait for its answer.
        """
        if isinstance(classes, str):
            raise TypeError(f"classes is a list of names, such as [{classes!r:.80}]")

        def find() -> dict[str, Any]:
            self._forget_old()
            if classes is None:
                return self._whole(deadline, refresh=refresh)
            missing, known = self._missing(classes, refresh=refresh), self._known
            found = self._find(missing, deadline, refresh=refresh) if missing else {}
            here = found if refresh else {**known, **found}  # the search may empty what is kept
            return {name: here[name] for name in classes if name in here}

        return self._alone(find, deadline)

    def each(self, *, refresh: bool, deadline: Deadline) -> Iterator[tuple[str, Any]]:
        """Yield the name and the definition of every class, as they come.

        They are kept if all of them are small.
        """
        self._forget_old()
        if self._is_all and not refresh:
            yield from self._known.copy().items()
            return
        for member in self._stream(deadline):
            yield member.name, member.value

    def names(self, deadline: Deadline, *, for_a_hint: bool = False) -> Collection[str]:
        """Return the names of all classes.

        ``for_a_hint`` gives up when the definitions are large, and returns none.
        """

        def find() -> Collection[str]:
            self._forget_old()
            is_hopeless = for_a_hint and self._is_huge
            use_file = self._names is None and not is_hopeless
            if use_file and self._file is not None and self._file.exists:
                self._names = self._file.names(self._marks(deadline))
            if self._names is not None or is_hopeless:
                return self._names or ()
            size, names = 0, []
            with contextlib.closing(self._stream(deadline)) as stream:
                for member in stream:
                    names.append(member.name)
                    size += member.size
                    if for_a_hint and size > FOR_A_HINT:
                        self._is_huge = True
                        return ()
            return names

        return self._alone(find, deadline)

    def drop(self, classes: Collection[str]) -> None:
        """Forget the definitions of classes, as the server has refused a workflow with them."""
        with self._lock:
            known = self._known
            self._known = {name: one for name, one in known.items() if name not in classes}
            self._is_all = self._is_all and len(self._known) == len(known)
            self._absent -= set(classes)
        if self._file is not None:
            self._file.drop(classes)

    def forget(self) -> None:
        """Forget everything, as the server was restarted."""
        with self._lock:
            self._forget()

    # -- one thread at a time ------------------------------------------------------------

    def _alone(self, work: Callable[[], T], deadline: Deadline) -> T:
        """Call ``work`` while no other thread does; one that it interrupts in this thread may.

        This is not a context manager, which could be interrupted once it is entered.
        """
        me, is_first = runtime.get_ident(), False
        try:
            with self._lock:
                while self._asking not in (None, me):
                    if deadline.expired:
                        raise RequestTimeout("another thread still waits for GET /object_info")
                    self._changed.wait(deadline.left(_CHECK_ASKER))
                if self._asking is None:
                    is_first, self._asking = True, me
            return work()
        finally:
            if is_first:
                self._asking = None  # the first step, before an interruption
                with self._lock:
                    self._changed.notify_all()

    def _forget_old(self) -> None:
        link = self._link()
        if link is not None and link != self._of_link:
            self._forget()
            self._of_link = link

    # -- all classes ---------------------------------------------------------------------

    def _stream(self, deadline: Deadline) -> Generator[JsonMember, None, None]:
        """Yield all definitions while they arrive; keep them if they are small."""
        link, kept, names, size = self._of_link, dict[str, Any](), dict[str, None](), 0
        marks: frozenset[str] | None = None
        for member in self._http.members("/object_info", deadline=deadline, most=ALL):
            if not isinstance(member.value, Mapping):
                continue
            names[member.name] = None
            size += member.size
            if size <= self._kept:
                kept[member.name] = member.value
            elif marks is None:
                kept.clear()
                marks = self._marks(deadline)  # while the answer comes, so they are of its server
            yield member
        with self._lock:
            if link != self._of_link:
                return  # of the server before its restart
            self._forget()
            self._names = tuple(names)
            if size <= self._kept:
                self._known, self._size, self._is_all = kept, size, True
        if self._file is not None and marks:
            self._file.write(marks, {}, tuple(names))

    def _whole(self, deadline: Deadline, *, refresh: bool) -> dict[str, Any]:
        if self._is_all and not refresh:
            return dict(self._known)
        self._forget()  # first, so that memory never holds both answers
        found, size = {}, 0
        for member in self._stream(deadline):
            found[member.name] = member.value
            size += member.size
            check_size(self._http, size)
        return found

    # -- some classes --------------------------------------------------------------------

    def _missing(self, classes: Collection[str], *, refresh: bool) -> list[str]:
        if refresh:
            return list(dict.fromkeys(classes))
        if self._is_all:
            return []
        return [n for n in dict.fromkeys(classes) if n not in self._known and n not in self._absent]

    def _find(self, missing: list[str], deadline: Deadline, *, refresh: bool) -> dict[str, Any]:
        """Return the definitions of classes from the file, or from the server."""
        use_file = self._file if len(missing) >= _FEWEST_IN_FILE else None
        marks = frozenset[str]() if use_file is None else self._marks(deadline)
        found: dict[str, Any] = {}
        if use_file is not None and not refresh:
            found, size = use_file.read(marks, missing)
            self._remember(found, found, size)
        asked = [name for name in missing if name not in found]
        if not asked:
            return found
        fresh = self._ask(asked, deadline)
        if use_file is not None:
            use_file.write(marks, fresh)
        return {**found, **fresh}

    def _ask(self, names: list[str], deadline: Deadline) -> dict[str, Any]:
        if len(names) <= _MOST_BY_ONE and all(
            len(n) <= _MAX_NAME and n not in _NO_NAMES for n in names
        ):
            try:
                return self._ask_each(names, deadline)
            except (ApiError, UnexpectedResponse) as exc:
                if exc.retryable:  # asking for all would be worse
                    raise
                # Otherwise a proxy does not pass such a name on, or the route is missing.
        wanted, found, size = set(names), {}, 0
        for member in self._stream(deadline):
            if member.name in wanted:
                found[member.name] = member.value
                size += member.size
                check_size(self._http, size)
        if not self._is_all:
            self._remember(names, found, size)
        return found

    def _ask_each(self, names: list[str], deadline: Deadline) -> dict[str, Any]:
        """Ask for classes one by one, several at a time."""
        sizes: list[int] = []
        failed: list[ApiError] = []
        most = self._http.total_timeout

        def ask(name: str) -> Any:
            route, found = f"/object_info/{segment(name)}", None
            try:
                for member in self._http.members(route, deadline=deadline, most=most):
                    sizes.append(member.size)
                    check_size(self._http, sum(sizes))
                    found = member.value if member.name == name else found
            except ApiError as exc:
                if exc.status != 500:
                    raise
                failed.append(exc)  # an answer with all classes would leave out a class that fails
            return found if isinstance(found, Mapping) else None

        answers = [*zip(names, in_parallel(ask, names), strict=True)]
        if len(failed) == len(names):  # asking for all shows whether the server itself fails
            raise failed[0]
        found = {name: one for name, one in answers if one is not None}
        self._remember(names, found, sum(sizes))
        return found

    def _remember(self, names: Iterable[str], found: Mapping[str, Any], size: int) -> None:
        """Keep what was asked for, in place of everything else if that is too much."""
        with self._lock:
            count = len(self._known) + len(self._absent)
            if count > self._most_kept or self._size + size > self._kept:
                self._known, self._absent, self._size, self._is_all = {}, set(), 0, False
            if size > self._kept:
                return
            self._size += size
            for name in names:
                if name in found:
                    self._known[name] = found[name]
                    self._absent.discard(name)
                else:
                    self._known.pop(name, None)
                    self._absent.add(name)

    # -- the file ------------------------------------------------------------------------

    def _marks(self, deadline: Deadline) -> frozenset[str]:
        """Return what identifies the start of the server; empty if it does not tell.

        A recording holds no terminal output that its user did not ask for, so nothing is asked
        while there is one.
        """
        if self._file is None or self._http.identity.recorder is not None:
            return frozenset()
        try:
            left = deadline.require(_PROOF)
            route = "/internal/logs/raw"
            return marks_in(self._http.json("GET", route, timeout=left, max_bytes=SMALL))
        except (ComfyError, TimeoutError):
            self._file = None  # for this client
            return frozenset()
