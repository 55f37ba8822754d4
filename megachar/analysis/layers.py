"""What every layer's own classifiers reached over training, from a run's records (Al-Rfou et al. 2019, 3.2)."""

from pathlib import Path
from typing import Annotated, Any

import typer

from megachar.analysis.finish import Saving, finish
from megachar.analysis.result import Analysis, Cell, Column, Subject, Table, label_sources
from megachar.base.errors import ConfigError, DataError
from megachar.cli.shared.groups import spread
from megachar.runs.folder import RunFolder
from megachar.runs.plots import draw_layers
from megachar.runs.records import read_records

KINDS = ("train", "validation")


def check_layers(path: Path, kind: str) -> None:
    """ConfigError where `path` is no run folder, or its model or training has no intermediate classifiers."""
    if kind not in KINDS:
        raise ConfigError(f"--records {kind} is unknown; set one of {', '.join(KINDS)}")
    experiment = RunFolder(path).load_experiment()
    if experiment.model.num_layers == 1 or not experiment.auxiliary.intermediate_layers:
        why = "it has one layer" if experiment.model.num_layers == 1 else "auxiliary.intermediate_layers is false"
        raise ConfigError(f"{path} was trained without intermediate classifiers ({why}); name another run")


def analyze_layers(path: Path, label: str, kind: str) -> Analysis:
    """The analysis of the run folder `path`.

    Args:
        path: of a transformer's run (`check_layers`).
        label: of the run.
        kind: of the records: "train", means over the steps between two of them, or "validation".

    Raises:
        DataError: it has no such records yet.
    """
    folder = RunFolder(path)
    found = read_records(folder, [kind])
    records, remark = found.of(kind), found.remark(folder)
    if not records or not records[0].get("layers"):
        raise DataError(f"{folder.metrics_file} holds no {kind} record yet; wait for the next one")
    num_layers, num_columns = len(records[0]["layers"]), len(records[0]["layers"][0])
    details = Table(
        (Column("step"), Column("layer"), Column("target"), Column("bits_per_character")),
        tuple(
            (record["step"], layer + 1, target + 1, record["layers"][layer][target])
            for record in records
            for layer in range(num_layers)
            for target in range(num_columns)
        ),
    )
    columns = [Column("layer"), Column("predicted until step", ",")]
    for target in range(num_columns):
        ahead = "next" if target == 0 else f"{target + 1} ahead"
        columns += [Column(f"{ahead} (bits)", ".4f"), Column("above the last layer", "+.4f")]
    rows = tuple(_row(records, layer) for layer in range(num_layers))
    reading = (
        "A curve is what one layer's own classifiers reach until the schedule silences it (dotted: the last of them); "
        "lower panels and table: how far it is above the last layer. Near 0, the layers after it add little."
    )
    reading += "" if remark is None else f" {remark}."
    title = f"{label}: the loss of each layer's own classifiers ({kind} records)"
    subject = Subject(label, str(path.resolve()), records[-1]["step"])
    return Analysis("layers", title, (subject,), Table(tuple(columns), rows), draw_layers(folder, records, label),
                    reading, "", {"records": kind}, details)  # fmt: skip


def _row(records: list[dict[str, Any]], layer: int) -> tuple[Cell, ...]:
    """Of one layer the last losses it had, and how far above the last layer's at that step."""
    spoken = [record for record in records if record["layers"][layer][0] is not None]
    if not spoken:
        return (layer + 1, None, *[None] * (2 * len(records[0]["layers"][layer])))
    last = spoken[-1]
    figures: list[Cell] = []
    for own, final in zip(last["layers"][layer], last["layers"][-1], strict=True):
        figures += [own, None if own is None or final is None else own - final]
    return (layer + 1, last["step"], *figures)


@spread
def layers(
    run: Annotated[Path, typer.Argument(help="Run folder of a transformer, such as runs/small.")],
    records: Annotated[str, typer.Option(metavar="<train|validation>", help="Which of the run's records.")] = "train",
    *,
    saving: Saving,
) -> None:
    """What each layer's own classifiers reached over training, both targets (Al-Rfou et al. 2019)."""
    check_layers(run, records)
    folder = saving.folder(run)
    finish(analyze_layers(run, label_sources([run])[0], records), folder, saving.picture_format)
