"""Turn text into a prepared corpus (`megachar.data.corpus`), in a stream: memory does not grow with the corpus.

The text is cut into units of work, in an order that depends on the inputs alone (`corpora.plan`); whoever encodes
a unit, its tokens are joined in that order, so any number of workers writes the same bytes.
"""

import errno
import os
import pickle
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from megachar.base.errors import DataError
from megachar.base.files import fsync_path
from megachar.corpora.copying import copy_text
from megachar.corpora.encoding import BLOCK_BYTES, Documents, Recipe, encode_unit, write_parts
from megachar.corpora.joining import Digest, SplitWriter, finish
from megachar.corpora.plan import (
    DEFAULT_SPLIT,
    UNIT_BYTES,
    SourceFile,
    Unit,
    cut_by_position,
    one_file_per_split,
    parse_split,
    units_of,
)
from megachar.corpora.workers import hash_source, in_order, local_processes, tell_to_stop
from megachar.data.corpus import CARD_NAME, FORMAT_VERSION, SPLIT_NAMES, CorpusCard, SourceCard, SplitCard, SplitName
from megachar.data.digests import Progress
from megachar.data.indexed_dataset import bin_path, idx_path
from megachar.data.pieces import MODEL_NAME
from megachar.data.vocabulary import ByteVocabulary, Vocabulary
from megachar.data.vocabulary_card import VocabularyCard

__all__ = [
    "DEFAULT_SPLIT", "Progress", "SourceFile", "check_output", "cut_by_position", "one_file_per_split", "parse_split",
    "prepare_corpus", "whole_folder", "write_card",
]  # fmt: skip

Writers = Mapping[SplitName, SplitWriter]


def prepare_corpus(
    sources: Sequence[SourceFile],
    output: Path,
    vocabulary: Vocabulary,
    *,
    documents: Documents = "file",
    json_key: str = "text",
    skip_bad_lines: bool = False,
    overwrite: bool = False,
    num_workers: int = 1,
    ranks: tuple[Executor, int] | None = None,
    chunk_bytes: int = BLOCK_BYTES,
    unit_bytes: int = UNIT_BYTES,
    durable: bool = True,
    progress: Progress | None = None,
) -> CorpusCard:
    """Write the corpus of `sources` to the folder `output` and return its card.

    `documents` says what one document is: a whole text (as far as it lies in one split), a line with its line end, or
    the text under `json_key` of a line of JSON. Lines belong to the split in which they begin. Work is done in this
    process, by `num_workers` processes, or by the executor and number of workers in `ranks`. `durable` waits until the
    data are on the disk. `progress` hears of the bytes that `plan.total_bytes` counts.

    The folder is built under a temporary name beside `output` and renamed when it is whole, so an interruption leaves
    neither half a corpus nor, with `overwrite`, a damaged old one. DataError where `output` exists (and not
    `overwrite`), would be replaced though it is no corpus, where a text cannot be encoded, or a source changes while it
    is read.
    """
    output = Path(output).resolve()  # through a symbolic link: what is replaced is the folder, not the link
    check_output(sources, output, overwrite)
    recipe = Recipe(vocabulary, documents, json_key, skip_bad_lines, chunk_bytes)
    report = progress or (lambda num_bytes: None)
    wanted = {split for source in sources for split, _ in source.pieces}
    with ExitStack() as stack:
        folder = stack.enter_context(whole_folder(output, durable))
        split_hashing, source_hashing, counting, syncing = (stack.enter_context(ThreadPoolExecutor(1)) for _ in "abcd")
        stack.enter_context(_stop_on_error(folder))
        writers: dict[SplitName, SplitWriter] = {}
        for name in SPLIT_NAMES:
            if name in wanted:
                prefix = folder / name
                writers[name] = SplitWriter(prefix, vocabulary.dtype, split_hashing, syncing if durable else None)
                stack.callback(writers[name].abandon)
        if _is_copy(sources, recipe):
            hashes = _copy(sources, writers, source_hashing, counting, report, chunk_bytes)
        else:
            units = units_of(sources, unit_bytes)
            if ranks is None and num_workers > 1 and len(units) > 1:
                ranks = (stack.enter_context(local_processes(min(num_workers, len(units)))), num_workers)
            if ranks is None:
                hashes = _encode_here(sources, units, recipe, writers, source_hashing, folder, report)
            else:
                hashes = _encode_elsewhere(sources, units, recipe, writers, ranks, folder, report)
        for source in sources:
            if source.text.is_plain and source.path.stat().st_size != source.num_bytes:
                raise DataError(f"{source.text} changed while it was read: try again once it is complete")
        splits = {split: writer.close() for split, writer in writers.items()}
        num_skipped = sum(writer.tally.num_skipped_lines for writer in writers.values())
        card = _card(sources, hashes, recipe, splits, num_skipped)
        write_card(folder, card, vocabulary, durable)
    return card


