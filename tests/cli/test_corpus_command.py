"""`megachar corpus`, as a user calls it."""

import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from rich.console import Console

from megachar.base.errors import DataError
from megachar.cli import main
from megachar.cli.stages import Stages, errors_of_the_system
from megachar.corpora.downloads import registry
from megachar.corpora.preparation import cut_by_position, prepare_corpus
from megachar.data.corpus import Corpus
from megachar.data.digests import Digest
from megachar.data.vocabulary import ByteVocabulary
from tests.corpora.corpora_server import PlannedServer, file, stalling, status

ROOT = Path(__file__).parents[2]
TEXT = b"Alice was beginning to get very tired of sitting by her sister on the bank.\n" * 100


@dataclass(frozen=True)
class Done:
    status: int
    out: str
    err: str


Call = Callable[..., Done]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Call:
    """Runs `megachar corpus` with arguments in this process; a traceback would come through."""

    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["megachar", "corpus", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capfd.readouterr()
        colors = re.compile(r"\x1b\[[\d;]*m")
        return Done(int(stop.value.code or 0), colors.sub("", captured.out), colors.sub("", captured.err))

    return run


def refused(done: Done, message: str) -> None:
    assert done.status == 2
    assert re.search(message, done.err, re.DOTALL), done.err
    assert "Traceback" not in done.err


def publish(folder: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Make "enwik8" a small corpus at `address`; its archive."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("enwik8", TEXT)
    content = packed.getvalue()
    real = registry.named_corpus("enwik8")
    small = replace(
        real,
        archive=replace(
            real.archive,
            addresses=(f"{address}/enwik8.zip",),
            digest=Digest("sha256", hashlib.sha256(content).hexdigest()),
            num_bytes=len(content),
        ),
        texts=(replace(real.texts[0], digest=Digest("sha256", hashlib.sha256(TEXT).hexdigest())),),
        text_bytes=len(TEXT),
    )
    monkeypatch.setattr(registry, "CORPORA", (small, *registry.CORPORA[1:]))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.chdir(folder)
    return content


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    (tmp_path / "text").write_bytes(TEXT)
    prepare_corpus(cut_by_position(tmp_path / "text"), tmp_path / "corpus", ByteVocabulary())
    return tmp_path / "corpus"


def test_help_and_list(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    done = call("--help")
    assert done.status == 0
    assert all(command in done.out for command in ("list", "fetch", "inspect"))
    monkeypatch.setenv("COLUMNS", "80")
    done = call("list")
    assert done.status == 0
    for corpus in registry.CORPORA:
        assert corpus.name in done.out
        assert corpus.archive.addresses[0][:60] in done.out
        assert f"license: {corpus.license}" in done.out
    assert "known hashes: archive: sha256, text: none known" in done.out  # of lm1b
    assert "Hashes are those that users of the corpora recorded" in done.out


def test_fetch(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    with PlannedServer(status(404)) as server:
        content = publish(tmp_path, server.address, monkeypatch)
        refused(call("fetch", "enwik8"), r"DataError: enwik8\.zip could not be downloaded.*404 Not Found.*--from")
        server.plan[:] = [file(content)]
        done = call("fetch", "enwik8")
    assert done.status == 0, done.err
    assert "data/enwik8: vocabulary bytes (256)" in done.out
    assert "data/downloads/enwik8.zip is kept" in done.out
    assert Corpus.open(tmp_path / "data" / "enwik8").split("train").tokens.tobytes() == TEXT[: len(TEXT) * 9 // 10]
    refused(call("fetch", "enwik8"), "the output .* exists already: choose another folder or add --overwrite")
    done = call("fetch", "enwik8", "--from", "data/downloads/enwik8.zip", "--output", "other")
    assert (done.status, "NOT VERIFIED" in done.err) == (0, False)


def test_fetch_refuses(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(tmp_path, "http://127.0.0.1:9", monkeypatch)
    refused(call("fetch", "enwik8", "--vocabulary-size", "300"), "bytes is no learned vocabulary; leave it out")
    refused(call("fetch", "enwik9"), "ConfigError: no corpus named 'enwik9'; known are enwik8")
    refused(call("fetch", "enwik8", "--from", "gone"), "DataError: --from gone does not exist")
    refused(
        call("fetch", "enwik8", "--from", "gone", "--downloads", "x"), "ConfigError: --downloads x with --from gone"
    )
    (tmp_path / "wrong").write_bytes(TEXT[:-1])
    refused(
        call("fetch", "enwik8", "--from", "wrong"),
        r"DataError: wrong is not the file it should be: its sha256 is \w+, n",
    )
    message = "DataError: .*wrong.*: (Not a directory|File exists); mend that"
    refused(call("fetch", "enwik8", "--from", "wrong", "--output", "wrong/out"), message)


@pytest.mark.parametrize(
    ("vocabulary", "size"), [(None, 27), ("used-bytes", 16), ("characters", 16), ("sentencepiece", 290)]
)
def test_fetch_in_another_vocabulary(
    vocabulary: str | None, size: int, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where none is named text8 has its own 27 symbols."""
    text = b"the cat sat on the mat and the dog ran to the log " * 40
    real = registry.named_corpus("text8")
    digest = Digest("md5", hashlib.md5(text).hexdigest())
    small = replace(real, texts=(replace(real.texts[0], digest=digest),), text_bytes=len(text))
    monkeypatch.setattr(registry, "CORPORA", (small,))
    (tmp_path / "text8").write_bytes(text)
    learned = ["--vocabulary-size", size] if vocabulary == "sentencepiece" else []
    paths = ["--from", tmp_path / "text8", "--output", tmp_path / "out"]
    options = ["--vocabulary", vocabulary, *learned] if vocabulary else []
    done = call("fetch", "text8", *paths, *options)
    assert done.status == 0, done.err
    corpus = Corpus.open(tmp_path / "out")
    assert corpus.vocabulary.name == (vocabulary or "text8")
    assert corpus.vocabulary.size <= size
    train = corpus.vocabulary.decode(corpus.split("train").tokens)
    assert text.startswith(train)
    assert 1800 <= len(train) < 1805  # pieces do not span the cut, which moves to the next word
    done = call("inspect", tmp_path / "out", "--verify", "--windows", 1)
    assert done.status == 0, done.err
    assert "the cat sat on the mat" in done.out
    assert ("bits per byte" in done.out) == (vocabulary == "sentencepiece")


def test_fetch_from_a_folder_that_nothing_proves(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    real = registry.named_corpus("lm1b")
    few = replace(real, texts=(replace(real.texts[0], num_members=1), *real.texts[1:]), text_bytes=1000)
    monkeypatch.setattr(registry, "CORPORA", (few,))
    for text in few.texts:
        path = tmp_path / "lm1b" / text.member.replace("*", "00001")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(TEXT)
    done = call("fetch", "lm1b", "--from", tmp_path / "lm1b", "--output", tmp_path / "out")
    assert done.status == 0, done.err
    assert "NOT VERIFIED: no hash of the texts of lm1b is known" in done.err


def test_terminated_fetch_can_be_resumed(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    code = """
import sys
from dataclasses import replace
from megachar.corpora.downloads import registry
from megachar.cli import main
real = registry.named_corpus("enwik8")
archive = replace(real.archive, addresses=(sys.argv.pop(),), num_bytes=int(sys.argv.pop()))
registry.CORPORA = (replace(real, archive=archive, text_bytes=0),)
main()
"""
    with PlannedServer(stalling(b"", 0)) as server:
        content = publish(tmp_path, server.address, monkeypatch)
        server.plan[:] = [stalling(content, 100)]
        command = [sys.executable, "-c", code, "corpus", "fetch", "enwik8", str(len(content)), server.address]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(command, env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        part = tmp_path / "data" / "downloads" / "enwik8.zip.part"
        try:
            deadline = time.monotonic() + 30
            while (
                time.monotonic() < deadline and not (part.exists() and part.stat().st_size) and process.poll() is None
            ):
                time.sleep(0.02)
            process.terminate()
            _, error = process.communicate(timeout=20)
        finally:
            process.kill()
        assert process.returncode == 128 + signal.SIGTERM, error
        assert "Traceback" not in error
        assert part.read_bytes() == content[:100]
        server.plan[:] = [file(content, etag=None)]
        assert call("fetch", "enwik8").status == 0
        assert server.ranges == [None, "bytes=100-"]


def test_inspect(corpus: Path, call: Call, tmp_path: Path) -> None:
    done = call("inspect", corpus, "--split", "valid", "--windows", 2, "--window-tokens", 30, "--verify",
                "--json", tmp_path / "figures.json")  # fmt: skip
    assert done.status == 0, done.err
    parts = ("valid: sha256 is right", "measured on all 380 characters", "entropy of order 2", "xz -6", "made from")
    for expected in (*parts, "--- characters 0 to 30\n", "--- characters 350 to 380\n", f"{corpus}.valid.png"):
        assert expected in done.out
    assert "train: sha256" not in done.out  # not asked for
    assert TEXT[len(TEXT) * 9 // 10 :][:30].decode() in done.out
    assert (tmp_path / "corpus.valid.png").read_bytes().startswith(b"\x89PNG")
    values = json.loads((tmp_path / "figures.json").read_text())
    assert (values["split"], values["verified"], values["num_tokens"]) == ("valid", ["valid"], 380)
    assert values["card"]["splits"]["train"]["num_bytes"] == len(TEXT) * 9 // 10
    assert sum(values["sample"]["counts"]) == values["sample"]["num_tokens"] == values["sample"]["num_bytes"] == 380
    assert [set(entropy) for entropy in values["sample"]["entropies"]] == [{"bits", "seen_once"}] * 3
    assert Corpus.open(corpus).card  # nothing was put into its folder
    assert sorted(path.name for path in corpus.iterdir()) == sorted(
        ["dataset.json", *(f"{split}.{end}" for split in ("train", "valid", "test") for end in ("bin", "idx"))]
    )


def test_inspect_escapes(call: Call, tmp_path: Path) -> None:
    text = b"\x1b]0;owned\x07 [red]caf\xc3\xa9 \xff\x9b" * 20
    (tmp_path / "text").write_bytes(text)
    prepare_corpus(cut_by_position(tmp_path / "text", "100,0,0"), tmp_path / "corpus", ByteVocabulary())
    done = call("inspect", tmp_path / "corpus", "--sample", 10, "--format", "svg")
    assert done.status == 0, done.err
    assert (tmp_path / "corpus.train.svg").read_text().startswith("<?xml")
    assert r"\x1b]0;owned\x07 [red]café \xff\x9b" in done.out
    assert "\x1b" not in done.out
    assert f"measured on 10 of {len(text)} characters, spread evenly" in done.out


def test_inspect_a_dataset_without_a_card(corpus: Path, call: Call) -> None:
    done = call("inspect", corpus / "test")
    assert done.status == 0, done.err
    assert "no card" in done.out
    assert "unknown; taken for bytes" in done.out
    assert (corpus / "test.png").exists()
    refused(call("inspect", corpus / "test", "--verify"), "has no card with a sha256: there is nothing to verify it")


def test_inspect_finds_damage(corpus: Path, call: Call) -> None:
    (corpus / "test.bin").write_bytes((corpus / "test.bin").read_bytes().replace(b"A", b"B"))
    done = call("inspect", corpus, "--verify")
    refused(
        done, r"DataError: the split 'test' of .* the sha256 of test\.bin is \w{64}, but dataset\.json gives \w{64}"
    )
    assert "train: sha256 is right" in done.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "no corpus at nowhere"),
        (["corpus", "--split", "dev"], "has no split 'dev'"),
        (["corpus", "--windows", "-1"], "--windows -1 of --window-tokens 320"),
        (["corpus", "--sample", "0"], "a sample of 0 tokens is out of range"),
        (["corpus", "--json", "no/where.json"], r"--json no/where\.json: the folder no does not exist"),
        (["corpus", "--picture", "no/where.png"], r"--picture no/where\.png: the folder no does not exist"),
        (["corpus", "--picture", "a.svg"], r"--picture a\.svg is to be a png; set --format svg as well"),
        (["corpus", "--picture", "corpus"], "corpus: Is a directory; mend that"),
    ],
)
def test_inspect_refuses(
    corpus: Path, arguments: list[str], message: str, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(corpus.parent)
    refused(call("inspect", *arguments), message)


def test_commands_stay_light(tmp_path: Path) -> None:
    code = """
import sys
from megachar.cli import main
try:
    main()
except SystemExit:
    pass
print(sorted({"torch", "deepspeed", "matplotlib"} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, "corpus", "list"], capture_output=True, text=True, timeout=60, cwd=ROOT, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_stages_on_a_terminal_and_in_a_log() -> None:
    log = io.StringIO()
    stages = Stages(Console(file=log, width=100), seconds_between_lines=0)
    with stages("Downloading x [red]", 2_000_000) as advance:
        time.sleep(0.01)
        advance(1_000_000)
    assert re.fullmatch(r"Downloading x \[red\]: 1\.0 MB of 2\.0 MB, [\d.]+ MB/s, \d+ s left\n", log.getvalue())
    screen = io.StringIO()
    stages = Stages(Console(file=screen, force_terminal=True, width=100))
    with stages("Downloading x [red]", None) as advance:
        advance(1_000_000)
        stages.tell("cut [off]")
    assert "Downloading x [red]" in screen.getvalue()
    assert "cut [off]" in screen.getvalue()


def test_errors_of_the_system() -> None:
    message = "/full: No space left on device; mend that and try again"
    with pytest.raises(DataError, match=message), errors_of_the_system(Path("/full")):
        raise OSError(28, "No space left on device")
