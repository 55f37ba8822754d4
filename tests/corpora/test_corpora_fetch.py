"""Published corpora are fetched, unpacked and checked by hash; where that fails, nothing half-done is left."""

import hashlib
import io
import lzma
import secrets
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.request import ProxyHandler, build_opener

import numpy as np
import pytest

from megachar.base.errors import ConfigError, DataError
from megachar.corpora.downloads.download import Downloader, part_path
from megachar.corpora.downloads.fetch import Fetched, fetch_corpus
from megachar.corpora.downloads.registry import CORPORA, NamedCorpus, TextFile, named_corpus
from megachar.corpora.downloads.unpack import is_archive
from megachar.data.corpus import Corpus
from megachar.data.digests import Digest, hash_file
from tests.corpora.corpora_server import PlannedServer, file, status
from tests.draws import fresh_rng

REAL_TEXT = Path(__file__).parents[3] / "shared" / "data"

LM1B = "1-billion-word-language-modeling-benchmark-r13output"
PATHS = {
    "enwik8": {"enwik8": "enwik8"},
    "text8": {"text8": "text8"},
    "wikitext2": {f"wikitext-2/wiki.{split}.tokens": split for split in ("train", "valid", "test")},
    "ptb": {f"./simple-examples/data/ptb.{split}.txt": split for split in ("train", "valid", "test")},
    "lm1b": {
        f"{LM1B}/heldout-monolingual.tokenized.shuffled/news.en.heldout-00000-of-00050": "test",
        f"{LM1B}/heldout-monolingual.tokenized.shuffled/news.en.heldout-00001-of-00050": "valid",
    },
}
"""Where the texts lie in the archives as published -> the split; lm1b's training shards come on top."""

OTHERS = ("README", "data/notes.txt", "wikitext-2/", "simple-examples/data/ptb.char.train.txt",
          f"{LM1B}/heldout-monolingual.tokenized.shuffled/news.en.heldout-00002-of-00050")  # fmt: skip
"""What lies beside them and must be left alone."""


def random_text(size: int) -> bytes:
    letters = np.frombuffer(b"abcdefg <unk>\n\xc3\xa9  ", dtype=np.uint8)
    return bytes(fresh_rng().choice(letters, size=size))


def pack(path: Path, members: dict[str, bytes], kind: str) -> bytes:
    """An archive as its publisher would make it, members in no order; its bytes, also written to `path`."""
    shuffled = sorted(members, key=lambda name: secrets.randbits(30))
    packed = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in shuffled:
                archive.writestr(name, members[name])
    else:
        with tarfile.open(fileobj=packed, mode="w:gz") as stream:
            for name in shuffled:
                entry = tarfile.TarInfo(name)
                entry.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
                entry.size = 0 if name.endswith("/") else len(members[name])
                stream.addfile(entry, io.BytesIO(members[name]))
    path.write_bytes(packed.getvalue())
    return packed.getvalue()


class Published:
    """A small corpus, published like the real one of that name, with the hashes it has."""

    def __init__(self, name: str, folder: Path) -> None:
        real = named_corpus(name)
        self.members = {path: random_text(2000) for path in PATHS[name]}
        self.text: dict[str, bytes] = {split: self.members[path] for path, split in PATHS[name].items()}
        if name == "lm1b":
            shards = {
                f"{LM1B}/training-monolingual.tokenized.shuffled/news.en-{number:05}-of-00100": random_text(50)
                for number in range(1, 100)
            }
            self.members |= shards
            self.text["train"] = b"".join(shards.values())
        self.paths = {split: [path for path in self.members if PATHS[name].get(path, "train") == split]
                      for split in ("train", "valid", "test")}  # fmt: skip
        self.archive = folder / real.archive.name
        everything = {**self.members, **{other: b"no" * (not other.endswith("/")) for other in OTHERS}}
        content = pack(self.archive, everything, "zip" if real.archive.name.endswith("zip") else "tar")
        texts = []
        for text in real.texts:
            found = hashlib.md5(self.text[text.split or text.member]).hexdigest()
            texts.append(replace(text, digest=Digest("md5", found) if text.digest else None))
        digest = Digest("sha256", hashlib.sha256(content).hexdigest())
        self.corpus = replace(
            real,
            archive=replace(real.archive, digest=digest, num_bytes=len(content), addresses=()),
            texts=tuple(texts),
            text_bytes=10_000,
        )

    def unpack(self, folder: Path) -> Path:
        for name, content in self.members.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        return folder

    def check(self, output: Path) -> Corpus:
        """The prepared corpus has the right text in the right splits, and nothing else is left."""
        corpus = Corpus.open(output)
        assert corpus.split_names == ("train", "valid", "test")
        whole = self.text
        if len(whole) == 1:
            (text,) = whole.values()
            whole = {"train": text[:1800], "valid": text[1800:1900], "test": text[1900:]}
        if self.corpus.name == "ptb":
            whole = {split: b"\n".join(line.strip(b" ") for line in text.split(b"\n")) for split, text in whole.items()}
        for split, text in whole.items():
            assert corpus.split(split).tokens.tobytes() == text
        assert not [path for path in output.parent.iterdir() if path.name.startswith(".")]
        return corpus


