"""What is packed is unpacked, in archives as in folders; what is not unpacked here is refused, wherever it lies."""

import io
import lzma
import tarfile
import zipfile
from pathlib import Path

import pytest

from megachar.base.errors import DataError
from megachar.corpora.inputs import find_inputs, open_text, unpacked_size, work_bytes
from tests.corpora.preprocessing_by_hand import pack

TEXT = b"to be or not to be\n" * 100


def tar(form: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar of one text."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        member = tarfile.TarInfo("text")
        member.size = len(TEXT)
        archive.addfile(member, io.BytesIO(TEXT))
    return buffer.getvalue()


def zip_of(members: dict[str, bytes]) -> bytes:
    """A zip archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


# Old tars have no magic: their mark is taken away, which changes their checksum.
OLD_TAR = bytearray(tar(tarfile.USTAR_FORMAT))
OLD_TAR[257:265] = bytes(8)
OLD_TAR[148:156] = b"%06o\0 " % (sum(OLD_TAR[:148]) + sum(OLD_TAR[156:512]) + 8 * 32)
FOREIGN = {
    "tar": (tar(), "a tar archive, which is not read here: unpack it .* and give the folder"),
    "gnu tar": (tar(tarfile.GNU_FORMAT), "a tar archive"),
    "old tar": (bytes(OLD_TAR), "a tar archive"),
    "lzma": (lzma.compress(TEXT, lzma.FORMAT_ALONE), "an LZMA file, which is not read here: unpack it"),
    "7z": (b"7z\xbc\xaf\x27\x1c" + TEXT, "a 7-Zip archive"),
    "rar": (b"Rar!\x1a\x07\x01\0" + TEXT, "a RAR archive"),
    "lz4": (b"\x04\x22\x4d\x18" + TEXT, "an LZ4 file"),
    "Z": (b"\x1f\x9d\x90" + TEXT, "a file of compress"),
    "parquet": (b"PAR1" + TEXT + b"PAR1", "a Parquet table, which is not read here: export its texts as JSON lines"),
    "arrow": (b"ARROW1\0\0" + TEXT, "an Arrow table"),
    "avro": (b"Obj\x01" + TEXT, "an Avro file"),
    "sqlite": (b"SQLite format 3\0" + TEXT, "an SQLite database"),
    "pdf": (b"%PDF-1.7\n" + TEXT, "a PDF document, which is not read here: extract its text"),
}


def read(path: Path) -> bytes:
    found = []
    for text in find_inputs([path]):
        with open_text(text) as file:
            found.append(file.read())
    return b"".join(found)


@pytest.mark.parametrize("kind", list(FOREIGN))
def test_what_is_not_unpacked_here_is_refused(tmp_path: Path, kind: str) -> None:
    """By its content, whatever its name; as a file, in a folder, in an archive, and packed once more."""
    content, message = FOREIGN[kind]
    ways = {"file": content, "folder/file": content, "archive": zip_of({"file": content})}
    ways |= {packing: pack(content, packing) for packing in ("gz", "bz2", "xz", "zst")}
    for way, packed in ways.items():
        path = tmp_path / way
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(packed)
        with pytest.raises(DataError, match=f"^.*{path}.* is {message}"):
            read(path.parent if way.startswith("folder") else path)


@pytest.mark.parametrize("outer", ["gz", "bz2", "xz", "zst"])
@pytest.mark.parametrize("inner", ["gz", "bz2", "xz", "zst", "zip"])
def test_what_is_packed_twice_is_refused(tmp_path: Path, outer: str, inner: str) -> None:
    """It would be trained on as bytes."""
    (tmp_path / "text").write_bytes(pack(pack(TEXT, inner), outer))
    with pytest.raises(DataError, match="text is packed twice: unpack it once yourself"):
        read(tmp_path / "text")


@pytest.mark.parametrize("packing", ["gz", "bz2", "xz", "zst"])
def test_packed_members_are_unpacked(tmp_path: Path, packing: str) -> None:
    """As in a folder; and what of them is damaged is named."""
    (tmp_path / "a.zip").write_bytes(zip_of({f"1.{packing}": pack(TEXT, packing), "2": b"plain"}))
    assert read(tmp_path / "a.zip") == TEXT + b"plain"
    packed, plain = find_inputs([tmp_path / "a.zip"])
    assert (unpacked_size(packed), work_bytes(packed)) == (len(TEXT), len(pack(TEXT, packing)))
    assert unpacked_size(plain) == work_bytes(plain) == 5
    (tmp_path / "a.zip").write_bytes(zip_of({"0": b"plain", "1": pack(TEXT, packing)[:-1]}))
    with pytest.raises(DataError, match=r"a\.zip, 1 is damaged or cut off in its stream 1, which begins at byte 0 \("):
        read(tmp_path / "a.zip")


def test_the_directory_of_an_archive_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For each member it would take the square of their number."""
    (tmp_path / "a.zip").write_bytes(zip_of({str(number): b"text" for number in range(50)}))
    opened: list[object] = []
    real = zipfile.ZipFile
    monkeypatch.setattr(zipfile, "ZipFile", lambda path: opened.append(path) or real(path))  # type: ignore[func-returns-value]
    assert read(tmp_path / "a.zip") == b"text" * 50
    assert len(opened) == 1


def test_damage_is_placed(tmp_path: Path) -> None:
    """By the stream and where that begins."""
    first = pack(b"first", "xz")
    (tmp_path / "text").write_bytes(first + b"garbage")
    message = rf"text is damaged or cut off in its stream 2, which begins at byte {len(first)} \(.*\): fetch or copy it"
    with pytest.raises(DataError, match=message):
        read(tmp_path / "text")


@pytest.mark.parametrize("name", ["text.7z", "text.tar", "text.PARQUET", "text.lz4", "text.xz", "text.GZ"])
def test_suffixes_that_promise_too_much(tmp_path: Path, name: str) -> None:
    """A download that failed is often a page of HTML by the name of an archive."""
    (tmp_path / name).write_bytes(b"<html>not found</html>")
    (tmp_path / "a.zip").write_bytes(zip_of({name: b"<html>not found</html>"}))
    for where in (name, "a.zip"):
        with pytest.raises(
            DataError, match=rf"{name} ends in \.\w+ but is not packed so: rename it, or fetch it again"
        ):
            find_inputs([tmp_path / where])


def test_archives_that_no_folder_could_be(tmp_path: Path) -> None:
    """Two files of a name, links, archives inside, encryption, methods that nobody knows."""
    link = zipfile.ZipInfo("link")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    path = tmp_path / "a.zip"
    path.write_bytes(zip_of({"a": b"one", "b": b"two"}).replace(b"b", b"a"))
    with pytest.raises(DataError, match=r"a\.zip, a is there twice: unpack the archive"):
        find_inputs([path])
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(link, "a")
    with pytest.raises(DataError, match=r"a\.zip, link is a link: pack what it leads to"):
        find_inputs([path])
    path.write_bytes(zip_of({"inner.zip": zip_of({"a": TEXT})}))
    with pytest.raises(DataError, match=r"a\.zip, inner\.zip is an archive in an archive: unpack the outer"):
        find_inputs([path])
    for offset, value, message in ((8, 1, "is encrypted: unpack the archive with"), (10, 97, "packed by method 97")):
        content = bytearray(zip_of({"a": TEXT}))
        content[content.rfind(b"PK\x01\x02") + offset] = value
        path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            find_inputs([path])


@pytest.mark.parametrize("text", [b"BZh9 is no archive", b"PK", b"]\0[", b"OR", b"ORC\n", b"7z", b"\0" * 600, b"07070"])
def test_texts_that_begin_like_packed_ones(tmp_path: Path, text: bytes) -> None:
    """Those are texts."""
    (tmp_path / "text").write_bytes(text)
    assert read(tmp_path / "text") == text
