"""V3 nodes for tests, loaded by the real ComfyUI and by the embedded server alike.

A file of ``custom_nodes``: it knows nothing of the tests, and needs no torch itself.
"""

from comfy_api.latest import ComfyAPISync, ComfyExtension, io, ui
from PIL import Image

FINGERPRINTS = iter(range(1000))


class Node(io.ComfyNode):
    """A node with a text as its output; subclasses say what it does."""

    INPUTS = staticmethod(list)
    MORE = staticmethod(dict)

    @classmethod
    def define_schema(cls):
        more = {"outputs": [io.String.Output("shown")], **cls.MORE()}
        return io.Schema(node_id=cls.__name__, category="tests/v3", inputs=cls.INPUTS(), **more)


class V3Text(Node):
    """Shows its arguments."""

    @staticmethod
    def INPUTS():
        return [
            io.String.Input("text", multiline=True, tooltip="Any text"),
            io.Int.Input("times", default=2, min=1, max=9, step=1),
            io.Float.Input("weight", default=0.5, min=0, max=1, step=0.1, round=0.01),
            io.Boolean.Input("loud", default=False, label_on="yes", label_off="no"),
            io.Combo.Input("size", options=["small", "large"], default="large"),
            io.MultiType.Input("any", types=[io.Int, io.String], optional=True),
        ]

    @classmethod
    def execute(cls, **given):
        shown = str(sorted(given.items()))
        return io.NodeOutput(shown, ui=ui.PreviewText(shown))


class V3Pictures(Node):
    """Previews and saves pictures."""

    @staticmethod
    def INPUTS():
        return [io.Image.Input("image"), io.String.Input("prefix", default="v3/a")]

    @staticmethod
    def MORE():
        outputs = [io.Image.Output("same"), io.Int.Output(display_name="count")]
        return {"outputs": outputs, "is_output_node": True}

    @classmethod
    def execute(cls, image, prefix):
        preview = ui.PreviewImage(image, cls=cls).as_dict()
        saved = ui.ImageSaveHelper.get_save_images_ui(image, prefix, cls=cls).as_dict()
        shown = {"images": preview["images"] + saved["images"], "animated": preview["animated"]}
        return io.NodeOutput(image, len(image), ui=shown)


class V3Animated(Node):
    """Saves pictures as an animation."""

    @staticmethod
    def INPUTS():
        return [
            io.Image.Input("image"),
            io.Image.Input("more"),
            io.Combo.Input("kind", options=["png", "webp"]),
        ]

    @staticmethod
    def MORE():
        return {"is_output_node": True}

    @classmethod
    def execute(cls, image, more, kind):
        images = [*image, *more]
        save = ui.ImageSaveHelper
        if kind == "png":
            shown = save.get_save_animated_png_ui(images, "v3/b", cls, fps=5.0, compress_level=4)
        else:
            shown = save.get_save_animated_webp_ui(
                images, "v3/b", cls, fps=5.0, lossless=True, quality=80, method=4
            )
        return io.NodeOutput("", ui=shown)


class V33D(Node):
    """Shows a model."""

    @staticmethod
    def MORE():
        return {"is_output_node": True}

    @classmethod
    def execute(cls):
        return io.NodeOutput("", ui=ui.PreviewUI3D("a.glb", {"zoom": 1}))


class V3Masks(Node):
    """Previews masks, without prompt and workflow."""

    @staticmethod
    def INPUTS():
        return [io.Mask.Input("mask")]

    @staticmethod
    def MORE():
        return {"is_output_node": True}

    @classmethod
    def execute(cls, mask):
        return io.NodeOutput("", ui=ui.PreviewMask(mask))