def downloader() -> Downloader:
    return Downloader(attempts=2, timeout_seconds=20, pause_seconds=0, opener=build_opener(ProxyHandler({})))


def fetched_from(server: PlannedServer, published: Published, output: Path, **more: Any) -> Fetched:
    corpus = published.corpus
    archive = replace(corpus.archive, addresses=(f"{server.address}/{corpus.archive.name}",))
    return fetch_corpus(replace(corpus, archive=archive), output, downloader=downloader(), **more)


@pytest.fixture(params=[corpus.name for corpus in CORPORA])
def published(request: pytest.FixtureRequest, tmp_path: Path) -> Published:
    return Published(request.param, tmp_path)


@pytest.fixture
def enwik8(tmp_path: Path) -> Published:
    return Published("enwik8", tmp_path)


def test_download(published: Published, tmp_path: Path) -> None:
    content = published.archive.read_bytes()
    output = tmp_path / "data" / published.corpus.name
    with PlannedServer(file(content, sends=len(content) // 2), file(content)) as server:
        done = fetched_from(server, published, output)
        assert fetched_from(server, published, output, overwrite=True).card == done.card
        assert len(server.requests) == 2  # the second time the archive was there
    corpus = published.check(output)
    assert (corpus.card, done.is_verified) == (done.card, True)
    names = [Path(path).name for split in ("train", "valid", "test") for path in sorted(published.paths[split])]
    assert [source.name for source in done.card.sources] == (names or [output.name])
    assert done.archive == tmp_path / "data" / "downloads" / published.archive.name
    assert done.archive.read_bytes() == content
    assert sorted(path.name for path in output.parent.iterdir()) == sorted(["downloads", output.name])


def test_from_the_archive(published: Published, tmp_path: Path) -> None:
    renamed = published.archive.rename(tmp_path / "whatever")
    done = fetch_corpus(published.corpus, tmp_path / "out", source=renamed)
    published.check(tmp_path / "out")
    assert (done.archive, done.is_verified) == (None, True)


def test_from_a_folder(published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = published.unpack(tmp_path / "unpacked")
    done = fetch_corpus(published.corpus, tmp_path / "out", source=folder)
    published.check(tmp_path / "out")
    assert done.is_verified == (published.corpus.name != "lm1b")  # the only one whose texts' hashes are unknown
    deepest = next(path for path in folder.rglob("*") if path.is_file()).parent
    if published.corpus.name != "lm1b":
        monkeypatch.chdir(deepest)
        fetch_corpus(published.corpus, tmp_path / "out", source=Path(), overwrite=True)
        published.check(tmp_path / "out")


def test_from_the_text(enwik8: Published, tmp_path: Path) -> None:
    own = tmp_path / "mine.txt"
    own.write_bytes(enwik8.text["enwik8"])
    fetch_corpus(enwik8.corpus, tmp_path / "out", source=own)
    assert enwik8.check(tmp_path / "out").card.sources[0].name == "mine.txt"


@pytest.mark.parametrize("split", ["train", "valid", "test"])
@pytest.mark.parametrize("name", ["wikitext2", "ptb"])
def test_wrong_text(name: str, split: str, tmp_path: Path) -> None:
    published = Published(name, tmp_path)
    path = next(path for path in published.members if split in path)
    published.members[path] += b"!"
    folder = published.unpack(tmp_path / "unpacked")
    found = hashlib.md5(published.members[path]).hexdigest()
    with pytest.raises(DataError, match=rf"{split}.* is not the file it should be: its md5 is {found}, not \w+; get "):
        fetch_corpus(published.corpus, tmp_path / "out", source=folder)
    pack(published.archive, published.members, "zip")
    with pytest.raises(DataError, match=f"its md5 is {found}, not"):
        fetch_corpus(published.corpus, tmp_path / "out", source=published.archive)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([published.archive.name, "unpacked"])


def test_archive_repacked(published: Published, tmp_path: Path) -> None:
    """Another archive of the right texts will do, where the texts' hashes are known."""
    pack(published.archive, published.members, "tar")
    if published.corpus.name == "lm1b":
        with pytest.raises(DataError, match=r"tar\.gz is not the file it should be: its sha256 is"):
            fetch_corpus(published.corpus, tmp_path / "out", source=published.archive)
        assert not (tmp_path / "out").exists()
    else:
        fetch_corpus(published.corpus, tmp_path / "out", source=published.archive)
        published.check(tmp_path / "out")


def test_member_missing(published: Published, tmp_path: Path) -> None:
    gone = secrets.choice(sorted(published.members))
    del published.members[gone]
    text = next(text for text in published.corpus.texts if text.matches(gone))
    folder = published.unpack(tmp_path / "unpacked")
    folder.mkdir(exist_ok=True)
    message = f"{text.num_members - 1} of the {text.num_members} files .* of {published.corpus.name} were found"
    with pytest.raises(DataError, match=message):
        fetch_corpus(published.corpus, tmp_path / "out", source=folder)
    assert not (tmp_path / "out").exists()


def test_damaged_archives(published: Published, tmp_path: Path) -> None:
    """Whatever byte is wrong or missing: a DataError, or the right text."""
    content = bytearray(published.archive.read_bytes())
    seed = secrets.randbits(32)
    random = np.random.default_rng(seed)
    corpus = published.corpus
    if corpus.name == "lm1b":  # so that it gets past the archive's hash
        texts = (replace(text, digest=Digest("md5", _md5_of(published, text))) for text in corpus.texts)
        corpus = replace(corpus, texts=tuple(texts))
    for _ in range(8 if corpus.name == "lm1b" else 25):
        damaged = bytearray(content)
        if random.integers(2):
            damaged[int(random.integers(len(damaged)))] ^= int(random.integers(1, 256))
        else:
            del damaged[int(random.integers(1, len(damaged))) :]
        published.archive.write_bytes(damaged)
        try:
            fetch_corpus(corpus, tmp_path / "out", source=published.archive, overwrite=True)
        except DataError:
            continue
        except Exception as error:
            pytest.fail(f"seed {seed}: {error!r}")
        published.check(tmp_path / "out")


def _md5_of(published: Published, text: TextFile) -> str:
    return hashlib.md5(published.text[text.split or text.member]).hexdigest()


def test_sources_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"--from .*nowhere does not exist"):
        fetch_corpus(named_corpus("text8"), tmp_path / "out", source=tmp_path / "nowhere")
    (tmp_path / "wiki.train.tokens").write_bytes(b"abc")
    message = r"is one file, but wikitext2 is made from several \(wiki.train.tokens, .*give wikitext-2-v1\.zip or the f"
    with pytest.raises(DataError, match=message):
        fetch_corpus(named_corpus("wikitext2"), tmp_path / "out", source=tmp_path / "wiki.train.tokens")
    with pytest.raises(DataError, match="is one file, but lm1b is made from several"):
        fetch_corpus(named_corpus("lm1b"), tmp_path / "out", source=tmp_path / "wiki.train.tokens")
    with pytest.raises(DataError, match="is not the file it should be: its md5 is 900150983cd24fb0d6963f7d28e17f72"):
        fetch_corpus(named_corpus("text8"), tmp_path / "out", source=tmp_path / "wiki.train.tokens")


def test_failed_download_leaves_no_output(enwik8: Published, tmp_path: Path) -> None:
    with PlannedServer(status(404)) as server, pytest.raises(DataError, match=r"enwik8\.zip could not be downloaded"):
        fetched_from(server, enwik8, tmp_path / "data" / "enwik8")
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["downloads"]


def test_existing_output(enwik8: Published, tmp_path: Path) -> None:
    """Refused before anything is downloaded; replaced only by a whole corpus."""
    output = tmp_path / "out"
    fetch_corpus(enwik8.corpus, output, source=enwik8.archive)
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    with PlannedServer(status(404)) as server:
        with pytest.raises(DataError, match=r"the output .*out exists already: .* --overwrite"):
            fetched_from(server, enwik8, output)
        assert server.requests == []
        with pytest.raises(DataError, match="could not be downloaded"):
            fetched_from(server, enwik8, output, overwrite=True)
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before


def test_no_room(enwik8: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=3000))
    with PlannedServer(status(404)) as server:
        with pytest.raises(DataError, match="has room for 3,000 bytes, but 20,000 are needed"):
            fetched_from(server, enwik8, tmp_path / "out")
        assert server.requests == []
    with pytest.raises(DataError, match="10,000 are needed"):
        fetch_corpus(enwik8.corpus, tmp_path / "out", source=enwik8.archive)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("title", ["Unpacking", "Verifying", "Preparing"])
def test_interrupts_leave_nothing(error: type[BaseException], title: str, enwik8: Published, tmp_path: Path) -> None:
    class Stage:
        def __init__(self, name: str, num_bytes: int | None) -> None:
            self.name = name

        def __enter__(self) -> Any:
            return self.advance

        def __exit__(self, *more: object) -> None:
            pass

        def advance(self, done: int) -> None:
            if self.name.startswith(title):
                raise error

    before = sorted(tmp_path.iterdir())
    with pytest.raises(error):
        fetch_corpus(enwik8.corpus, tmp_path / "out", source=enwik8.archive, stage=Stage)  # type: ignore[arg-type]
    assert sorted(tmp_path.iterdir()) == before


def test_interrupted_download_is_kept(enwik8: Published, tmp_path: Path) -> None:
    content = enwik8.archive.read_bytes()

    def cut(titles: list[str]) -> None:
        with PlannedServer(file(content, sends=100)) as server, pytest.raises(DataError):
            fetched_from(server, enwik8, tmp_path / "data" / "enwik8")

    cut([])
    part = part_path(tmp_path / "data" / "downloads" / "enwik8.zip")
    assert part.read_bytes() == content[:200]
    with PlannedServer(file(content)) as server:
        fetched_from(server, enwik8, tmp_path / "data" / "enwik8")
    assert server.ranges == ["bytes=200-"]


def test_names_that_come_twice(enwik8: Published, tmp_path: Path) -> None:
    """As in an archive that was appended to: the last one counts."""
    entries = [b"old", enwik8.text["enwik8"]]
    with tarfile.open(enwik8.archive, "w:gz") as archive:
        for content in entries:
            entry = tarfile.TarInfo("enwik8")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    fetch_corpus(enwik8.corpus, tmp_path / "out", source=enwik8.archive)
    enwik8.check(tmp_path / "out")


def test_paths_in_an_archive_lead_nowhere(tmp_path: Path) -> None:
    """Nothing is written where an archive says, only where we say."""
    published = Published("enwik8", tmp_path)
    text = published.text["enwik8"]
    pack(published.archive, {"../../../escaped/enwik8": text}, "tar")
    fetch_corpus(published.corpus, tmp_path / "a" / "b" / "out", source=published.archive)
    published.check(tmp_path / "a" / "b" / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "enwik8.zip"]


def test_registry() -> None:
    assert [corpus.name for corpus in CORPORA] == ["enwik8", "text8", "wikitext2", "lm1b", "ptb"]
    for corpus in CORPORA:
        assert corpus.archive.addresses
        assert all(address.startswith(("https://", "http://")) for address in corpus.archive.addresses)
        assert all(address.endswith("/" + corpus.archive.name) for address in corpus.archive.addresses)
        for digest in [corpus.archive.digest, *(text.digest for text in corpus.texts if text.digest)]:
            empty = hashlib.new(digest.algorithm).hexdigest()
            assert len(bytes.fromhex(digest.hexadecimal)) == len(bytes.fromhex(empty))
            assert digest.hexadecimal.islower() or digest.hexadecimal.isdecimal()
    with pytest.raises(ConfigError, match=r"no corpus named 'enwik9'; known are enwik8, text8, wikitext2, lm1b, ptb"):
        named_corpus("enwik9")


@pytest.mark.parametrize("name", ["enwik8", "text8", "wikitext2", "lm1b", "ptb"])
def test_registry_finds_the_published_names(name: str) -> None:
    corpus: NamedCorpus = named_corpus(name)
    for path, split in PATHS[name].items():
        assert [text.split or text.member for text in corpus.texts if text.matches(path)] == [split]
    for other in OTHERS:
        assert not [text for text in corpus.texts if text.matches(other)]


def test_real_text_has_the_hash_of_the_registry(tmp_path: Path) -> None:
    packed = REAL_TEXT / "wikitext2.valid.tokens.xz"
    if not packed.is_file():
        pytest.skip(f"{packed} is not beside this checkout")
    (tmp_path / "valid").write_bytes(lzma.decompress(packed.read_bytes()))
    (text,) = (text for text in named_corpus("wikitext2").texts if text.split == "valid")
    assert text.digest is not None
    text.digest.check(hash_file(tmp_path / "valid", text.digest.algorithm), "valid", "")


def test_archives_are_known_by_their_content(tmp_path: Path) -> None:
    assert is_archive(Published("enwik8", tmp_path).archive)
    assert is_archive(Published("ptb", tmp_path).archive)
    for content in (b"", b"x", random_text(5000), b"PK\x03\x04" + random_text(2000)):
        (tmp_path / "text").write_bytes(content)
        assert not is_archive(tmp_path / "text")
