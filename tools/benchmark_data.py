"""How fast and how small preparation is. Contenders take turns in one run; ratios are of pairs.

    python tools/benchmark_data.py text             # plain text to bytes against `cp` of the same file
    python tools/benchmark_data.py jsonl            # JSON lines against a Python loop over documents
    python tools/benchmark_data.py sentencepiece    # one process against the library's own encoding on one core
    python tools/benchmark_data.py memory           # peak memory of the tool at two sizes of corpus
    python tools/benchmark_data.py reading          # batches of a prepared corpus against a preset's training

Everything is read from the page cache and happens in --folder (a temporary one without it). The text is that of
Python's documentation, repeated, or --text. Times are of preparing: of reading, encoding, hashing, counting words, and
writing `.bin`, `.idx` and the card; not of starting Python. Like `cp`, they do not wait for the disk, unless said so.
"""

import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from megachar.base.files import json_text
from megachar.corpora.preparation import cut_by_position, prepare_corpus
from megachar.data.digests import hash_file
from megachar.data.pieces import PieceVocabulary
from megachar.data.vocabulary import ByteVocabulary

app = typer.Typer(add_completion=False, no_args_is_help=True)

Megabytes = Annotated[int, typer.Option(min=1, help="size of the text, in millions of bytes")]
Rounds = Annotated[int, typer.Option(min=1, help="turns of every contender")]
Folder = Annotated[Path | None, typer.Option(help="where to write; its file system is what is measured")]
TextFile = Annotated[Path | None, typer.Option("--text", help="a text to repeat")]


@dataclass(frozen=True)
class Contender:
    """Something to time: it may write below the folder it is given, which is new each time."""

    name: str
    run: Callable[[Path], object]


@app.command()
def text(megabytes: Megabytes = 500, rounds: Rounds = 7, folder: Folder = None, source: TextFile = None) -> None:
    """Plain text to bytes in one process, against `cp` of the same file. Goal: 0.7 of its speed or more."""
    with working_folder(folder) as place:
        file = place / "text"
        write_text(file, megabytes, source)
        contenders = [
            Contender("cp", lambda out: subprocess.run(["cp", file, out / "copy"], check=True)),
            # What a sha256 alone costs bounds everything that writes one into a card.
            Contender("sha256 alone", lambda out: hash_file(file, "sha256")),
            Contender("prepare", lambda out: prepare(file, out)),
        ]
        compare(contenders, rounds, place, file.stat().st_size / 1e6, "MB", goal=0.7)
        durable = [
            Contender("cp and sync", lambda out: subprocess.run(f"cp {file} {out}/copy && sync {out}/copy", shell=True,
                                                                check=True)),
            Contender("prepare and wait", lambda out: prepare(file, out, durable=True)),
        ]  # fmt: skip
        compare(durable, rounds, place, file.stat().st_size / 1e6, "MB", goal=None)


@app.command()
def jsonl(
    megabytes: Megabytes = 100,
    document_bytes: Annotated[int, typer.Option(min=1, help="mean size of a document")] = 1000,
    rounds: Rounds = 5,
    folder: Folder = None,
    source: TextFile = None,
) -> None:
    """JSON lines to bytes in one process, against Python loops over documents. Goal: 20 x the loop as in Megatron.

    All loops parse, encode and append one document at a time. Megatron-LM's and GPT-NeoX's make a list of tokens, a
    tensor and an array of each document; the second leaves out the tensor, the third the list. No loop hashes or counts
    words, which preparing does.
    """
    import torch

    def as_megatron(text: bytes) -> Any:
        return np.array(torch.IntTensor(list(text)).numpy(), np.uint8)

    with working_folder(folder) as place:
        file = place / "lines.jsonl"
        count = write_records(file, megabytes, document_bytes, source)
        contenders = [
            Contender("loop, as Megatron's", lambda out: loop(file, out, as_megatron)),
            Contender("loop, token lists", lambda out: loop(file, out, lambda text: np.array(list(text), np.uint8))),
            Contender("loop, bytes", lambda out: loop(file, out, ByteVocabulary().encode)),
            Contender("prepare", lambda out: prepare(file, out, documents="record", split="100,0,0")),
        ]
        compare(contenders, rounds, place, count / 1000, "thousand documents", goal=20)