class V3Progress(Node):
    """Reports progress, of itself or of another node; 0.3.75 has no ``ComfyAPI().execution``."""

    @staticmethod
    def INPUTS():
        return [io.String.Input("of", default="")]

    @classmethod
    def execute(cls, of):
        execution = ComfyAPISync().execution
        picture = Image.new("RGB", (800, 400), "red")
        execution.set_progress(1, 3, node_id=of or None)
        execution.set_progress(2.5, 3, preview_image=picture)
        execution.set_progress(3, 3, preview_image=picture, ignore_size_limit=True)
        return io.NodeOutput("done")


class V3Hidden(Node):
    """Shows hidden inputs."""

    @staticmethod
    def MORE():
        return {"hidden": [io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo]}

    @classmethod
    def execute(cls):
        hidden = cls.hidden
        found = [hidden.unique_id, sorted(hidden.prompt), hidden.extra_pnginfo, hidden.dynprompt]
        return io.NodeOutput(str(found), ui={"text": [str(found)]})


class V3Even(Node):
    """Takes even numbers only."""

    @staticmethod
    def INPUTS():
        return [io.Int.Input("number", max=10)]

    @classmethod
    def validate_inputs(cls, number):
        return number % 2 == 0 or f"{number} is odd"

    @classmethod
    def execute(cls, number):
        return io.NodeOutput(str(number), ui={"text": [number]})


class V3Changing(Node):
    """Runs each time."""

    @classmethod
    def fingerprint_inputs(cls):
        return next(FINGERPRINTS)

    @classmethod
    def execute(cls):
        return io.NodeOutput("again", ui={"text": ["again"]})


class V3Either(Node):
    """Asks for one of two inputs."""

    @staticmethod
    def INPUTS():
        return [
            io.Boolean.Input("first"),
            io.String.Input("a", lazy=True, force_input=True),
            io.String.Input("b", lazy=True, force_input=True),
        ]

    @classmethod
    def check_lazy_status(cls, first, a=None, b=None):
        return ["a" if first else "b"]

    @classmethod
    def execute(cls, first, a=None, b=None):
        return io.NodeOutput(str([a, b]), ui={"text": [str([a, b])]})


class V3Expand(Node):
    """Expands, which its schema may not allow."""

    @staticmethod
    def MORE():
        return {"enable_expand": True}

    @classmethod
    def execute(cls):
        inner = {"class_type": "V3Even", "inputs": {"number": 4}}
        return io.NodeOutput(["inner", 0], expand={"inner": inner})


class V3ExpandNot(V3Expand):
    """Expands without leave."""

    MORE = staticmethod(dict)


class V3Block(Node):
    """Keeps the nodes behind it from running."""

    @classmethod
    def execute(cls):
        return io.NodeOutput("x", block_execution="enough")


class V3List(Node):
    """Gets and returns lists."""

    @staticmethod
    def INPUTS():
        return [io.Int.Input("numbers")]

    @staticmethod
    def MORE():
        return {"outputs": [io.Int.Output("more", is_output_list=True)], "is_input_list": True}

    @classmethod
    def execute(cls, numbers):
        found = [*numbers, 8, 9]
        return io.NodeOutput(found, ui={"text": found})


class V3Returned(Node):
    """Returns what is no NodeOutput; 0.3.75 fails on dicts."""

    @staticmethod
    def INPUTS():
        return [io.Combo.Input("kind", options=["tuple", "other", "text", "none"])]

    @classmethod
    def execute(cls, kind):
        return {
            "tuple": ("a",),
            "other": ("b",),
            "text": "c",
            "none": None,
        }[kind]


class V3Fail(Node):
    """Fails."""

    @classmethod
    def execute(cls):
        raise ValueError("failed as told")


class V3Keep(Node):
    """Sets an attribute of its class."""

    @classmethod
    def execute(cls):
        cls.kept = 1


class Nodes(ComfyExtension):
    """All of them."""

    async def get_node_list(self):
        return [one for one in globals().values() if _is_node(one)]


def _is_node(value):
    return isinstance(value, type) and issubclass(value, Node) and value is not Node


async def comfy_entrypoint():
    return Nodes()
