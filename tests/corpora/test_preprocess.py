"""Text is cut into splits exactly as asked, words are counted, and a failure leaves the corpus before as it was."""

import hashlib
import lzma
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from megachar.base.errors import DataError
from megachar.corpora import words
from megachar.corpora.preparation import (
    cut_by_position,
    one_file_per_split,
    parse_split,
    prepare_corpus,
)
from megachar.corpora.words import WordCounter
from megachar.data.corpus import Corpus
from megachar.data.vocabulary import ByteVocabulary
from tests.draws import fresh_rng

ROOT = Path(__file__).parents[2]
REAL_TEXT = ROOT.parent / "shared" / "data"


def random_text(size: int) -> bytes:
    """Bytes with plenty of whitespace of every kind, and of the bytes beside it."""
    letters = np.frombuffer(b"ab  \n\n\t\r\v\f\x08\x0e\x1c\x1f\x85\xa0\x00\xff", dtype=np.uint8)
    return bytes(fresh_rng().choice(letters, size=size))


def words_of(text: bytes) -> int:
    return len(text.split()) + text.count(b"\n")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def tree(folder: Path) -> dict[str, bytes]:
    """Every file under `folder`, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class FailingVocabulary(ByteVocabulary):
    """Bytes, with `action` called before the chunk number `at` is encoded."""

    def __init__(self, at: int, action: Callable[[], None]) -> None:
        self.remaining, self.action = at, action

    def encode(self, text: bytes) -> "np.ndarray":
        if self.remaining == 0:
            self.action()
        self.remaining -= 1
        return super().encode(text)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    (tmp_path / "text").write_bytes(random_text(1000))
    return tmp_path / "text"


@pytest.mark.parametrize("chunk_bytes", [1, 2, 3, 7, 64, 10_000])
def test_words_do_not_depend_on_the_chunks(chunk_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "_BLOCK_BYTES", 50)
    text = random_text(997)
    counter = WordCounter()
    for first in range(0, len(text), chunk_bytes):
        counter.update(np.frombuffer(text[first : first + chunk_bytes], dtype=np.uint8))
    assert counter.num_words == words_of(text)


@pytest.mark.parametrize("text", [b"", b"a", b" ", b"\n", b"a b", b" a", b"a\n", b"a\n\n b", b"\r\n"])
def test_words_of_short_texts(text: bytes) -> None:
    counter = WordCounter()
    counter.update(np.frombuffer(text, dtype=np.uint8))
    assert counter.num_words == words_of(text)


@pytest.mark.parametrize("chunk_bytes", [1, 13, 256, 1 << 20])
def test_one_text_cut_by_position(tmp_path: Path, chunk_bytes: int) -> None:
    content = random_text(1009)
    (tmp_path / "text").write_bytes(content)
    done: list[int] = []
    card = prepare_corpus(
        cut_by_position(tmp_path / "text"),
        tmp_path / "corpus",
        ByteVocabulary(),
        chunk_bytes=chunk_bytes,
        progress=done.append,
    )
    pieces = {"train": content[:908], "valid": content[908:958], "test": content[958:]}  # floor of 908.1 and 958.55
    assert list(card.splits) == list(pieces)
    corpus = Corpus.open(tmp_path / "corpus")
    assert corpus.card == card
    for name, piece in pieces.items():
        split = corpus.card.splits[name]  # type: ignore[index]
        assert (split.num_tokens, split.num_bytes, split.num_documents) == (len(piece), len(piece), 1)
        assert split.num_words == words_of(piece)
        assert split.sha256 == hashlib.sha256(piece).hexdigest()
        assert (tmp_path / "corpus" / f"{name}.bin").read_bytes() == piece
        assert corpus.split(name).tokens.tobytes() == piece
    (source,) = card.sources
    assert (source.name, source.num_bytes) == ("text", 1009)
    assert source.sha256 == hashlib.sha256(content).hexdigest()
    assert sum(done) == 1009
    assert names(tmp_path) == ["corpus", "text"]


def test_enwik8_is_cut_as_in_the_papers(tmp_path: Path) -> None:
    with (tmp_path / "enwik8").open("wb") as file:
        file.truncate(100_000_000)  # sparse: takes no room
    (source,) = cut_by_position(tmp_path / "enwik8", "90,5,5")
    assert source.pieces == (("train", 90_000_000), ("valid", 5_000_000), ("test", 5_000_000))


def test_splits_may_be_absent_or_fractional(text: Path) -> None:
    assert cut_by_position(text, "100,0,0")[0].pieces == (("train", 1000),)
    assert cut_by_position(text, "0, 50, 50")[0].pieces == (("valid", 500), ("test", 500))
    assert cut_by_position(text, "99.8,0.1,0.1")[0].pieces == (("train", 998), ("valid", 1), ("test", 1))


@pytest.mark.parametrize("split", ["", "90,10", "90,5,5,0", "a,b,c", "-5,100,5", "nan,50,50", "1e2,0,0", "1/1,0,99"])
def test_split_that_is_no_three_percentages(split: str) -> None:
    with pytest.raises(DataError, match=r"is not three non-negative percentages: .* 90,5,5"):
        parse_split(split)


@pytest.mark.parametrize(("split", "total"), [("90,5,4", "99"), ("90,5,5.5", "100.5"), ("0,0,0", "0")])
def test_split_that_does_not_add_up(split: str, total: str) -> None:
    with pytest.raises(DataError, match=rf"'{split}' adds up to {total} %, not 100"):
        parse_split(split)


def test_text_too_short_for_the_split(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"0123456789")
    with pytest.raises(DataError, match=r"has 10 bytes: too short to give the split 'valid' 5 % of it"):
        cut_by_position(tmp_path / "text")


def test_separate_files(tmp_path: Path) -> None:
    contents = {"train": random_text(500), "test": random_text(300)}
    for name, content in contents.items():
        (tmp_path / f"{name}.txt").write_bytes(content)
    files = {name: tmp_path / f"{name}.txt" for name in ("test", "train")}
    card = prepare_corpus(one_file_per_split(files), tmp_path / "corpus", ByteVocabulary(), chunk_bytes=64)  # type: ignore[arg-type]
    assert list(card.splits) == ["train", "test"]
    assert [source.name for source in card.sources] == ["train.txt", "test.txt"]
    for source, content in zip(card.sources, contents.values(), strict=True):
        assert source.sha256 == hashlib.sha256(content).hexdigest()
    corpus = Corpus.open(tmp_path / "corpus")
    for name, content in contents.items():
        assert corpus.split(name).tokens.tobytes() == content
        assert card.splits[name].num_words == words_of(content)  # type: ignore[index]


def test_inputs_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for read in (cut_by_position, lambda path: one_file_per_split({"valid": path})):
        with pytest.raises(DataError, match=r"the input .*nowhere does not exist"):
            read(tmp_path / "nowhere")
        with pytest.raises(DataError, match=r"the input .*empty is empty \(0 bytes\)"):
            read(tmp_path / "empty")
        with pytest.raises(DataError, match="holds no text"):
            read(tmp_path)
    with pytest.raises(DataError, match="no file to prepare"):
        one_file_per_split({})


def test_existing_output(text: Path) -> None:
    corpus = text.parent / "corpus"
    prepare_corpus(cut_by_position(text), corpus, ByteVocabulary())
    before = tree(corpus)
    with pytest.raises(DataError, match=r"the output .*corpus exists already: .* --overwrite"):
        prepare_corpus(cut_by_position(text), corpus, ByteVocabulary())
    assert tree(corpus) == before
    prepare_corpus(cut_by_position(text, "50,50,0"), corpus, ByteVocabulary(), overwrite=True)
    assert Corpus.open(corpus).split_names == ("train", "valid")
    assert names(corpus) == ["dataset.json", "train.bin", "train.idx", "valid.bin", "valid.idx"]
    assert names(text.parent) == ["corpus", "text"]


def test_overwrite_deletes_nothing_but_corpora(text: Path) -> None:
    home = text.parent / "home"
    home.mkdir()
    (home / "thesis.tex").write_text("years of work")
    with pytest.raises(DataError, match=r"would delete .*home, which .* no part of a corpus \(thesis\.tex\)"):
        prepare_corpus(cut_by_position(text), home, ByteVocabulary(), overwrite=True)
    with pytest.raises(DataError, match="is a file"):
        prepare_corpus(cut_by_position(text), text, ByteVocabulary(), overwrite=True)
    prepare_corpus(cut_by_position(text), text.parent / "corpus", ByteVocabulary())
    own = text.parent / "corpus" / "train.bin"
    with pytest.raises(DataError, match=r"would delete the input .*train\.bin"):
        prepare_corpus(cut_by_position(own), text.parent / "corpus", ByteVocabulary(), overwrite=True)
    assert (home / "thesis.tex").exists()
    assert own.exists()


def test_overwrite_through_a_link(text: Path) -> None:
    real, link = text.parent / "real", text.parent / "link"
    prepare_corpus(cut_by_position(text), real, ByteVocabulary())
    link.symlink_to(real)
    prepare_corpus(cut_by_position(text, "100,0,0"), link, ByteVocabulary(), overwrite=True)
    assert link.is_symlink()
    assert Corpus.open(real).split_names == ("train",)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("at", [0, 3, 9])
def test_failure_in_the_middle(text: Path, error: type[BaseException], old: bool, at: int) -> None:
    corpus = text.parent / "corpus"
    if old:
        prepare_corpus(cut_by_position(text, "60,40,0"), corpus, ByteVocabulary())
    before = tree(text.parent)

    def fail() -> None:
        raise error

    with pytest.raises(error):
        prepare_corpus(cut_by_position(text), corpus, FailingVocabulary(at, fail), overwrite=True, chunk_bytes=100)
    assert tree(text.parent) == before
    assert names(text.parent) == (["corpus", "text"] if old else ["text"])


def test_failure_while_renaming_puts_the_old_corpus_back(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = text.parent / "corpus"
    prepare_corpus(cut_by_position(text, "60,40,0"), corpus, ByteVocabulary())
    before = tree(text.parent)
    rename = Path.rename

    def fails_on_new(self: Path, target: Path) -> Path:
        if ".new." in self.name:
            raise OSError("no")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails_on_new)
    with pytest.raises(OSError, match="no"):
        prepare_corpus(cut_by_position(text), corpus, ByteVocabulary(), overwrite=True)
    assert tree(text.parent) == before


@pytest.mark.parametrize(
    ("size", "message"),
    [(200, "ended 700 bytes early"), (1500, "changed while it was read"), (950, "ended 50 bytes early")],
)
def test_input_that_changes_while_it_is_read(text: Path, size: int, message: str) -> None:
    vocabulary = FailingVocabulary(1, lambda: os.truncate(text, size))
    with pytest.raises(DataError, match=message):
        prepare_corpus(cut_by_position(text), text.parent / "corpus", vocabulary, chunk_bytes=100)
    assert names(text.parent) == ["text"]


# The tool itself, as users start it.


def command(*arguments: object) -> list[str]:
    return [sys.executable, str(ROOT / "tools" / "preprocess_data.py"), *map(str, arguments)]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}


def tool(*arguments: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=60, env=environment())


def test_tool(tmp_path: Path) -> None:
    content = random_text(20_000)
    path = tmp_path / "my [red]text"  # what rich would take for markup
    path.write_bytes(content)
    done = tool(path, "--output", tmp_path / "new" / "corpus", "--split", "80,10,10")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no bar where there is no terminal
    for word in ("train", "valid", "test", "16,000", "2,000", "words"):
        assert word in done.stdout
    corpus = Corpus.open(tmp_path / "new" / "corpus")
    assert corpus.split("train").tokens.tobytes() == content[:16_000]
    assert corpus.fingerprint in done.stdout

    again = tool(path, "--output", tmp_path / "new" / "corpus")
    assert again.returncode == 2
    assert again.stderr.startswith("DataError: the output")
    assert "--overwrite" in again.stderr
    assert again.stderr.count("\n") == 1  # one message on one line, no traceback

    (tmp_path / "held out").write_bytes(content)
    files = tool(
        "--train", path, "--test", tmp_path / "held out", "--output", tmp_path / "new" / "corpus", "--overwrite"
    )
    assert files.returncode == 0, files.stderr
    assert Corpus.open(tmp_path / "new" / "corpus").split_names == ("train", "test")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["[red]gone", "--output", "out"], "the input [red]gone does not exist"),
        (["text", "--train", "text", "--output", "out"], "together with --train"),
        (["--train", "text", "--split", "90,5,5", "--output", "out"], "--split 90,5,5 cuts one INPUT"),
        (["--output", "out"], "nothing to prepare"),
        (["text", "--split", "9,9,9", "--output", "out"], "adds up to 27 %"),
        (["text", "--output", "text/out"], "Not a directory"),
    ],
)
def test_tool_refuses(
    text: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process, since a new one takes half a second."""
    import runpy

    monkeypatch.chdir(text.parent)
    monkeypatch.setattr(sys, "argv", command(*arguments)[1:])
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as stopped:
            runpy.run_path(str(ROOT / "tools" / "preprocess_data.py"), run_name="__main__")
    finally:
        signal.signal(signal.SIGTERM, before)
    captured = capsys.readouterr()
    assert stopped.value.code == 2
    assert captured.err.startswith(("ConfigError: ", "DataError: "))
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert names(text.parent) == ["text"]


def test_terminated_tool_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "text"
    with path.open("wb") as file:
        file.truncate(2 << 30)  # sparse, and long enough to be met at work
    process = subprocess.Popen(command(path, "--output", tmp_path / "corpus"), env=environment())
    try:
        deadline = time.monotonic() + 30
        while len(names(tmp_path)) == 1 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        assert process.poll() is None
        process.terminate()
        assert process.wait(30) == 128 + signal.SIGTERM
    finally:
        process.kill()
    assert names(tmp_path) == ["text"]


def test_word_counts_of_real_text(tmp_path: Path) -> None:
    packed = REAL_TEXT / "wikitext2.valid.tokens.xz"
    if not packed.is_file():
        pytest.skip(f"{packed} is not beside this checkout")
    (tmp_path / "valid").write_bytes(lzma.decompress(packed.read_bytes()))
    chunk_bytes = 1000 + secrets.randbelow(100_000)
    sources = one_file_per_split({"valid": tmp_path / "valid"})
    split = prepare_corpus(sources, tmp_path / "corpus", ByteVocabulary(), chunk_bytes=chunk_bytes).splits["valid"]
    assert (split.num_bytes, split.num_words) == (1_121_681, 217_646)  # shared/data/README.md