@app.command()
def sentencepiece(
    megabytes: Megabytes = 20,
    vocabulary_size: Annotated[int, typer.Option(min=300)] = 8000,
    model_type: Annotated[str, typer.Option(help="unigram or bpe")] = "unigram",
    rounds: Rounds = 5,
    folder: Folder = None,
    source: TextFile = None,
) -> None:
    """SentencePiece in one process, against the library's own encoding of the lines on one core. Goal: 0.9 or more."""
    import sentencepiece as library

    with working_folder(folder) as place:
        file = place / "text"
        write_text(file, megabytes, source)
        sample = sample_text(source)[: 4 << 20]
        vocabulary = PieceVocabulary.train([(sample, str)], vocabulary_size, model_type)  # type: ignore[arg-type]
        processor = library.SentencePieceProcessor(model_proto=vocabulary.model)
        lines = file.read_text().splitlines()
        contenders = [
            Contender("library, lists", lambda out: processor.encode(lines, num_threads=1)),
            Contender("library, arrays", lambda out: processor.encode(lines, return_type="numpy", num_threads=1)),
            Contender("prepare", lambda out: prepare(file, out, vocabulary=vocabulary)),
        ]
        compare(contenders, rounds, place, file.stat().st_size / 1e6, "MB", goal=0.9)


@app.command()
def memory(
    sizes: Annotated[str, typer.Option(help="sizes of the corpus, in millions of bytes")] = "100,2000",
    folder: Folder = None,
    source: TextFile = None,
) -> None:
    """Peak memory of the tool, the largest of its processes, at two sizes. Goal: the same."""
    ways = {
        "text, bytes": [],
        "JSON lines, bytes": ["--json-key", "text"],
        "lines, characters": ["--documents", "line", "--vocabulary", "characters"],
        "JSON lines, 2 workers": ["--json-key", "text", "--workers", "2"],
    }
    numbers = [int(size) for size in sizes.split(",")]
    table = Table("way", *(f"{number:,} MB" for number in numbers), "ratio")
    with working_folder(folder) as place:
        files: dict[tuple[int, bool], Path] = {}
        for number in numbers:
            files[number, False], files[number, True] = place / f"text-{number}", place / f"lines-{number}"
            write_text(files[number, False], number, source)
            write_records(files[number, True], number, 1000, source)
        for name, options in ways.items():
            peaks = [
                peak_megabytes(files[number, "--json-key" in options], place / "out", options) for number in numbers
            ]
            table.add_row(name, *(f"{peak:,.0f} MB" for peak in peaks), f"{peaks[-1] / peaks[0]:.2f}")
    Console().print(table)


