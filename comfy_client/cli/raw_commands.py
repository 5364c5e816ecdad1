"""The commands that print a server's answers: ``api`` and ``object-info``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl

import click

from ..nearest import nearest
from .completion import complete_classes, complete_texts, starting
from .exits import Mistake
from .input_options import mistakes, read_standard_input, text_of
from .printing import command, emit, is_terminal, output_option, save, say, to_stdout, write
from .server_options import ServerOptions, of_server

if TYPE_CHECKING:
    from ..transport.response import Response

_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
#: Some routes of every server, for completion.
_ROUTES: Final = (
    "/embeddings",
    "/extensions",
    "/features",
    "/free",
    "/history",
    "/interrupt",
    "/models",
    "/object_info",
    "/prompt",
    "/queue",
    "/settings",
    "/system_stats",
    "/userdata",
    "/users",
    "/view",
)


@command(
    "comfy-client object-info -o object_info.json",
    'comfy-client object-info KSampler | jq ".KSampler.input.required | keys"',
    "comfy-client check txt2img.json --definitions object_info.json",
    name="object-info",
)
@click.argument("classes", metavar="[CLASS]...", nargs=-1, shell_complete=complete_classes)
@output_option
@of_server
def object_info(given: ServerOptions, classes: tuple[str, ...], output: Path | None) -> None:
    """Write the node definitions of the server, for --definitions.

    With CLASS, write only the definitions of these node classes.
    """
    with given.answering_client() as api:
        found = dict(api.node_definitions(classes or None))
        for name in classes:
            if name not in found:
                near = nearest(name, api.node_names(for_a_hint=True))
                near_by = f"; nearest: {', '.join(near)}" if near else ""
                raise Mistake(f"the server has no node class {name!r}{near_by}")
    if classes:
        found = {name: found[name] for name in classes}
    write(json.dumps(found, indent=None if given.json else 2), output, f"{len(found)} node classes")


@command(
    "comfy-client api /queue",
    'comfy-client api "/view?filename=ComfyUI_00001_.png" -o picture.png',
    "comfy-client api POST /free --field unload_models=true",
    "comfy-client api POST /userdata/workflows%2Fa.json --data @a.json",
    name="api",
)
@click.argument(
    "request",
    metavar="[METHOD] PATH",
    nargs=-1,
    required=True,
    shell_complete=lambda _ctx, _param, text: starting(text, (*_METHODS, *_ROUTES)),
)
@click.option(
    "--data",
    metavar="TEXT|@FILE|-",
    shell_complete=complete_texts,
    help="The body: a text, a file, or standard input.  The method is then POST by default.",
)
@click.option(
    "--field",
    "fields",
    metavar="NAME=VALUE",
    multiple=True,
    shell_complete=complete_texts,
    help="A field of a JSON body, or of the query for GET.  A VALUE that is JSON is taken as such;"
    " @FILE, @- and @@ as for --set.  Repeatable.",
)
@output_option
@of_server
def call(
    given: ServerOptions,
    request: tuple[str, ...],
    data: str | None,
    fields: tuple[str, ...],
    output: Path | None,
) -> None:
    """Send a request to any route, and print the answer.

    PATH begins with / and is below /api if the server has that, unless it begins with /api/ or
    /internal/.  Login, certificates, errors and exit statuses are those of all commands.  JSON is
    indented in a terminal, and unchanged otherwise.
    """
    if data is not None and fields:
        raise click.UsageError("--data or --field, not both")
    method, route = _request(request, has_body=data is not None)
    path, _, query = route.partition("?")
    params = parse_qsl(query, keep_blank_values=True)
    options: dict[str, Any] = {}
    if data is not None:
        options = _body(data)
    elif method in ("GET", "HEAD"):
        params += [(name, _text(value)) for name, value in _fields(fields).items()]
    elif fields:
        options = {"json": _fields(fields)}
    with given.client() as api:
        _show(api.fetch_api(path, method, params=params, **options), output, as_json=given.json)


def _request(words: tuple[str, ...], *, has_body: bool) -> tuple[str, str]:
    """Return the method and the route; raise UsageError if they are not clear."""
    if len(words) > 2:
        raise click.UsageError("give [METHOD] PATH, such as POST /free")
    method = words[0].upper() if len(words) == 2 else "POST" if has_body else "GET"
    if method not in _METHODS:
        raise click.UsageError(f"{words[0]!r} is not one of {', '.join(_METHODS)}")
    if not words[-1].startswith("/") or words[-1].startswith("//"):
        raise click.UsageError(f"PATH is a path on the server, such as /queue: {words[-1]!r}")
    return method, words[-1].partition("#")[0]


def _body(data: str) -> dict[str, Any]:
    """Return the options of ``fetch_api`` for ``--data``."""
    if data in ("-", "@-"):
        content = read_standard_input()
    else:
        content = _content(data[1:]) if data.startswith("@") else data.encode()
    try:
        json.loads(content)
    except (ValueError, RecursionError):
        kind = "application/octet-stream"
    else:
        kind = "application/json"
    return {"data": content, "headers": {"Content-Type": kind}}


def _content(name: str) -> bytes:
    with mistakes("the file"):
        return Path(name).expanduser().read_bytes()


def _fields(given: tuple[str, ...]) -> dict[str, Any]:
    found = {}
    for field in given:
        name, equals, value = field.partition("=")
        if not name or not equals:
            raise Mistake(f"--field {field}: write NAME=VALUE")
        found[name] = _value(value)
    return found


def _value(text: str) -> Any:
    if text.startswith("@"):
        with mistakes("--field"):
            return text_of(text)
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _show(answer: Response, output: Path | None, *, as_json: bool) -> None:
    if output is not None:
        save([answer.content], output, f"{len(answer.content)} bytes")
    elif as_json and answer.content:
        emit(answer.json())
    elif is_terminal():
        for line in _lines(answer):
            say(line.expandtabs())
    else:
        to_stdout([answer.content])


def _lines(answer: Response) -> list[str]:
    """Return an answer as lines for a terminal; raise ClickException if it is not text."""
    if answer.kind == "application/json" or answer.kind.endswith("+json"):
        try:
            return json.dumps(json.loads(answer.content), indent=2, ensure_ascii=False).split("\n")
        except (ValueError, RecursionError):
            pass
    try:
        text = answer.content.decode()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        size = f"{len(answer.content)} bytes of {answer.kind or 'no content type'}"
        raise click.ClickException(f"{size} are not for a terminal: use -o FILE, or a pipe")
    return text.splitlines()
