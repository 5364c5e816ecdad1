"""What ``from comfy_api.latest import ui`` gives to a node: results that clients are shown.

Pictures are Pillow images.  What saves sound needs torch, and is not here.  Animated pictures are
files of those given, and have no label.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from PIL import Image

from ..builtin_nodes import SaveImage
from ..images import Pictures
from ..media_files import apng, webp
from ..node_api import context
from .inputs import LACKING
from .io import FileFolder


class SavedResult(dict[str, str]):
    """A file, as clients are told of it."""

    def __init__(self, filename: str, subfolder: str, type: FileFolder | str) -> None:
        super().__init__(filename=filename, subfolder=subfolder, type=FileFolder(type).value)
        self.filename = filename
        self.subfolder = subfolder
        self.type: FileFolder = FileFolder(type)


class _Shown:
    """Something that clients are shown, as they get it."""

    def __init__(self, **shown: Any) -> None:
        self._shown = shown

    def as_dict(self) -> dict[str, Any]:
        """Return it as clients get it."""
        return dict(self._shown)


class SavedImages(_Shown):
    """Files of pictures."""

    def __init__(self, results: Iterable[Any], is_animated: bool = False) -> None:
        self.results: list[Any] = list(results)
        more = {"animated": (True,)} if is_animated else {}
        super().__init__(images=self.results, **more)


class SavedAudios(_Shown):
    """Files of sound."""

    def __init__(self, results: Iterable[Any]) -> None:
        super().__init__(audio=list(results))


class PreviewText(_Shown):
    """A text."""

    def __init__(self, value: str, **_: Any) -> None:
        super().__init__(text=(value,))


class PreviewVideo(_Shown):
    """Files of video."""

    def __init__(self, values: Iterable[Any], **_: Any) -> None:
        super().__init__(images=list(values), animated=(True,))


class PreviewUI3D(_Shown):
    """A file with a 3D model, and the camera that looks at it."""

    def __init__(self, model_file: Any, camera_info: Any, **_: Any) -> None:
        super().__init__(result=[model_file, camera_info])


class ShownPictures(_Shown):
    """Pictures, which are saved in the folder of temporary files."""

    def __init__(self, image: Any, animated: bool = False, cls: Any = None, **_: Any) -> None:
        prefix = f"ComfyUI_temp_{context.get().folders.ids.letters(5)}"
        self.values: list[SavedResult] = ImageSaveHelper.save_images(
            image, prefix, FileFolder.temp, cls, 1
        )
        super().__init__(images=self.values, animated=(animated,))


class ShownMasks(ShownPictures):
    """Masks, which are saved as grey pictures."""

    def __init__(self, mask: Any, animated: bool = False, cls: Any = None, **_: Any) -> None:
        grey = [one.point(lambda value: value * 255) for one in mask]
        pictures = [Image.merge("RGB", [one.convert("L")] * 3) for one in grey]
        super().__init__(pictures, animated, cls)


class ImageSaveHelper:
    """Functions that save pictures as numbered PNG files."""

    @staticmethod
    def save_images(
        images: Any,
        filename_prefix: str,
        folder_type: FileFolder,
        cls: Any = None,
        compress_level: int = 4,
    ) -> list[SavedResult]:
        """Save pictures; with ``cls``, prompt and workflow are in the files."""
        saver: Any = SaveImage()
        kind = FileFolder(folder_type).value
        vars(saver).update(folders=context.get().folders, kind=kind, level=compress_level)
        prompt, more = _hidden(cls)
        saved = saver.run(images, filename_prefix, prompt, more)["ui"]["images"]
        return [SavedResult(**one) for one in saved]

    @staticmethod
    def get_save_images_ui(
        images: Any, filename_prefix: str, cls: Any = None, compress_level: int = 4
    ) -> SavedImages:
        """Save pictures in the folder of outputs; return what clients are shown."""
        save = ImageSaveHelper.save_images
        return SavedImages(save(images, filename_prefix, FileFolder.output, cls, compress_level))

    @staticmethod
    def save_animated_png(
        images: Any,
        filename_prefix: str,
        folder_type: FileFolder,
        cls: Any,
        fps: float,
        compress_level: int,
    ) -> SavedResult:
        """Save pictures as one animated PNG file."""
        level = {"compress_level": compress_level}
        return _animated(apng, "png", images, filename_prefix, folder_type, cls, fps, **level)

    @staticmethod
    def get_save_animated_png_ui(
        images: Any, filename_prefix: str, cls: Any, fps: float, compress_level: int
    ) -> SavedImages:
        """Save an animated PNG file among the outputs; return what clients are shown."""
        level = {"compress_level": compress_level}
        place = FileFolder.output
        one = _animated(apng, "png", images, filename_prefix, place, cls, fps, **level)
        return SavedImages([one], is_animated=len(images) > 1)

    @staticmethod
    def save_animated_webp(
        images: Any,
        filename_prefix: str,
        folder_type: FileFolder,
        cls: Any,
        fps: float,
        lossless: bool,
        quality: int,
        method: int,
    ) -> SavedResult:
        """Save pictures as one animated WebP file."""
        how = {"lossless": lossless, "quality": quality, "method": method}
        return _animated(webp, "webp", images, filename_prefix, folder_type, cls, fps, **how)

    @staticmethod
    def get_save_animated_webp_ui(
        images: Any,
        filename_prefix: str,
        cls: Any,
        fps: float,
        lossless: bool,
        quality: int,
        method: int,
    ) -> SavedImages:
        """Save an animated WebP file among the outputs; return what clients are shown."""
        how = {"lossless": lossless, "quality": quality, "method": method}
        place = FileFolder.output
        one = _animated(webp, "webp", images, filename_prefix, place, cls, fps, **how)
        return SavedImages([one], is_animated=len(images) > 1)


def _hidden(cls: Any) -> tuple[Any, Any]:
    """Return the prompt of a running node, and what else its files tell; None without a class."""
    hidden = getattr(cls, "hidden", None)
    return getattr(hidden, "prompt", None), getattr(hidden, "extra_pnginfo", None)


def _animated(
    encode: Callable[..., bytes],
    ending: str,
    images: Any,
    prefix: str,
    folder_type: FileFolder,
    cls: Any,
    fps: float,
    **how: Any,
) -> SavedResult:
    pictures = list(Pictures.of(images))
    prompt, more = _hidden(cls)
    metadata = {**({} if prompt is None else {"prompt": prompt}), **(more or {})}
    kind = FileFolder(folder_type)
    folder, name, number, subfolder = context.get().folders.save_target(
        kind.value, prefix, *pictures[0].size
    )
    file = f"{name}_{number:05}_.{ending}"
    (folder / file).write_bytes(encode(pictures, fps, metadata, label="", **how))
    return SavedResult(file, subfolder, kind)


_NAMES: Mapping[str, Any] = {"PreviewImage": ShownPictures, "PreviewMask": ShownMasks}


def __getattr__(name: str) -> Any:
    """Return something that has another name in the package, by its name."""
    if name in _NAMES:
        return _NAMES[name]
    raise AttributeError(LACKING.format(f"ui.{name}"))
