"""The corpora that megachar knows by name: where they are published, what proves them right, how they are split.

Their publishers give hardly any hash. These are the ones that users of the corpora wrote down, independently of each
other, in several public projects. A file with another hash is refused: one that is wrong here would cost a download,
but would let no wrong text pass.
"""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from megachar.base.errors import ConfigError
from megachar.corpora.preparation import DEFAULT_SPLIT
from megachar.data.corpus import SplitName
from megachar.data.digests import Digest


@dataclass(frozen=True)
class Archive:
    """What is downloaded: one .zip, .tar or compressed .tar file."""

    addresses: tuple[str, ...]
    """The publisher's, tried in this order."""
    name: str
    digest: Digest
    num_bytes: int
    """Size of the file; a rough one where `about`."""
    about: bool = False

    @property
    def max_bytes(self) -> int:
        """A download is given up when it grows past this."""
        return 4 * self.num_bytes if self.about else self.num_bytes


@dataclass(frozen=True)
class TextFile:
    """A text to train on: a file in the archive, or several in the order of their names."""

    member: str
    """The end of its path in the archive; `*` stands for anything."""
    split: SplitName | None
    """The split that it is; None: all of the text, which is then cut by position."""
    digest: Digest | None = None
    """Of the text as published, its files joined; None where no hash of it is known."""
    num_members: int = 1

    def matches(self, path: str) -> bool:
        """Whether the archive's file `path` is this text, or a piece of it."""
        return fnmatchcase(path, self.member) or fnmatchcase(path, f"*/{self.member}")


@dataclass(frozen=True)
class NamedCorpus:
    """A corpus that is fetched by its name."""

    name: str
    summary: str
    license: str
    splits: str
    """How it is split, for people."""
    archive: Archive
    texts: tuple[TextFile, ...]
    text_bytes: int
    """Rough size of all texts together."""
    cut: str | None = None
    """Percentages of train, valid and test for a corpus of one text; None where each text is a split."""
    strip_lines: bool = False
    """Drop the spaces at both ends of each line."""
    vocabulary: Literal["bytes", "text8"] = "bytes"
    """What a token is in the figures that are published of it."""

    @property
    def verified_by(self) -> str:
        """Which hashes are known, for people."""
        algorithms = [text.digest.algorithm if text.digest else "" for text in self.texts]
        known = "/".join(dict.fromkeys(algorithms)) if all(algorithms) else "none known"
        return f"archive: {self.archive.digest.algorithm}\ntext: {known}"


def _mahoney(name: str, summary: str, num_bytes: int, archive: Digest, text: Digest) -> NamedCorpus:
    """10^8 characters of Wikipedia by Matt Mahoney; `num_bytes` are those of the archive."""
    file = f"{name}.zip"
    return NamedCorpus(
        name=name,
        summary=summary,
        license="Wikipedia's text: GFDL",
        splits="by position: bytes [0, 90M) train, [90M, 95M) valid, [95M, 100M) test",
        archive=Archive(
            tuple(f"{scheme}://mattmahoney.net/dc/{file}" for scheme in ("https", "http")), file, archive, num_bytes
        ),
        texts=(TextFile(name, None, text),),
        text_bytes=100_000_000,
        cut=DEFAULT_SPLIT,
        vocabulary="text8" if name == "text8" else "bytes",
    )


def _wikitext(split: SplitName, digest: Digest) -> TextFile:
    return TextFile(f"wiki.{split}.tokens", split, digest)


def _penn_treebank(split: SplitName, md5: str) -> TextFile:
    return TextFile(f"data/ptb.{split}.txt", split, Digest("md5", md5))


