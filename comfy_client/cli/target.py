"""Resolution of options, environment and profiles to a server and its credentials.

Commands that contact no server do not import this module.
"""

from __future__ import annotations

import contextlib
import functools
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import attrs

from ..client import ComfyApi
from ..credentials import BasicCredentials, BearerCredentials, EnvCredentials
from ..hosted.servers import (
    CLOUD,
    KEY_VARIABLE,
    URL_VARIABLE,
    is_comfys_own,
    takes_environment_key,
    whose_environment_key,
)
from ..settings import DEFAULT_HOST, HOST_VARIABLE, SECRET_VARIABLES
from ..transport.http import MAX_JSON
from ..transport.url import Address, parse_host
from .decorators import number_of_bytes
from .exits import Mistake, in_commands, line
from .input_options import claim_standard_input, mistakes
from .profiles import Config, is_open_to_others

#: The environment variable that names a profile.
PROFILE_VARIABLE: Final = "COMFYUI_PROFILE"

#: Seconds to connect, unless a request has fewer.
_CONNECT: Final = 5.0

#: The names of the layers with variables for a ComfyUI, and for a hosted one.
_ENVIRONMENT: Final = "environment"
_HOSTED_ENVIRONMENT: Final = "environment of hosted servers"
#: The variable with the server of each of these layers, and the kinds of variables with secrets.
_HOST_VARIABLES: Final = {_ENVIRONMENT: HOST_VARIABLE, _HOSTED_ENVIRONMENT: URL_VARIABLE}
_SECRET_KINDS: Final = {**SECRET_VARIABLES, KEY_VARIABLE: "bearer"}

#: The settings of a server; those in one group come from one source.
_SETTINGS: Final = (
    *(("ca", "insecure"), ("private-storage",), ("partner-key",), ("user",)),
    *(("max-json",), ("no-cache",)),
)

_AnyCredentials = BasicCredentials | BearerCredentials | EnvCredentials


@attrs.frozen
class Target:
    """A server, with the credentials and settings for it.

    Attributes:
        host: The URL of the server, without a password.
        credentials: The credentials that are sent; ``None``: none.
        ca: The file with certificates to trust; ``None``: the public ones.
        insecure: Whether certificates are not verified.
        user: The user's id on a multi-user server; ``None``: none.
        hosted: Whether it is a hosted ComfyUI, which speaks Comfy API v2.
        private_storage: Whether a hosted server may name any address for its files.
        partner_key: Whether its nodes may have the key for paid services in ``COMFY_API_KEY``.
        max_json: The largest answer that is decoded, in bytes.
        no_cache: Whether node definitions on disk are neither used nor written.
        profile: The name of the profile in effect; ``None``: none.
        sources: Where each of these settings comes from, by the name of the setting.
        remarks: Notes on secrets that are not sent, and on files that show secrets to other users.
    """

    host: str
    credentials: _AnyCredentials | None = None
    ca: str | None = None
    insecure: bool = False
    user: str | None = None
    hosted: bool = False
    private_storage: bool = False
    partner_key: bool = False
    max_json: int = MAX_JSON
    no_cache: bool = False
    profile: str | None = None
    sources: Mapping[str, str] = attrs.field(factory=dict)
    remarks: tuple[str, ...] = ()

    @property
    def kind_of_credentials(self) -> str | None:
        """The kind of credentials, ``login`` or ``token``; None if none are sent."""
        match self.credentials:
            case None:
                return None
            case BasicCredentials() | EnvCredentials(kind="basic"):
                return "login"
        return "token"

    @property
    def verify(self) -> bool | str:
        """The argument ``verify`` for :class:`ComfyApi`."""
        return not self.insecure if self.insecure or self.ca is None else self.ca

    def client(
        self,
        limit: float,
        record: Path | None = None,
        transport: Literal["auto", "poll"] = "auto",
    ) -> ComfyApi:
        """Make a client of the server, whose requests may take ``limit`` seconds.

        With the transport ``poll``, it opens no socket.
        """
        if self.hosted:
            return self._hosted_client((min(_CONNECT, limit), limit), record)
        return ComfyApi(
            self.host,
            credentials=self.credentials,
            user=self.user,
            timeout=(min(_CONNECT, limit), limit),
            verify=self.verify,
            record=record,
            transport=transport,
            max_json=self.max_json,
            definition_cache=not self.no_cache,
        )

    def _hosted_client(self, timeout: tuple[float, float], record: Path | None) -> ComfyApi:
        """Make a client of a hosted server, with the credentials of this target and no others."""
        from ..hosted.api import HostedApi  # rarely needed, and slow to import

        key: str | EnvCredentials = ""
        match self.credentials:
            case BearerCredentials(token):
                key = token
            case EnvCredentials() as variable:
                key = variable
        try:
            return HostedApi(
                self.host,
                key,
                timeout=timeout,
                verify=self.verify,
                record=record,
                max_json=self.max_json,
                allow_insecure=self.insecure,
                allow_private_storage=self.private_storage,
            )
        except ValueError as exc:
            raise Mistake(in_commands(str(exc))) from None