def _is_copy(sources: Sequence[SourceFile], recipe: Recipe) -> bool:
    """Whether the tokens of all sources are their bytes; then one process is as fast as the disk."""
    plain = all(source.text.is_plain for source in sources)
    return plain and recipe.documents == "file" and type(recipe.vocabulary) is ByteVocabulary


def _copy(
    sources: Sequence[SourceFile], writers: Writers, hashing: ThreadPoolExecutor, counting: ThreadPoolExecutor,
    report: Progress, block_bytes: int,
) -> dict[Path, str]:  # fmt: skip
    """Copy plain texts to their splits; the sha256 of each source file."""
    return {
        source.path: copy_text(number, source, writers, Digest(hashing), counting, report, block_bytes)
        for number, source in enumerate(sources)
    }


def _encode_here(
    sources: Sequence[SourceFile], units: Sequence[Unit], recipe: Recipe, writers: Writers, hashing: ThreadPoolExecutor,
    folder: Path, report: Progress,
) -> dict[Path, str]:  # fmt: skip
    """Encode all units in this process; the sha256 of each source file, computed by `hashing` meanwhile.

    Of a plain text that is one of what is read anyway; packed files are read a second time.
    """
    packed = {source.path for source in sources if not source.text.is_plain}
    hashed_apart = {path: hashing.submit(hash_source, path, folder) for path in packed}
    first_sources = {source.path: number for number, source in reversed(list(enumerate(sources)))}
    digests = {path: Digest(hashing) for path in first_sources if path not in packed}
    for unit in units:
        path = unit.text.path
        digest = digests.get(path) if first_sources[path] == unit.source else None
        for block in encode_unit(unit, recipe):
            if digest is not None:
                digest.update(block.read)
            writers[unit.segments[block.segment].split].append(unit.source, block)
            report(block.tally.num_done)
    return {
        path: digests[path].hexdigest() if path in digests else hashed_apart[path].result()
        for path in dict.fromkeys(source.path for source in sources)
    }


def _encode_elsewhere(
    sources: Sequence[SourceFile], units: Sequence[Unit], recipe: Recipe, writers: Writers, ranks: tuple[Executor, int],
    folder: Path, report: Progress,
) -> dict[Path, str]:  # fmt: skip
    """Let other processes encode the units, and join what they write; the sha256 of each source file."""
    executor, num_workers = ranks
    shared = pickle.dumps(recipe)
    paths = list(dict.fromkeys(source.path for source in sources))
    first_units = {path: next(n for n, unit in enumerate(units) if unit.text.path == path) for path in paths}

    def tasks() -> Iterator[tuple[Any, ...]]:
        for number, unit in enumerate(units):
            if first_units[unit.text.path] == number:
                yield hash_source, unit.text.path, folder
            yield write_parts, number, unit, shared, folder

    digests = []
    with closing(in_order(executor, num_workers, tasks(), folder)) as results:
        for result in results:
            if isinstance(result, str):
                digests.append(result)
                continue
            for part in result:
                writers[part.split].append_part(part)
                report(part.tally.num_done)
    return dict(zip(paths, digests, strict=True))


