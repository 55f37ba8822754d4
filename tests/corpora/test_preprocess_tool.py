"""The options of the tool, run in this process, since a new one takes half a second."""

import io
import json
import os
import runpy
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from megachar.data.corpus import Corpus
from tests.corpora.preprocessing_by_hand import pack, words_of

TOOL = str(Path(__file__).parents[2] / "tools" / "preprocess_data.py")
TEXT = b"to be or not to be\nthat is the question\n" * 200
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The exit status, output and errors of the tool, in a folder with some inputs."""
    (tmp_path / "text").write_bytes(TEXT)
    (tmp_path / "text.xz").write_bytes(pack(TEXT, "xz"))
    lines = [json.dumps({"content": line}) for line in TEXT.decode().splitlines()]
    (tmp_path / "lines.jsonl").write_text("\n".join([*lines, "oops"]))
    monkeypatch.chdir(tmp_path)

    def started(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [TOOL, *arguments])
        before = signal.getsignal(signal.SIGTERM)
        try:
            with pytest.raises(SystemExit) as stopped:
                runpy.run_path(TOOL, run_name="__main__")
        finally:
            signal.signal(signal.SIGTERM, before)
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), captured.out, captured.err

    return started


def decoded(folder: str) -> bytes:
    corpus = Corpus.open(Path(folder))
    return b"".join(corpus.vocabulary.decode(corpus.split(name).tokens) for name in corpus.split_names)


@pytest.mark.parametrize(
    ("options", "name", "size"),
    [
        ("", "bytes", 256),
        ("--documents line", "bytes", 256),
        ("--vocabulary used-bytes", "used-bytes", 14),
        ("--vocabulary characters", "characters", 14),
        ("--vocabulary characters --others bytes", "characters", 256 + 14),
        ("--vocabulary characters --others error", "characters", 14),
        ("--vocabulary characters --vocabulary-size 260", "characters", 260),
        ("--vocabulary sentencepiece --vocabulary-size 280 --model-type bpe", "sentencepiece", 280),
    ],
)
@pytest.mark.parametrize("source", ["text", "text.xz", "-"])
def test_texts_come_back(
    run: Run, options: str, name: str, size: int, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TEXT)))
    status, output, errors = run(source, "--output", "out", *options.split())
    assert (status, errors) == (0, "")
    assert "words" in output
    assert decoded("out") == TEXT
    card = Corpus.open(Path("out")).card
    assert (card.vocabulary.name, card.vocabulary.size) == (name, size)
    assert sum(split.num_bytes for split in card.splits.values()) == len(TEXT)
    assert card.sources[0].name == ("standard input" if source == "-" else source)
    assert sorted(path.name for path in Path().iterdir()) == ["lines.jsonl", "out", "text", "text.xz"]


def test_records(run: Run) -> None:
    status, output, _ = run("lines.jsonl", "--json-key", "content", "--skip-bad-lines", "--output", "out")
    assert status == 0
    assert "1 bad lines were left out" in output
    assert decoded("out") == TEXT.replace(b"\n", b"")
    card = Corpus.open(Path("out")).card
    assert card.documents == "record"
    assert sum(split.num_documents for split in card.splits.values()) == 400
    assert sum(split.num_words for split in card.splits.values()) == words_of(TEXT) - 400  # no line ends


def test_texts_for_each_split(run: Run) -> None:
    """Several names for one split are joined in their order, and a file that two of them mean is taken once."""
    Path("held.xz").write_bytes(pack(TEXT, "xz"))
    assert run("--train", "text*", "--train", "text", "--valid", "held.xz", "--output", "out")[0] == 0
    corpus = Corpus.open(Path("out"))
    assert [corpus.card.splits[name].num_documents for name in corpus.split_names] == [2, 1]
    assert corpus.vocabulary.decode(corpus.split("train").tokens) == TEXT * 2


def test_one_text_is_not_trained_and_tested_on(run: Run) -> None:
    """Not by another name either: a link, a glob or a folder that leads to it."""
    Path("link").symlink_to("text")
    for train, test in (("text", "text"), ("text", "link"), ("t*", "text.xz"), (".", "text")):
        status, _, errors = run("--train", train, "--test", test, "--output", "out")
        assert status == 2
        assert "is given to --train and to --test: a model that was trained on a text cannot be tested" in errors


def test_standard_input_is_named_in_messages(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what the user calls it, not by the file it is copied to."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TEXT)))
    status, _, errors = run("-", "--vocabulary", "text8", "--output", "out")
    assert (status, errors.split(":")[1]) == (2, " standard input, byte 18")


def test_names_that_are_no_utf8(run: Run) -> None:
    """They are shown escaped in the card, the table and in messages, all of which are UTF-8."""
    folder, name = os.fsdecode(b"corpus-\xff"), os.fsdecode(b"caf\xe9\n.txt")
    Path(name).write_bytes(TEXT)
    status, output, _ = run(name, "--output", folder)
    assert (status, "corpus-\\xff: vocabulary" in output) == (0, True)
    assert Corpus.open(Path(folder)).card.sources[0].name == r"caf\xe9\n.txt"
    status, _, errors = run(name, "--vocabulary", "text8", "--output", "out")
    assert (status, errors.split(":")[1]) == (2, r" caf\xe9\n.txt, byte 18")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("lines.jsonl --json-key text", "lines.jsonl, line 1: no key 'text'; its keys are: content"),
        ("lines.jsonl --json-key content", "lines.jsonl, line 401: not JSON"),
        ("text --vocabulary text8", r"text, byte 18: '\n' is none of the 27 symbols"),
        (
            "lines.jsonl --json-key txet --skip-bad-lines --split 100,0,0",
            "got no text: all of its lines are bad (401); ",
        ),
        ("text --json-key a --documents line", "--json-key is for --documents record, but the documents are 'line'"),
        ("text --skip-bad-lines", "--skip-bad-lines is for --documents record, but the documents are 'file'"),
        ("text --vocabulary-size 300", "--vocabulary-size 300 does not go with --vocabulary bytes"),
        ("text --vocabulary characters --model a", "--model a does not go with --vocabulary characters"),
        ("text --vocabulary characters --model-type bpe", "--model-type bpe does not go with"),
        ("text --vocabulary sentencepiece --others error", "--others error does not go with"),
        ("text --vocabulary sentencepiece --model a --vocabulary-size 300", "--vocabulary-size 300 is for training"),
        ("text --vocabulary sentencepiece --model a --model-type bpe", "--model-type bpe is for training"),
        ("text --vocabulary sentencepiece --model a", "the SentencePiece model a does not exist"),
        ("--train - --valid -", "standard input (-) is given to more than one split"),
        ("- -", "standard input (-) is given twice"),
        ("text --mpi --workers 2", "--mpi with --workers 2: the ranks are the workers"),
    ],
)
def test_what_is_refused(run: Run, arguments: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TEXT)))
    status, _, errors = run(*arguments.split(), "--output", "out")
    assert status == 2
    assert errors.startswith(("ConfigError: ", "DataError: "))
    assert message in errors
    assert errors.count("\n") == 1
    assert sorted(path.name for path in Path().iterdir()) == ["lines.jsonl", "text", "text.xz"]
