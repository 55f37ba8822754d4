"""`megachar analyze`: look into trained models, as the papers do."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from megachar.base.errors import ConfigError, DataError
from megachar.cli.analyze_sweeps import ablation, sizes
from megachar.cli.evaluate import open_corpus
from megachar.cli.evaluation_options import Device, Split
from megachar.cli.generate import Threads, check_device, read_prompt
from megachar.cli.given_model import check_model
from megachar.cli.given_text import argument_bytes, encode_given, read_file, read_given
from megachar.cli.lazy import make_group
from megachar.cli.pictures import Format
from megachar.cli.provenance import Provenance, say_provenance
from megachar.cli.results import Output, finish
from megachar.evaluation.progress import show_progress

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from megachar.analysis.models import AnalyzedModel
    from megachar.data.corpus import Corpus
    from megachar.data.vocabulary import Vocabulary

app = make_group("Look into trained models, as the papers do: a table, a picture and a CSV each.")
for command in (ablation, sizes):
    app.command()(command)

Run = Annotated[Path, typer.Argument(help="Run folder such as runs/small, a checkpoint's, or an exported file.")]
Runs = Annotated[list[Path], typer.Argument(help="Run folders, checkpoints' folders or exported files.")]
Data = Annotated[Path | None, typer.Option(help="Corpus folder; default: the one the first run was trained on.")]
MaxCharacters = Annotated[
    int | None, typer.Option(help="Only the first so many characters of the split; default: all.")
]
Stride = Annotated[
    int | None,
    typer.Option(help="Characters between a transformer's windows; 1 is exact. Default: an eighth of the context."),
]
BatchSize = Annotated[int, typer.Option(help="Windows in one forward pass.")]
Text = Annotated[str | None, typer.Option(help="The text.")]
File = Annotated[Path | None, typer.Option(help="File with the text, its bytes as they are.")]


@app.command()
def surprise(
    first: Run,
    second: Run,
    split: Split = "valid",
    share: Annotated[float, typer.Option(help="Of the characters that surprise both models most.")] = 0.1,
    reach: Annotated[int, typer.Option(help="Characters after a surprise that are looked at.")] = 4,
    block: Annotated[int, typer.Option(help="Characters of the blocks that are resampled.")] = 1000,
    resamples: Annotated[int, typer.Option(help="Resampled texts that intervals are taken from.")] = 10_000,
    confidence: Annotated[float, typer.Option(help="Of the intervals.")] = 0.95,
    seed: Annotated[int, typer.Option(help="Of the resampling.")] = 1,
    max_characters: MaxCharacters = None,
    stride: Stride = None,
    batch_size: BatchSize = 32,
    device: Device = "auto",
    threads: Threads = None,
    data: Data = None,
    output: Output = None,
    picture_format: Format = "png",
) -> None:
    """Losses on, and just after, the characters that surprise two models most (Krause et al. 2016, figure 3)."""
    from megachar.analysis.result import result_folder
    from megachar.analysis.surprise import SurpriseSettings, analyze_surprise

    settings = SurpriseSettings(share, reach, block, resamples, confidence, seed)
    models = _find_models([first, second])
    _check_computing(models, stride, batch_size, device)
    corpus = _open_common_corpus(models, data)
    tokens = _tokens(corpus, split, max_characters)
    settings.check(tokens.size - 1)
    folder = result_folder(first, output)
    nats = []
    with show_progress(Console(stderr=True), len(models) * (tokens.size - 1)) as progress:
        for model in models:
            predictor = model.load(device, stride, batch_size, threads)
            nats.append(predictor.nats(tokens, None, progress))
            model.check_finite(nats[-1])
    text = {**_identify(corpus, models), "num_characters": tokens.size, "stride": stride}
    finish(
        analyze_surprise([model.subject for model in models], nats, settings, split, text, corpus.vocabulary.unit),
        folder,
        picture_format,
    )


@app.command()
def context(
    runs: Runs,
    lengths: Annotated[str, typer.Option(help="Lengths of context in characters, separated by commas.")] = (
        "32,64,128,256,512"
    ),
    split: Split = "valid",
    max_characters: MaxCharacters = None,
    stride: Stride = None,
    batch_size: BatchSize = 32,
    device: Device = "auto",
    threads: Threads = None,
    data: Data = None,
    output: Output = None,
    picture_format: Format = "png",
) -> None:
    """Bits per character with different lengths of context (Al-Rfou et al. 2019)."""
    from megachar.analysis.context import analyze_context, check_lengths, losses_by_context
    from megachar.analysis.result import result_folder
    from megachar.evaluation.windows import check_stride

    numbers = _numbers(lengths)
    models = _find_models(runs)
    _check_computing(models, stride, batch_size, device)
    corpus = _open_common_corpus(models, data)
    tokens = _tokens(corpus, split, max_characters)
    check_lengths(numbers, tokens.size, {model.subject.label: model.context for model in models})
    if stride is not None:
        check_stride(stride, min(numbers))
    folder = result_folder(runs[0], output)
    passes = sum(len(numbers) + (model.context is None) for model in models)
    found = []
    with show_progress(Console(stderr=True), passes * (tokens.size - 1)) as progress:
        for model in models:
            predictor = model.load(device, stride, batch_size, threads)
            found.append(losses_by_context(predictor, tokens, numbers, progress))
            model.check_finite(list(found[-1].values()))
    settings = {**_identify(corpus, models), "num_characters": tokens.size, "lengths": numbers, "stride": stride}
    num_scored = tokens.size - max(numbers)
    finish(
        analyze_context(
            [model.subject for model in models], found, split, num_scored, settings, corpus.vocabulary.unit
        ),
        folder,
        picture_format,
    )


@app.command("seed-text")
def seed_text(
    run: Run,
    text: Text = None,
    file: File = None,
    batch_size: BatchSize = 32,
    device: Device = "auto",
    threads: Threads = None,
    output: Output = None,
    picture_format: Format = "png",
) -> None:
    """Entropy, loss and rank of each character along a text (Al-Rfou et al. 2019)."""
    from megachar.analysis.result import result_folder
    from megachar.analysis.seed_text import analyze_seed_text, check_text, expectations

    models = _find_models([run])
    _check_computing(models, 1, batch_size, device)
    vocabulary = _common_vocabulary(models)
    given = _read_text(text, file)
    tokens = encode_given(vocabulary, given, "the text")
    check_text(tokens.size)
    folder = result_folder(run, output)
    with show_progress(Console(stderr=True), tokens.size - 1) as progress:
        found = expectations(models[0].load(device, 1, batch_size, threads), tokens, progress)
    models[0].check_finite(found.loss_bits)
    symbols = [vocabulary.decode([token]) for token in tokens.tolist()]
    finish(
        analyze_seed_text(models[0].subject, symbols, found, {"text_sha256": _sha256(given)}), folder, picture_format
    )


@app.command()
def completions(
    runs: Runs,
    prompt: Annotated[str | None, typer.Option(help="What the words follow, with the space before them.")] = None,
    prompt_file: Annotated[Path | None, typer.Option(help="File with the prompt, its bytes as they are.")] = None,
    word: Annotated[list[str] | None, typer.Option(help="A word; once for each.")] = None,
    words_file: Annotated[Path | None, typer.Option(help="File with words, one in a line.")] = None,
    batch_size: BatchSize = 32,
    device: Device = "auto",
    threads: Threads = None,
    output: Output = None,
    picture_format: Format = "png",
) -> None:
    """The exact probability of each of some words after a prompt (Al-Rfou et al. 2019).

    That of a word's characters, one after the other, and then of any symbol that ends a word: a whole character that is
    no letter, digit or combining mark, such as a space, a line end, a full stop, an apostrophe.
    """
    from megachar.analysis.completions import analyze_completions, check_words
    from megachar.analysis.completions import completions as complete
    from megachar.analysis.result import result_folder
    from megachar.analysis.texts import check_characters

    words = [*(word or []), *_read_words(words_file)]
    check_words(words)
    models = _find_models(runs)
    _check_computing(models, 1, batch_size, device)
    vocabulary = _common_vocabulary(models)
    check_characters(vocabulary, "the probability of a word")
    before = read_prompt(prompt, prompt_file)
    encoded = [argument_bytes(given) for given in words]
    num_symbols = sum(encode_given(vocabulary, given, "a word").size + 1 for given in encoded)
    encode_given(vocabulary, before, "the prompt")
    folder = result_folder(runs[0], output)
    found = []
    with show_progress(Console(stderr=True), len(models) * num_symbols) as progress:
        for model in models:
            found.append(complete(model.load(device, 1, batch_size, threads), before, encoded, vocabulary, progress))
            model.check_finite([completion.ended for completion in found[-1]])
    settings = {"prompt_sha256": _sha256(before), "words": words}
    finish(
        analyze_completions([model.subject for model in models], before, words, found, settings), folder, picture_format
    )


@app.command()
def copy(
    runs: Runs,
    name: Annotated[str, typer.Option(help="A name that occurs in the text twice or more, as a word of its own.")],
    invented: Annotated[str, typer.Option(help="What takes its place.")],
    text: Text = None,
    file: File = None,
    batch_size: BatchSize = 32,
    device: Device = "auto",
    threads: Threads = None,
    output: Output = None,
    picture_format: Format = "png",
) -> None:
    """Whether a name is copied from the text before: its losses against an invented one's (Al-Rfou et al. 2019)."""
    from megachar.analysis.copying import analyze_copying, occurrences, swap_name
    from megachar.analysis.result import result_folder
    from megachar.analysis.texts import check_characters

    models = _find_models(runs)
    _check_computing(models, 1, batch_size, device)
    vocabulary = _common_vocabulary(models)
    check_characters(vocabulary, "the loss of a name")
    passages = swap_name(_read_text(text, file), argument_bytes(name),
                         argument_bytes(invented))  # fmt: skip
    sizes = [encode_given(vocabulary, passage.text, "the text").size for passage in passages]
    folder = result_folder(runs[0], output)
    found = []
    with show_progress(Console(stderr=True), len(models) * (sum(sizes) - len(sizes))) as progress:
        for model in models:
            predictor = model.load(device, 1, batch_size, threads)
            original, swapped = (occurrences(predictor, passage, vocabulary, progress) for passage in passages)
            found.append((original, swapped))
            model.check_finite([occurrence.bits for occurrence in (*original, *swapped)])
    settings = {"text_sha256": _sha256(passages[0].text), "name": name, "invented": invented}
    contexts = [model.context for model in models]
    finish(analyze_copying([model.subject for model in models], passages, found, contexts, settings,
                           vocabulary.unit), folder, picture_format)  # fmt: skip


