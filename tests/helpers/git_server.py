"""Git repositories on 127.0.0.1, for servers that clone node packs."""

from __future__ import annotations

import functools
import http.server
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

#: Commits do not depend on the settings of whoever runs the tests.
_GIT = (
    "git",
    "-c",
    "user.name=tests",
    "-c",
    "user.email=tests@example.com",
    "-c",
    "commit.gpgsign=false",
)


class _Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


class GitRepositories:
    """Repositories below a folder, each with a branch ``main``, at ``url/name``."""

    def __init__(self, folder: Path, url: str) -> None:
        self._folder = folder
        self.url = url

    def commit(self, name: str, files: Mapping[str, str]) -> str:
        """Commit files to a repository, made if need be; return the commit."""
        work = self._folder / "work" / name
        if not work.exists():
            work.mkdir(parents=True)
            self._git(work, "init", "--quiet", "--initial-branch=main")
        for path, text in files.items():
            (work / path).write_text(text)
        self._git(work, "add", ".")
        self._git(work, "commit", "--quiet", "--message", "A commit of the tests")
        self._git(work, "update-server-info")
        served = self._folder / "served" / name
        served.parent.mkdir(exist_ok=True)
        if not served.exists():
            served.symlink_to(work / ".git", target_is_directory=True)
        return self._git(work, "rev-parse", "HEAD").strip()

    def _git(self, folder: Path, *arguments: str) -> str:
        return subprocess.run(
            [*_GIT, *arguments], cwd=folder, check=True, capture_output=True, text=True
        ).stdout


@contextmanager
def git_repositories(folder: Path) -> Iterator[GitRepositories]:
    """Serve the repositories of a folder."""
    (folder / "served").mkdir(parents=True)
    handler = functools.partial(_Handler, directory=str(folder / "served"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, name="git-server", daemon=True)
        thread.start()
        try:
            yield GitRepositories(folder, f"http://127.0.0.1:{server.server_port}")
        finally:
            server.shutdown()
            thread.join()
