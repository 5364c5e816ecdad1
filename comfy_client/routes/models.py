"""Model files on the server."""

from __future__ import annotations

from typing import Any

from .. import models
from ..errors import NotFound
from ..transport.http import Http, segment
from ..values import items, mapping, texts


class ModelRoutes:
    """The models that the server has, and their metadata."""

    _http: Http

    def get_model_types(self) -> list[str]:
        """Return the kinds of models, which are folder names: ``checkpoints``, ``loras``, ...

        ``GET /models``, since September 2024; :class:`NotSupported` before.
        """
        return texts(self._http.json("GET", "/models"), "GET /models")

    def get_models(self, folder: str) -> list[str]:
        """Return the names of the models of one kind, with the server's own path separators.

        ``GET /models/{folder}``, since August 2024.

        Raises:
            NotFound: There is no such kind; :meth:`get_model_types` lists them.
            NotSupported: The server is older; there, ``get_node_defs`` of loaders such as
                ``CheckpointLoaderSimple`` lists models.
        """
        return texts(self._http.json("GET", f"/models/{segment(folder)}"), "GET /models/{folder}")

    def get_model_folders(self) -> list[models.ModelFolder]:
        """Return the kinds of models, and the folders of their files on the server.

        ``GET /experiment/models``, since December 2024; :class:`NotSupported` before.
        """
        return _folders(self._http.json("GET", "/experiment/models"))

    def get_model_files(self, folder: str) -> list[models.ModelFile]:
        """Return the models of one kind, with sizes and times.

        ``GET /experiment/models/{folder}``, since December 2024.

        Raises:
            NotFound: There is no such kind; :meth:`get_model_folders` lists them.
            NotSupported: The server is older: :meth:`get_models` has the names.
        """
        return _files(self._http.json("GET", f"/experiment/models/{segment(folder)}"))

    def get_model_preview(self, folder: str, path_index: int, file_name: str) -> bytes:
        """Return the preview image of a model, as WebP.

        ``GET /experiment/models/preview/{folder}/{path_index}/{file_name}``, since December 2024.

        Args:
            folder: The kind of model.
            path_index: As in :class:`ModelFile`.
            file_name: The ``name`` of the :class:`ModelFile`.

        Raises:
            NotFound: The model has no preview, or there is no such model; since ComfyUI 0.28
                also when ``path_index`` is out of range.
            ApiError: ``path_index`` is out of range (500, before ComfyUI 0.28).
            NotSupported: This server has no previews of models.
        """
        name = "/".join(segment(part) for part in file_name.split("/"))
        route = f"/experiment/models/preview/{segment(folder)}/{path_index}/{name}"
        return self._http.request("GET", route).content

    def view_metadata(self, folder: str, file_name: str) -> dict[str, Any] | None:
        """Return the metadata in the header of a ``.safetensors`` file; its values are strings.

        ``GET /view_metadata/{folder}``.  ``None`` if there is no such file or folder, it is
        not a ``.safetensors`` file, or it has no metadata: the server answers 404 to all.
        """
        try:
            found = self._http.json(
                "GET", f"/view_metadata/{segment(folder)}", params={"filename": file_name}
            )
        except NotFound:
            return None
        return dict(mapping(found, "GET /view_metadata"))

    def get_view_metadata(self, folder: str, file_name: str) -> dict[str, Any] | None:
        """Call :meth:`view_metadata`, under its name in the TypeScript SDK."""
        return self.view_metadata(folder, file_name)


def _folders(found: Any) -> list[models.ModelFolder]:
    return [models.ModelFolder.from_json(one) for one in items(found, "GET /experiment/models")]


def _files(found: Any) -> list[models.ModelFile]:
    return [models.ModelFile.from_json(file) for file in items(found, "model files")]
