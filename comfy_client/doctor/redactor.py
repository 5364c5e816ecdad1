"""What a report of the doctor does not show: secrets, and names of people."""

from __future__ import annotations

import contextlib
import getpass
import os
import re
from urllib.parse import unquote

from ..recording.secrets import STARS, Secrets
from ..transport.http import Http


class Redactor:
    """Takes out of a text what nobody else should read."""

    def __init__(self, http: Http, client_id: str) -> None:
        self._http = http
        self._secrets = Secrets()  # grows: a callable may give other credentials each time
        self._secrets.add([client_id])
        prefix = http.address.prefix
        self._paths = [way for way in dict.fromkeys((prefix, unquote(prefix))) if way]
        self._home = os.path.expanduser("~")
        self._login = ""
        with contextlib.suppress(OSError, KeyError, ImportError):
            self._login = getpass.getuser()

    def __call__(self, text: str) -> str:
        """A text of ours on one line, without names of people.

        Secret words stay: who knows the text could guess them from what is hidden.
        """
        for path in self._paths:
            text = text.replace(path, f"/{STARS}")
        if len(self._home) > 1:
            text = text.replace(self._home, "~")
        if self._login:
            name = re.escape(self._login)
            text = re.sub(rf"(?<=[/\\]){name}(?=[/\\'\"]|$)", STARS, text)
        return "".join(sign if sign.isprintable() else "?" for sign in " ".join(text.split()))

    def foreign(self, text: object) -> str:
        """A text that others wrote: the same, and without secrets."""
        self._http.identity.add_words_to(self._secrets)
        return self(self._secrets.hide_text(str(text)))
