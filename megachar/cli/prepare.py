"""`megachar corpus prepare`: text becomes a corpus folder for training."""

import shutil
import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from megachar.base.errors import ConfigError
from megachar.base.files import shown
from megachar.base.tables import print_table
from megachar.cli.inspection import splits_table
from megachar.cli.shared.groups import option, spread
from megachar.cli.stages import Stages, cleaned_up_on_termination, errors_of_the_system
from megachar.corpora.encoding import Documents, Recipe
from megachar.corpora.folders import Identity, identity
from megachar.corpora.inputs import STANDARD_INPUT, Input, find_inputs
from megachar.corpora.learning import learn_vocabulary
from megachar.corpora.plan import total_bytes
from megachar.corpora.preparation import (
    DEFAULT_SPLIT,
    SourceFile,
    check_output,
    cut_by_position,
    one_file_per_split,
    prepare_corpus,
)
from megachar.corpora.workers import mpi_ranks
from megachar.data.characters import CharacterVocabulary
from megachar.data.corpus import Corpus, SplitName
from megachar.data.pieces import ModelType, PieceVocabulary
from megachar.data.vocabulary import ByteVocabulary, Vocabulary

VocabularyName = Literal["bytes", "used-bytes", "text8", "characters", "sentencepiece"]
WHAT_A_TOKEN_IS = (
    "What a token is. bytes: any of the 256; used-bytes: one that occurs in the text (enwik8: 205); text8: the space "
    "and a-z; characters: a character of UTF-8; sentencepiece: a piece of a word."
)
Others = Literal["bytes", "error"]
ONE_SPLIT = "Texts for this split alone, instead of INPUT."
DEFAULT_PIECES = 8000
# SentencePiece holds the text it learns from in memory; characters are only counted.
LEARNED_BYTES = {"used-bytes": None, "characters": None, "sentencepiece": 32 << 20}

Inputs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="INPUT...",
        help="Texts that are joined and cut by position (see --split). Of folders and .zip archives all is read but "
        "hidden names, __MACOSX and empty files. Links are followed; the same file is read once, whatever names and "
        "links lead to it, and cannot be in two splits.",
    ),
]
Output = Annotated[Path, typer.Option(help="Folder of the corpus; it must not exist yet.")]
Workers = Annotated[int, typer.Option(min=1, help="Processes that encode. Plain text to bytes needs only one.")]
Mpi = Annotated[bool, typer.Option("--mpi", help="The ranks of this MPI job encode; rank 0 joins what they write.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing corpus once the new one is whole.")]


@dataclass(frozen=True)
class VocabularyChoice:
    """The options about the vocabulary."""

    vocabulary: VocabularyName = option("bytes", WHAT_A_TOKEN_IS)
    vocabulary_size: int | None = option(
        None,
        f"Tokens of a learned vocabulary. characters: with it 256 bytes and the most frequent ones; default: one "
        f"for each that occurs, in any split. sentencepiece: default: {DEFAULT_PIECES}.",
    )
    model: Path | None = option(None, "SentencePiece model to use; default: one is trained.")
    model_type: ModelType | None = option(None, "Kind of SentencePiece model to train; default: unigram.")
    others: Others | None = option(
        None,
        "What characters become that were not learned: their bytes, of which each is a token, or an error. "
        "[default: bytes with --vocabulary-size; without it every character is learned]",
    )

    def check(self) -> None:
        """ConfigError where an option does not go with the vocabulary."""
        name, size, pieces = self.vocabulary, self.vocabulary_size, self.vocabulary == "sentencepiece"
        for given, value, fits in (
            ("--vocabulary-size", size, pieces or name == "characters"),
            ("--model", self.model, pieces),
            ("--model-type", self.model_type, pieces),
            ("--others", self.others, name == "characters"),
        ):
            if value is not None and not fits:
                raise ConfigError(f"{given} {value} does not go with --vocabulary {name}: leave it out")
        for given, value in (("--vocabulary-size", size), ("--model-type", self.model_type)):
            if value is not None and self.model is not None:
                raise ConfigError(f"{given} {value} is for training, but --model {self.model} is given: leave one out")

    def make(self, sources: Sequence[SourceFile], recipe: Recipe) -> Vocabulary:
        """Load or learn the vocabulary; `recipe` says what the text of `sources` is."""
        name, size = self.vocabulary, self.vocabulary_size
        if name == "bytes":
            return ByteVocabulary()
        if name == "text8":
            return CharacterVocabulary.text8()
        if self.model is not None:
            return PieceVocabulary.load(self.model)
        if name == "sentencepiece" and size is None:
            size = DEFAULT_PIECES
        bytes_for_others = None if self.others is None else self.others == "bytes"
        return learn_vocabulary(
            sources, recipe, name, size, self.model_type or "unigram", bytes_for_others, LEARNED_BYTES[name]
        )


