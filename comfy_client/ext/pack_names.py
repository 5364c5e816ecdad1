"""Names of packs, repositories and files of models, as users and the Manager write them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Final
from urllib.parse import urlsplit

from ..models.packs import InstalledPack, KnownPack

#: A pack by its id or URL, or as one of the Manager's answers.
AnyPack = str | InstalledPack | KnownPack
#: Old folders of models, and the kinds of models that have them today.
_RENAMED: Final[Mapping[str, str]] = {"clip": "text_encoders", "unet": "diffusion_models"}
#: The most packs that are named as like a wrong one.
_MOST_LIKE: Final = 3
#: How much their names must be like it, from 0 to 1.
_LIKENESS: Final = 0.75


def name_of(pack: AnyPack) -> str:
    """Return the id or the URL of a pack; raise TypeError or ValueError if it is none."""
    name = pack.id if isinstance(pack, InstalledPack | KnownPack) else pack
    if not isinstance(name, str):
        raise TypeError(f"pack is an id, a URL or an answer of the Manager, not {name!r:.100}")
    if not name.strip():
        raise ValueError("pack is empty: it is an id, a URL or an answer of the Manager")
    return name


def folder_of(url: str) -> str:
    """Return the folder that a git repository gets: the last part of its URL."""
    return PurePosixPath(urlsplit(url).path).name.removesuffix(".git")


def id_or_folder(name: str) -> str:
    """Return the folder that a repository gets, or the id itself."""
    return folder_of(name) if "://" in name else name


def packs_like(name: str, known: Iterable[str]) -> list[str]:
    """Return the few ids and URLs among what the Manager knows that are most like a name."""
    import difflib

    by_name: dict[str, list[str]] = {}
    for one in known:
        by_name.setdefault(id_or_folder(one).casefold(), []).append(one)
    close = difflib.get_close_matches(name.casefold(), by_name, _MOST_LIKE, _LIKENESS)
    return [one for like in close for one in by_name[like]][:_MOST_LIKE]


def is_readable(url: str) -> bool:
    """Return whether a URL has parts; ids of the registry have, too."""
    try:
        return bool(urlsplit(url).path)
    except ValueError:
        return False


def repository_key(url: str) -> str:
    """Return what all URLs of one git repository have in common."""
    parts = urlsplit(url)
    host, path = parts.netloc.rpartition("@")[2], parts.path.rstrip("/").removesuffix(".git")
    return f"{host}{path}".casefold()


def repositories(known: Iterable[str]) -> dict[str, str]:
    """Return the URLs among what the Manager knows, by their keys.

    The Manager looks for a repository by the last part of its URL alone, so those of one name are
    left out: it would install any of them.
    """
    named: dict[str, list[str]] = {}
    for id in known:
        named.setdefault(folder_of(id).casefold(), []).append(id)
    alone = (ids[0] for ids in named.values() if len(ids) == 1)
    return {repository_key(id): id for id in alone if "://" in id}


def check_path(argument: str, path: str) -> None:
    """Raise TypeError or ValueError if an argument is no path that stays in its folder."""
    if not isinstance(path, str):
        raise TypeError(f"{argument}= must be a string, not {path!r:.100}")
    if not {"", ".", ".."}.isdisjoint(path.replace("\\", "/").split("/")):
        raise ValueError(f"{argument}= must be a path below the server's models, not {path!r:.100}")


def kinds_of(folder: str) -> tuple[str, ...]:
    """Return the kinds of models that may have a folder: old names lead to today's."""
    return (folder, _RENAMED[folder]) if folder in _RENAMED else (folder,)