@attrs.frozen
class _Layer:
    """Settings from one source: the options, the environment, or a profile."""

    name: str
    says: Mapping[str, Any] = attrs.field(repr=False)
    address: Address | None
    login: tuple[str, str] | None = attrs.field(repr=False)
    read: Callable[[str], str]  #: The first line of a file.

    def source(self, key: str) -> str:
        """Return the name of the place that a setting comes from."""
        if self.name == "options":
            return f"--{key}"
        if self.name in _HOST_VARIABLES:
            return _HOST_VARIABLES[self.name] if key == "host" else key
        return self.name

    def credentials(self) -> _FoundCredentials | None:
        """Return the credentials that this source gives, or None; only now are files read."""
        if self.login is not None:
            return _FoundCredentials(BasicCredentials(*self.login), self.source("host"))
        for kind in ("token", "login"):
            source = self.source(kind)
            if self.says.get(kind):
                return _FoundCredentials(_made(kind, self.says[kind], source), source)
            file, source = self.says.get(f"{kind}-file"), self.source(f"{kind}-file")
            if file:
                return _FoundCredentials(_made(kind, self.read(file), source), source, file)
        for variable, kind in _SECRET_KINDS.items():
            if self.says.get(variable):
                if kind == "basic":
                    split_login(self.says[variable], variable)
                return _FoundCredentials(EnvCredentials(variable, kind), variable)
        return None


class _FoundCredentials(NamedTuple):
    """Credentials, the name of their source, and the file that holds them, if any."""

    credentials: _AnyCredentials
    source: str
    file: str | None = None


def resolve_all(each: Iterable[Mapping[str, Any]], config: Config) -> list[Target]:
    """Resolve several servers by :func:`resolve`; raise :class:`Mistake` for duplicates."""
    read = functools.cache(_first_line)  # standard input can be read only once
    servers = [resolve(given, config, read) for given in each]
    hosts = [server.host for server in servers]
    for host in hosts:
        if hosts.count(host) > 1:
            raise Mistake(f"{host} is given twice")
    return servers


def resolve(
    given: Mapping[str, Any], config: Config, read: Callable[[str], str] | None = None
) -> Target:
    """Resolve a server from options, environment and profile, in this order of precedence.

    A profile that an option names counts as an option.  The first source that names a server
    decides.  Sources that name another server are ignored altogether, so that no secret goes to the
    wrong server.  ``read`` returns the first line of a file.
    """
    layers = list(_layers(given, config, read or _first_line))
    named = next((layer for layer in layers if layer.address is not None), None)
    address = None if named is None else named.address
    if named is None or address is None:
        host, said_by = (CLOUD if given.get("hosted") else DEFAULT_HOST), "the default"
    else:
        host, said_by = address.http_url, named.source("host")
    sources = {"host": said_by}
    hosted = _hosted_by(given, named)
    if hosted is not None:
        host = host.removesuffix("/api/v2")  # the address of a HostedApi
        sources["hosted"] = hosted
        left_out = _ENVIRONMENT
    else:
        left_out = _HOSTED_ENVIRONMENT
    layers = [one for one in layers if one.name != left_out or one is named]
    at = parse_host(host)[0]
    ours = [one for one in layers if one.address is None or one.address == address]
    ours = [one for one in ours if one.name != _HOSTED_ENVIRONMENT or takes_environment_key(at)]
    others = [one for one in layers if one not in ours]
    values: dict[str, Any] = {}
    for keys in _SETTINGS:
        first = next((layer for layer in ours if any(map(layer.says.get, keys))), None)
        for key in keys:
            if first is not None and first.says.get(key):
                values[key.replace("-", "_")], sources[key] = first.says[key], first.source(key)
    found = next(filter(None, (layer.credentials() for layer in ours)), None)
    if found is not None:
        sources["credentials"] = found.source
    if hosted is not None:
        _check_hosted(found, values.get("user") and sources["user"])
    if values.get("ca"):
        values["ca"] = os.path.expanduser(values["ca"])
    if "max_json" in values:
        values["max_json"] = _size(values["max_json"], sources["max-json"])
    return Target(
        host,
        found and found.credentials,
        hosted=hosted is not None,
        profile=_profile_in(given, config)[0],
        sources=sources,
        remarks=tuple(_unsent(others) if found is None else _shown(found.file)),
        **values,
    )


def _size(said: int | str, source: str) -> int:
    """Return a size in bytes, which a profile says as a text."""
    with mistakes(f"max-json ({source})"):
        return number_of_bytes(str(said))


