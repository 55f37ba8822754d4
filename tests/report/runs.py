"""Small runs with everything a report shows, and what a stranger might have put into them."""

import json
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from megachar.analysis.result import Analysis, Column, Subject, Table
from megachar.config.experiment import Experiment
from megachar.config.loading import save_experiment
from megachar.config.sections.auxiliary import AuxiliaryConfig
from megachar.config.sections.data import DataConfig
from megachar.corpora.plan import one_file_per_split
from megachar.corpora.preparation import prepare_corpus
from megachar.data.vocabulary import ByteVocabulary, Vocabulary
from megachar.families.recurrent.model import RecurrentModel
from megachar.families.recurrent.settings import RecurrentConfig
from megachar.families.transformer.model import Transformer
from megachar.runs.folder import RunFolder
from tests.runs.checkpoints_by_hand import small, write_checkpoint

SCRIPT = "<script>alert(1)</script>"
HOSTILE_NAME = "<img src=x onerror=alert(1)>\"'&amp;\u202egnp"
"""Of a run's folder."""
HOSTILE_TEXT = (
    f"{SCRIPT} \"double\" 'single' &amp; &#65; ]]> <!-- </div></span> {{{{ 7 * 7 }}}}\r\n\ttab\x00nul\x1b[31mred\x7f"
    "\x85 \u202eoverride\u202c \u200bzero\u2028line\u00a0space é\u0301 שלום 漢字 😀 \ue000\U000e0041 "
    + "unbroken" * 60 + "\n\n"
).encode() + b"\xff\xfe broken \xe2\x82 \xed\xa0\x80 end"  # fmt: skip
"""Bytes of a corpus."""


def make_corpus(folder: Path, text: bytes, vocabulary: Vocabulary | None = None) -> Path:
    """A corpus whose valid split is `text`."""
    source = folder.with_name(f"{folder.name}.txt")
    source.write_bytes(text)
    prepare_corpus(one_file_per_split({"train": source, "valid": source}), folder, vocabulary or ByteVocabulary())
    return folder


def make_experiment(corpus: Path, family: str = "transformer", **more: Any) -> Experiment:
    """A tiny model."""
    if family == "recurrent":
        more["model"] = RecurrentConfig(hidden_size=12, segment_length=8)
        more["auxiliary"] = AuxiliaryConfig(intermediate_layers=False, num_targets=1)
    return small().model_copy(update={"data": DataConfig(path=str(corpus)), **more})


def make_run(folder: Path, experiment: Experiment, steps: int = 40) -> RunFolder:
    """A run folder with metrics and a checkpoint whose weights are large enough to matter."""
    run = RunFolder(folder)
    folder.mkdir(parents=True)
    save_experiment(experiment, run.experiment_file)
    records = [record for step in range(1, steps + 1) for record in _records(step, experiment)]
    run.metrics_file.write_text("".join(json.dumps(record) + "\n" for record in records))
    model = (
        Transformer(experiment.model, experiment.auxiliary)
        if experiment.model.family == "transformer"
        else RecurrentModel(experiment.model)
    )
    weights = {name: torch.randn_like(value) * 0.4 for name, value in model.state_dict().items()}
    write_checkpoint(run, steps, weights, experiment, validation_bits=2.5)
    return run


def add_evaluation(run: RunFolder, name: str = "evaluation-valid-stride1-step40", **more: Any) -> None:
    """The result of `megachar evaluate`, with a dynamic figure unless `more` says otherwise."""
    values = {
        "bits_per_character": 2.34567, "protocol": "static, windows of 8", "split": "valid", "step": 40,
        "num_characters": 1234, "whole_split": True, "precision": "fp32",
        "bits_per_byte": 2.3, "word_perplexity": 1234.5,
        "dynamic": {"bits_per_character": 2.1, "protocol": "dynamic, a step after every 20", "bits_per_byte": 2.05},
        **more,
    }  # fmt: skip
    (run.path / f"{name}.json").write_text(json.dumps(values))


def add_analysis(run: RunFolder, title: str = "Loss by context", how_to_read: str = "Lower is better.") -> None:
    """A saved analysis."""
    figure = Figure(layout="constrained")
    figure.subplots().plot([1, 2], [3, 4], linewidth=20)
    table = Table((Column("length"), Column("loss (bits)", ".2f")), ((32, 1.23456), (title, None)))
    folder = run.path / "analyses"
    folder.mkdir()
    subjects = (Subject("small", str(run.path), 40),)
    Analysis("context", title, subjects, table, figure, how_to_read, split="valid").save(folder)


def _records(step: int, experiment: Experiment) -> list[dict[str, Any]]:
    model = experiment.model
    num_layers = model.num_layers if model.family == "transformer" else 1
    layers = [[8.0 - step / 10 + layer / 10] * experiment.auxiliary.num_targets for layer in range(num_layers)]
    if step > 20:
        layers[:-1] = [[None] * len(row) for row in layers[:-1]]
    values = {"bits_per_character": layers[-1][0], "layers": layers}
    train = {"kind": "train", "step": step, "learning_rate": 1e-3, "characters_per_second": 1000.0 + step,
             "gradient_norm": None if step % 2 else 0.5, **values}  # fmt: skip
    return [train, {"kind": "validation", "step": step, **values}] if step % 10 == 0 else [train]
