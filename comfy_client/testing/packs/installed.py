"""The packs that a Manager has installed, and what it does with them.

Each change replaces the mapping of the installed packs, so that an old one can be kept.  Its result
is ``success``, ``skip``, or what went wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from .listed import ListedPack, first_version

SUCCESS, SKIP = "success", "skip"
#: Versions that mean the repository of a pack.
_OF_REPOSITORY = ("unknown", "nightly")
_MOST_UNLISTED = 1_000  # packs


@attrs.frozen(kw_only=True)
class PackFolder:
    """A pack that is installed.

    Attributes:
        listed: What the list has of it.
        version: Its version in the registry, or its commit.
        is_git: Whether it came from its repository.
        enabled: Whether a start of the server loads it.
    """

    listed: ListedPack
    version: str
    is_git: bool
    enabled: bool = True

    @property
    def key(self) -> str:
        """The key among the installed packs: the folder."""
        if self.enabled or self.is_git:
            return self.listed.name
        return f"{self.listed.name}@{self.version.replace('.', '_')}"

    def answer(self) -> dict[str, Any]:
        """Return what the routes tell of it."""
        name = self.listed.name
        ids = ("", name) if self.is_git else (name, None)
        told = dict(zip(("cnr_id", "aux_id"), ids, strict=True))
        return {"ver": self.version, **told, "enabled": self.enabled}


class InstalledPacks:
    """The installed packs by name, and the operations of a Manager on them."""

    def __init__(
        self,
        listed: Iterable[ListedPack],
        names: Iterable[str],
        *,
        disabled: Iterable[str] = (),
        online: bool,
        unreachable: Iterable[str] = (),
    ) -> None:
        """Have packs of a list.

        Args:
            listed: The list.
            names: The packs that are installed already.
            disabled: Others that are installed, too, but disabled.
            online: Whether the registry can be reached.
            unreachable: The addresses of repositories that cannot be reached.

        Raises:
            ValueError: The list does not have a name.
        """
        self.listed: dict[str, ListedPack] = {one.name: one for one in listed}
        self.online = online
        self._unreachable = frozenset(unreachable)
        self.now: Mapping[str, PackFolder] = {}
        off = tuple(disabled)
        for name in (*names, *off):
            if name not in self.listed:
                raise ValueError(f"{name!r:.100} is installed, but not in packs")
            self._put(self.listed[name], is_git=self.listed[name].version is None)
            if name in off:
                self.disable(name)

    def _put(self, listed: ListedPack, *, is_git: bool) -> None:
        found = attrs.evolve(listed, version=None) if is_git else listed
        pack = PackFolder(listed=listed, version=first_version(found), is_git=is_git)
        self.now = {**self.now, listed.name: pack}

    def _change(self, pack: PackFolder) -> None:
        self.now = {**self.now, pack.listed.name: pack}

    def answer(self) -> dict[str, Any]:
        """Return what the routes tell of the installed packs."""
        return answer_of(self.now)

    def install(self, name: str, version: str, where: str) -> str:
        """Install a pack, or enable it; ``where`` names the channel and the source of the list."""
        listed, pack = self.listed.get(name), self.now.get(name)
        is_git = version in _OF_REPOSITORY
        if listed is None and is_git:
            return f"Node '{name}@{version}' not found in [{where}]"
        is_known = is_git or self.online or (pack is not None and version == pack.version)
        if pack is not None and pack.is_git == is_git and is_known:
            self._change(attrs.evolve(pack, enabled=True))
            return SUCCESS
        if listed is None or (not is_git and (listed.version is None or not self.online)):
            return f"Cannot resolve install target: '{name}@{version}'"
        if is_git and not listed.url.startswith(("http://", "https://")):
            return f"Invalid git url: {listed.url}"
        if is_git and listed.url in self._unreachable:
            return f"An error occurred while installing '{name}'."
        self._put(listed, is_git=is_git)
        return SUCCESS

    def install_url(self, url: str) -> None:
        """Install the pack of a repository; one that is not listed brings no node classes.

        Raises:
            ValueError: The address does not end in the name of a folder, or too many that are not
                listed are installed.
        """
        if len(self.now) > len(self.listed) + _MOST_UNLISTED:
            raise ValueError("too many packs")
        name = url.rstrip("/").rpartition("/")[2].removesuffix(".git")
        known = (one for one in self.listed.values() if one.url == url)
        self._put(next(known, ListedPack(name=name, url=url)), is_git=True)

    def enable(self, name: str) -> str:
        """Enable a pack.  Offline, one of the registry stays disabled, yet says success."""
        pack = self.now.get(name)
        if pack is not None and (pack.is_git or self.online):
            self._change(attrs.evolve(pack, enabled=True))
        return SUCCESS

    def restore(self, then: Mapping[str, PackFolder]) -> None:
        """Have the packs of a snapshot; those that came later are disabled.

        Without the registry, nothing is done if it has packs from there; nobody is told.
        """
        if not self.online and any(pack.enabled and not pack.is_git for pack in then.values()):
            return
        later = {
            name: attrs.evolve(pack, enabled=False)
            for name, pack in self.now.items()
            if name not in then
        }
        self.now = {**then, **later}

    def disable(self, name: str) -> str:
        """Disable a pack; if there is none, nothing happens."""
        if (pack := self.now.get(name)) is not None:
            self._change(attrs.evolve(pack, enabled=False))
        return SUCCESS

    def uninstall(self, name: str) -> str:
        """Uninstall a pack; if there is none, nothing happens."""
        self.now = {one: pack for one, pack in self.now.items() if one != name}
        return SUCCESS

    def update(self, name: str) -> str:
        """Update a pack."""
        pack = self.now.get(name)
        if pack is None or not (pack.is_git or self.online):
            return f"An error occurred while updating '{name}'."
        newest = pack.listed.update
        if newest in (None, pack.version):
            return SKIP
        self._change(attrs.evolve(pack, version=newest))
        return SUCCESS

    def fix(self, name: str, version: str | None) -> str:
        """Install the requirements of a pack again."""
        pack = self.now.get(name)
        if pack is None or not (pack.is_git or self.online):
            return f"An error occurred while fixing '{name}@{version}'."
        return SUCCESS


def answer_of(packs: Mapping[str, PackFolder]) -> dict[str, Any]:
    """Return what the routes tell of packs, by their keys."""
    return {pack.key: pack.answer() for pack in packs.values()}
