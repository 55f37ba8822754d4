"""How content is packed, as its first bytes tell: what is unpacked here, and what has to be unpacked beforehand."""

import re
import tarfile
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

from megachar.base.errors import DataError

Packing = Literal["plain", "gz", "bz2", "xz", "zst", "zip"]

HEAD_BYTES = 512
"""First bytes of a content that tell its packing; a tar's header is the longest."""

_PACKINGS: dict[Packing, tuple[str, bytes]] = {
    "gz": (".gz", rb"\x1f\x8b"),
    # "BZh" alone could begin a text; a block or the end of the stream follows the level.
    "bz2": (".bz2", rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"),
    "xz": (".xz", rb"\xfd7zXZ\0"),
    "zst": (".zst", rb"(\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18)"),  # a frame, or one to skip, with which pzstd begins
    "zip": (".zip", rb"PK(\x03\x04|\x05\x06|\x07\x08|00PK)"),
}
"""Packing -> the suffix that promises it, and what its content begins with."""


@dataclass(frozen=True)
class _Foreign:
    """A packing that is not read here."""

    name: str
    suffixes: tuple[str, ...]
    start: bytes | None
    """What its content begins with, as a regular expression; None: nothing that tells, so that its suffix has to."""
    mend: str

    def begins(self, head: bytes) -> bool:
        """Whether content that begins with `head` is packed so."""
        if self is _TAR:
            return _is_tar(head)
        return self.start is not None and re.match(self.start, head, re.DOTALL) is not None


_EXPORT = "export its texts as JSON lines"
_TAR = _Foreign("a tar archive", (".tar",), b"", "unpack it (tar -xf) and give the folder, or pack that with zip")
_FOREIGN = (
    _TAR,
    _Foreign("a 7-Zip archive", (".7z",), rb"7z\xbc\xaf\x27\x1c", "unpack it (7z x) and give the folder"),
    _Foreign("a RAR archive", (".rar",), rb"Rar!\x1a\x07", "unpack it (unrar x) and give the folder"),
    _Foreign("a cpio archive", (".cpio",), rb"07070[127][0-7]{6}", "unpack it (cpio -i) and give the folder"),
    _Foreign("an ar archive", (".deb",), rb"!<arch>\n", "unpack it (ar x) and give the folder"),
    _Foreign("a cabinet", (".cab",), rb"MSCF\0{4}", "unpack it (cabextract) and give the folder"),
    _Foreign("an LZ4 file", (".lz4",), rb"(\x04\x22\x4d|\x02\x21\x4c)\x18", "unpack it (lz4 -d)"),
    _Foreign("an lzip file", (".lz",), rb"LZIP\x01", "unpack it (lzip -d)"),
    _Foreign("an lzop file", (".lzo",), rb"\x89LZO\0\r\n\x1a\n", "unpack it (lzop -d)"),
    # No magic, but the size of a dictionary, and that of the text, whose upper bytes are all ones or zeros.
    _Foreign("an LZMA file", (".lzma",), rb"\]\0\0..(\xff{8}|.{5}\0{3})", "unpack it (xz -d --format=lzma)"),
    _Foreign("a file of compress", (".Z",), rb"\x1f\x9d", "unpack it (gzip -d)"),
    _Foreign("a file of pack", (), rb"\x1f\x1e", "unpack it (gzip -d)"),
    _Foreign("a Zstandard file of before 2016", (), rb"[\x1e\x22-\x27]\xb5\x2f\xfd", "unpack it with an old zstd"),
    _Foreign("a Zstandard dictionary", (), rb"\x37\xa4\x30\xec", "leave it out"),
    _Foreign("a Brotli file", (".br",), None, "unpack it (brotli -d)"),
    _Foreign("a Snappy file", (".snappy",), rb"\xff\x06\0\0sNaPpY", "unpack it (snzip -d)"),
    _Foreign("a Parquet table", (".parquet",), rb"PAR[1E]", _EXPORT),
    _Foreign("an Arrow table", (".arrow", ".feather"), rb"(ARROW1\0\0|FEA1)", _EXPORT),
    _Foreign("an Arrow stream", (), rb"\xff{4}..\0\0\x10\0\0\0", _EXPORT),
    _Foreign("an ORC table", (".orc",), rb"ORC[\0-\x08\x0b\x0c\x0e-\x1f]", _EXPORT),
    _Foreign("an Avro file", (".avro",), rb"Obj\x01", _EXPORT),
    _Foreign("an HDF5 file", (".h5", ".hdf5"), rb"\x89HDF\r\n\x1a\n", _EXPORT),
    _Foreign("a NumPy array", (".npy",), rb"\x93NUMPY", _EXPORT),
    _Foreign("an SQLite database", (".sqlite",), rb"SQLite format 3\0", _EXPORT),
    _Foreign("a PDF document", (".pdf",), rb"%PDF-[0-9]", "extract its text (pdftotext)"),
)


def packing_of(name: str, head: bytes, where: object) -> Packing:
    """How a content is packed that is called `name` and begins with `head` (`HEAD_BYTES`, or all of it).

    The content decides; a suffix that it contradicts is a DataError about `where`, and so is a packing that is known
    but not read here.
    """
    for packing, (_, start) in _PACKINGS.items():
        if re.match(start, head, re.DOTALL):
            return packing
    suffix = PurePath(name).suffix
    for foreign in _FOREIGN:
        if foreign.begins(head) or (foreign.start is None and suffix in foreign.suffixes):
            raise DataError(f"{where} is {foreign.name}, which is not read here: {foreign.mend}")
    promises = {promised for promised, _ in _PACKINGS.values()}.union(*(foreign.suffixes for foreign in _FOREIGN))
    if suffix in promises or suffix.lower() in promises:
        raise DataError(f"{where} ends in {suffix} but is not packed so: rename it, or fetch it again")
    return "plain"


def _is_tar(head: bytes) -> bool:
    """Whether `head` is the header of a member of a tar, old or new: it carries a checksum of itself."""
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True
