"""A corpus by its name: downloaded or taken from the user's own file, verified, unpacked, split, and prepared."""

import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from megachar.base.errors import DataError
from megachar.corpora.downloads.download import Downloader, Stage, check_space, silent_stage
from megachar.corpora.downloads.registry import NamedCorpus, TextFile
from megachar.corpora.downloads.unpack import Members, check_text, extract_members, find_members, is_archive
from megachar.corpora.inputs import Input
from megachar.corpora.preparation import SourceFile, check_output, cut_by_position, one_file_per_split, prepare_corpus
from megachar.data.corpus import CorpusCard
from megachar.data.digests import hash_file
from megachar.data.vocabulary import ByteVocabulary, Vocabulary

MakeVocabulary = Callable[[Sequence[SourceFile]], Vocabulary]
"""From the texts and their splits to the vocabulary, which may be learned from them."""


@dataclass(frozen=True)
class Fetched:
    """What `fetch_corpus` did."""

    card: CorpusCard
    archive: Path | None
    """The archive that was downloaded, now or before; None where the user gave the source."""
    is_verified: bool
    """Whether a hash proves the text; False for the user's own folder of a corpus whose texts' hashes are unknown."""


def fetch_corpus(
    corpus: NamedCorpus,
    output: Path,
    *,
    source: Path | None = None,
    downloads: Path | None = None,
    make_vocabulary: MakeVocabulary = lambda sources: ByteVocabulary(),
    num_workers: int = 1,
    overwrite: bool = False,
    downloader: Downloader | None = None,
    stage: Stage = silent_stage,
) -> Fetched:
    """Prepare `corpus` in the folder `output`, in bytes or another vocabulary.

    It comes from the publisher by way of `downloads` (default: a folder of that name beside `output`), where the
    archive stays; or from `source`: the archive, the folder that it unpacks to, or the text of a corpus that is one.

    DataError where the download or the verification fails, or as in `prepare_corpus`; `output` is then as it was.
    """
    output = output.resolve()
    check_output([], output, overwrite)
    archive, is_verified = None, True
    if source is None:
        check_space(output.parent, 2 * corpus.text_bytes)
        downloads = output.parent / "downloads" if downloads is None else downloads
        archive = (downloader or Downloader()).fetch(corpus.archive, downloads / corpus.archive.name, stage)
        source = archive
    else:
        is_verified = _verify_source(corpus, source, stage)
    with _temporary_folder(output) as folder:
        found = _find_texts(corpus, source, folder, stage)
        texts = _check_texts(corpus, found, folder, stage)
        check_space(output.parent, sum(path.stat().st_size for paths in texts.values() for path in paths))
        # As they are, whatever their names or first bytes look like: `find_inputs` would look at those.
        if corpus.cut is None:
            files = {text.split: [Input(path) for path in paths] for text, paths in texts.items()}
            sources = one_file_per_split({split: inputs for split, inputs in files.items() if split is not None})
        else:
            sources = cut_by_position([Input(path) for paths in texts.values() for path in paths], corpus.cut)
        vocabulary = make_vocabulary(sources)
        with stage(f"Preparing {output.name}", sum(each.num_bytes for each in sources)) as progress:
            card = prepare_corpus(
                sources, output, vocabulary, overwrite=overwrite, num_workers=num_workers, progress=progress
            )
    return Fetched(card, archive, is_verified)


def _find_texts(corpus: NamedCorpus, source: Path, folder: Path, stage: Stage) -> dict[TextFile, Members]:
    """The files of each text, unpacked into `folder` where `source` is an archive."""
    if source.is_dir():
        return find_members(corpus, source)
    if is_archive(source):
        check_space(folder, corpus.text_bytes)
        with stage(f"Unpacking {source.name}", corpus.text_bytes) as progress:
            return extract_members(corpus, source, folder, progress)
    if len(corpus.texts) > 1:
        names = ", ".join(text.member for text in corpus.texts)
        raise DataError(
            f"--from {source} is one file, but {corpus.name} is made from several ({names}): "
            f"give {corpus.archive.name} or the folder that it unpacks to"
        )
    return {corpus.texts[0]: {source.name: source}}


def _verify_source(corpus: NamedCorpus, source: Path, stage: Stage) -> bool:
    """Whether the user's `source` can be proven right: by the texts' hashes later, or by the archive's now.

    DataError where it does not exist, or is an archive that only its own hash can prove, and has another.
    """
    if not source.exists():
        raise DataError(f"--from {source} does not exist: check its name")
    if all(text.digest is not None for text in corpus.texts):
        return True
    if source.is_dir() or not is_archive(source):
        return False
    digest = corpus.archive.digest
    with stage(f"Verifying {source.name}", source.stat().st_size) as progress:
        digest.check(hash_file(source, digest.algorithm, progress), source, f"; get {corpus.archive.name} again")
    return True


def _check_texts(
    corpus: NamedCorpus, found: dict[TextFile, Members], folder: Path, stage: Stage
) -> dict[TextFile, list[Path]]:
    """The files of each text, verified where its hash is known."""
    num_bytes = sum(path.stat().st_size for members in found.values() for path in members.values())
    with stage(f"Verifying the text of {corpus.name}", num_bytes) as progress:
        return {text: check_text(corpus, text, found[text], folder, progress) for text in corpus.texts}


@contextmanager
def _temporary_folder(output: Path) -> Iterator[Path]:
    """A folder beside `output` for unpacked text, which is gone afterwards."""
    folder = output.with_name(f".{output.name}.text.{secrets.token_hex(4)}.tmp")
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
