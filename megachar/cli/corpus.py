"""`megachar corpus`: your own texts, well-known corpora, datasets from elsewhere, and a look at what they hold."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.table import Column, Table
from rich.text import Text

from megachar.base.errors import ConfigError
from megachar.base.tables import print_table
from megachar.cli.inspection import inspect, print_splits
from megachar.cli.lazy import make_group
from megachar.cli.prepare import WHAT_A_TOKEN_IS, Output, Overwrite, VocabularyChoice, VocabularyName, prepare
from megachar.cli.stages import Stages, cleaned_up_on_termination, errors_of_the_system
from megachar.corpora.adoption import adopt_datasets
from megachar.corpora.downloads import fetch as fetching
from megachar.corpora.downloads import registry
from megachar.corpora.downloads.download import Downloader
from megachar.corpora.encoding import Recipe
from megachar.data.corpus import SplitName
from megachar.data.pieces import PieceVocabulary
from megachar.data.vocabulary import ByteVocabulary

WHOLE_FILES = Recipe(ByteVocabulary())
"""How the texts of corpora that are fetched are read."""

app = make_group("Prepare texts, fetch corpora, adopt datasets, look at what they hold.")
for command in (prepare, inspect):
    app.command()(command)


@app.command("list")
def list_corpora() -> None:
    """List the corpora that `megachar corpus fetch` knows."""
    table = Table(
        "name", "what it is", "license", "splits", Column("download", no_wrap=True), Column("text", no_wrap=True),
        "known hashes", "from",
        caption="Hashes are those that users of the corpora recorded; the publishers give hardly any.",
        show_lines=True,
    )  # fmt: skip
    for corpus in registry.CORPORA:
        shown = (corpus.name, corpus.summary, corpus.license, corpus.splits, decimal(corpus.archive.num_bytes),
                 decimal(corpus.text_bytes), corpus.verified_by.replace("\n", ", "))  # fmt: skip
        table.add_row(*map(Text, shown), Text("\n".join(corpus.archive.addresses)))
    print_table(table, Console())


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
    vocabulary: Annotated[
        VocabularyName | None, typer.Option(help=f"{WHAT_A_TOKEN_IS} Default: text8 for text8, else bytes.")
    ] = None,
    vocabulary_size: Annotated[
        int | None,
        typer.Option(help="Tokens of a learned one. characters: default all that occur; sentencepiece: default 8000."),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that encode. Bytes need only one.")] = 1,
    overwrite: Overwrite = False,
) -> None:
    """Download a corpus, verify it, split it as the papers do, and prepare it for training.

    A download that was cut off is resumed, also by calling this again.
    """
    corpus = registry.named_corpus(name)
    chosen: VocabularyName = vocabulary or corpus.vocabulary
    if vocabulary_size is not None and chosen not in ("characters", "sentencepiece"):
        raise ConfigError(f"--vocabulary-size {vocabulary_size}: {chosen} is no learned vocabulary; leave it out")
    if source is not None and downloads is not None:
        raise ConfigError(f"--downloads {downloads} with --from {source}: nothing is downloaded; leave one out")
    output = Path("data") / name if output is None else output
    stages = Stages(Console(stderr=True))
    with cleaned_up_on_termination(), errors_of_the_system(output):
        fetched = fetching.fetch_corpus(
            corpus,
            output,
            source=source,
            downloads=downloads,
            make_vocabulary=lambda sources: VocabularyChoice(chosen, vocabulary_size).make(sources, WHOLE_FILES),
            num_workers=workers,
            overwrite=overwrite,
            downloader=Downloader(tell=stages.tell),
            stage=stages,
        )
    print_splits(str(output), fetched.card, Console())
    if fetched.archive is not None:
        typer.echo(f"{fetched.archive} is kept; it may be deleted")
    if not fetched.is_verified:
        typer.echo(
            f"NOT VERIFIED: no hash of the texts of {name} is known, only one of {corpus.archive.name}", err=True
        )


@app.command()
def adopt(
    output: Output,
    train: Annotated[Path | None, typer.Option(help="Dataset of this split, without .bin or .idx.")] = None,
    valid: Annotated[Path | None, typer.Option(help="The same.")] = None,
    test: Annotated[Path | None, typer.Option(help="The same.")] = None,
    model: Annotated[
        Path | None, typer.Option(help="SentencePiece model that the tokens belong to; default: they are bytes.")
    ] = None,
) -> None:
    """Make a corpus of datasets that Megatron-LM or GPT-NeoX wrote: checked and linked to, not copied."""
    given: dict[SplitName, Path | None] = {"train": train, "valid": valid, "test": test}
    prefixes = {
        name: path.with_suffix("") if path.suffix in (".bin", ".idx") else path for name, path in given.items() if path
    }
    if not prefixes:
        raise ConfigError("nothing to adopt: give a dataset to --train, --valid or --test")
    vocabulary = ByteVocabulary() if model is None else PieceVocabulary.load(model)
    with cleaned_up_on_termination(), errors_of_the_system(output):
        card = adopt_datasets(prefixes, output, vocabulary, Stages(Console(stderr=True)))
    print_splits(str(output), card, Console())
