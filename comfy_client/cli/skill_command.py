"""``comfy-client skill``: how agents use the other commands, as a ``SKILL.md``.

``comfy_client/skill.md`` is the text.  The lists of commands and of exit statuses come from here,
so that a new command is in it at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

from .._version import __version__
from .exits import Exit
from .printing import command, output_option, write

#: What a program that reads an exit status should do.
ADVICE: Final = {
    Exit.DONE: "done.",
    Exit.ERROR: "something else, such as files that could not be saved: `message` says what.  If "
    "it has run, use `download ID`.",
    Exit.USAGE: "the command line or a file is wrong; nothing was sent.  Correct it.",
    Exit.UNREACHABLE: "no ComfyUI answers.  `comfy-client doctor` says why; tell the user.",
    Exit.REJECTED: "the workflow is not valid here; nothing has run.  Correct what `node_errors` "
    "or `problems` name; a missing model or node class is for the user to install "
    "(`packs missing FILE` names the packs).",
    Exit.FAILED: "a node failed.  `job ID --traceback` has the details.  The same run fails "
    "again: change something, or tell the user.",
    Exit.LOST: "look at `code`.  `job_lost`: the server was restarted; run it again if "
    "`retryable` is true.  `submit_uncertain`: it may be running, so look for it as below.  "
    "`job_not_found`: a wrong id or server; half a minute after `submit_uncertain` it means that "
    "the prompt did not arrive, and may be run again.",
    Exit.TIMEOUT: "it keeps running.  `job ID --wait`, or `cancel ID`.",
    Exit.UNAUTHORISED: "a login or a key is missing or wrong, or the server's "
    "Manager forbids it (`manager_refused`): tell the user what `message` says.",
    Exit.STOPPED: "stopped by a signal, or somebody cancelled the prompt.  Ask before you run it "
    "again.",
    Exit.PIPE: "nobody read the output, as after `| head -1`.",
}


@command("comfy-client skill", "comfy-client skill -o .agents/skills/comfy-client/SKILL.md")
@output_option
@click.pass_context
def skill(ctx: click.Context, output: Path | None) -> None:
    """Write a SKILL.md that tells agents how to use these commands.

    It lists the commands of this version, so write it again after an update.  Agents look for
    skills in a folder such as .agents/skills/comfy-client or .claude/skills/comfy-client.
    """
    from importlib.resources import files

    text = (files("comfy_client") / "skill.md").read_text("utf-8")
    parts = {
        "{version}": __version__,
        "{statuses}": "\n".join(f"* {status:d}: {advice}" for status, advice in ADVICE.items()),
        "{commands}": "\n".join(_commands(ctx.find_root())),
    }
    for name, part in parts.items():
        text = text.replace(name, part)
    write(text, output, "skill")


def _commands(root: click.Context) -> Iterator[str]:
    """Yield a line for each command, in the order of the group's help: arguments and purpose."""
    commands = root.command.commands if isinstance(root.command, click.Group) else {}
    for name, one in commands.items():
        if not one.hidden:
            _options, *arguments = one.collect_usage_pieces(click.Context(one, parent=root))
            yield f"* `{' '.join([name, *arguments])}`: {one.get_short_help_str(100)}"
