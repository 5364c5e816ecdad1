"""Users and their settings."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from .. import models, runtime
from ..errors import UnexpectedResponse
from ..transport.http import SMALL, Http, segment
from ..values import mapping

# The server reads its settings file, awaits the request's body, and rewrites the file, so it loses
# one of two simultaneous changes.  A process therefore sends its own one by one for each server.
# The key includes the process, since a fork may copy a held lock.
_storing: dict[tuple[int, str], runtime.Lock] = {}


class UserRoutes:
    """Users of the server and their settings.

    For a server with ``--multi-user``, give the client its ``user`` (an id, not a name); for
    an unknown user, settings raise :class:`AuthenticationError`.
    """

    _http: Http

    def get_user_config(self) -> models.UserConfig:
        """Return the server's users and their storage.  ``GET /users``, since January 2024."""
        return models.UserConfig.from_json(self._http.json("GET", "/users"))

    def create_user(self, username: str) -> str:
        """Add a user and return the new id, for ``ComfyApi(user=...)``.

        ``POST /users``, since January 2024.  A server without ``--multi-user`` adds the user
        too, and does not use it.

        Raises:
            ApiError: The name is taken, empty or reserved (400); the message says which.
        """
        user_id = self._http.json("POST", "/users", json={"username": username}, max_bytes=SMALL)
        if not isinstance(user_id, str):
            raise UnexpectedResponse(
                f"create_user: expected an id, got {self._http.identity.hide(user_id)!r:.80}"
            )
        return user_id

    def get_settings(self) -> dict[str, Any]:
        """Return all stored settings, by id.  ``GET /settings``, since January 2024."""
        return dict(mapping(self._http.json("GET", "/settings"), "GET /settings"))

    def get_setting(self, id: str, default: Any = None) -> Any:
        """Return a setting, or ``default`` if it was never stored, or stored as null.

        ``GET /settings/{id}``, since January 2024.
        """
        value = self._http.json("GET", f"/settings/{segment(id)}")
        return default if value is None else value

    def store_settings(self, settings: Mapping[str, Any]) -> None:
        """Change these settings; all other settings stay.

        ``POST /settings``, since January 2024.  A process sends its changes one by one; if two
        programs change settings at the same moment, the server may lose one of the changes.
        """
        with self._one_by_one():
            self._http.send_command("POST", "/settings", json=dict(settings))

    def store_setting(self, id: str, value: Any) -> None:
        """Change one setting to any JSON value.

        ``POST /settings/{id}``, since January 2024.  For simultaneous changes see
        :meth:`store_settings`.
        """
        with self._one_by_one():
            self._http.send_command("POST", f"/settings/{segment(id)}", json=value)

    def _one_by_one(self) -> runtime.Lock:
        # setdefault is atomic: two threads get the same lock.
        return _storing.setdefault((os.getpid(), self._http.address.http_url), runtime.Lock())
