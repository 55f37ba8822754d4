"""The page: one HTML file that needs nothing beside it and runs nothing."""

import base64
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from importlib.resources import files
from typing import Any

from jinja2 import BaseLoader, Environment, StrictUndefined
from markupsafe import Markup

from megachar.analysis.result import SavedAnalysis, read_picture
from megachar.base.pictures import series
from megachar.report.charts import Chart, palette
from megachar.report.contents import Record, RunContents
from megachar.report.curves import layer_charts, run_charts, unit_of
from megachar.report.setting_rows import ABSENT, chosen, differing, rows
from megachar.report.text import safe
from megachar.report.text_settings import TextSettings
from megachar.report.texts import LEVELS, ModelTexts
from megachar.runs.axes import STEPS, Axis

Head = dict[str, Any]
"""A run as the overview shows it; other sections take its name and colour from there."""


def render(
    runs: Sequence[RunContents],
    texts: Mapping[str, ModelTexts],
    settings: TextSettings,
    notes: Sequence[str],
    axis: Axis = STEPS,
) -> str:
    """The page.

    Args:
        runs: in the order in which they are shown.
        texts: what the models made of text, by the runs' labels; a run without is left out there.
        settings: of those texts.
        notes: what is not shown, and why, beside the runs' own notes.
        axis: what losses are drawn over.
    """
    heads = {run.label: _head(index, run, _best(runs)) for index, run in enumerate(runs)}
    values = {
        "version": version("megachar"),
        "style": Markup(palette() + _resource("style.css")),
        "title": runs[0].label if len(runs) == 1 else f"{len(runs)} runs compared",
        "subtitle": "A report by megachar: " + ", ".join(str(run.folder.path) for run in runs),
        "footer": f"Made by megachar {version('megachar')} on {datetime.now().astimezone():%d %B %Y at %H:%M %Z}.",
        "runs": list(heads.values()),
        "notes": [note for run in runs for note in run.notes] + list(notes),
        "differing": differing([run.settings for run in runs]) if len(runs) > 1 else None,
        "chosen": chosen(runs[0].experiment) if len(runs) == 1 else None,
        "settings": rows([run.settings for run in runs]),
        **_of_runs(runs, heads, axis),
        **_of_texts([(heads[run.label], texts[run.label]) for run in runs if run.label in texts], settings),
    }
    return _environment().from_string(_resource("page.html")).render(values)


def _of_runs(runs: Sequence[RunContents], heads: Mapping[str, Head], axis: Axis) -> dict[str, Any]:
    """What their folders hold."""
    page = _Numbered()
    return {
        "curves": [page.figure(chart) for chart in run_charts(runs, axis)],
        "layers": [
            {"run": heads[run.label], "charts": [page.figure(chart) for chart in charts]}
            for run in runs
            if (charts := layer_charts(run, axis))
        ],
        "unit": unit_of(runs),
        "evaluations": [_evaluation(heads[run.label], record) for run in runs for record in run.evaluations],
        "checkpoints": [row for run in runs for row in _checkpoints(heads[run.label], run)],
        "bad_steps": [
            {"run": heads[run.label], "steps": [_bad_step(record) for record in run.guard]} for run in runs if run.guard
        ],
        "analyses": [_analysis(run.label, analysis) for run in runs for analysis in run.analyses],
    }


def _of_texts(texts: Sequence[tuple[Head, ModelTexts]], settings: TextSettings) -> dict[str, Any]:
    """What their models made of text."""
    return {
        "split": settings.split,
        "start": f"{settings.start:,}",
        "seed": settings.seed,
        "scale": _scale(),
        "colored": [
            {"run": head, "step": f"{text.step:,}", "mean": f"{text.mean_bits:.3f}", "pieces": text.colored}
            for head, text in texts
            if text.colored
        ],
        "samples": [
            {"run": head, "step": f"{text.step:,}", "prompt": text.prompt, "sample": text.sample}
            for head, text in texts
            if text.sample
        ],
    }


def _environment() -> Environment:
    """Everything that is put into the page is made safe to look at, and then escaped, unless it is `Markup`."""
    return Environment(
        loader=BaseLoader(), autoescape=True, undefined=StrictUndefined, finalize=_shown, keep_trailing_newline=True
    )


def _shown(value: Any) -> Any:
    if isinstance(value, Markup):
        return value
    return ABSENT if value is None else safe(str(value))


def _resource(name: str) -> str:
    return (files("megachar.report") / name).read_text(encoding="utf-8")


