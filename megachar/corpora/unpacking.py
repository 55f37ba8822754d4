"""Unpacking streams: all of a file, as the reference tool of its format takes it, or the place where it is damaged."""

import bz2
import io
import lzma
import sys
import zlib
from collections.abc import Callable
from typing import IO, Any

from megachar.base.errors import DataError
from megachar.corpora.packings import Packing

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PACKED_BYTES = 1 << 16


class _Gzip:
    """One stream of gzip, with its header and checksums, in the manner of the other unpackers."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)

    @property
    def eof(self) -> bool:
        return self._inflate.eof

    @property
    def needs_input(self) -> bool:
        return not self._inflate.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inflate.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inflate.decompress(self._inflate.unconsumed_tail + data, max_length)


def _zstd() -> Any:
    # Frames of `zstd --long=31` refer to what lies up to 2 GiB back; the memory for that is taken for such ones only.
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: 31})


# Each reads one stream, and says itself where that ends.
_UNPACKERS: dict[Packing, Callable[[], Any]] = {
    "gz": _Gzip,
    "bz2": bz2.BZ2Decompressor,
    "xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ),
    "zst": _zstd,
}
_REFUSALS = (zlib.error, lzma.LZMAError, zstd.ZstdError, OSError, ValueError)


class UnpackedStreams(io.RawIOBase):
    """The text of a packed file: that of all its streams, one after another.

    After a whole stream there may be the end, a further stream, or what the format allows as padding: zeros up to the
    end in gzip, zeros in fours in xz. DataError, with the number and place of the stream, where anything else follows
    or a stream is damaged or cut off.
    """

    def __init__(self, packed: IO[bytes], packing: Packing, name: str) -> None:
        """`name` is that of the text, for people."""
        self._packed, self._packing, self._name = packed, packing, name
        self._waiting = b""
        """Read from the file, and not part of the streams so far."""
        self._number = 0
        self._begin_stream()

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer`, or less of it at the end alone; the number of bytes."""
        view, filled = memoryview(buffer).cast("B"), 0
        while filled < len(view) and (text := self._next_text(len(view) - filled)):
            view[filled : filled + len(text)] = text
            filled += len(text)
        return filled

    def _next_text(self, most: int) -> bytes:
        """Up to `most` bytes of text; none at the end of the last stream."""
        while self._unpacker is not None:
            if self._unpacker.eof:
                self._waiting = self._unpacker.unused_data
                self._begin_stream()
                continue
            data = self._next_packed() if self._unpacker.needs_input else b""
            starved = self._unpacker.needs_input and not data
            try:
                text: bytes = self._unpacker.decompress(data, most)
            except _REFUSALS as error:
                raise self._damage(str(error)) from None
            if text:
                return text
            if starved and not self._unpacker.eof:
                raise self._damage("its end is missing")
        return b""

    def _begin_stream(self) -> None:
        """Turn to the next stream after any padding, or to none."""
        num_zeros = self._skip_zeros() if self._number and self._packing in ("gz", "xz") else 0
        self._waiting = self._waiting or self._next_packed()
        self._start = self._packed.tell() - len(self._waiting)
        self._number += 1
        only_at_end = self._packing == "gz"
        if num_zeros and (bool(self._waiting) if only_at_end else num_zeros % 4):
            raise self._damage(f"after {num_zeros:,} zeros, which are no padding there")
        self._unpacker = _UNPACKERS[self._packing]() if self._waiting else None

    def _skip_zeros(self) -> int:
        count = 0
        while data := self._next_packed():
            self._waiting = data.lstrip(b"\0")
            count += len(data) - len(self._waiting)
            if self._waiting:
                break
        return count

    def _next_packed(self) -> bytes:
        data, self._waiting = self._waiting or self._packed.read(PACKED_BYTES), b""
        return data

    def _damage(self, reason: str) -> DataError:
        return DataError(
            f"{self._name} is damaged or cut off in its stream {self._number}, which begins at byte {self._start:,} "
            f"({reason}): fetch or copy it again"
        )