@dataclass(frozen=True)
class Splits:
    """How the texts that the command line names become splits."""

    split: str | None = option(
        None, f"Percentages of train,valid,test for INPUT, adding up to 100; default: {DEFAULT_SPLIT}."
    )
    train: list[str] | None = option(None, ONE_SPLIT)
    valid: list[str] | None = option(None, ONE_SPLIT)
    test: list[str] | None = option(None, ONE_SPLIT)

    def of(self, inputs: Sequence[str], spool: Path) -> list[SourceFile]:
        """The texts and their splits; ConfigError where they are named in two ways at once, or none is."""
        given: dict[SplitName, list[str] | None] = {"train": self.train, "valid": self.valid, "test": self.test}
        files = {name: names for name, names in given.items() if names}
        if inputs and files:
            options = ", ".join(f"--{name}" for name in files)
            raise ConfigError(f"INPUT ({' '.join(inputs)}) together with {options}: give one text or a file per split")
        if inputs:
            return cut_by_position(find_inputs(inputs, spool), DEFAULT_SPLIT if self.split is None else self.split)
        if not files:
            raise ConfigError("nothing to prepare: give an INPUT to cut, or a file to each of --train, --valid, --test")
        if self.split is not None:
            raise ConfigError(f"--split {self.split} cuts one INPUT, but {', '.join(files)} got files: leave it out")
        if sum(names.count(STANDARD_INPUT) for names in files.values()) > 1:
            raise ConfigError("standard input (-) is given to more than one split: name it once")
        found = {name: find_inputs(names, spool) for name, names in files.items()}
        _check_apart(found)
        return one_file_per_split(found)


def _check_apart(texts: Mapping[SplitName, Sequence[Input]]) -> None:
    """ConfigError where two splits are given the same file, by whatever names."""
    owners: dict[Identity, SplitName] = {}
    for split, found in texts.items():
        for text in found:
            owner = owners.setdefault(identity(text.path), split)
            if owner != split:
                raise ConfigError(
                    f"{text} is given to --{owner} and to --{split}: a model that was trained on a text cannot be "
                    "tested on it; give it to one of them, or cut it by position as INPUT"
                )


@dataclass(frozen=True)
class DocumentOptions:
    """What the texts consist of."""

    documents: Documents | None = option(None, "What one document is. Default: record with --json-key, else file.")
    json_key: str | None = option(None, "Inputs are lines of JSON, the text under this key. [default: text]")
    skip_bad_lines: bool = option(
        False, "Leave out and count lines that are no JSON or lack the key.", "--skip-bad-lines"
    )

    def recipe(self) -> Recipe:
        """What the text of the inputs is; ConfigError where the options contradict each other."""
        documents = self.documents or ("file" if self.json_key is None else "record")
        if documents != "record":
            for name, given in (("--json-key", self.json_key is not None), ("--skip-bad-lines", self.skip_bad_lines)):
                if given:
                    raise ConfigError(
                        f"{name} is for --documents record, but the documents are '{documents}': leave it out"
                    )
        return Recipe(ByteVocabulary(), documents, self.json_key or "text", self.skip_bad_lines)


