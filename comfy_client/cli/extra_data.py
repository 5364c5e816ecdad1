"""The option ``--extra-data``, and the API key for partner nodes."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import click

from ..errors import NotSupported
from ..values import table_at
from .completion import complete_texts
from .decorators import Decorator
from .exits import Mistake, known_server
from .input_options import mistakes, text_of
from .own_prompts import mark
from .printing import note
from .prompt_records import PromptSource

if TYPE_CHECKING:
    from ..workflow import Workflow

#: The environment variable with the API key for partner nodes.
KEY_VARIABLE: Final = "COMFY_API_KEY"
#: The name of the key in ``extra_data``, and the type of the hidden input that receives it.
_KEY: Final = "api_key_comfy_org"
_HIDDEN: Final = "API_KEY_COMFY_ORG"
#: Secret entries, whose values the command line accepts only as ``@FILE`` or ``@-``.
_SECRETS: Final = frozenset({_KEY, "auth_token_comfy_org"})


def _parse(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> dict[str, Any]:
    """Parse the values of ``--extra-data``; raise Mistake for an invalid one or a bare secret."""
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise Mistake("--extra-data: write KEY=VALUE")
        if name in found:
            raise Mistake(f"--extra-data {name:.100}: given twice")
        if name in _SECRETS and not (value.startswith("@") and not value.startswith("@@")):
            raise Mistake(
                f"--extra-data {name}: everybody on this machine can read it in the list of "
                f"processes; put the key into {KEY_VARIABLE}, or write {name}=@FILE"
            )
        with mistakes(f"--extra-data {name:.100}"):
            found[name] = _value(name, text_of(value))
    return found


def _value(name: str, text: str) -> Any:
    """Return an entry's value, decoded if it is JSON; raise ValueError if it cannot be used."""
    if name in _SECRETS:
        return text.strip()
    value = _json_or_text(text)
    if name == "extra_pnginfo" and not (
        isinstance(value, dict) and isinstance(value.get("workflow", {}), dict)
    ):
        raise ValueError("it must be an object, and so must its workflow")
    return value


def _json_or_text(text: str) -> Any:
    try:
        value = json.loads(text)
        json.dumps(value, allow_nan=False)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except ValueError:
        if text.lstrip().startswith(("{", "[", '"')):
            raise ValueError("not valid JSON") from None
        return text
    return value


extra_data_option: Decorator = click.option(
    "--extra-data",
    "extra_data",
    metavar="KEY=VALUE",
    multiple=True,
    shell_complete=complete_texts,
    callback=_parse,
    help="Store a value with the prompt, where all users of the server can read it: JSON, or else "
    "a text; @FILE as for --set.  Repeatable.",
)


def prompt_options(
    given: Mapping[str, Any], workflow: Workflow, server: PromptSource, *, detached: bool = False
) -> dict[str, Any]:
    """Return the options ``extra_data`` and ``comfy_api_key`` of a submission.

    ``given`` has the entries of ``--extra-data``, and those kept from an earlier prompt.  A key
    among them is always sent, the key in the environment only if a node takes it, and only to
    servers that the user names for it.
    """
    extra = {**given, **mark(detached=detached)}
    key = extra.pop(_KEY, None) or _key_for(workflow, server)
    return {"extra_data": extra, "comfy_api_key": key}


def _key_for(workflow: Workflow, server: PromptSource) -> str | None:
    """Return the environment's key; None if it is unset, not needed or not for these servers.

    Which nodes take it is a server's word, so the user has to name the server, too.
    """
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not key or not _takes_key(workflow, server):
        return None
    from ..hosted.servers import takes_environment_key, whose_environment_key
    from ..transport.url import parse_host

    addresses = [parse_host(api.host)[0] for api in server.clients()]
    for address in addresses:
        is_named = known_server(address.http_url).takes_partner_key
        if not is_named and not takes_environment_key(address):
            note(
                f"{KEY_VARIABLE} is not sent to {address.http_url}: it is for "
                f"{whose_environment_key()}; --partner-key gives it to nodes of this server"
            )
            return None
    exposed = [one for one in addresses if one.scheme == "http" and not one.is_loopback]
    if not exposed:
        return key
    note(
        f"{KEY_VARIABLE} is not sent, since the connection to {exposed[0].http_url} is not "
        f"encrypted: use https, or a tunnel to this machine"
    )
    return None


def _takes_key(workflow: Workflow, server: PromptSource) -> bool:
    """Return whether a node of the workflow has a hidden input for the key."""
    classes = {node.class_type for node in workflow.nodes.values()}
    try:
        known = server.node_definitions(classes)
    except NotSupported:  # a hosted server that does not describe nodes
        return False
    hidden = (table_at(known, name, "input", "hidden").values() for name in classes)
    return any(kind in (_HIDDEN, [_HIDDEN]) for kinds in hidden for kind in kinds)