CORPORA: tuple[NamedCorpus, ...] = (
    _mahoney(
        "enwik8",
        "first 10^8 bytes of the English Wikipedia's XML of 3 March 2006 (Hutter Prize); 205 byte values occur",
        36_445_475,
        Digest("sha256", "547994d9980ebed1288380d652999f38a14fe291a6247c157c3d33d4932534bc"),
        Digest("sha256", "2b49720ec4d78c3c9fabaee6e4179a5e997302b3a70029f30f2d582218c024a8"),
    ),
    _mahoney(
        "text8",
        "10^8 characters of the same Wikipedia, cleaned to 27 symbols: a-z and the space",
        31_344_016,
        Digest("sha256", "a6640522afe85d1963ad56c05b0ede0a0c000dddc9671758a6cc09b7a38e5232"),
        Digest("md5", "3bea1919949baf155f99411df5fada7e"),
    ),
    NamedCorpus(
        name="wikitext2",
        summary="WikiText-2, tokenized, rare words as <unk> (Merity et al. 2016); its bytes as they are",
        license="Wikipedia's text: CC BY-SA",
        splits="its own three files",
        archive=Archive(
            # The paper's address (the second) has refused downloads since 2024; the first is its first author's.
            addresses=(
                "https://wikitext.smerity.com/wikitext-2-v1.zip",
                "https://s3.amazonaws.com/research.metamind.io/wikitext/wikitext-2-v1.zip",
            ),
            name="wikitext-2-v1.zip",
            digest=Digest("sha256", "92675f1d63015c1c8b51f1656a52d5bdbc33aafa60cc47a218a66e7ee817488c"),
            num_bytes=4_500_000,
            about=True,
        ),
        texts=(
            _wikitext("train", Digest("sha1", "863f29c46ef9d167fff4940ec821195882fe29d1")),
            _wikitext("valid", Digest("md5", "d756d22ab2310e7e60c094bea5c5a8eb")),
            _wikitext("test", Digest("md5", "781c9418ab9414bd09e4aad825aae752")),
        ),
        text_bytes=13_200_000,
    ),
    NamedCorpus(
        name="lm1b",
        summary="One Billion Word benchmark: shuffled sentences of news (Chelba et al. 2013)",
        license="news text of WMT 2011; none stated for the text",
        splits="train: all 99 training shards; valid: held-out shard 1; test: held-out shard 0, as published figures",
        archive=Archive(
            addresses=tuple(
                f"{scheme}://www.statmt.org/lm-benchmark/1-billion-word-language-modeling-benchmark-r13output.tar.gz"
                for scheme in ("https", "http")
            ),
            name="1-billion-word-language-modeling-benchmark-r13output.tar.gz",
            digest=Digest("sha256", "01ba60381110baf7f189dfd2b8374de371e8c9a340835793f190bdae9e90a34e"),
            num_bytes=1_792_209_805,
        ),
        texts=(
            TextFile("training-monolingual.tokenized.shuffled/news.en-*-of-00100", "train", num_members=99),
            TextFile("heldout-monolingual.tokenized.shuffled/news.en.heldout-00001-of-00050", "valid"),
            TextFile("heldout-monolingual.tokenized.shuffled/news.en.heldout-00000-of-00050", "test"),
        ),
        text_bytes=4_200_000_000,
    ),
    NamedCorpus(
        name="ptb",
        summary="Penn Treebank in Mikolov's preparation, 10,000 words, rare ones as <unk>; without the spaces at both "
        "ends of each line, as in its character version",
        license="text of the LDC and Dow Jones: see to your own right to use it",
        splits="its own three files",
        archive=Archive(
            addresses=(
                "https://www.fit.vut.cz/person/imikolov/public/rnnlm/simple-examples.tgz",
                "http://www.fit.vutbr.cz/~imikolov/rnnlm/simple-examples.tgz",
            ),
            name="simple-examples.tgz",
            digest=Digest("md5", "30177ea32e27c525793142b6bf2c8e2d"),
            num_bytes=34_869_662,
        ),
        texts=(
            _penn_treebank("train", "f26c4b92c5fdc7b3f8c7cdcb991d8420"),
            _penn_treebank("valid", "aa0affc06ff7c36e977d7cd49e3839bf"),
            _penn_treebank("test", "8b80168b89c18661a38ef683c0dc3721"),
        ),
        text_bytes=6_000_000,
        strip_lines=True,
    ),
)


def named_corpus(name: str) -> NamedCorpus:
    """The corpus `name`; ConfigError where megachar knows none of that name."""
    for corpus in CORPORA:
        if corpus.name == name:
            return corpus
    known = ", ".join(corpus.name for corpus in CORPORA)
    raise ConfigError(f"no corpus named {name!r}; known are {known}. For a text of your own: megachar corpus prepare")
