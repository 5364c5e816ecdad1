"""As much of Gradio as the recipe uses, with its names and types.

Gradio itself needs an older Pillow than the tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Self


class Error(Exception):
    """What Gradio shows as an error."""


class _Block:
    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...


class Blocks(_Block):
    def launch(self) -> None:
        """Would serve the page."""


class _Component:
    def __init__(self, *, label: str) -> None: ...


class Textbox(_Component): ...


class Image(_Component): ...


class Dependency: ...


class Button:
    def __init__(self, value: str) -> None: ...

    def click(
        self,
        fn: Callable[..., Iterator[Any]] | None,
        inputs: _Component | list[_Component] | None = None,
        outputs: _Component | list[_Component] | None = None,
        *,
        cancels: Dependency | list[Dependency] | None = None,
    ) -> Dependency:
        return Dependency()
