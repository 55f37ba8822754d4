"""Preparation the slow and plain way, to compare the real one with; and random texts of every kind."""

import bz2
import gzip
import io
import json
import lzma
import random
import sys
import zipfile
from pathlib import Path

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ALPHABET = 'aab c \n\n\té€𝄞中\u2581\x00\r"\\{}[],:0'


def random_string(draw: random.Random, most: int) -> str:
    """Up to `most` characters of one to four bytes, many of them such as tell documents and words apart."""
    return "".join(draw.choices(ALPHABET, k=draw.randrange(most + 1)))


def random_records(draw: random.Random, count: int) -> list[dict[str, object]]:
    """Records with a text and what may confuse a quick reader: other keys, nested ones of the same name, escapes."""
    records: list[dict[str, object]] = []
    for number in range(count):
        record: dict[str, object] = {"text": random_string(draw, 40)}
        if draw.random() < 0.3:
            record["meta"] = {"text": random_string(draw, 5), "n": [number, {"text": "x"}]}
        if draw.random() < 0.3:
            record = {"id": number / 7, "te\\xt": None, **record}
        records.append(record)
    return records


def json_lines(draw: random.Random, records: list[dict[str, object]], blanks: bool = True) -> bytes:
    """One record a line, some escaped and some not, some blank lines, at the end a newline or none."""
    lines = []
    for record in records:
        lines.append(json.dumps(record, ensure_ascii=draw.random() < 0.5))
        if blanks and draw.random() < 0.1:
            lines.append(draw.choice(["", "  ", "\r"]))
    return "\n".join(lines).encode() + b"\n" * draw.randrange(2)


def words_of(text: bytes) -> int:
    return len(text.split()) + text.count(b"\n")


def pack(content: bytes, packing: str) -> bytes:
    """A packed file."""
    if packing == "zip":
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("text", content)
        return buffer.getvalue()
    if packing == "zst":  # with a checksum, as the tool writes it
        return zstd.compress(content, options={zstd.CompressionParameter.checksum_flag: 1})
    packers = {"plain": bytes, "gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}
    return packers[packing](content)


def is_cut(text: bytes, place: int, cut: str) -> bool:
    """Whether a text may be cut before byte `place`."""
    if place in (0, len(text)) or cut == "anywhere":
        return True
    if cut == "lines":
        return text[place - 1] == 10
    if cut == "words":
        return text[place - 1] == 10 or text[place] == 32
    return text[place] & 0xC0 != 0x80


def split_documents(texts: list[bytes], shares: tuple[int, ...], documents: str, cut: str) -> dict[str, list[bytes]]:
    """The documents of each split: `texts` are joined and cut at shares of 100, each cut moved on to a legal place."""
    total = sum(map(len, texts))
    stops = [total * sum(shares[: n + 1]) // 100 for n in range(3)]
    found: dict[str, list[bytes]] = {name: [] for name in ("train", "valid", "test")}
    begin = 0
    for text in texts:
        start = 0
        for name, stop in zip(found, stops, strict=True):
            end = min(max(stop - begin, 0), len(text))
            end = max(next(p for p in range(end, len(text) + 1) if is_cut(text, p, cut)), start)
            piece = text[start:end]
            if documents == "file":
                found[name].append(piece)
            elif documents == "line":
                found[name] += _lines(piece)
            else:
                found[name] += [json.loads(line)["text"].encode() for line in piece.split(b"\n") if line.strip()]
            start = end
        begin += len(text)
    return {name: [text for text in pieces if text] for name, pieces in found.items()}


def _lines(piece: bytes) -> list[bytes]:
    return [line for line in piece.replace(b"\n", b"\n\0split\0").split(b"\0split\0") if line]


def tree(folder: Path) -> dict[str, bytes]:
    """Every file under `folder`, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
