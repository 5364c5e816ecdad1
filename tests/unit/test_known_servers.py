"""Commands of hints, as they are pasted into the shells of Windows."""

from __future__ import annotations

import pytest

from comfy_client.cli.exits import line


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        (r"C:\me\out.png", r"C:\me\out.png"),
        ("http://127.0.0.1:8188", "http://127.0.0.1:8188"),
        ("a fox", '"a fox"'),
        ("it's", '"it\'s"'),
        ("a,b", '"a,b"'),  # PowerShell makes two words of it
        ("@a", '"@a"'),
        ("a&calc", '"a&calc"'),
        ("a;calc", '"a;calc"'),
        ("^", '"^"'),
        ("", '""'),
        ("C:\\a b\\", '"C:\\a b\\\\"'),
    ],
)
def test_words_are_quoted_for_both_shells_of_windows(word: str, shown: str) -> None:
    """Neither cmd.exe nor PowerShell heeds a character of theirs."""
    assert line(word, platform="win32") == shown


@pytest.mark.parametrize(
    "word", ['"&calc', "%PATH%", "$(calc)", "`a", "\u201d;calc;\u201c", "\u201e"]
)
def test_words_that_no_quotes_protect_are_left_out(word: str) -> None:
    """An id of another user is not obeyed by either."""
    assert line("job", word, platform="win32") == "job ..."
    assert line("job", word, platform="linux") != "job ..."
