"""Recognition of secret values by their names, and protection from tracebacks that show variables.

IPython's verbose mode, Sentry and ``pytest -l`` show the variables of each frame of a traceback by
their ``repr``, and that of a :class:`Sealed` text shows nothing.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any, Final

#: The most letters of a name or word that is cached.
MAX_CACHED: Final = 256
#: The most levels of a JSON value that are searched.
MAX_DEPTH: Final = 200

#: Names in workflows that are not secret; most workflows have the same ones.
_harmless: Final[set[Any]] = set()
_LEAVES: Final = frozenset({str, int, float, bool, type(None)})
#: Ends of names whose values are secret, with letters and digits only.
_ENDS = (
    "accesskey",
    "authkey",
    "authorization",
    "bearer",
    "cookie",
    "credential",
    "credentialkey",
    "credentials",
    "jwt",
    "licensekey",
    "passphrase",
    "passwd",
    "password",
    "privatekey",
    "pwd",
    "secret",
    "secretkey",
    "sessionid",
    "token",
)
_PARTS = ("apikey", "authtoken", "comfyorg")
#: Further names that are secret in a query.
_IN_QUERY = frozenset({"auth", "code", "key", "pass", "sig", "signature"})


class Sealed(str):
    """A secret text, which neither its ``repr`` nor a pickle shows."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"

    def __copy__(self) -> Sealed:
        return self

    def __deepcopy__(self, memo: object) -> Sealed:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Sealed, ("***",)

    def __getitem__(self, key: Any) -> Sealed:
        return Sealed(super().__getitem__(key))


def is_secret_name(name: str, *, in_query: bool = False) -> bool:
    """Return whether values with this name are secret, such as those of ``api_key``."""
    look = _is_secret_name if len(name) <= MAX_CACHED else _is_secret_name.__wrapped__
    return look(name, in_query)


@functools.lru_cache(4096)
def _is_secret_name(name: str, in_query: bool) -> bool:
    bare = re.sub(r"[^a-z0-9]", "", name.lower())
    return (
        bare.endswith(_ENDS)
        or any(part in bare for part in _PARTS)
        or (in_query and (bare in _IN_QUERY or bare.endswith("signature")))
    )


def sealed(value: Any, *, is_secret: bool = False, depth: int = 0) -> Any:
    """Return a JSON value in which the values of secret names are :class:`Sealed`."""
    if isinstance(value, str):
        return Sealed(value) if is_secret else value
    if type(value) in _LEAVES:
        return value
    if depth < MAX_DEPTH and isinstance(value, (dict, Mapping)):
        return {
            name: sealed(each, is_secret=is_secret or is_secret_value(name, each), depth=depth + 1)
            for name, each in value.items()
        }
    if depth < MAX_DEPTH and type(value) is list:
        return [sealed(each, is_secret=is_secret, depth=depth + 1) for each in value]
    return value


def sealed_workflow(workflow: Any) -> Any:
    """Return a workflow in any form, with the secrets in a dict or JSON text sealed."""
    if isinstance(workflow, str):
        return Sealed(workflow) if workflow.lstrip()[:1] == "{" else workflow
    return sealed(workflow) if _has_secrets(workflow) else workflow


def _has_secrets(value: Any) -> bool:
    """Return whether a JSON value has a secret name; quick, as nearly no workflow has one."""
    names: set[Any] = set()
    level = [value]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for item in level:
            kind = type(item)
            if kind is list:
                below += item
            elif kind is dict or (kind not in _LEAVES and isinstance(item, Mapping)):
                names.update(item)
                below += item.values()
        level = below
        if not level:
            break
    return has_secret_names(names)


def has_secret_names(names: set[Any]) -> bool:
    """Return whether values with one of these names are secret; remember harmless ones."""
    new = names - _harmless
    if not new:
        return False
    if any(is_secret_name(name if isinstance(name, str) else str(name)) for name in new):
        return True
    if len(_harmless) + len(new) <= 4096:
        # No others: one of an Enum, say, may equal a name that is secret.
        _harmless.update(name for name in new if type(name) is str and len(name) <= MAX_CACHED)
    return False


def seal_inputs(graph: Mapping[str, Any]) -> None:
    """Seal the texts of a graph's inputs that have secret names."""
    for node in graph.values():
        inputs: Any = node.get("inputs") if isinstance(node, dict) else None
        for name, value in inputs.items() if isinstance(inputs, dict) else ():
            if type(value) is str and is_secret_name(name):
                inputs[name] = Sealed(value)  # an existing key, so the loop can go on


def sealed_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return headers in which all values are :class:`Sealed`."""
    return {name: Sealed(value) if type(value) is str else value for name, value in headers.items()}


def is_secret_value(name: str, value: Any) -> bool:
    """Return whether a value is secret by its name; lists are not, as they may be links."""
    return not isinstance(value, list) and is_secret_name(str(name))