@app.command()
def reading(
    preset: Annotated[str, typer.Argument(help="a preset, trained in one process")] = "small",
    megabytes: Megabytes = 50,
    rounds: Rounds = 5,
    folder: Folder = None,
    source: TextFile = None,
) -> None:
    """Batches read from three corpora in one process, against training on them. Goal: 50 x the characters/s.

    Micro-batches are of the preset's size, so that small ones do not flatter. Training is measured on one thread and
    multiplied by the number of cores: no layout on this machine is faster.
    """
    from megachar.config.loading import load_experiment

    one_process = ("parallel.pipe=1", "parallel.data=1")
    with working_folder(folder) as place:
        for name in "abc":
            write_records(place / name, megabytes, 2000, source)
            prepare(place / name, place, documents="record", split="100,0,0")
            (place / "corpus").rename(place / f"corpus-{name}")
        experiment = load_experiment(preset, [f"data.path={place}/corpus-a", *one_process])
        train = training_step(experiment)
        ways = {
            (context, way): reading_step(experiment, context, config)
            for context in (128, 512)
            for way, config in reading_ways(place).items()
        }
        rates: dict[tuple[int, str], list[float]] = {}
        for _ in range(rounds):
            rate = (os.cpu_count() or 1) * characters_per_second(train, 1.0)
            rates.setdefault((experiment.model.window_length, f"training {preset}"), []).append(rate)
            for way, read in ways.items():
                rates.setdefault(way, []).append(characters_per_second(read, 0.3))
    first = next(iter(rates.values()))
    table = Table("context", "windows", "characters/s", "x training", "lowest", "highest")
    for (context, name), values in rates.items():
        ratios = [value / other for value, other in zip(values, first, strict=True)]
        speed = f"{statistics.median(values):,.0f}"
        table.add_row(str(context), name, speed, *(f"{f(ratios):,.0f}" for f in (statistics.median, min, max)))
    table.caption = f"micro-batches of {experiment.batch.micro_size} windows; goal: 50 x training"
    Console().print(table)


def reading_ways(place: Path) -> dict[str, Any]:
    """The `data` sections of an experiment that are compared."""
    from megachar.config.sections.data import DataConfig

    path = f"{place}/corpus-a"
    parts = [
        {"path": f"{place}/corpus-{name}", "weight": weight} for name, weight in zip("abc", (6, 3, 1), strict=True)
    ]
    return {
        "random": DataConfig(path=path),
        "epoch": DataConfig(path=path, order="epoch"),
        "document, random": DataConfig(path=path, windows="document"),
        "document, epoch": DataConfig(path=path, windows="document", order="epoch"),
        "blend of three, epoch": DataConfig.model_validate({"blend": parts, "order": "epoch"}),
        "blend, document, epoch": DataConfig.model_validate({"blend": parts, "windows": "document", "order": "epoch"}),
    }


def reading_step(experiment: Any, context: int, data: Any) -> Callable[[int], int]:
    """What reads micro-batch after micro-batch; gives the number of characters."""
    from megachar.data.blend import Blend
    from megachar.data.reader import training_reader
    from megachar.data.sampler import window_numbers

    window = context + experiment.auxiliary.num_targets
    reader = training_reader(Blend.open(data), data, context, window, experiment.seed)
    return lambda number: int(reader.read(window_numbers(number, 0, experiment.batch.micro_size, 1))[0].size)


def training_step(experiment: Any) -> Callable[[int], int]:
    """What trains step after step on one thread, under the engine as in a run; gives the number of characters."""
    import torch

    from megachar.losses.auxiliary import layer_weights
    from megachar.parallel.mesh import start
    from megachar.parallel.topology import Topology
    from megachar.runs.preflight import check_data
    from megachar.training.micro_batches import build_source
    from megachar.training.setup import build_engine

    mesh = start(Topology(1, 1, 1), torch.device("cpu"))
    torch.set_num_threads(1)
    engine = build_engine(experiment, mesh)
    source = build_source(experiment, check_data(experiment), mesh)
    total, num_layers = experiment.training.total_steps, experiment.model.num_layers

    def step(number: int) -> int:
        weights = layer_weights(experiment.auxiliary, num_layers, total, total - 1)  # silent layers: the fastest steps
        engine.train_step(source.training(number), weights, experiment.optimizer.learning_rate)
        return int(experiment.batch.global_size * experiment.model.window_length)

    step(0)
    return step


def characters_per_second(step: Callable[[int], int], least_seconds: float) -> float:
    """Of steps 1, 2, ..., taken for at least so long."""
    begin, number, characters = time.perf_counter(), 0, 0
    while (elapsed := time.perf_counter() - begin) < least_seconds:
        number += 1
        characters += step(number)
    return characters / elapsed


