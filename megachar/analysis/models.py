"""The models that an analysis is about: what is known of them before they are loaded. Imports no torch by itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from megachar.analysis.result import Subject, label_sources
from megachar.base.errors import CheckpointError, ConfigError
from megachar.config.experiment import Experiment
from megachar.evaluation.windows import STREAMS
from megachar.runs.checkpoints.single_file import read_card
from megachar.runs.checkpoints.sources import find_source, is_checkpoint, load_settings

if TYPE_CHECKING:
    from megachar.evaluation.predictor import Predictor


@dataclass(frozen=True)
class AnalyzedModel:
    """A model on the disk."""

    source: Path
    """Run folder, whose newest checkpoint is taken; a checkpoint's folder; an exported file."""
    experiment: Experiment
    subject: Subject

    @property
    def context(self) -> int | None:
        """The most symbols that it predicts from; None where there is no such number."""
        return self.experiment.model.context_limit

    def load(self, device: str, stride: int | None, batch_size: int, threads: int | None = None) -> "Predictor":
        """The model, ready to predict. With a stride of 1 all its figures are exact, also a recurrent model's.

        `threads`: of this process from here on; None: see `use_threads`.

        Other arguments and errors are those of `Predictor`; CheckpointError where the checkpoint is damaged.
        """
        from megachar.base.device import choose_device
        from megachar.evaluation.predictor import Predictor
        from megachar.parallel.threads import use_threads
        from megachar.runs.checkpoints.reading import load_model

        is_run = self.source.is_dir() and not is_checkpoint(self.source)
        model = load_model(self.source, self.subject.step if is_run else None).model
        streams = 1 if stride == 1 else STREAMS
        use_threads(threads, model, streams if self.context is None else batch_size * self.context)
        return Predictor(model, choose_device(device), stride=stride, batch_size=batch_size, streams=streams)

    def check_finite(self, values: npt.ArrayLike) -> None:
        """CheckpointError where `values`, which it predicted, are not finite numbers."""
        if not np.isfinite(values).all():
            raise CheckpointError(
                f"{self.subject.label}: the loss at step {self.subject.step} is not finite everywhere: training "
                "has diverged; name an earlier checkpoint's folder"
            )


def find_models(sources: Sequence[Path]) -> list[AnalyzedModel]:
    """The models of `sources`, by the checkpoints they have now.

    Raises:
        ConfigError: a source is no model, or is given twice, or their vocabularies are of different sizes.
        CheckpointError: one has no checkpoint, or a damaged one.
    """
    experiments = [load_settings(source) for source in sources]
    models = []
    for source, experiment, label in zip(sources, experiments, label_sources(sources), strict=True):
        step = read_card(source).step if source.is_file() else find_source(source, None).step
        models.append(AnalyzedModel(source, experiment, Subject(label, str(source.resolve()), step)))
    sizes: dict[str, Any] = {model.subject.label: model.experiment.model.vocabulary_size for model in models}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{label} {size}" for label, size in sizes.items())
        raise ConfigError(f"the runs' vocabularies differ (symbols: {listed}); name runs on the same vocabulary")
    return models
