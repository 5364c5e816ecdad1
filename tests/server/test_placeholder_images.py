"""The picture of the simulated sampler."""

from __future__ import annotations

import pytest
from PIL import ImageChops, ImageStat

from comfy_client.testing.images import draw


def test_a_placeholder_is_the_same_for_the_same_seed_and_prompt():
    """And another for another of them, or another place in the batch."""
    first = draw(64, 64, 7, "a lighthouse", 0, 1.0)
    assert first == draw(64, 64, 7, "a lighthouse", 0, 1.0)
    for other in ((8, "a lighthouse", 0), (7, "a tower", 0), (7, "a lighthouse", 1)):
        assert first != draw(64, 64, *other, 1.0)


def test_a_placeholder_comes_out_of_noise():
    """Each step is nearer to the finished picture."""
    done = draw(128, 128, 7, "", 0, 1.0)
    steps = [draw(128, 128, 7, "", 0, part / 4) for part in range(5)]
    away = [sum(ImageStat.Stat(ImageChops.difference(done, step)).mean) for step in steps]
    assert away == sorted(away, reverse=True)
    assert away[-1] == 0


def test_a_placeholder_is_labelled():
    """White on dark, at its foot."""
    picture = draw(256, 256, 7, "a lighthouse", 0, 1.0)
    foot = picture.crop((0, 220, 256, 256)).convert("L")
    assert foot.getextrema()[1] > 240
    assert ImageStat.Stat(foot).median[0] < 100


def test_a_preview_is_labelled_after_it_was_enlarged():
    """So the label is as sharp as on a picture of that size."""
    foot = (0, 456, 512, 512)
    preview = draw(64, 64, 7, "a lighthouse", 0, 1.0, box=512)
    picture = draw(512, 512, 7, "a lighthouse", 0, 1.0)
    letters = [one.crop(foot).convert("L").point(lambda v: v > 240) for one in (preview, picture)]
    assert letters[0] == letters[1]
    assert letters[0].getextrema() == (0, 1)


@pytest.mark.parametrize(("width", "is_labelled"), [(48, False), (64, True)])
def test_a_label_is_whole_or_left_out(width, is_labelled):
    """Of half a word nobody learns anything."""
    foot = draw(width, 64, 7, "", 0, 1.0).crop((0, 40, width, 64)).convert("L")
    assert (foot.getextrema()[1] > 240) == is_labelled


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (300, 8), (8, 2000), (3000, 16)])
@pytest.mark.parametrize("text", ["", "\udc00\n\x00\U0001f3e0 \u706f\u53f0", "word " * 1000])
def test_any_size_and_any_text_can_be_drawn(size, text):
    """Also what the font has no signs for, and a line that is too long."""
    assert draw(*size, 2**64 - 1, text, 0, 0.5).size == size
