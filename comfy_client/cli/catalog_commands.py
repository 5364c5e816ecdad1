"""The commands about models and files: ``models`` and ``upload``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from ..errors import NotFound
from ..nearest import nearest
from .completion import complete_folders
from .exits import Mistake, message_of
from .listing import Row, has_words, print_rows, short_server
from .printing import emit, examples, note, say
from .server_options import ServerOptions, of_server, of_servers

if TYPE_CHECKING:
    from ..client import ComfyApi


@click.command(
    epilog=examples(
        "comfy-client models", "comfy-client models loras", "comfy-client models --search flux"
    )
)
@click.argument("folder", metavar="[FOLDER]", required=False, shell_complete=complete_folders)
@click.option("--search", metavar="TEXT", help="List files with these words in their names.")
@of_servers
def models(given: ServerOptions, folder: str | None, search: str | None) -> None:
    """List the kinds of models, or the files of one kind.

    With --search, list the files whose names contain all these words, in FOLDER or else in all
    folders.  With several servers (--host A --host B) each line names its server.
    """
    has_files = folder is not None or search is not None

    def read(api: ComfyApi) -> list[Row]:
        folders = api.get_model_types() if folder is None else [folder]
        if not has_files:
            return [{"folder": one} for one in folders]
        return [
            {"folder": one, "name": name}
            for one in folders
            for name in _files(api.get_models, one, api.get_model_types)
            if search is None or has_words(name, search)
        ]

    def show(rows: list[Row]) -> None:
        keys = ["folder"] if not has_files else ["name"] if folder else ["folder", "name"]
        for row in rows:
            say("  ".join((*short_server(row), *(row[key] for key in keys))))
        if not rows and search is not None:
            note("No such files.")
        elif not rows:
            note(f"The folder {folder} is empty." if folder else "The server has no such folders.")

    print_rows(given, read, show)


def _files(get_models: Any, folder: str, get_folders: Any) -> list[str]:
    try:
        return list(get_models(folder))
    except NotFound:
        folders = get_folders()
        if folder in folders:
            raise
        near = nearest(folder, folders) or tuple(folders)
        raise Mistake(f"the server has no folder {folder!r}; there is {', '.join(near)}") from None


@click.command(
    epilog=examples(
        "comfy-client upload photo.jpg",
        "ref=$(comfy-client upload photo.jpg --subfolder faces)",
        'comfy-client run img2img.json --set "LoadImage.image=$ref"',
    )
)
@click.argument(
    "files",
    metavar="FILE...",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, dir_okay=False),
)
@click.option("--subfolder", default="", metavar="NAME", help="A subfolder of the input folder.")
@click.option("--overwrite", is_flag=True, help="Replace a file of the same name.")
@of_server
def upload(given: ServerOptions, files: tuple[str, ...], subfolder: str, overwrite: bool) -> None:
    """Send files, and print the names that loaders take."""
    from pathlib import Path

    with given.client() as api:
        for file in files:
            try:
                sent = api.upload_image(Path(file), subfolder=subfolder, overwrite=overwrite)
            except ValueError as exc:
                raise Mistake(f"{file}: {message_of(exc)}") from None
            # The value of an input is an object for an asset of a hosted server.
            ref = sent.ref if isinstance(sent.ref, str) else json.dumps(sent.ref)
            if given.json:
                emit(
                    {
                        "file": file,
                        "name": sent.name,
                        "subfolder": sent.subfolder,
                        "type": sent.type,
                        "ref": ref,
                    }
                )
            else:
                say(ref)
