"""Which texts the names on a command line stand for, and how each is opened, packed or not."""

import gzip
import io
import random
import secrets
import sys
import zipfile
from pathlib import Path

import pytest

from megachar.base.errors import DataError
from megachar.corpora.inputs import Input, find_inputs, open_text, unpacked_size
from megachar.corpora.preparation import cut_by_position, prepare_corpus
from megachar.data.vocabulary import ByteVocabulary
from tests.corpora.preprocessing_by_hand import pack, random_string

PACKINGS = ("plain", "gz", "bz2", "xz", "zst", "zip")


def read(text: Input) -> bytes:
    with open_text(text) as file:
        return file.read()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.txt", "a.txt", "sub/c.txt", "sub/.hidden", ".git/d.txt", "B.txt"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (tmp_path / "in" / "empty.txt").touch()
    return tmp_path / "in"


def test_order_of_inputs(folder: Path) -> None:
    def names(*inputs: object) -> list[str]:
        return [text.path.relative_to(folder).as_posix() for text in find_inputs([str(name) for name in inputs])]

    assert names(folder) == ["B.txt", "a.txt", "b.txt", "sub/c.txt"]  # no hidden ones, no empty ones
    assert names(folder / "*.txt") == ["B.txt", "a.txt", "b.txt"]
    assert names(folder / "**" / "*.txt") == ["B.txt", "a.txt", "b.txt", "sub/c.txt"]
    assert names(folder / "b.txt", folder / "[aB].txt") == ["b.txt", "B.txt", "a.txt"]  # names keep their order
    (folder / "[x].txt").write_text("what looks like a glob but is a file")
    assert names(folder / "[x].txt") == ["[x].txt"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing*", r"nothing\* does not exist: check its name"),
        ("gone.txt", r"gone\.txt does not exist"),
        ("empty.txt", r"empty\.txt is empty \(0 bytes\)"),
        (".git/none", "none does not exist"),
    ],
)
def test_inputs_that_are_not_there(folder: Path, name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        find_inputs([folder / name])
    (folder / "void").mkdir()
    with pytest.raises(DataError, match="void holds no text"):
        find_inputs([folder / "void"])


def test_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = secrets.token_bytes(3000)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(gzip.compress(content))))
    (text,) = find_inputs(["-"], tmp_path / "spool")
    assert (str(text), text.packing, read(text)) == ("standard input", "gz", content)
    with pytest.raises(DataError, match=r"standard input \(-\) is given twice"):
        find_inputs(["-"], None)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    with pytest.raises(DataError, match="standard input is empty"):
        find_inputs(["-"], tmp_path / "spool")


@pytest.mark.parametrize("packing", PACKINGS)
def test_packed_texts(tmp_path: Path, packing: str) -> None:
    content = secrets.token_bytes(100_000)
    (tmp_path / "whatever").write_bytes(pack(content, packing))  # the content decides, not the name
    (text,) = find_inputs([tmp_path / "whatever"])
    assert (text.packing, text.member) == (("plain", "text") if packing == "zip" else (packing, None))
    assert read(text) == content
    assert unpacked_size(text) == len(content)


@pytest.mark.parametrize("packing", ["gz", "bz2", "xz", "zst"])
def test_several_streams_in_a_file(tmp_path: Path, packing: str) -> None:
    (tmp_path / "two").write_bytes(pack(b"first ", packing) + pack(b"second", packing))
    (text,) = find_inputs([tmp_path / "two"])
    assert read(text) == b"first second"


def test_zip_of_several_files(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        for name in ("b", "sub/a", "empty"):
            archive.writestr(name, "" if name == "empty" else name * 3)
    texts = find_inputs([tmp_path / "z.zip"])
    assert [(text.member, read(text)) for text in texts] == [("b", b"bbb"), ("sub/a", b"sub/a" * 3)]
    card = prepare_corpus(cut_by_position(texts, "100,0,0"), tmp_path / "out", ByteVocabulary())
    assert [source.name for source in card.sources] == ["z.zip"]
    assert card.splits["train"].num_documents == 2


@pytest.mark.parametrize("packing", PACKINGS[1:])
def test_damaged_archives(tmp_path: Path, packing: str) -> None:
    seed = secrets.randbits(32)
    draw = random.Random(seed)
    packed = pack(random_string(draw, 20_000).encode() + b"text", packing)
    path = tmp_path / f"text.{packing}"
    for case in range(30):
        path.write_bytes(packed[: draw.randrange(20, len(packed))])
        with pytest.raises(DataError, match=r"(is damaged or cut off .*: fetch or copy it again|not packed so)"):
            prepare_corpus(cut_by_position(path), tmp_path / "out", ByteVocabulary())
        flipped = bytearray(packed)
        flipped[draw.randrange(len(packed))] ^= 1 << draw.randrange(8)
        path.write_bytes(flipped)
        try:
            prepare_corpus(cut_by_position(path), tmp_path / f"out-{case}", ByteVocabulary())
        except DataError:
            pass  # or the flip was in what no checksum covers, such as a time stamp
        except Exception as error:
            raise AssertionError(f"seed {seed}, case {case}") from error
    assert not (tmp_path / "out").exists()


def test_suffix_that_is_not_true(tmp_path: Path) -> None:
    (tmp_path / "text.gz").write_text("not packed")
    with pytest.raises(DataError, match=r"text\.gz ends in \.gz but is not packed so"):
        find_inputs([tmp_path / "text.gz"])
    (tmp_path / "text").write_text("BZh9 is no archive")
    assert find_inputs([tmp_path / "text"])[0].packing == "plain"


def test_archive_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "text.xz").write_bytes(pack(b"", "xz"))
    with pytest.raises(DataError, match="the split 'train' got no text"):
        prepare_corpus(cut_by_position(tmp_path / "text.xz", "100,0,0"), tmp_path / "out", ByteVocabulary())
    with pytest.raises(DataError, match="has 0 bytes: too short"):
        cut_by_position(tmp_path / "text.xz")
