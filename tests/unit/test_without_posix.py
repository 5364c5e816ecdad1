"""What the lane without POSIX takes away, and that its tests are there."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from comfy_client.replacing import discard, replace
from tests.without_posix import FILES, TICK, in_steps, take_away

ROOT = Path(__file__).parent.parent.parent


def test_a_clock_goes_in_steps() -> None:
    """Between two ticks it stands still, and is never ahead."""
    times = iter([0.0, TICK / 2, TICK, 1.99 * TICK, 10.5])
    clock = in_steps(times.__next__)
    assert [clock() for _ in range(5)] == [0.0, 0.0, TICK, TICK, 10.5]


@pytest.mark.posix("what is taken away")
def test_functions_that_windows_lacks_are_taken_away(tmp_path: Path) -> None:
    """And is back afterwards, so that tests beside this one have it."""
    with pytest.MonkeyPatch.context() as patch:
        take_away(patch)
        assert not hasattr(os, "pread")
        assert not hasattr(os, "fork")
        assert not hasattr(signal, "SIGHUP")
        with pytest.raises(ImportError):
            import fcntl
        assert time.monotonic() % TICK == time.time() % TICK == 0
        assert os.environ["PYTHONIOENCODING"] == "cp1252"
    assert hasattr(os, "pread")
    import fcntl

    assert sys.modules["fcntl"] is fcntl


@pytest.mark.skipif(sys.platform != "linux", reason="the lane runs on Linux")
@pytest.mark.parametrize("name", ["a", "b"])
def test_the_client_neither_renames_nor_replaces_nor_removes_open_files(
    name: str, tmp_path: Path
) -> None:
    """Whichever of the two is open; once it is closed, it does."""
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(b"a")
    second.write_bytes(b"b")
    with pytest.MonkeyPatch.context() as patch:
        take_away(patch)
        with (tmp_path / name).open("rb"):
            with pytest.raises(PermissionError, match="another program may have it open"):
                replace(first, second)
            discard(tmp_path / name)
            assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}
        replace(first, second)
        discard(second)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("file", FILES)
def test_files_of_the_posix_lane_exist(file: str) -> None:
    """``.ci/run`` runs them."""
    assert (ROOT / file).exists()
    assert "-m tests.without_posix" in (ROOT / ".ci" / "run").read_text("utf-8")
