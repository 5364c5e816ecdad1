"""The inputs and outputs of V3 nodes, and their types, by ComfyUI's names.

An input is told to clients as its type and its options.  Which arguments a kind of input takes is
in a table, by position; an argument that is None is not told.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import Any, ClassVar, TypeVar

_Named = TypeVar("_Named", bound=type)

#: The text of an error for a name that ``comfy_api`` has elsewhere.
LACKING = "the embedded server has no {}: it has only what needs no torch"
#: Arguments whose option has another name.
_NAMES: Mapping[str, str] = {
    "raw_link": "rawLink",
    "widget_type": "widgetType",
    "force_input": "forceInput",
    "dynamic_prompts": "dynamicPrompts",
    "display_mode": "display",
}
#: Arguments that are no options.
_APART = ("id", "optional", "extra_dict")
_DEFAULTS: Mapping[str, Any] = {
    "id": inspect.Parameter.empty,
    "optional": False,
    "multiline": False,
    "is_output_list": False,
}
_FIRST = "display_name optional tooltip lazy"
_LAST = "extra_dict raw_link advanced"


def _signature(names: str, **defaults: Any) -> inspect.Signature:
    """Return a signature of these names, all but ``id`` with a default."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    found = {**_DEFAULTS, **defaults}
    parameters = [inspect.Parameter(name, kind, default=found.get(name)) for name in names.split()]
    return inspect.Signature(parameters)


def told(value: Any) -> Any:
    """Return an option as clients get it."""
    return value.value if isinstance(value, Enum) else value


class SchemaInput:
    """An input of a V3 node; what is given by name or position are its attributes.

    Attributes:
        Parent: The type to which it belongs.
    """

    SIGNATURE: ClassVar[inspect.Signature] = _signature(f"id {_FIRST} {_LAST}")
    Parent: ClassVar[Any] = None
    id: str
    optional: bool

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        bound = self.SIGNATURE.bind(*args, **kwargs)
        bound.apply_defaults()
        vars(self).update(bound.arguments)

    @property
    def io_type(self) -> str:
        """The name of the type."""
        name: str = self.Parent.io_type
        return name

    def get_io_type(self) -> str:
        """Return the type as clients get it."""
        name: str | None = getattr(self, "widget_type", None)
        return self.io_type if name is None else name

    def as_dict(self) -> dict[str, Any]:
        """Return the options as clients get them."""
        named = {
            _NAMES.get(name, name): told(value)
            for name, value in vars(self).items()
            if name not in _APART and not name.startswith("_")
        }
        return without_none({**named, **(getattr(self, "extra_dict", None) or {})})

    def get_all(self) -> list[SchemaInput]:
        """Return this input and those inside of it."""
        return [self]


class WidgetInput(SchemaInput):
    """An input for which the page has a field."""

    SIGNATURE = _signature(f"id {_FIRST} default socketless widget_type force_input {_LAST}")


class ComboInput(WidgetInput):
    """A choice of some texts or numbers, which may be those of an Enum."""

    SIGNATURE = _signature(
        f"id options {_FIRST} default control_after_generate upload image_folder remote "
        f"socketless {_LAST}"
    )
    SEVERAL: ClassVar[bool] = False
    options: Any
    default: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if isinstance(self.options, type) and issubclass(self.options, Enum):
            self.options = [one.value for one in self.options]
        self.default = told(self.default)

    def as_dict(self) -> dict[str, Any]:
        """Return the options as clients get them."""
        found = {**super().as_dict(), "multiselect": self.SEVERAL}
        upload = found.pop("upload", None)
        if upload is not None:
            found[upload] = True
        if "remote" in found:
            found["remote"] = found["remote"].as_dict()
        return found


class MultiComboInput(ComboInput):
    """A choice of any number of texts."""

    SIGNATURE = _signature(
        f"id options {_FIRST} default placeholder chip control_after_generate socketless {_LAST}"
    )
    SEVERAL: ClassVar[bool] = True

    def as_dict(self) -> dict[str, Any]:
        """Return the options as clients get them."""
        found = super().as_dict()
        own = {name: found.pop(name) for name in ("placeholder", "chip") if name in found}
        return {**found, "multi_select": own}


class CurveInput(WidgetInput):
    """A curve through points."""

    SIGNATURE = _signature(
        "id display_name optional tooltip socketless default advanced",
        socketless=True,
        default=((0.0, 0.0), (1.0, 1.0)),
    )

    def as_dict(self) -> dict[str, Any]:
        """Return the options as clients get them."""
        found = super().as_dict()
        points = [list(point) for point in found["default"]]
        return {**found, "default": {"points": points, "interpolation": "monotone_cubic"}}


