"""Turn plain text into a corpus folder for training.

One file, cut by position into train, valid and test (90, 5 and 5 % of its bytes, the usual cut of enwik8 and text8):

    python tools/preprocess_data.py enwik8 --output data/enwik8
    python tools/preprocess_data.py enwik8 --output data/enwik8 --split 98,1,1 --overwrite

A file per split, of which any may be left out:

    python tools/preprocess_data.py --train wiki.train.tokens --valid wiki.valid.tokens --output data/wikitext2
"""

import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

from megachar.data.corpus import Corpus, SplitName
from megachar.data.preprocess import (
    DEFAULT_SPLIT,
    SourceFile,
    check_output,
    cut_by_position,
    one_file_per_split,
    prepare_corpus,
)
from megachar.data.vocabulary import ByteVocabulary
from megachar.errors import ConfigError, MegacharError

Input = Annotated[Path | None, typer.Argument(metavar="INPUT", help="One text, cut by position (see --split).")]
Output = Annotated[Path, typer.Option(help="Folder of the corpus; it must not exist yet.")]
Split = Annotated[
    str | None,
    typer.Option(help=f"Percentages of train,valid,test for INPUT, adding up to 100; without it {DEFAULT_SPLIT}."),
]
SplitFile = Annotated[Path | None, typer.Option(help="A text for this split alone, instead of INPUT.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing corpus once the new one is whole.")]


def find_sources(input_file: Path | None, split: str | None, files: dict[SplitName, Path]) -> list[SourceFile]:
    """The texts that the command line names; ConfigError where it names two ways at once, or none."""
    if input_file is None:
        if not files:
            raise ConfigError("nothing to prepare: give an INPUT to cut, or a file to each of --train, --valid, --test")
        if split is not None:
            raise ConfigError(f"--split {split} cuts one INPUT, but {', '.join(files)} got files: leave it out")
        return one_file_per_split(files)
    if files:
        options = ", ".join(f"--{name}" for name in files)
        raise ConfigError(f"INPUT ({input_file}) together with {options}: give one text or a file per split")
    return cut_by_position(input_file, DEFAULT_SPLIT if split is None else split)


def progress_bar(console: Console) -> Progress:
    """A bar with bytes, bytes a second and time left."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), DownloadColumn())
    return Progress(*columns, TransferSpeedColumn(), TimeRemainingColumn(), console=console)


def table_of(corpus: Corpus) -> Table:
    """The sizes of every split, for people."""
    card = corpus.card
    title = Text(f"{corpus.folder}: vocabulary {card.vocabulary.name} ({card.vocabulary.size}), {corpus.fingerprint}")
    table = Table(title=title)
    table.add_column("split")
    for heading in ("tokens", "documents", "bytes", "words", "bytes/word"):
        table.add_column(heading, justify="right")
    for name in corpus.split_names:
        split = card.splits[name]
        counts = (split.num_tokens, split.num_documents, split.num_bytes, split.num_words)
        ratio = f"{split.num_bytes / split.num_words:.5f}" if split.num_words else "-"
        table.add_row(name, *(f"{count:,}" for count in counts), ratio)
    return table


def main(
    output: Output,
    input_file: Input = None,
    split: Split = None,
    train: SplitFile = None,
    valid: SplitFile = None,
    test: SplitFile = None,
    overwrite: Overwrite = False,
) -> None:
    """Turn plain text into a corpus folder for training: INPUT cut by position, or a file per split."""
    errors = Console(stderr=True)
    try:
        given: dict[SplitName, Path | None] = {"train": train, "valid": valid, "test": test}
        sources = find_sources(input_file, split, {name: path for name, path in given.items() if path is not None})
        check_output(sources, output.resolve(), overwrite)  # before there is a bar to show
        with ExitStack() as stack:
            bar = progress_bar(errors)
            if errors.is_terminal:
                stack.enter_context(bar)
            task = bar.add_task("Preparing", total=sum(source.num_bytes for source in sources))
            prepare_corpus(
                sources,
                output,
                ByteVocabulary(),
                overwrite=overwrite,
                progress=lambda num_bytes: bar.advance(task, num_bytes),
            )
        Console().print(table_of(Corpus.open(output)))
    except (MegacharError, OSError) as error:  # OSError: no space left, no permission
        # Text, because a path may hold brackets, which rich would read as markup.
        errors.print(Text(f"error: {error}", style="bold red"), soft_wrap=True)
        raise typer.Exit(2) from None


def stop(signal_number: int, frame: FrameType | None) -> None:
    """Leave through the exception handlers, which remove what is half written."""
    sys.exit(128 + signal_number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, stop)
    app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False)
    app.command()(main)
    app()