@app.command()
def layers(
    run: Annotated[Path, typer.Argument(help="Run folder of a transformer, such as runs/small.")],
    records: Annotated[str, typer.Option(metavar="<train|validation>", help="Which of the run's records.")] = "train",
    output: Output = None,
    picture_format: Format = "png",
) -> None:
    """What each layer's own classifiers reached over training, both targets (Al-Rfou et al. 2019)."""
    from megachar.analysis.layers import analyze_layers, check_layers
    from megachar.analysis.result import label_sources, result_folder

    check_layers(run, records)
    folder = result_folder(run, output)
    finish(analyze_layers(run, label_sources([run])[0], records), folder, picture_format)


def _find_models(sources: list[Path]) -> "list[AnalyzedModel]":
    """What `analysis.models.find_models` gives, each model checked."""
    from megachar.analysis.models import find_models

    models = find_models(sources)
    for source in sources:
        check_model(source)
    return models


def _check_computing(models: "list[AnalyzedModel]", stride: int | None, batch_size: int, device: str) -> None:
    """ConfigError on what `AnalyzedModel.load` would refuse, before anything is loaded."""
    from megachar.evaluation.windows import check_stride

    check_device(device)
    if batch_size < 1:
        raise ConfigError(f"batch size = {batch_size}: a batch needs a window; set 1 or more, such as 32")
    for model in models:
        if stride is not None and model.context is not None:
            check_stride(stride, model.context)


