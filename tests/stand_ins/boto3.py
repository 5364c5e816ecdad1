"""As much of boto3 as the recipes use, with its names and types: S3, in the memory of a process.

It needs more than the tests should install.
"""

from __future__ import annotations

from typing import BinaryIO, Final

#: The most bytes of a part; that of boto3 is 8 MiB.
PART: Final = 1 << 10
#: Contents and their type, by bucket and key.
objects: dict[tuple[str, str], tuple[bytes, str]] = {}


class S3:
    """A client of it."""

    def upload_fileobj(
        self, Fileobj: BinaryIO, Bucket: str, Key: str, ExtraArgs: dict[str, str] | None = None
    ) -> None:
        """Store a file, which is read in parts."""
        start = Fileobj.tell()
        size = Fileobj.seek(0, 2) - start
        Fileobj.seek(start)
        parts = iter(lambda: Fileobj.read(PART), b"")
        content = b"".join(parts)
        assert len(content) == size
        objects[Bucket, Key] = content, (ExtraArgs or {}).get("ContentType", "")

    def generate_presigned_url(
        self, ClientMethod: str, Params: dict[str, str], ExpiresIn: int = 3600
    ) -> str:
        """Return a URL that allows to get an object."""
        return f"https://{Params['Bucket']}.s3.example/{Params['Key']}?X-Amz-Expires={ExpiresIn}"


def client(service_name: str) -> S3:
    """Return the client of a service."""
    assert service_name == "s3"
    return S3()
