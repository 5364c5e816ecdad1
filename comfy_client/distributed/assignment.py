"""Pure functions that assign servers to workers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from string import Formatter
from typing import Final, TypeAlias

import attrs

from ..transport.url import parse_host

#: A template or one URL, URLs by worker, a list of URLs to share, or None for the environment of
#: each worker.
Hosts: TypeAlias = str | Mapping[str, str] | Sequence[str] | None

#: The fields of a template.
FIELDS: Final = ("n", "name", "host")


@attrs.frozen
class WorkerName:
    """The name and address of a Dask worker.

    Attributes:
        name: The name of the worker.
        address: The address of the worker, such as ``tcp://10.0.0.7:34567``.
        host: The host in the address.
    """

    name: str
    address: str
    host: str

    @property
    def number(self) -> str:
        """The last number in the worker's name, such as 7 in ``gpu-7``.

        Raises ``ValueError`` if there is none.
        """
        found: list[str] = re.findall(r"\d+", self.name)
        if not found or self.name == self.address:
            raise ValueError(
                f"{{n}} is the number in a worker's name, and {self.name!r} has none: name the "
                "workers, or use {host}, or a mapping"
            )
        return found[-1]


def checked(hosts: Hosts) -> Hosts:
    """Check ``hosts`` and return it in a form that can be pickled.

    Raises ``ValueError`` if it is invalid or contains a password.
    """
    if hosts is None:
        return None
    if isinstance(hosts, str):
        _check_template(hosts)
        return hosts
    if isinstance(hosts, Mapping):
        found = {str(worker): url for worker, url in hosts.items()}
        urls: Iterable[str] = found.values()
    elif isinstance(hosts, Iterable):
        urls = found = list(hosts)  # type: ignore[assignment]  # of another kind
    else:
        kind = type(hosts).__name__
        raise TypeError(f"hosts must be URLs in a string, a list or a mapping, not {kind}")
    if not found:
        raise ValueError("hosts is empty; None takes the URL from the environment of each worker")
    for url in urls:
        _check(url)
    return found


def host_for(hosts: str | Mapping[str, str], worker: WorkerName) -> str:
    """Return the URL of a worker's server, from a template or a mapping.

    Raises ``ValueError`` if there is none.
    """
    if isinstance(hosts, str):
        values = {"name": worker.name, "host": worker.host}
        if any(name == "n" for _, name, _, _ in Formatter().parse(hosts)):
            values["n"] = worker.number
        return hosts.format_map(values)
    for name in (worker.name, worker.address, worker.host):
        if name in hosts:
            return hosts[name]
    raise ValueError(f"hosts has no server for the worker {worker.name!r} at {worker.address}")


def least_taken(hosts: Sequence[str], taken: Iterable[str]) -> str:
    """Return the URL in ``hosts`` that occurs least in ``taken``; of several, the first."""
    counts = Counter(taken)
    return min(hosts, key=lambda url: counts[url])


def _check_template(template: str) -> None:
    try:
        names = [name for _, name, _, _ in Formatter().parse(template) if name is not None]
    except ValueError as exc:
        raise ValueError(f"hosts is not a template: {exc}") from None
    for name in names:
        if name not in FIELDS:
            known = ", ".join(f"{{{field}}}" for field in FIELDS)
            raise ValueError(f"hosts: {{{name}}} is not one of {known}")
    _check(template.format_map(dict.fromkeys(FIELDS, "1")))


def _check(url: object) -> None:
    if not isinstance(url, str):
        raise TypeError(f"hosts must have URLs, which are strings, not a {type(url).__name__}")
    _, userinfo = parse_host(url)
    if userinfo is not None:
        raise ValueError(
            "hosts would be sent with a password in it: name the credentials by a variable of "
            "the workers, credentials=EnvCredentials('COMFYUI_TOKEN')"
        )
