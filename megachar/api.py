"""megachar from Python: `megachar.load` and `megachar.read_runs`, of the same code that the commands use."""

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from megachar.analysis.sweeps import RunRecord
from megachar.analysis.sweeps import read_runs as read_run_folders
from megachar.base.device import choose_device
from megachar.base.units import NATS_PER_BIT
from megachar.config.experiment import Experiment
from megachar.data.vocabulary import Vocabulary
from megachar.evaluation.predictor import Predictor
from megachar.families.model import Model
from megachar.generation.generator import generate
from megachar.generation.sampling import Sampler
from megachar.generation.settings import SamplingSettings
from megachar.runs.checkpoints.reading import load_model
from megachar.runs.checkpoints.sources import check_source
from megachar.runs.checkpoints.vocabularies import load_vocabulary
from megachar.runs.sweep_folder import find_runs


class TrainedModel:
    """A trained model with the vocabulary of its text. `load` makes one."""

    def __init__(self, model: Model, vocabulary: Vocabulary, experiment: Experiment, step: int) -> None:
        self.model = model
        """A torch module in evaluation mode, on its device."""
        self.vocabulary = vocabulary
        self.experiment = experiment
        """All settings that it was trained with."""
        self.step = step
        """Steps it was trained for."""

    def encode(self, text: str | bytes) -> npt.NDArray[Any]:
        """The symbols (N,) of a text, integers in [0, v); DataError where the vocabulary has none for some of it."""
        return self.vocabulary.encode(_bytes(text))

    def decode(self, symbols: Iterable[int]) -> bytes:
        """The text of symbols; DataError where one is outside [0, v)."""
        return self.vocabulary.decode(list(symbols))

    def bits(self, text: str | bytes, stride: int | None = None) -> npt.NDArray[np.float64]:
        """The bits that each symbol of a text costs when it is predicted from those before it, (N,).

        Args:
            text: whose first symbol is predicted from nothing, and costs log2 v.
            stride: characters from one window of a transformer to the next; 1 is exact, and slow. Default: an eighth of
                the context.

        Raises:
            ConfigError: the stride is out of range.
            DataError: the text has symbols that are not the model's.
        """
        tokens = self.encode(text)
        if tokens.size == 0:
            return np.empty(0)
        device = next(self.model.parameters()).device
        return Predictor(self.model, device, stride=stride, streams=1).nats(tokens) / NATS_PER_BIT

    def generate(
        self,
        prompt: str | bytes,
        num_characters: int = 500,
        *,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        greedy: bool = False,
        seed: int | None = None,
    ) -> bytes:
        """A continuation of `prompt` by so many symbols; see `SamplingSettings` for the others.

        Raises:
            ConfigError: the prompt is empty, or a value is out of range.
            DataError: the prompt has symbols that are not the model's.
        """
        settings = SamplingSettings(temperature, top_k, top_p, greedy, seed)
        sampler = Sampler(settings, self.experiment.model.vocabulary_size)
        return self.decode(generate(self.model, self.encode(prompt).tolist(), num_characters, sampler))


def load(source: str | Path, step: int | None = None, device: Literal["auto", "cpu", "cuda"] = "auto") -> TrainedModel:
    """A model from the disk, ready for use, in fp32.

    Args:
        source: a run folder, a checkpoint's folder, or an exported file.
        step: of a run's checkpoint; default: the newest whole one.
        device: where it computes; `auto` takes CUDA where there is one.

    Raises:
        ConfigError: `source` is none of these.
        CheckpointError: there is no such checkpoint, or it is damaged.

    Warns where an older checkpoint is taken, as the newest is damaged.
    """
    path = Path(source)
    for problem in check_source(path, step):
        warnings.warn(f"an older checkpoint is taken: {problem}", stacklevel=2)
    loaded = load_model(path, step)
    model = loaded.model.to(choose_device(device))
    return TrainedModel(model, load_vocabulary(path, step), loaded.experiment, loaded.step)


def read_runs(*folders: str | Path) -> list[RunRecord]:
    """What has come of runs that have a validation: settings, best and last bits, time, parameters.

    Args:
        folders: of runs, and of sweeps, which stand for their runs.

    Raises:
        ConfigError: one is neither, or is given twice.
        DataError: none of the runs has a validation.
    """
    return read_run_folders(find_runs([Path(folder) for folder in folders]))


def _bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text