@contextmanager
def spool_beside(output: Path) -> Iterator[Path]:
    """A place for standard input on the disk of the output, where there is room for it."""
    parent = next(folder for folder in output.resolve().parents if folder.is_dir())
    folder = Path(tempfile.mkdtemp(prefix=f".{output.name}.input.", dir=parent))
    try:
        yield folder / "text"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def table_of(corpus: Corpus) -> Table:
    """The sizes of every split, for people."""
    card = corpus.card
    title = Text(
        f"{shown(corpus.folder)}: vocabulary {card.vocabulary.name} ({card.vocabulary.size}), {corpus.fingerprint}"
    )
    table = splits_table(card)
    table.title = title
    if card.num_skipped_lines:
        table.caption = f"{card.num_skipped_lines:,} bad lines were left out"
    return table


@spread
def prepare(
    output: Output,
    inputs: Inputs = None,
    *,
    splits: Splits,
    documents: DocumentOptions,
    choice: VocabularyChoice,
    workers: Workers = 1,
    mpi: Mpi = False,
    overwrite: Overwrite = False,
) -> None:
    """Turn text into a corpus folder for training: INPUT cut by position, or texts for each split.

    \b
    One text, cut by position into train, valid and test (90, 5 and 5 % of its bytes, the usual cut of enwik8):
      megachar corpus prepare enwik8 --output data/enwik8
      megachar corpus prepare enwik8.zip --output data/enwik8 --split 98,1,1 --overwrite

    \b
    Texts for each split; files, folders, globs and - (standard input), packed or not (.gz .bz2 .xz .zst .zip):
      megachar corpus prepare --train wiki.train.tokens --valid wiki.valid.tokens --output data/wikitext2
      megachar corpus prepare --train 'books/*.txt.xz' --valid held_out/ --output data/books

    \b
    JSON lines, one document a record, by 8 processes; or by the ranks of an MPI job, on a file system that all share:
      megachar corpus prepare pile/*.jsonl.zst --json-key text --workers 8 --output data/pile
      mpirun -n 64 megachar corpus prepare pile/*.jsonl.zst --json-key text --mpi --output data/pile

    \b
    Other vocabularies; used bytes and characters are all that occur, pieces are learned from the training text:
      megachar corpus prepare text8 --vocabulary text8 --output data/text8
      megachar corpus prepare enwik8.zip --vocabulary used-bytes --output data/enwik8-205
      megachar corpus prepare novel.txt --vocabulary characters --output data/novel
      megachar corpus prepare novel.txt --vocabulary sentencepiece --vocabulary-size 8000 --output data/novel
      megachar corpus prepare novel.txt --vocabulary sentencepiece --model my.model --output data/novel

    The output is the same, byte by byte, for any number of workers and ranks.
    """
    try:
        with cleaned_up_on_termination(), errors_of_the_system(output), ExitStack() as stack:
            if mpi and workers > 1:
                raise ConfigError(f"--mpi with --workers {workers}: the ranks are the workers; start more of them")
            executor, num_ranks = stack.enter_context(mpi_ranks()) if mpi else (None, 0)
            if mpi and executor is None:
                return
            recipe = documents.recipe()
            choice.check()
            sources = splits.of(inputs or [], stack.enter_context(spool_beside(output)))
            check_output(sources, output.resolve(), overwrite)  # before there is a bar to show
            made = choice.make(sources, recipe)
            with Stages(Console(stderr=True))("Preparing", total_bytes(sources)) as progress:
                prepare_corpus(
                    sources, output, made, documents=recipe.documents, json_key=recipe.json_key,
                    skip_bad_lines=recipe.skip_bad_lines, overwrite=overwrite, num_workers=workers,
                    ranks=(executor, num_ranks) if executor is not None else None, progress=progress,
                )  # fmt: skip
    except KeyboardInterrupt:
        typer.echo("interrupted: nothing was written", err=True)
        raise typer.Exit(128 + signal.SIGINT) from None
    print_table(table_of(Corpus.open(output)), Console())
