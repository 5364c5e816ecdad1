"""What each version of ComfyUI lacks, and what this library does there.

One table: the tests of `tests/contract/test_versions.py` hold every version to it, and the
guide shows it.  The library itself goes by what a server does; a version it looks at only for
the interrupt, of which nothing else tells whether it heeds an id.

    python -m tests.versions        prints the guide's table
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from datetime import datetime
from inspect import getdoc

from comfy_client import ComfyApi
from comfy_client.since import SINCE

#: The versions that the tests run, oldest first.
TESTED = ("2024-03", "2024-07", "2024-12", "0.3.52", "0.3.75")
#: Newer ones, on which the contract tests were run by hand: ``--real --comfyui=PATH``.
BY_HAND = ("0.28.1", "0.33.0")

NOT_SUPPORTED = "``NotSupported``"


@dataclass(frozen=True)
class Row:
    """A feature that some of the tested versions lack."""

    what: str  #: Names in ``double quotes`` that are methods are tested one by one.
    since: str  #: The first version that has it, of those without a number the first tested one.
    without: str  #: What happens on the others.
    key: str = ""  #: The tests' name for it; "": the methods in `what`.

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that `what` names, of a row without a key."""
        return () if self.key else tuple(self.what.replace("``", "").split(", "))

    def is_in(self, version: str) -> bool:
        """Whether a version has it."""
        return age(version) >= age(self.since)


def routes_of(method: str) -> list[str]:
    """The routes that a method's docstring names, as "GET /models"."""
    return re.findall(r"``([A-Z]+ /[^\s`]*)``", getdoc(getattr(ComfyApi, method, None)) or "")


def age(since: str) -> tuple[int, ...]:
    """What sorts versions and months: those with numbers came after all months."""
    if re.fullmatch(r"\d{4}-\d\d", since):
        return (0, *map(int, since.split("-")))
    if since.startswith("ComfyUI ") or since[:1].isdigit():
        return (1, *map(int, since.removeprefix("ComfyUI ").split(".")))
    month = datetime.strptime(since, "%B %Y")
    return (0, month.year, month.month)


def since_of(method: str) -> str | None:
    """Since when there are all routes of a method, as the package itself says; None: always."""
    known = [SINCE[route] for route in routes_of(method) if route in SINCE]
    return max(known, key=age, default=None)


def methods(what: str, without: str = NOT_SUPPORTED) -> Row:
    """A row of methods."""
    names = what.replace("``", "").split(", ")
    return Row(what, max(filter(None, map(since_of, names)), key=age), without)


