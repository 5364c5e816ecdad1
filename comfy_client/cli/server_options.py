"""Options that name the servers of a command, and the clients made from them."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Final, Literal, ParamSpec, TypeVar

import attrs
import click

from .decorators import Decorator, Finite, number_of_bytes
from .exits import Mistake, message_of, remember
from .printing import log_more, note
from .profiles import load_config

if TYPE_CHECKING:
    from ..client import ComfyApi
    from .target import Target

P = ParamSpec("P")
R = TypeVar("R")
Transport = Literal["auto", "poll"]

#: Seconds within which a running server answers a short question.
ANSWER_LIMIT: Final = 10.0
#: Seconds within which a server answers any request of a command that runs no prompt.
REQUEST_LIMIT: Final = 30.0
#: Seconds within which a server answers any request of a command that runs prompts, as it may
#: answer late while it loads a model.
RUN_LIMIT: Final = 60.0


@attrs.define
class ServerOptions:
    """The connection options of a command, given before or after its name."""

    hosts: tuple[str, ...] = ()
    profiles: tuple[str, ...] = ()
    ca: str | None = None
    insecure: bool = False
    hosted: bool = False
    private_storage: bool = False
    partner_key: bool = False
    user: str | None = None
    login_file: str | None = None
    token_file: str | None = None
    request_timeout: float | None = None
    verbose: int = 0
    record: str | None = None
    max_json: int | None = None
    no_cache: bool = False
    json: bool = False

    @property
    def answer_limit(self) -> float:
        """The seconds within which a server must answer a short question."""
        return self.request_timeout or ANSWER_LIMIT

    @property
    def is_several(self) -> bool:
        """Whether the options name more than one server."""
        return len(self.hosts) > 1 or len(self.profiles) > 1

    @property
    def each(self) -> list[dict[str, Any]]:
        """The options of each server, by name."""
        if len(self.profiles) > 1 and self.hosts:
            raise click.UsageError("each --profile names its own server: leave out --host")
        flags = ("insecure", "hosted", "private_storage", "partner_key", "no_cache")
        said = ("ca", *flags, "user", "login_file", "token_file", "max_json")
        shared = {name.replace("_", "-"): getattr(self, name) for name in said}
        return [
            {"host": host, "profile": profile, **shared}
            for host in self.hosts or (None,)
            for profile in self.profiles or (None,)
        ]

    @property
    def options(self) -> dict[str, Any]:
        """The options of the only server; raises UsageError if several are named."""
        if self.is_several:
            raise click.UsageError("one server at a time")
        return self.each[0]

    def server(self) -> Target:
        """Return the server that the options name; print remarks about its secrets on stderr."""
        from .target import resolve  # slow to import

        server = resolve(self.options, load_config())
        _remember(server, self.options)
        for remark in server.remarks:
            note(remark)
        return server

    def servers(self) -> list[Target]:
        """Return all servers that the options name; print remarks as :meth:`server` does."""
        from .target import resolve_all

        servers = resolve_all(self.each, load_config())
        for server, options in zip(servers, self.each, strict=True):
            _remember(server, options)
        for remark in dict.fromkeys(itertools.chain(*(one.remarks for one in servers))):
            note(remark)
        return servers

    @contextlib.contextmanager
    def client(
        self, limit: float = REQUEST_LIMIT, transport: Transport = "auto"
    ) -> Iterator[ComfyApi]:
        """Context manager: make a client of the server; no request is sent yet.

        ``limit`` is in seconds, for each request; ``--request-timeout`` sets another one.  With
        the transport ``poll``, the client opens no socket.
        """
        api = self.client_of(self.server(), limit, transport)
        with self._limits(), contextlib.closing(api):
            yield api

    @contextlib.contextmanager
    def answering_client(self) -> Iterator[ComfyApi]:
        """Context manager: yield a client of the server once it has answered a short question.

        For commands that read all node definitions, which may take a server minutes.
        """
        with self.client() as api:
            api.poll_status(self.answer_limit)
            yield api

    @contextlib.contextmanager
    def clients(self, limit: float = REQUEST_LIMIT) -> Iterator[list[ComfyApi]]:
        """Context manager: make a client of each server, as :meth:`client` does."""
        with self._limits(), contextlib.ExitStack() as stack:
            yield [
                stack.enter_context(contextlib.closing(self.client_of(server, limit)))
                for server in self.servers()
            ]

    def client_of(
        self,
        server: Target,
        limit: float = REQUEST_LIMIT,
        transport: Transport = "auto",
    ) -> ComfyApi:
        """Make a client of a server, with the limit and the recording of the options."""
        try:
            record = self._recording_of(server.host)
            return server.client(self.request_timeout or limit, record, transport)
        except OSError as exc:
            if self.record is None:
                raise
            raise Mistake(f"--record: {message_of(exc)}") from None

    def _limits(self) -> contextlib.AbstractContextManager[object]:
        """Context manager: apply ``--request-timeout`` also to requests with a limit of their own.

        Requests for all node definitions have one, for example.
        """
        if self.request_timeout is None:
            return contextlib.nullcontext()
        from ..transport.deadline import limited_silence

        return limited_silence(self.request_timeout)

    def _recording_of(self, host: str) -> Path | None:
        """Return the path of a server's recording, or None if none was asked for.

        With several servers, each has its own file, with its address before the suffix.
        """
        if self.record is None:
            return None
        path = Path(self.record)
        if not self.is_several:
            return path
        return path.with_name(f"{path.stem}.{file_name_of(host)}{path.suffix}")


def _remember(server: Target, options: Mapping[str, Any]) -> None:
    known = {"is_hosted": server.hosted, "takes_partner_key": server.partner_key}
    remember(server.host, options, **known)


def file_name_of(host: str) -> str:
    """Return a server's address as a part of a file name: ``gpu-1_8188``."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", host.partition("://")[2])


