"""Files that the server keeps for the user; the web UI's workflows are under ``workflows/``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal, overload

from .. import models
from ..errors import Conflict, NotFound
from ..transport.http import SMALL, Http, segment
from ..values import items, text, texts


class UserDataRoutes:
    """Read, store, move, list and delete the user's files.

    Paths are relative to the user's folder, with ``/``; one that leaves it is a ``ValueError``.
    """

    _http: Http

    def get_user_data(self, file: str) -> bytes:
        """Return the content of a file of the user.

        ``GET /userdata/{file}``, since January 2024.

        Raises:
            NotFound: There is no such file.
        """
        return self._http.request("GET", f"/userdata/{_segment(file)}").content

    @overload
    def store_user_data(
        self,
        file: str,
        data: Any,
        *,
        overwrite: bool = True,
        stringify: bool | None = None,
        full_info: Literal[False] = False,
    ) -> str: ...

    @overload
    def store_user_data(
        self,
        file: str,
        data: Any,
        *,
        overwrite: bool = True,
        stringify: bool | None = None,
        full_info: Literal[True],
    ) -> models.UserDataInfo: ...

    @overload
    def store_user_data(
        self,
        file: str,
        data: Any,
        *,
        overwrite: bool = True,
        stringify: bool | None = None,
        full_info: bool,
    ) -> str | models.UserDataInfo: ...

    def store_user_data(
        self,
        file: str,
        data: Any,
        *,
        overwrite: bool = True,
        stringify: bool | None = None,
        full_info: bool = False,
    ) -> str | models.UserDataInfo:
        """Write a file of the user, creating its folders; return its path or its information.

        ``POST /userdata/{file}``, since January 2024; into a new folder since June 2024,
        :class:`ApiError` (500) before.

        Args:
            file: The path, as in ``"workflows/portrait.json"``.
            data: ``bytes``, or ``str``, which is stored as UTF-8, or any JSON value.
            overwrite: Whether to replace an existing file.  Servers before June 2024 always
                replace it, so there the client checks first whether it exists.
            stringify: Whether to store ``data`` as JSON; ``None``: if it is neither ``bytes`` nor
                ``str``.
            full_info: Also return size and times; since September 2024, ``None`` before.

        Raises:
            Conflict: The file exists, and ``overwrite`` is false.
            ApiError: The server's file system does not accept the name (400).
        """
        if stringify is None:
            stringify = not isinstance(data, (bytes, str))
        if stringify:
            data = json.dumps(data, allow_nan=False)
        elif not isinstance(data, (bytes, str)):
            raise TypeError(f"stringify=False stores bytes or str, not {type(data).__name__}")
        route = f"/userdata/{_segment(file)}"
        if not overwrite:
            self._refuse_to_replace(route)
        answer = self._http.request(
            "POST",
            route,
            params={"overwrite": _flag(overwrite), "full_info": _flag(full_info)},
            data=data.encode() if isinstance(data, str) else data,
            max_bytes=SMALL,
        )
        # Servers before June 2024 send an empty answer.
        return _stored(answer.json() if answer.content else file, full_info)

    def _refuse_to_replace(self, route: str) -> None:
        found = self._http.request("HEAD", route, allow={404})
        if found.status != 404:
            raise Conflict(
                f"{route}: the server has that file",
                method="HEAD",
                path=found.path,
                status=found.status,
            )

    def delete_user_data(self, file: str, *, missing_ok: bool = False) -> None:
        """Delete a file of the user.

        ``DELETE /userdata/{file}``, since June 2024.

        Raises:
            NotFound: There is no such file, unless ``missing_ok``.
            NotSupported: The server is older.
            ApiError: It is a folder (500).
        """
        try:
            self._http.send_command("DELETE", f"/userdata/{_segment(file)}")
        except NotFound:
            if not missing_ok:
                raise

    @overload
    def move_user_data(
        self,
        source: str,
        dest: str,
        *,
        overwrite: bool = False,
        full_info: Literal[False] = False,
    ) -> str: ...

    @overload
    def move_user_data(
        self, source: str, dest: str, *, overwrite: bool = False, full_info: Literal[True]
    ) -> models.UserDataInfo: ...

    @overload
    def move_user_data(
        self, source: str, dest: str, *, overwrite: bool = False, full_info: bool
    ) -> str | models.UserDataInfo: ...

    def move_user_data(
        self, source: str, dest: str, *, overwrite: bool = False, full_info: bool = False
    ) -> str | models.UserDataInfo:
        """Move or rename a file, creating folders; return its new path or its information.

        ``POST /userdata/{source}/move/{dest}``, since June 2024.

        Args:
            source: The path of the file.
            dest: Its whole new path.
            overwrite: Whether to replace an existing ``dest``.
            full_info: Also return size and times; since September 2024, ``None`` before.

        Raises:
            NotFound: There is no ``source``.
            Conflict: ``dest`` exists, and ``overwrite`` is false.
        """
        answer = self._http.json(
            "POST",
            f"/userdata/{_segment(source)}/move/{_segment(dest)}",
            params={"overwrite": _flag(overwrite), "full_info": _flag(full_info)},
            max_bytes=SMALL,
        )
        return _stored(answer, full_info)

    @overload
    def list_user_data(
        self,
        dir: str = "",
        *,
        recurse: bool = False,
        split: Literal[False] = False,
        full_info: Literal[False] = False,
    ) -> list[str]: ...

    @overload
    def list_user_data(
        self,
        dir: str = "",
        *,
        recurse: bool = False,
        split: Literal[True],
        full_info: Literal[False] = False,
    ) -> list[list[str]]: ...

    @overload
    def list_user_data(
        self,
        dir: str = "",
        *,
        recurse: bool = False,
        split: bool = False,
        full_info: Literal[True],
    ) -> list[models.UserDataInfo]: ...

    @overload
    def list_user_data(
        self,
        dir: str = "",
        *,
        recurse: bool = False,
        split: bool = False,
        full_info: bool = False,
    ) -> list[str] | list[list[str]] | list[models.UserDataInfo]: ...

    def list_user_data(
        self,
        dir: str = "",
        *,
        recurse: bool = False,
        split: bool = False,
        full_info: bool = False,
    ) -> list[str] | list[list[str]] | list[models.UserDataInfo]:
        """List the files in a folder, relative to it; empty if there is no such folder.

        ``GET /userdata``, since June 2024; :class:`NotSupported` before.  Names that begin
        with a dot are left out.

        Args:
            dir: The folder; ``""`` and ``"."`` are the user's whole folder.
            recurse: Whether to include files in subfolders.
            split: Whether to return each as a list: the path, then its parts.
            full_info: Whether to return size and times; since September 2024, ``None`` before.
                ``split`` is ignored then.
        """
        params = {
            "dir": _encoded(dir or "."),
            "recurse": _flag(recurse),
            "split": _flag(split and not full_info),
            "full_info": _flag(full_info),
        }
        try:
            found = self._list(params)
            if not recurse and all("/" in _path(item) for item in found):
                # Servers before September 2024 list the files of the subfolders instead.
                deep = self._list({**params, "recurse": "true"})
                found = [item for item in deep if "/" not in _path(item)]
        except NotFound:
            return []
        return found

    def _list(self, params: Mapping[str, str]) -> list[Any]:
        what = "GET /userdata"
        found = self._http.json("GET", "/userdata", params=params)
        if params["full_info"] == "true":
            return [_with_info(item) for item in items(found, what)]
        if params["split"] == "true":
            return [texts(item, what) for item in items(found, what)]
        return texts(found, what)

    def list_user_data_v2(self, path: str = "") -> list[models.UserDataEntry]:
        """List the files and folders below a folder, at any depth, folders first.

        ``GET /v2/userdata``, since ComfyUI 0.3.31; :class:`NotSupported` before.

        Args:
            path: The folder; ``""`` and ``"."`` are the user's whole folder.  If it does not
                exist, the list is empty.

        Raises:
            ApiError: ``path`` is a file (400).
        """
        # This route decodes its path once more than the others.
        where = None if path in ("", ".") else _encoded(_encoded(path))
        try:
            return _tree(self._http.json("GET", "/v2/userdata", params={"path": where}))
        except NotFound:
            return []


def _tree(found: Any) -> list[models.UserDataEntry]:
    return [models.UserDataEntry.from_json(item) for item in items(found, "GET /v2/userdata")]


def _flag(value: bool) -> str:
    return "true" if value else "false"


def _encoded(path: str) -> str:
    """Escape ``%`` in a path, which the server decodes twice; raise if it leaves the folder."""
    from ..upload import escapes

    if escapes(path):
        raise ValueError(f"{path!r} leads out of the user's folder")
    return path.replace("%", "%25")


def _segment(file: str) -> str:
    return segment(_encoded(file))


def _path(item: str | list[str] | models.UserDataInfo) -> str:
    """Return the path of an item of ``GET /userdata``, in any of its forms."""
    if isinstance(item, list):
        return "/".join(item[1:])
    path = item if isinstance(item, str) else item.path
    return path.replace("\\", "/")  # from a Windows server


def _stored(answer: Any, full_info: bool) -> str | models.UserDataInfo:
    info = _with_info(answer)
    return info if full_info or not isinstance(answer, str) else info.path


def _with_info(answer: Any) -> models.UserDataInfo:
    path = text(answer)  # from a server before September 2024
    if path is not None:
        return models.UserDataInfo(_path(path))
    return models.UserDataInfo.from_json(answer)