TABLE = (
    # methods
    methods("``delete_user_data``, ``move_user_data``"),
    methods("``list_user_data``"),
    methods("``get_model_types``, ``get_models``"),
    methods("``get_model_folders``, ``get_model_files``"),
    methods("``get_model_preview``"),
    methods("``get_logs``, ``get_raw_logs``, ``subscribe_logs``"),
    methods("``get_folder_paths``"),
    methods("``get_internal_files``"),
    methods("``list_user_data_v2``"),
    methods("``get_workflow_templates``, ``get_workflow_template``"),
    methods("``get_i18n``"),
    methods("``get_features``", "empty"),
    methods("``get_global_subgraphs``, ``get_global_subgraph``"),
    methods("``get_jobs``, ``get_job``"),
    methods("``get_node_replacements``"),
    methods("``cancel_job``, ``cancel_jobs``"),
    # requests
    Row("routes below ``/api``", "2024-07", "used without ``/api`` from then on", "api"),
    Row(
        "400 for an unknown class",
        "2024-07",
        "500; still ``PromptRejected``, because the class is looked up",
        "unknown class",
    ),
    Row(
        "an ``upload_image`` of the same content again",
        "2024-07",
        "numbered, like different content",
        "same upload",
    ),
    Row(
        "``store_user_data`` into a new folder",
        "2024-07",
        "``ApiError`` (500)",
        "user data folders",
    ),
    Row(
        "``store_user_data(overwrite=False)``",
        "2024-07",
        "the server is asked first if it has the file",
        "user data overwrite",
    ),
    Row(
        "``list_user_data(recurse=False)``",
        "2024-12",
        "everything is listed, then cut to the top level",
        "user data top",
    ),
    Row("``%`` in names of user data", "2024-12", "kept as ``%25``", "user data percent"),
    Row("``full_info`` of user data", "2024-12", "the path alone", "user data info"),
    Row("``comfyui_version`` of ``get_system_stats``", "2024-12", "``None``", "own version"),
    Row("``input_order`` of ``get_node_defs``", "2024-12", "``None``", "input order"),
    Row("``started``, ``ended`` of history", "2024-12", "``None``", "times"),
    Row("``partial_execution_targets``", "0.3.48", "ignored: all outputs run", "targets"),
    Row(
        "``interrupt(prompt_id)``",
        "0.3.57",
        "the queue is asked first; then whatever runs is stopped, the id is ignored",
        "interrupt by id",
    ),
    Row(
        "``get_histories(offset=...)``",
        "0.3.60",
        "the whole history is read, then cut by the client",
        "offset",
    ),
    Row(
        "``preview_method`` of a prompt",
        "0.5.0",
        "ignored; the server's ``--preview-method`` applies",
        "preview method",
    ),
    # prompts and their events
    Row(
        "``execution_success``",
        "2024-12",
        "derived from ``executing`` without a node",
        "execution_success",
    ),
    Row(
        "``executed`` of cached outputs",
        "2024-12",
        "no event; the result has them, from the history",
        "executed of cached",
    ),
    Row(
        "own ``prompt_id``",
        "0.3.45",
        "the server chooses; ours is in ``extra_data``",
        "own prompt_id",
    ),
    Row(
        "node and prompt of previews",
        "0.3.45",
        "the running ones; no ``b_preview_with_metadata``",
        "preview metadata",
    ),
    Row("``progress_state``, ``feature_flags``", "0.3.45", "no such event", "new events"),
    Row("``progress_text``", "0.3.34", "no such event", "progress_text"),
    Row("nodes that block later nodes", "2024-12", "no such nodes", "blocked"),
)


#: What is otherwise from a version on, and of which the client takes no notice.  The last ones are
#: known of servers that are newer than those that the tests set up.
LATER = {
    "words about users": "0.3.75",
    "progress_state for its owner alone": "0.3.75",  # before: for everybody
    "subgraphs of its own": "0.8.0",  # 89 blueprints
    "pictures by libav": "0.9.0",  # LoadImage; 0.8.0 has Pillow still
    "forgetful cache": "0.23.0",  # under memory pressure, which is the default
    "canonical ids only": "0.25.0",
    # Not in 0.3.75, and in 0.28.1; nobody has looked since when.
    "fewer progress events": "0.28.0",  # the first, the last, and those 0.1 s and 0.5 % apart
    "equal inner nodes run once": "0.28.0",
    "animated only if it is": "0.28.0",  # outputs of SaveAnimatedWEBP
}


def has(version: str, key: str) -> bool:
    """Whether a version has a method, or the feature of that key."""
    if key in LATER:
        return age(version) >= age(LATER[key])
    for row in TABLE:
        if key == row.key:
            return row.is_in(version)
    if not key.isidentifier():
        raise KeyError(key)
    since = since_of(key)
    return since is None or age(version) >= age(since)


def without(method: str) -> str:
    """What a method does on a version that lacks it."""
    return next(row.without for row in TABLE if method in row.methods)


def rst() -> str:
    """The table as the guide shows it."""
    width = 46
    versions = (*TESTED, *BY_HAND)
    lines: list[list[str]] = [["what", *versions, "without it"]]
    for row in TABLE:
        there = ["yes" if row.is_in(version) else "no" for version in versions]
        lines.append([row.what, *there, row.without])
    wrapped = [(line[:-1], textwrap.wrap(line[-1], width)) for line in lines]
    first = max(len(cells[0]) for cells, _ in wrapped)
    widths = [first, *map(len, versions), width]
    rule = "  ".join("=" * n for n in widths)
    out = [rule]
    for number, (cells, (text, *more)) in enumerate(wrapped):
        out.append("  ".join(c.ljust(n) for c, n in zip([*cells, text], widths, strict=True)))
        out += ["  ".join(" " * n for n in widths[:-1]) + "  " + line for line in more]
        if number == 0:
            out.append(rule)
    return "\n".join(line.rstrip() for line in [*out, rule]) + "\n"


if __name__ == "__main__":
    print(rst(), end="")