class _Numbered:
    """Numbers the page's figures."""

    def __init__(self) -> None:
        self._count = 0

    def figure(self, chart: Chart) -> dict[str, Any]:
        self._count += 1
        return {"title": chart.title, "caption": chart.caption, "svg": chart.svg(self._count)}


def _best(runs: Sequence[RunContents]) -> float | None:
    """The lowest validation loss of several runs."""
    found = [best["bits_per_character"] for run in runs if (best := run.best_validation)]
    return min(found) if len(found) > 1 else None


def _head(index: int, run: RunContents, best_of_all: float | None) -> Head:
    """A run's line of the overview, and how its name is shown everywhere."""
    best, speed = run.best_validation, run.characters_per_second
    total = run.experiment.training.total_steps
    return {
        "label": run.label,
        "color": series(index).color,
        "dashes": " ".join(f"{length:g}" for length in series(index).dashes),
        "model": run.model,
        "num_parameters": f"{run.num_parameters:,}",
        "steps": f"{run.step:,}" if run.step == total else f"{run.step:,} of {total:,}",
        "best_validation": _of_step(best) if best else ABSENT,
        "is_best": best is not None and best["bits_per_character"] == best_of_all,
        "training": f"{run.train[-1]['bits_per_character']:.4f}" if run.train else ABSENT,
        "speed": f"{speed:,.0f}" if speed is not None else ABSENT,
        "corpus": ", ".join(part.path for part in run.experiment.data.parts) or ABSENT,
    }


def _of_step(record: Record) -> str:
    return f"{record['bits_per_character']:.4f} (step {record['step']:,})"


def _evaluation(head: Head, record: Record) -> dict[str, Any]:
    """A line of the table: the static figures, and the dynamic ones where they were found beside them."""
    dynamic = record.get("dynamic") or {}
    return {
        "run": head,
        "file": record["file"],
        "split": _split(record),
        "step": _counted(record.get("step")),
        "protocols": [_protocol(record), *([dynamic["protocol"]] if "protocol" in dynamic else [])],
        "precision": record.get("precision"),
        "characters": _counted(record.get("num_characters")) + ("" if record.get("whole_split", True) else " (a part)"),
        "figures": [
            ABSENT if values.get(name) is None else f"{values[name]:{form}}"
            for values in (record, dynamic)
            for name, form in (("bits_per_character", ".4f"), ("bits_per_byte", ".4f"), ("word_perplexity", ",.1f"))
        ],
    }


def _split(record: Record) -> str | None:
    """With its corpus where that is not the one trained on."""
    another = record.get("is_training_corpus") is False and "corpus_folder" in record
    return f"{record.get('split')} of {record['corpus_folder']}" if another else record.get("split")


def _protocol(record: Record) -> str:
    """In words; results of earlier versions have but the numbers."""
    words = [f"{name} {record[name]:,}" for name in ("context", "stride") if record.get(name)]
    return str(record.get("protocol", ", ".join(words)))


def _counted(number: int | None) -> str:
    return ABSENT if number is None else f"{number:,}"


def _checkpoints(head: Head, run: RunContents) -> list[dict[str, Any]]:
    return [
        {
            "run": head,
            "step": f"{one.step:,}",
            "validation": ABSENT if one.manifest.validation_bits is None else f"{one.manifest.validation_bits:.4f}",
            "precision": one.manifest.precision or ABSENT,
            "size": f"{one.num_bytes / 1e6:,.1f} MB",
            "folder": one.path,
        }
        for one in reversed(run.checkpoints)
    ]


def _bad_step(record: Record) -> dict[str, Any]:
    return {"step": f"{record['step']:,}", "action": record.get("action"), "reason": record.get("reason")}


def _scale() -> list[tuple[int, str]]:
    """Colours and the bits they stand for."""
    bounds = [0.0, *LEVELS]
    words = [f"{low:g} to {high:g}" for low, high in zip(bounds, LEVELS, strict=False)]
    return list(enumerate([*words, f"{LEVELS[-1]:g} or more"]))


def _analysis(label: str, analysis: SavedAnalysis) -> dict[str, Any]:
    about = ", ".join(f"{subject.label} at step {subject.step:,}" for subject in analysis.subjects)
    return {
        "title": analysis.title,
        "about": f"{about}{f', {analysis.split} split' if analysis.split else ''}, saved with {label}",
        "how_to_read": analysis.how_to_read,
        "heads": [column.name for column in analysis.table.columns],
        "rows": analysis.table.texts(),
        "picture": Markup("data:image/png;base64," + base64.b64encode(read_picture(analysis.figure)).decode()),
    }
