"""`megachar corpus`: well-known corpora by their names, and a look at what a corpus holds."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.table import Column, Table
from rich.text import Text

from megachar.cli.stages import Stages
from megachar.errors import ConfigError, DataError

if TYPE_CHECKING:
    from megachar.data.corpus import CorpusCard

app = typer.Typer(help="Fetch well-known corpora by name; look at what a corpus holds.", no_args_is_help=True)


@app.command("list")
def list_corpora() -> None:
    """List the corpora that `megachar corpus fetch` knows."""
    from megachar.data.corpora.registry import CORPORA

    table = Table(
        "name",
        "download, text",
        "known hashes",
        Column("what it is, licence, splits, publisher", overflow="fold"),
        caption="Hashes are those that users of the corpora recorded; the publishers give hardly any.",
        show_lines=True,
    )
    for corpus in CORPORA:
        sizes = f"{decimal(corpus.archive.num_bytes)}\n{decimal(corpus.text_bytes)}"
        what = (corpus.summary, f"licence: {corpus.licence}", f"splits: {corpus.splits}", *corpus.archive.addresses)
        table.add_row(corpus.name, sizes, corpus.verified_by, Text("\n".join(what)))
    Console().print(table)


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="One of those in `megachar corpus list`.")],
    output: Annotated[Path | None, typer.Option(help="Folder of the corpus; default: data/NAME.")] = None,
    source: Annotated[
        Path | None,
        typer.Option("--from", help="Your own copy instead of a download: the archive, its folder, or the text."),
    ] = None,
    downloads: Annotated[
        Path | None, typer.Option(help="Where downloads are kept; default: downloads/ beside the output.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing corpus once the new one is whole.")
    ] = False,
) -> None:
    """Download a corpus, verify it, split it as the papers do, and prepare it for training.

    A download that was cut off is resumed, also by calling this again.
    """
    from megachar.data.corpora.download import Downloader
    from megachar.data.corpora.fetch import fetch_corpus
    from megachar.data.corpora.registry import named_corpus

    corpus = named_corpus(name)
    if source is not None and downloads is not None:
        raise ConfigError(f"--downloads {downloads} with --from {source}: nothing is downloaded; leave one out")
    output = Path("data") / name if output is None else output
    stages = Stages(Console(stderr=True))
    with cleaned_up_on_termination(), errors_of_the_system(output):
        fetched = fetch_corpus(
            corpus,
            output,
            source=source,
            downloads=downloads,
            overwrite=overwrite,
            downloader=Downloader(tell=stages.tell),
            stage=stages,
        )
    console = Console()
    console.print(splits_table(str(output), fetched.card))
    if fetched.archive is not None:
        typer.echo(f"{fetched.archive} is kept; it may be deleted")
    if not fetched.is_verified:
        typer.echo(
            f"NOT VERIFIED: no hash of the texts of {name} is known, only one of {corpus.archive.name}", err=True
        )


def splits_table(title: str, card: "CorpusCard") -> Table:
    """The sizes of every split."""
    table = Table(title=Text(f"{title}: vocabulary {card.vocabulary.name} ({card.vocabulary.size})"))
    table.add_column("split")
    for heading in ("tokens", "documents", "bytes", "words", "bytes/word"):
        table.add_column(heading, justify="right")
    for name, split in card.splits.items():
        counts = (split.num_tokens, split.num_documents, split.num_bytes, split.num_words)
        ratio = f"{split.num_bytes / split.num_words:.5f}" if split.num_words else "-"
        table.add_row(name, *(f"{count:,}" for count in counts), ratio)
    return table


@contextmanager
def errors_of_the_system(what: Path) -> Iterator[None]:
    """Errors of the disk, such as no space left or no permission, as a DataError."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{error.filename or what}: {error.strerror or error}; mend that and try again") from error


@contextmanager
def cleaned_up_on_termination() -> Iterator[None]:
    """SIGTERM leaves through the exception handlers, which remove what is half written."""

    def stop(signal_number: int, frame: FrameType | None) -> None:
        sys.exit(128 + signal_number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