def prepare(file: Path, out: Path, vocabulary: Any = None, split: str = "90,5,5", durable: bool = False,
            documents: Any = "file") -> None:  # fmt: skip
    """One corpus in this process."""
    sources = cut_by_position(file, split)
    prepare_corpus(sources, out / "corpus", vocabulary or ByteVocabulary(), documents=documents, durable=durable)


def loop(file: Path, out: Path, encode: Callable[[bytes], Any]) -> None:
    """JSON lines one document at a time."""
    lengths = []
    with (out / "loop.bin").open("wb") as written, file.open("rb") as lines:
        for line in lines:
            tokens = encode(json.loads(line)["text"].encode())
            written.write(tokens.data)
            lengths.append(tokens.size)
    np.array(lengths, np.int32).tofile(out / "loop.lengths")


def peak_megabytes(file: Path, output: Path, options: list[str]) -> float:
    """Largest resident memory of the tool, or of a process it started."""
    tool = Path(__file__).with_name("preprocess_data.py")
    # A process of its own, so that the children's maximum is that of this run alone.
    code = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL); "
    code += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    command = [sys.executable, "-c", code, sys.executable, str(tool), str(file), "--output", str(output), *options]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    shutil.rmtree(output)
    return int(done.stdout) * 1024 / 1e6


def compare(
    contenders: list[Contender], rounds: int, place: Path, amount: float, unit: str, goal: float | None
) -> None:
    """Time the contenders in turns, after one turn to warm up; print their speeds and the ratios of the last one."""
    seconds: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for turn in range(rounds + 1):
        for contender in contenders:
            out = place / "out"
            out.mkdir()
            begin = time.perf_counter()
            contender.run(out)
            elapsed = time.perf_counter() - begin
            shutil.rmtree(out)
            os.sync()  # nobody pays for what another left to write
            if turn:
                seconds[contender.name].append(elapsed)
    last = contenders[-1].name
    table = Table("contender", f"{unit}/s", f"{last} / contender", "lowest", "highest")
    for name, times in seconds.items():
        ratios = [theirs / ours for theirs, ours in zip(times, seconds[last], strict=True)]
        speed = amount / statistics.median(times)
        table.add_row(name, f"{speed:,.1f}", *(f"{f(ratios):.2f}" for f in (statistics.median, min, max)))
    if goal is not None:
        table.caption = f"goal: {goal} x {contenders[0].name}"
    Console().print(table)


@contextmanager
def working_folder(folder: Path | None) -> Iterator[Path]:
    """A new folder inside `folder`, removed at the end."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        yield Path(name)


def sample_text(source: Path | None) -> bytes:
    """The text to repeat."""
    if source is not None:
        return source.read_bytes()
    from pydoc_data.topics import topics

    return "\n\n".join(topics.values()).encode()


def write_text(path: Path, megabytes: int, source: Path | None) -> None:
    """A text of so many millions of bytes."""
    sample, remaining = sample_text(source), megabytes * 1_000_000
    with path.open("wb") as file:
        while remaining:
            remaining -= file.write(sample[:remaining])
        # Later the disk must not be busy with what is written here.
        file.flush()
        os.fsync(file.fileno())


def write_records(path: Path, megabytes: int, document_bytes: int, source: Path | None) -> int:
    """JSON lines of about so many millions of bytes, texts of 0.5 to 1.5 times the mean; the number of lines."""
    sample, draw, count = sample_text(source).decode(), random.Random(0), 0
    remaining = megabytes * 1_000_000
    with path.open("w") as file:
        while remaining > 0:
            start = draw.randrange(len(sample))
            content = sample[start : start + draw.randrange(document_bytes // 2, document_bytes * 3 // 2 + 1)]
            remaining -= file.write(json_text({"id": count, "text": content}) + "\n")
            count += 1
        file.flush()
        os.fsync(file.fileno())
    return count


if __name__ == "__main__":
    app()