def _open_common_corpus(models: "list[AnalyzedModel]", data: Path | None) -> "Corpus":
    """The corpus in `data`, or the first run's; DataError where its vocabulary is not that of every run."""
    from megachar.runs.checkpoints.vocabularies import carried_card

    first, others = models[0], models[1:]
    corpus = open_corpus(first.experiment, carried_card(first.source), data)
    # A model of an older megachar carries no vocabulary, and where a corpus is named need not have its own.
    compared = others if data is None else [model for model in others if carried_card(model.source) is not None]
    _check_same_vocabulary(compared, corpus.vocabulary)
    return corpus


def _identify(corpus: "Corpus", models: "list[AnalyzedModel]") -> dict[str, Any]:
    """Settings that say which corpus it is, and which models were trained on another; that is said as well."""
    others = []
    for model in models:
        provenance = Provenance.of(corpus, model.experiment, model.source)
        say_provenance(provenance)
        if provenance.is_training_corpus is False:
            others.append(model.subject.label)
    return {"corpus": corpus.fingerprint, **({"trained_on_another": others} if others else {})}


def _common_vocabulary(models: "list[AnalyzedModel]") -> "Vocabulary":
    """The vocabulary of the first run; DataError where another's differs."""
    from megachar.runs.checkpoints.vocabularies import load_vocabulary

    vocabulary = load_vocabulary(models[0].source)
    _check_same_vocabulary(models[1:], vocabulary)
    return vocabulary


def _check_same_vocabulary(models: "list[AnalyzedModel]", vocabulary: "Vocabulary") -> None:
    from megachar.runs.checkpoints.vocabularies import load_vocabulary

    for model in models:
        if load_vocabulary(model.source).card() != vocabulary.card():
            raise DataError(
                f"{model.subject.label} has a vocabulary of as many symbols as the first run, but others; "
                "name runs on the same vocabulary"
            )


def _tokens(corpus: "Corpus", split: str, max_characters: int | None) -> "npt.NDArray[np.integer]":
    """The text (N,) of the split, or its first characters."""
    if max_characters is not None and max_characters < 2:
        raise ConfigError(f"--max-characters {max_characters}: nothing would be scored; set 2 or more, or leave it out")
    return corpus.split(split).tokens[:max_characters]


def _numbers(lengths: str) -> list[int]:
    try:
        return [int(length) for length in lengths.split(",")]
    except ValueError:
        raise ConfigError(f"--lengths {lengths} are no whole numbers between commas; give such as 32,64,128") from None


def _read_text(text: str | None, file: Path | None) -> bytes:
    found = read_given(text, file, "--text", "--file")
    if not found:
        raise ConfigError("the text is empty; give one of some characters")
    return found


def _read_words(file: Path | None) -> list[str]:
    """The lines of a file without their ends and without empty ones; none without a file."""
    lines = read_file(file, "--words-file").splitlines() if file is not None else []
    return [line.decode("utf-8", "surrogateescape") for line in lines if line]


def _sha256(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()