def _card(
    sources: Sequence[SourceFile], hashes: Mapping[Path, str], recipe: Recipe, splits: dict[SplitName, SplitCard],
    num_skipped: int,
) -> CorpusCard:  # fmt: skip
    names = {source.path: source.text.file_name for source in sources}
    return CorpusCard(
        format_version=FORMAT_VERSION,
        vocabulary=VocabularyCard(**recipe.vocabulary.card()),
        dtype=recipe.vocabulary.dtype.name,
        documents=None if recipe.documents == "file" else recipe.documents,
        num_skipped_lines=num_skipped or None,
        sources=tuple(
            SourceCard(name=names[path], num_bytes=path.stat().st_size, sha256=sha256)
            for path, sha256 in hashes.items()
        ),
        splits=splits,
    )


def write_card(folder: Path, card: CorpusCard, vocabulary: Vocabulary, durable: bool) -> None:
    """Write the card of a corpus into its folder, and the files of its vocabulary; with `durable`, down to the disk."""
    for name, content in {**vocabulary.files(), CARD_NAME: card.to_json().encode()}.items():
        with (folder / name).open("wb") as file:
            file.write(content)
            finish(file, durable)


@contextmanager
def _stop_on_error(folder: Path) -> Iterator[None]:
    """Tell those who still work for this corpus, threads and processes, that it is given up."""
    try:
        yield
    except BaseException:
        tell_to_stop(folder)
        raise


def check_output(sources: Sequence[SourceFile], output: Path, overwrite: bool) -> None:
    """DataError unless the folder `output` may be written: it is new, or a corpus and nothing else to overwrite."""
    if not output.exists():
        return
    if not overwrite:
        raise DataError(f"the output {output} exists already: choose another folder or add --overwrite")
    if not output.is_dir():
        raise DataError(f"--overwrite replaces corpora, but {output} is a file: choose another folder")
    prefixes = [output / name for name in SPLIT_NAMES]
    ours = {CARD_NAME, MODEL_NAME, *(path(prefix).name for prefix in prefixes for path in (bin_path, idx_path))}
    foreign = sorted(entry.name for entry in output.iterdir() if entry.name not in ours)
    if foreign:
        raise DataError(
            f"--overwrite would delete {output}, which holds what is no part of a corpus ({', '.join(foreign[:5])}"
            f"{', ...' if len(foreign) > 5 else ''}): choose another folder, or move those files away"
        )
    for source in sources:
        if source.path.resolve().is_relative_to(output):
            raise DataError(f"--overwrite would delete the input {source.path}: choose another output than {output}")


@contextmanager
def _room_on_disk(output: Path) -> Iterator[None]:
    """Turn the operating system's "no space left" into a message with the mend."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise DataError(
            f"no room for the corpus on the disk of {output.parent} ({error.strerror}): nothing was changed there; "
            "free some space or choose another --output"
        ) from None


@contextmanager
def whole_folder(output: Path, durable: bool) -> Iterator[Path]:
    """A new folder beside `output` that takes its name when the block ends well, and is removed otherwise."""
    unique = f"{os.getpid()}.{secrets.token_hex(4)}"
    building = output.with_name(f".{output.name}.new.{unique}")
    replaced = output.with_name(f".{output.name}.old.{unique}")
    try:
        building.mkdir(parents=True)
        with _room_on_disk(output):
            yield building
        if durable:
            fsync_path(building)
        if output.exists():
            output.rename(replaced)
        building.rename(output)
        if durable:
            fsync_path(output.parent)
    except BaseException:  # also Ctrl-C
        if replaced.exists() and not output.exists():
            replaced.rename(output)
        shutil.rmtree(building, ignore_errors=True)
        raise
    if replaced.exists():
        shutil.rmtree(replaced)