class RemoteOptions:
    """The address from which the page gets the choices of a combo."""

    SIGNATURE = _signature(
        "route refresh_button control_after_refresh timeout max_retries refresh",
        route=inspect.Parameter.empty,
        refresh_button=inspect.Parameter.empty,
        control_after_refresh="first",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        bound = self.SIGNATURE.bind(*args, **kwargs)
        bound.apply_defaults()
        vars(self).update(bound.arguments)

    def as_dict(self) -> dict[str, Any]:
        """Return the options as clients get them."""
        return without_none(vars(self))


class SchemaOutput:
    """An output of a V3 node."""

    SIGNATURE: ClassVar[inspect.Signature] = _signature(
        "id display_name tooltip is_output_list", id=None
    )
    Parent: ClassVar[Any] = None
    id: str | None
    display_name: str | None
    tooltip: str | None
    is_output_list: bool

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        bound = self.SIGNATURE.bind(*args, **kwargs)
        bound.apply_defaults()
        vars(self).update(bound.arguments)
        self.has_name: bool = bool(self.display_name)
        self.display_name = self.display_name or self.id

    @property
    def io_type(self) -> str:
        """The name of the type."""
        name: str = self.Parent.io_type
        return name

    def get_io_type(self) -> str:
        """Return the type as clients get it."""
        return self.io_type


class ComboOutput(SchemaOutput):
    """The output of a choice."""

    SIGNATURE = _signature("id display_name options tooltip is_output_list", id=None)


def without_none(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that are set."""
    return {name: value for name, value in options.items() if value is not None}


# -- types -------------------------------------------------------------------------------


class ComfyTypeI:
    """The base of types that outputs do not have.  Each subclass has a class for its inputs."""

    io_type: ClassVar[str] = ""
    Type: ClassVar[Any] = Any
    Input: ClassVar[Any] = SchemaInput

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in ("Input", "Output"):
            base = getattr(cls, name, None)
            if isinstance(base, type):
                setattr(cls, name, type(name, (base,), {"Parent": cls}))


class ComfyTypeIO(ComfyTypeI):
    """The base of types that inputs and outputs have."""

    Output: ClassVar[Any] = SchemaOutput


def comfytype(io_type: str, **_: Any) -> Callable[[_Named], _Named]:
    """Return a decorator that names the type of a class."""

    def named(cls: _Named) -> Any:
        made: Any = (
            cls if issubclass(cls, ComfyTypeI) else type(cls.__name__, (cls, ComfyTypeIO), {})
        )
        made.io_type = io_type
        return made

    return named


def custom_type(io_type: str) -> type[ComfyTypeIO]:
    """Return a type of this name."""
    return type("CustomComfyType", (ComfyTypeIO,), {"io_type": io_type})


def new_type(name: str, io_type: str, base: type = ComfyTypeIO, **parts: Any) -> Any:
    """Return a type with an input, an output or other parts of its own."""
    return type(name, (base,), {"io_type": io_type, **parts})


def _widget(name: str, names: str, **defaults: Any) -> type[WidgetInput]:
    return type(f"{name}Input", (WidgetInput,), {"SIGNATURE": _signature(names, **defaults)})


_NUMBER = f"id {_FIRST} default min max step"
_SHOWN = "id display_name optional tooltip socketless"
_LISTED = f"{_SHOWN} default advanced"
_BOX: Mapping[str, int] = {"x": 0, "y": 0, "width": 512, "height": 512}

#: The types whose inputs or outputs have arguments of their own.
_WIDGETS: Iterable[Any] = (
    new_type(
        "Boolean",
        "BOOLEAN",
        Input=_widget(
            "Boolean", f"id {_FIRST} default label_on label_off socketless force_input {_LAST}"
        ),
    ),
    new_type(
        "Int",
        "INT",
        Input=_widget(
            "Int",
            f"{_NUMBER} control_after_generate display_mode socketless force_input {_LAST}",
        ),
    ),
    new_type(
        "Float",
        "FLOAT",
        Input=_widget(
            "Float",
            f"{_NUMBER} round display_mode gradient_stops socketless force_input {_LAST}",
        ),
    ),
    new_type(
        "String",
        "STRING",
        Input=_widget(
            "String",
            f"id {_FIRST} multiline placeholder default dynamic_prompts socketless force_input "
            f"{_LAST}",
        ),
    ),
    new_type("Combo", "COMBO", Input=ComboInput, Output=ComboOutput),
    new_type("MultiCombo", "COMBO", ComfyTypeI, Input=MultiComboInput),
    new_type(
        "Webcam", "WEBCAM", Input=_widget("Webcam", f"id {_FIRST} default socketless {_LAST}")
    ),
    new_type(
        "ImageCompare",
        "IMAGECOMPARE",
        ComfyTypeI,
        Input=_widget("ImageCompare", f"{_SHOWN} advanced", socketless=True),
    ),
    new_type(
        "Color",
        "COLOR",
        Input=_widget("Color", f"{_SHOWN} advanced default", socketless=True, default="#ffffff"),
    ),
    new_type("Colors", "COLORS", Input=_widget("Colors", _LISTED, socketless=True, default=[])),
    new_type(
        "BoundingBox",
        "BOUNDING_BOX",
        Input=_widget(
            "BoundingBox",
            f"{_SHOWN} default component force_input",
            socketless=True,
            default=_BOX,
        ),
    ),
    new_type(
        "BoundingBoxes",
        "BOUNDING_BOXES",
        Input=_widget("BoundingBoxes", _LISTED, socketless=True, default=[]),
    ),
    new_type("Curve", "CURVE", Input=CurveInput),
    new_type(
        "Range",
        "RANGE",
        Input=_widget(
            "Range",
            f"{_SHOWN} default display gradient_stops show_midpoint midpoint_scale value_min "
            "value_max advanced",
            socketless=True,
            default={"min": 0.0, "max": 1.0},
        ),
    ),
)
#: The types that have nothing but a name.
_PLAIN = """
Image=IMAGE Mask=MASK Latent=LATENT Conditioning=CONDITIONING Sampler=SAMPLER Sigmas=SIGMAS
Noise=NOISE Guider=GUIDER Clip=CLIP ControlNet=CONTROL_NET Vae=VAE Model=MODEL
ModelPatch=MODEL_PATCH ClipVision=CLIP_VISION ClipVisionOutput=CLIP_VISION_OUTPUT
BackgroundRemoval=BACKGROUND_REMOVAL AudioEncoder=AUDIO_ENCODER
AudioEncoderOutput=AUDIO_ENCODER_OUTPUT StyleModel=STYLE_MODEL Gligen=GLIGEN
UpscaleModel=UPSCALE_MODEL LatentUpscaleModel=LATENT_UPSCALE_MODEL Audio=AUDIO Video=VIDEO SVG=SVG
LoraModel=LORA_MODEL LossMap=LOSS_MAP Voxel=VOXEL Mesh=MESH Splat=SPLAT File3DAny=FILE_3D
File3DGLB=FILE_3D_GLB File3DGLTF=FILE_3D_GLTF File3DFBX=FILE_3D_FBX File3DOBJ=FILE_3D_OBJ
File3DSTL=FILE_3D_STL File3DUSDZ=FILE_3D_USDZ File3DPLY=FILE_3D_PLY File3DSPLAT=FILE_3D_SPLAT
File3DSPZ=FILE_3D_SPZ File3DKSPLAT=FILE_3D_KSPLAT File3DSplatAny=FILE_3D_SPLAT_ANY
File3DPointCloudAny=FILE_3D_POINT_CLOUD_ANY Hooks=HOOKS HookKeyframes=HOOK_KEYFRAMES
TimestepsRange=TIMESTEPS_RANGE LatentOperation=LATENT_OPERATION FlowControl=FLOW_CONTROL
Accumulation=ACCUMULATION Load3DCamera=LOAD3D_CAMERA Load3DModelInfo=LOAD3D_MODEL_INFO
Load3D=LOAD_3D Load3DAnimation=LOAD_3D_ANIMATION Photomaker=PHOTOMAKER Point=POINT
FaceAnalysis=FACE_ANALYSIS BBOX=BBOX SEGS=SEGS AnyType=* Tracks=TRACKS Dict=DICT Array=ARRAY
WanCameraEmbedding=WAN_CAMERA_EMBEDDING Histogram=HISTOGRAM
"""

#: All types by their name in Python.
TYPES: dict[str, Any] = {one.__name__: one for one in _WIDGETS}
TYPES |= {
    name: new_type(name, io_type)
    for name, _, io_type in (entry.partition("=") for entry in _PLAIN.split())
}
