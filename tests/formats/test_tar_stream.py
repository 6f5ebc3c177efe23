"""Tar archives in pieces of any size, as `tarfile` writes them."""

import io
import tarfile
from collections.abc import AsyncIterator

import pytest

from app.core.errors import Invalid
from app.formats import tar_stream

FILES = {"1.dat": b"", "2.dat": b"x" * 511, "3.dat": b"y" * 512, "4" * 150 + ".dat": b"z" * 70_000, "ü.dat": b"abc"}
FORMATS = [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]


def archive(form: int = tarfile.PAX_FORMAT, files: dict[str, bytes] = FILES) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(content), 1.5
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


async def pieces(body: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


async def unpack(body: bytes, size: int, skip: str = "") -> dict[str, bytes]:
    found = {}
    async for name, content in tar_stream.members(pieces(body, size)):
        if name != skip:
            found[name] = b"".join([piece async for piece in content])
    return found


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("size", [1000, 512, 513, 1 << 20])
async def test_members_of_every_format(form: int, size: int) -> None:
    assert await unpack(archive(form), size) == FILES
    unread = {name: content for name, content in FILES.items() if name != "2.dat"}
    assert await unpack(archive(form), size, skip="2.dat") == unread


async def test_an_archive_without_its_end() -> None:
    body = archive(files={"1.dat": b"abc"})
    whole = body.rstrip(b"\0")
    assert await unpack(body[: len(whole) + -len(whole) % 512], 100) == {"1.dat": b"abc"}
    assert await unpack(b"", 1) == {}


@pytest.mark.parametrize("size", [7, 4096])
@pytest.mark.parametrize("cut", [100, 600, 1700])
async def test_damaged_archives_are_refused(size: int, cut: int) -> None:
    body = archive(tarfile.GNU_FORMAT, {"1.dat": bytes(1000)})
    with pytest.raises(Invalid):
        await unpack(body[:cut] if cut != 600 else b"nonsense" * 100, size)


@pytest.mark.parametrize("field", [b"abc", b"5 size=1\n", b"99 path=x\n", b"12 size=abc\n"])
async def test_damaged_extended_headers_are_refused(field: bytes) -> None:
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, len(field)
    body = header.tobuf(tarfile.USTAR_FORMAT) + field.ljust(512, b"\0") + archive(files={"1.dat": b"abc"})
    with pytest.raises(Invalid):
        await unpack(body, 512)
