"""Decisions about tasks of the Manager, from what it tells and what is installed.

Everything here is a pure function.  A result of the Manager is a claim: it says ``success`` of
packs that do not exist, so what is installed afterwards decides.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Literal
from urllib.parse import urlsplit

import attrs

from ..errors import ComfyError, ManagerRefused, TaskFailed
from ..models.packs import InstalledPack
from ..timing import Timing
from ..workflow.graph import shorten
from .dialects import Work, WorkQueue

#: How often the worker is started again for a task.
_STARTS: Final = 2

#: What the Manager says of work that it has done.
DONE: Final = "success"
#: What it says of that, or of work that was done already.
_GOOD: Final = (DONE, "skip")
#: What it says when its security level forbids the work.
_REFUSED: Final = "failed"
#: A part of what it says of versions that the registry has flagged.
_FORBIDDEN: Final = "not allowed by the current security configuration"

#: What the Manager says if it could not update ComfyUI.
_NOT_UPDATED: Final = ("fail", "An error occurred while updating 'comfyui'.")
#: Why it cannot in most cases, and what to do.
WITHOUT_GIT: Final = (
    "ComfyUI was not installed with git (git clone) there, which the Manager needs; "
    "update it in the way in which it was installed, such as with the desktop app, the update "
    "script of the portable package, pip or a new image; the log of the server says more"
)

#: The lowest security levels that allow each kind of work, in the words of ``config.ini``.
_TO_INSTALL: Final = (
    "security_level = normal, and for git repositories also a server that listens on loopback "
    "only, or network_mode = personal_cloud, and for those that no list of the Manager has "
    "allow_git_url_install = true"
)
_NEEDS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("install", "enable"), _TO_INSTALL),
    "install-model": "security_level = normal, and a server that listens on loopback only, or "
    "network_mode = personal_cloud",
    "fix": "security_level = normal- if the server listens on loopback only, else "
    "security_level = weak",
    "install-git": "allow_git_url_install = true",
    "install-pip": "allow_pip_install = true",
}
#: What the kinds of work are in plain words, where they are not those.
_WORDS: Final[Mapping[str, str]] = {
    "install-model": "install the model",
    "install-git": "install the repository",
    "install-pip": "install the Python packages",
    "uninstall": "remove",
    "update-comfyui": "update ComfyUI",
    "set": "change its settings",
}
#: The login of a URL, and the query, which may be secret.
_LOGIN: Final = re.compile(r"(?<=://)[^\s/]+(?=@)")
_QUERY: Final = re.compile(r"(://[^\s?]*\?)[^\s'\")]+")
_USUAL: Final = "security_level = normal"
#: What a version needs that the registry has flagged.
_FLAGGED: Final = "allow_flagged_nodepack_install = true"
_WHERE: Final = (
    "in config.ini of the Manager on the server (user/__manager/config.ini; before Manager 3.38 "
    "user/default/ComfyUI-Manager/config.ini), then restart the server"
)


def without_secrets(text: str) -> str:
    """Hide the logins and the queries of the URLs in a text."""
    return _QUERY.sub(r"\1***", _LOGIN.sub("***", text))


def refusal(kind: str, name: str, needs: str | None = None) -> ManagerRefused:
    """Return the error for work that the security settings forbid; ``needs`` says what to set."""
    name = without_secrets(name)
    about = f"{_WORDS.get(kind, kind)} {name}".rstrip()
    needs = needs or _NEEDS.get(kind, _USUAL)
    return ManagerRefused(
        f"the Manager refused to {about}: its security settings forbid it; set {needs} {_WHERE}",
        kind=kind,
        name=name,
    )


@attrs.define
class TaskEvidence:
    """Evidence about a task that has not ended.

    Attributes:
        timing: How long the Manager may take.
        result: What the Manager said; None: nothing yet.
        starts: How often the worker was started again for it.
        idle_at: Since when no such task is in the queue, in seconds of the monotonic clock; None:
            it may be there.
        dead_at: Since when tasks wait without a worker; None: they do not.
    """

    timing: Timing
    result: str | None = None
    starts: int = 0
    idle_at: float | None = None
    dead_at: float | None = None

    def step(
        self, queue: WorkQueue, now: float, *, may_have_it: bool = True
    ) -> Literal["wait", "start", "end", "dead"]:
        """Note the state of the queue, and whether the task may be in it; return what follows.

        ``start`` asks for a new worker: it dies of incomplete tasks of others, and leaves behind
        a task that comes while it closes down.  ``end`` means that there is a result, or that the
        Manager has forgotten the task; ``dead`` that new workers did not help.
        """
        is_idle = not may_have_it or not (queue.waiting or queue.running)
        is_dead = bool(queue.waiting) and not queue.running and not queue.is_processing
        self.idle_at = since(self.idle_at, now) if is_idle else None
        self.dead_at = since(self.dead_at, now) if is_dead else None
        if self.result is not None:
            return "end"
        if self.idle_at is not None:
            return "end" if now - self.idle_at >= self.timing.task_forgotten else "wait"
        if self.dead_at is None or now - self.dead_at < self.timing.task_worker:
            return "wait"
        self.dead_at = None
        self.starts += 1
        return "start" if self.starts <= _STARTS else "dead"


def since(begin: float | None, now: float) -> float:
    """Return when a state began that lasts now; None: it has begun now."""
    return now if begin is None else begin


def stopped(work: Work) -> TaskFailed:
    """Return the error for a task that waits although the worker was started again."""
    return failure(work, "the Manager's worker stops again and again; restart the server")


def outcome(
    work: Work, result: str | None, installed: Mapping[str, InstalledPack], has_model: bool
) -> InstalledPack | ComfyError | None:
    """Return how a task ended: the pack, None where there is none, or the error.

    Args:
        work: The task.
        result: What the Manager said; None: it has forgotten the task, as after a restart.
        installed: The packs that are installed now.
        has_model: Whether the server lists the model, if the task is about one.
    """
    if result == _REFUSED:
        return refusal(work.kind, work.name)
    if result is not None and _FORBIDDEN in result:
        return refusal(work.kind, work.name, _FLAGGED)
    if work.kind == "update-comfyui" and result is not None and result.startswith(DONE):
        return None  # the version follows
    if result is not None and result not in _GOOD:
        return failure(work, _said(work, result))
    pack = installed.get(work.name) or _by_another_name(work, installed)
    claim = _claim(result)
    match work.kind:
        case "install" | "install-git" | "enable":
            if pack is None:
                return failure(work, f"{claim}, but the pack is not installed")
            if not pack.enabled:
                return failure(work, f"{claim}, but the pack is still disabled")
            if _is_of_another(work, pack):
                other = shorten(pack.aux_id or "", 200)
                return failure(work, f"{claim}, but its folder has the repository {other}")
            wanted = work.version
            if wanted and not work.is_git and wanted != pack.ver and _is_release(wanted):
                return failure(work, f"{claim}, but version {pack.ver} is installed")
        case "uninstall":
            if pack is not None:
                return failure(work, f"{claim}, but the pack is still installed")
        case "disable":
            if pack is None:
                return failure(work, f"{claim}, but the pack is not installed")
            if pack.enabled:
                return failure(work, f"{claim}, but the pack is still enabled")
        case "update" | "fix":
            if pack is None:
                return failure(work, f"{claim}, but the pack is not installed")
            if result is None and not _has_changed(work, pack):
                return failure(work, f"{claim}, {_unknown(work, pack)}")
        case "install-model":
            if not has_model:
                return failure(work, f"{claim}, but {work.folder} lacks the file")
        case _:
            if result is None:
                return failure(work, f"{claim}, so it is unknown whether it was done")
            return None
    return pack


def _said(work: Work, result: str) -> str:
    """Return why work has failed, by what the Manager says."""
    if work.kind == "update-comfyui" and result in _NOT_UPDATED:
        first = f"there is no version {work.version}, or" if work.version else "most likely"
        return f"the Manager could not do it: {first} {WITHOUT_GIT}"
    return f"the Manager says: {result or 'no reason'}"


def _claim(result: str | None) -> str:
    """Return what the Manager says of the work."""
    forgotten = "the Manager has forgotten this task"
    return forgotten if result is None else f"the Manager says {result!r}"


def failure(work: Work, why: str) -> TaskFailed:
    """Return the error for a task that has failed; the Manager repeats URLs in its reasons."""
    about = f"{work.kind} {work.name}".strip()
    said = without_secrets(why)
    return TaskFailed(f"{about}: {said}", task_id=work.id, kind=work.kind, name=work.name)


def _unknown(work: Work, pack: InstalledPack) -> str:
    """Return a clause for a pack that does not show whether the work was done."""
    if work.kind == "update" and work.version and work.version == pack.ver:
        return f"and its version is still {pack.ver}: there was no newer one, or it was not updated"
    return "so it is unknown whether it was done"


def _is_of_another(work: Work, pack: InstalledPack) -> bool:
    """Return whether a pack is of another repository on GitHub than the URL of the work.

    Of repositories elsewhere, the Manager tells the last part of the URL only.
    """
    parts = urlsplit(work.url or "")
    if "/" not in (pack.aux_id or "") or parts.hostname not in ("github.com", "www.github.com"):
        return False
    wanted = "/".join(parts.path.strip("/").split("/")[:2]).removesuffix(".git")
    return (pack.aux_id or "").casefold() != wanted.casefold()


def _has_changed(work: Work, pack: InstalledPack) -> bool:
    """Return whether an update brought another version, as far as the one before is known."""
    return work.kind == "update" and bool(work.version and pack.ver) and work.version != pack.ver


def _is_release(version: str) -> bool:
    return version[:1].isdigit()


def _by_another_name(work: Work, installed: Mapping[str, InstalledPack]) -> InstalledPack | None:
    """Return a pack by its id in another case, or by its repository.

    The Manager takes ids of the registry in any case; then it has them as the packs write them.
    """
    if not (work.is_git or work.kind == "install"):
        return None
    wanted = work.name.casefold()
    for pack in installed.values():
        names = pack.id, (pack.aux_id or "").rpartition("/")[2] if work.is_git else ""
        if wanted in (name.casefold() for name in names):
            return pack
    return None
