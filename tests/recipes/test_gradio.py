"""The recipe for Gradio: its generator, called as Gradio calls it; the page is a stand-in.

With Gradio 6.31 itself, by hand: Stop, and closing the page, cancelled the job within 0.2 s.
"""

from __future__ import annotations

import sys

import pytest

from comfy_client.testing import ComfyServer
from tests.guide import STAND_INS
from tests.helpers.clients import LIMIT
from tests.recipes.conftest import Load


@pytest.fixture(autouse=True)
def _gradio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(STAND_INS)])


def test_previews_and_the_picture_are_shown(comfy: ComfyServer, load: Load) -> None:
    """Each with a sentence on how far it is."""
    *shown, (picture, status) = load("Gradio")["paint"]("a mill")
    assert status.startswith("succeeded")
    assert picture.size == (64, 64)
    assert picture.format == "PNG"
    assert {preview.format for preview, _ in shown if preview is not None} == {"JPEG"}


def test_stopping_the_generator_cancels_the_job(comfy: ComfyServer, load: Load) -> None:
    """Or leaves: the generator is closed, at whatever place."""
    painting = load("Gradio")["paint"]("forever")
    next(shown for shown in painting if shown[0] is not None)
    painting.close()
    comfy.until(lambda: not comfy.running, LIMIT)
    assert len(comfy.ran) == 1


def test_an_error_is_one_of_gradio(comfy: ComfyServer, load: Load) -> None:
    """Which shows its text."""
    names = load("Gradio")
    with pytest.raises(names["gr"].Error, match="no such mill"):
        list(names["paint"]("fail"))