def _store(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value:
        setattr(ctx.ensure_object(ServerOptions), str(param.name), value)


def _store_size(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    try:
        _store(ctx, param, None if value is None else number_of_bytes(value))
    except ValueError as exc:
        raise click.BadParameter(str(exc)) from None


def _store_verbosity(ctx: click.Context, param: click.Parameter, value: int) -> None:
    options = ctx.ensure_object(ServerOptions)
    options.verbose += value  # the option may stand both before and after the command
    log_more(options.verbose)


def _store_all(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> None:
    if not all(map(str.strip, value)):  # such as from an unset variable
        raise click.BadParameter("it is empty")
    if value:
        setattr(ctx.ensure_object(ServerOptions), f"{param.name}s", value)


def _only_one(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> None:
    if len(value) > 1:
        raise click.BadParameter("one server at a time")
    _store_all(ctx, param, value)


def _profile_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    try:
        return [name for name in load_config().profiles if name.startswith(incomplete)]
    except (click.ClickException, OSError):
        return []


def _hosts(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    try:
        hosts = [one.get("host", "") for one in load_config().profiles.values()]
    except (click.ClickException, OSError):
        return []
    return [one for one in hosts if one and one.startswith(incomplete) and "@" not in one]


class _Common(click.Option):
    """An option that the help of a command only names, as that of the group explains it."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Return the entry in the help; the first of these options stands for all."""
        if ctx.parent is None:
            return super().get_help_record(ctx)
        all_of_them = [one for one in ctx.command.get_params(ctx) if isinstance(one, _Common)]
        if self is not all_of_them[0]:
            return None
        return "...", f"{', '.join(one.opts[0] for one in all_of_them)}: see comfy-client --help."


_file = click.Path(dir_okay=False, allow_dash=True)
_DEFAULT: Final = "Default: COMFYUI_HOST, the default profile, http://127.0.0.1:8188."


def _servers(
    store: Callable[..., None], more: str = "", default: str = _DEFAULT
) -> tuple[Decorator, ...]:
    """Return the options ``--host`` and ``--profile``, whose values ``store`` keeps."""
    option = partial(click.option, multiple=True, callback=store, expose_value=False)
    profile = f"A profile of the config file{more}; see the command where."
    return (
        option(
            "--host", metavar="URL", shell_complete=_hosts, help=f"The server{more}.  {default}"
        ),
        option("--profile", metavar="NAME", shell_complete=_profile_names, help=profile),
    )


_common = partial(click.option, cls=_Common, expose_value=False, callback=_store)

_ONE: Final = _servers(_only_one)
_ONE_OR_EMBEDDED: Final = _servers(_only_one, default="Default: an embedded one.")
_SEVERAL: Final = _servers(_store_all, more=", or several of them")
_OPTIONS: Final = (
    _common(
        "--ca",
        metavar="FILE",
        type=click.Path(exists=True),
        help="Certificates (PEM) to trust instead of the public ones.",
    ),
    _common(
        "--insecure",
        is_flag=True,
        help="Do not verify the certificate; to a hosted server, also send a key over http.",
    ),
    _common(
        "--hosted",
        is_flag=True,
        help="The server speaks Comfy API v2.  Default host: COMFY_BASE_URL, Comfy Cloud.",
    ),
    _common(
        "--private-storage",
        is_flag=True,
        help="Fetch the files of a hosted server from any address that it names, private ones too.",
    ),
    _common(
        "--partner-key",
        is_flag=True,
        help="Nodes of the server may have the key in COMFY_API_KEY, which pays for services.",
    ),
    _common("--user", metavar="ID", help="Your id on a server with --multi-user."),
    _common(
        "--login-file",
        metavar="FILE",
        type=_file,
        help="A file with user:password; - reads stdin.",
    ),
    _common(
        "--token-file",
        metavar="FILE",
        type=_file,
        help="A file with a bearer token; - reads stdin.",
    ),
    _common(
        "--request-timeout",
        metavar="SECONDS",
        type=Finite(min=0, min_open=True),
        help="How long the server may take to answer a request.",
    ),
    _common(
        "--max-json",
        metavar="SIZE",
        callback=_store_size,
        help="The largest answer that is decoded, such as 256M.  Default: 64M.",
    ),
    _common("--no-cache", is_flag=True, help="Neither use nor write node definitions on disk."),
    _common(
        "-v",
        "--verbose",
        count=True,
        callback=_store_verbosity,
        help="Say on stderr what happens; -vv: each request, too.",
    ),
    _common(
        "--record",
        metavar="FILE",
        type=click.Path(dir_okay=False),
        help="Record all traffic in a new file, as for a bug report; one file for each server.",
    ),
)
_JSON: Final = click.option(
    "--json",
    is_flag=True,
    callback=_store,
    expose_value=False,
    help="Print one JSON object per line, errors too.",
)


def with_json(command: Callable[Concatenate[ServerOptions, P], R]) -> Callable[P, R]:
    """Add the option ``--json``; pass a :class:`ServerOptions` as the command's first argument."""
    return _JSON(click.make_pass_decorator(ServerOptions, ensure=True)(command))


def of_server(command: Callable[Concatenate[ServerOptions, P], R]) -> Callable[P, R]:
    """Add the options that name a server, and ``--json`` as :func:`with_json` does."""
    return _with_options(with_json(command), _ONE)


def of_servers(command: Callable[Concatenate[ServerOptions, P], R]) -> Callable[P, R]:
    """Add the options of :func:`of_server`, which may name several servers here."""
    return _with_options(with_json(command), _SEVERAL)


def of_server_as_text(command: Callable[Concatenate[ServerOptions, P], R]) -> Callable[P, R]:
    """Add the options for a server to a command without ``--json``."""
    return _with_options(click.make_pass_decorator(ServerOptions, ensure=True)(command), _ONE)


def of_server_or_embedded(command: Callable[Concatenate[ServerOptions, P], R]) -> Callable[P, R]:
    """Add the options that name a server; without them, the command uses an embedded one."""
    return _with_options(
        click.make_pass_decorator(ServerOptions, ensure=True)(command), _ONE_OR_EMBEDDED
    )


def _with_options(command: Callable[P, R], servers: tuple[Decorator, ...]) -> Callable[P, R]:
    for option in reversed((*servers, *_OPTIONS)):
        command = option(command)
    return command