def _layers(
    given: Mapping[str, Any], config: Config, read: Callable[[str], str]
) -> Iterator[_Layer]:
    name, is_option = _profile_in(given, config)
    profile = None if name is None else _layer(f"profile {name!r}", config.profile(name), read)
    yield _layer("options", given, read)
    if profile is not None and is_option:
        yield profile
    is_hosted = bool(given.get("hosted"))
    if not is_hosted:
        environment = {"host": os.environ.get(HOST_VARIABLE)}
        environment |= {variable: os.environ.get(variable) for variable in SECRET_VARIABLES}
        yield _layer(_ENVIRONMENT, environment, read)
    said = {"host": URL_VARIABLE, KEY_VARIABLE: KEY_VARIABLE}
    hosted = {key: os.environ.get(variable, "").strip() for key, variable in said.items()}
    yield _layer(_HOSTED_ENVIRONMENT, hosted, read)
    if is_hosted and profile is not None and not (is_option or profile.says.get("hosted")):
        return  # the default server is no hosted one
    if profile is not None and not is_option:
        yield profile


def _hosted_by(given: Mapping[str, Any], named: _Layer | None) -> str | None:
    """Return the source that says that the server is a hosted one; None if it is not."""
    if given.get("hosted"):
        return "--hosted"
    if named is None or named.address is None:
        return None
    if named.name == _HOSTED_ENVIRONMENT or named.says.get("hosted"):
        return named.source("host")
    return "its address" if is_comfys_own(named.address) else None


def _check_hosted(found: _FoundCredentials | None, user: str | None) -> None:
    """Raise Mistake for what a hosted server does not accept: logins, and users of ComfyUI."""
    match found and found.credentials:
        case BasicCredentials() | EnvCredentials(kind="basic"):
            source = "" if found is None else found.source
            raise Mistake(f"a hosted server takes a key, as in --token-file, no login ({source})")
    if user:
        raise Mistake(f"a hosted server has no users of ComfyUI ({user})")


def _profile_in(given: Mapping[str, Any], config: Config) -> tuple[str | None, bool]:
    """Return the name of the profile in effect, or None, and whether an option names it.

    The environment comes after the option, and before the default of the file.
    """
    if given["profile"]:
        return given["profile"], True
    return os.environ.get(PROFILE_VARIABLE) or config.default, False


def _layer(name: str, says: Mapping[str, Any], read: Callable[[str], str]) -> _Layer:
    address, login = None, None
    host = says.get("host") or (says.get("hosted") and name != "options" and CLOUD)
    if host:
        try:
            address, login = parse_host(host)
        except ValueError as exc:
            said_by = {"options": "--host", **_HOST_VARIABLES}.get(name, name)
            raise Mistake(f"{exc} ({said_by})") from None
        if login is not None and name == "options":
            raise Mistake(
                "--host holds a password, which everybody on this machine can read in the list of "
                "processes: put user:password into COMFYUI_LOGIN or a --login-file"
            )
    secrets = [key for key in ("token", "login", "token-file", "login-file") if says.get(key)]
    if len(secrets) + (login is not None) > 1:
        raise Mistake(f"{name}: a login or a token, in one place, not both")
    return _Layer(name, says, address, login, read)


def _unsent(layers: list[_Layer]) -> Iterator[str]:
    for layer in layers:
        for variable in _SECRET_KINDS:
            if layer.says.get(variable):
                whose = f"the server that {layer.source('host')} names"
                if variable == KEY_VARIABLE:
                    whose = whose_environment_key()
                yield f"{variable} is not sent: it is for {whose}."
                return


def _shown(file: str | None) -> Iterator[str]:
    """Yield a remark if other users may read or write a file with a secret; pipes are exempt."""
    if file in (None, "-"):
        return
    path = Path(file).expanduser()
    with contextlib.suppress(OSError):
        mode = path.stat().st_mode
        if stat.S_ISREG(mode) and is_open_to_others(mode):
            chmod = line("chmod", "600", str(path))
            yield f"{file} holds a secret, and others may read it: {chmod}"


def _made(kind: str, value: str, source: str) -> _AnyCredentials:
    if kind == "token":
        return BearerCredentials(value)
    return BasicCredentials(*split_login(value, source))


def split_login(text: str, source: str) -> tuple[str, str]:
    """Split ``user:password``; if there is no colon, raise Mistake, which names only the source."""
    user, colon, password = text.partition(":")
    if not colon:
        raise Mistake(f"{source} does not hold user:password")
    return user, password


def _first_line(path: str) -> str:
    if path == "-":
        claim_standard_input()
        return sys.stdin.readline().rstrip("\r\n")
    with mistakes(path), Path(path).expanduser().open(encoding="utf-8") as file:
        return file.readline(1 << 16).rstrip("\r\n")
