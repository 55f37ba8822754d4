"""`megachar evaluate RUN`: bits per character of a split, as the papers report them."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt
import typer
from rich.console import Console

from megachar.base.errors import ConfigError
from megachar.base.pictures import PictureFormat
from megachar.cli.evaluation_options import Options
from megachar.cli.evaluation_report import Report, TextSize, publish
from megachar.cli.shared.corpora import Provenance, open_corpus, say_provenance
from megachar.cli.shared.given_model import check_model, loading
from megachar.cli.shared.groups import spread
from megachar.cli.shared.options import Run, Split, check_folder_of
from megachar.data.corpus import Corpus
from megachar.evaluation import positions
from megachar.evaluation.progress import show_progress
from megachar.evaluation.result import DynamicEvaluation, Evaluation
from megachar.evaluation.settings import DynamicSettings, EvaluationSettings
from megachar.evaluation.windows import WindowPlan
from megachar.runs.checkpoints.sources import load_settings, result_path
from megachar.runs.checkpoints.vocabularies import carried_card

if TYPE_CHECKING:
    from megachar.runs.checkpoints.reading import LoadedModel


@spread
def evaluate(run: Run, split: Split = "valid", *, options: Options) -> None:
    """Bits per character of a split: every character is scored exactly once, by the last layer's first target."""
    # All that can be wrong is found before torch is imported, which takes seconds.
    experiment = load_settings(run)
    chosen = options.settings(experiment.model)
    step, max_characters, json = options.step, options.max_characters, options.json
    if max_characters is not None and max_characters < 1:
        raise ConfigError(f"--max-characters {max_characters}: nothing would be scored; set 1 or more, or leave it out")
    check_folder_of(json, "--json")
    corpus = open_corpus(experiment, carried_card(run, step), options.data)
    provenance = Provenance.of(corpus, experiment, run, step)
    say_provenance(provenance)
    tokens = corpus.split(split).tokens[:max_characters]
    if options.by_position and tokens.size < 2:
        raise ConfigError("--by-position: a text of 1 character has none with another before it; leave it out")
    if chosen.dynamic is not None and chosen.dynamic.rule == "rms":
        chosen = chosen.with_training_text(corpus.split("train").tokens.size)

    check_model(run, step)
    with loading():
        from megachar.parallel.threads import use_threads
        from megachar.runs.checkpoints.reading import load_model

        work = Work(load_model(run, step), corpus, split, max_characters)
    use_threads(options.threads, work.loaded.model, chosen.static.rows(experiment.model.context_limit))
    static = work.score(chosen.static)
    label = provenance.label(split, named=options.data is not None)
    name = static.file_name(label)
    report = Report(static, TextSize.of(static, corpus), provenance)
    publish(report, result_path(run, f"{name}.json"), json)  # at once: what follows may take long, or fail
    if options.by_position:
        work.draw_positions(static, result_path(run, static.positions_name(label)), options.picture_format)
    if chosen.dynamic is not None:
        followed = work.follow(chosen.dynamic, options.device)
        publish(replace(report, dynamic=followed), result_path(run, f"{name}-dynamic{followed.label}.json"), json)


@dataclass(frozen=True)
class Work:
    """A model and the text that it is to predict."""

    loaded: "LoadedModel"
    corpus: Corpus
    split: str
    max_characters: int | None

    @property
    def tokens(self) -> npt.NDArray[Any]:
        """The text (N,)."""
        return self.corpus.split(self.split).tokens[: self.max_characters]

    def score(self, settings: EvaluationSettings) -> Evaluation:
        """With the weights as they are."""
        from megachar.evaluation.evaluate import evaluate as score

        with show_progress(Console(stderr=True), self.tokens.size) as progress:
            return score(
                self.loaded.model, self.corpus.split(self.split).tokens, settings, split=self.split,
                step=self.loaded.step, max_characters=self.max_characters, progress=progress,
            )  # fmt: skip

    def follow(self, settings: DynamicSettings, device: str) -> DynamicEvaluation:
        """With weights that follow the text."""
        from megachar.evaluation.evaluate import evaluate_dynamically, training_mean_squares

        console, mean_squares = Console(stderr=True), None
        if settings.rule == "rms":
            with show_progress(console, settings.statistics - 1, doing="collecting mean squares") as progress:
                mean_squares = training_mean_squares(
                    self.loaded.model, self.corpus.split("train").tokens, settings, device, progress
                )
        with show_progress(console, self.tokens.size, doing="scoring and learning") as progress:
            return evaluate_dynamically(
                self.loaded.model, self.tokens, settings, device, mean_squares=mean_squares, progress=progress
            )

    def draw_positions(self, static: Evaluation, path: Path, picture_format: PictureFormat) -> None:
        """Bits by position, as a table and a picture beside each other; `path` has no suffix yet."""
        from megachar.base.device import choose_device
        from megachar.evaluation.predictor import Predictor

        carried = static.settings.carries
        since = "the state was zero" if carried else "the window began"
        length = max(1, min(static.context or positions.STREAM_LENGTH, self.tokens.size - 1))
        predictor = Predictor(
            self.loaded.model, choose_device(static.settings.device), precision=static.settings.precision, stride=length
        )
        with show_progress(Console(stderr=True), self.tokens.size, doing="scoring by position") as progress:
            nats = predictor.nats(self.tokens, length, progress)
        found = positions.ByPosition(nats, WindowPlan(nats.size, length, length))
        positions.write_csv(path.with_name(f"{path.name}.csv"), found.bins)
        picture, title = path.with_name(f"{path.name}.{picture_format}"), f"{self.loaded.experiment.name}: {self.split}"
        positions.plot(picture, found.bins, title, since, self.corpus.vocabulary.unit, picture_format)
        typer.echo(f"saved {path}.csv and .{picture_format}")
        typer.echo(found.how_to_read(since))
