"""A folder with everything that the manual's commands name: texts, corpora, runs and files, all tiny and made up."""

import random
import shutil
import zipfile
from pathlib import Path

import numpy as np

from megachar.config.experiment import Experiment
from megachar.config.loading import load_experiment, save_experiment
from megachar.corpora.preparation import cut_by_position, prepare_corpus
from megachar.data.characters import CharacterVocabulary
from megachar.data.vocabulary import ByteVocabulary, Vocabulary
from megachar.scaling.points import Points, Run, write_points
from megachar.sweeps.sweep import load_sweep, plan_runs
from tests.corpora.preprocessing_by_hand import pack
from tests.docs.blocks import PAGES, ROOT, find_blocks
from tests.report.runs import make_run
from tests.scaling.ladders import HELD_OUT, make_trunks, sound

TRANSFORMER = ("model.num_layers=2", "model.width=8", "model.num_heads=2", "model.feed_forward_width=16",
               "model.local_offsets=[]", "model.vocabulary_size=256")  # fmt: skip
RECURRENT = ("model.hidden_size=8", "model.segment_length=16", "model.vocabulary_size=256")
NUM_SYMBOLS_ENWIK8 = 205
"""Distinct bytes of enwik8, as the paper counts them."""
WORDS = ("the", "city", "of", "London", "and", "Rome", "Elizabeth", "said", "that", "she", "would", "go", "to", "sea")


def make_sandbox(folder: Path) -> None:
    """Fill an empty folder."""
    _make_texts(folder)
    _make_corpora(folder)
    _make_runs(folder)
    _make_ladder(folder / "ladder.csv")
    (folder / "hosts").write_text("".join(f"node{number} slots=8\n" for number in range(1, 9)))
    shutil.copy(ROOT / "ds_configs" / "bf16_zero3.json", folder / "my_zero3.json")
    for block in (block for page in PAGES for block in find_blocks(page) if block.language == "yaml"):
        for line in block.text.splitlines():
            if line.startswith("name: "):
                (folder / f"{line.removeprefix('name: ').strip()}.yaml").write_text(block.text)


def make_text(size: int) -> str:
    """Some characters of made-up prose."""
    draw = random.Random(size)
    words = (draw.choice(WORDS) + draw.choice(("", "", "", ".", ",", "\n")) for _ in range(size // 4))
    return " ".join(words)[:size]


def _make_texts(folder: Path) -> None:
    for name in ("books", "held_out", "pile"):
        (folder / name).mkdir()
    (folder / "novel.txt").write_text(make_text(30_000))
    (folder / "passage.txt").write_text(make_text(200) + " Elizabeth, Elizabeth! Elizabeth.")
    (folder / "held_out" / "last.txt").write_text(make_text(3_000))
    for number in range(2):
        text = make_text(5_000 + number)
        (folder / "books" / f"{number}.txt.xz").write_bytes(pack(text.encode(), "xz"))
        records = "".join(f'{{"text": "{part}"}}\n' for part in text.splitlines())
        (folder / "pile" / f"{number}.jsonl.zst").write_bytes(pack(records.encode(), "zst"))
    every_byte = b"\n" + bytes(range(32, 31 + NUM_SYMBOLS_ENWIK8))
    with zipfile.ZipFile(folder / "enwik8.zip", "w") as archive:
        archive.writestr("enwik8", make_text(500_000).encode() + every_byte * 10)
    with zipfile.ZipFile(folder / "text8.zip", "w") as archive:
        archive.writestr("text8", _letters(500_000))


def _letters(size: int) -> str:
    """Prose in the 27 symbols of text8."""
    letters = (letter if "a" <= letter <= "z" else " " for letter in make_text(size).lower())
    return "".join(letters)


def _make_corpora(folder: Path) -> None:
    corpora: dict[str, tuple[str, Vocabulary]] = {
        "enwik8": (make_text(500_000), ByteVocabulary()),
        "wikitext2": (make_text(400_000), ByteVocabulary()),
        "text8": (_letters(500_000), CharacterVocabulary.text8()),
    }
    for name, (text, vocabulary) in corpora.items():
        source = folder / f"{name}.source"
        source.write_text(text)
        prepare_corpus(cut_by_position(source, "90,5,5"), folder / "data" / name, vocabulary)
        source.unlink()
    for name in ("megatron", "shared"):
        (folder / name).mkdir()
    for suffix in (".bin", ".idx"):
        dataset = (folder / "data" / "enwik8" / "train.bin").with_suffix(suffix)
        shutil.copy(dataset, folder / "megatron" / f"my_text_document{suffix}")
    (folder / "shared" / "enwik8").symlink_to(folder / "data" / "enwik8")


def _make_runs(folder: Path) -> None:
    runs, data = folder / "runs", f"data.path={folder / 'data' / 'enwik8'}"
    for preset, tiny in (("small", TRANSFORMER), ("quickstart", TRANSFORMER), ("mlstm-20m", RECURRENT),
                         ("stacked-lstm-20m", RECURRENT)):  # fmt: skip
        make_run(runs / preset, load_experiment(preset, [data, *tiny]))
        (runs / preset / "tensorboard").mkdir()
    for sweep in ("ablation", "sizes"):
        for run in plan_runs(load_sweep(sweep), None, [data, f"output={runs}"]):
            _make_records(runs / sweep / run.experiment.name, run.experiment)


def _make_ladder(path: Path) -> None:
    """A table of runs whose law is known, for `megachar scaling`."""
    held_out = Run(N=HELD_OUT[0], D=HELD_OUT[1], loss=sound(*HELD_OUT), held_out=True)
    runs = make_trunks(np.random.default_rng(0), 0.0, 0.003).runs
    with path.open("w", encoding="utf-8") as file:
        write_points(Points((*runs, held_out)), file)


def _make_records(folder: Path, experiment: Experiment) -> None:
    """A run folder with settings and metrics and without a checkpoint: what is compared in sweeps."""
    run = make_run(folder, load_experiment("small", TRANSFORMER))
    shutil.rmtree(run.checkpoints)
    save_experiment(experiment, run.experiment_file)
