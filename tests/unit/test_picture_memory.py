"""Memory that pictures take: few bytes of a server can unpack to gigabytes.

Pillow's memory is seen by the system only, so that each is measured in a process of its own:
``python -m tests.unit.test_picture_memory array 5000 2`` writes how many MiB it took.
"""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from comfy_client import Sweep, SweepRow
from comfy_client.jobs.output import OutputFrame
from tests.helpers.long import few
from tests.unit.test_sweep_rows import result_of

#: Bytes of a pixel by the type of a PNG.
BYTES = {2: 3, 4: 2, 6: 4}


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(side: int, kind: int) -> bytes:
    packer, row = zlib.compressobj(), bytes(1 + side * BYTES[kind])
    data = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    head = struct.pack(">IIBBBBB", side, side, 8, kind, 0, 0, 0)
    chunks = chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def decode(call: str, data: bytes) -> object:
    if call != "grid":
        return getattr(OutputFrame("a.png", mime="image/png", data=memoryview(data)), call)()
    params = [{"KSampler.seed": seed} for seed in range(4)]
    rows = [SweepRow(n, point, "p", result_of({}, data)) for n, point in enumerate(params)]
    return Sweep(rows).grid()


def peak() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) >> 10


def main(call: str, side: str, kind: str) -> int:
    decode(call, png(8, int(kind)))  # what is imported does not count
    data = png(int(side), int(kind))
    before = peak()
    kept = decode(call, data)
    assert kept is not None
    return peak() - before


@pytest.mark.skipif(sys.platform != "linux", reason="/proc says how much a process took")
@pytest.mark.parametrize(
    ("call", "side", "kind", "most"),
    few(
        [
            ("pil", 5000, 2, 130),  # 96 MiB
            ("array", 5000, 2, 215),  # and 72 of the array
            ("array", 5000, 4, 250),  # grey with alpha becomes colours: 96, and 96 of the array
            ("grid", 5000, 2, 150),  # one at a time
            ("grid", 5000, 4, 280),  # and a copy, by which Pillow reduces what has alpha
            ("grid", 8_000, 6, 40),  # too large to look at: none is decoded
        ],
        1,
    ),
)
def test_a_picture_takes_its_pixels_and_little_more(
    call: str, side: int, kind: int, most: int
) -> None:
    command = [sys.executable, "-m", __name__, call, str(side), str(kind)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < most


if __name__ == "__main__":
    print(main(*sys.argv[1:]))
