"""What is written of a study: all figures and how they were found (JSON), and the runs for other tools (CSV)."""

import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from megachar.base.errors import ConfigError
from megachar.base.files import atomic_write, json_text, shown
from megachar.scaling import least_squares
from megachar.scaling.alarms import CHANCE
from megachar.scaling.joint import QUANTITIES, quantities
from megachar.scaling.least_squares import Interval
from megachar.scaling.points import Run, write_points
from megachar.scaling.published import DEFAULT_RECIPE, EXPONENTS, LOG_FACTORS, LOG_OFFSETS
from megachar.scaling.study import Study

PACKAGES: Final = ("megachar", "numpy", "scipy")


def save_study(study: Study, folder: Path) -> list[Path]:
    """Write `runs.csv` and `fit.json` into a folder, which is made; returns their paths.

    Raises:
        ConfigError: they cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        table, figures = folder / "runs.csv", folder / "fit.json"
        with atomic_write(table) as part, part.open("w", encoding="utf-8", newline="") as file:
            write_points(study.table, file)
        with atomic_write(figures) as part:
            part.write_text(json_text(as_dict(study), indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{shown(folder)} cannot be written: {error.strerror}; name a folder that can") from error
    return [table, figures]


def as_dict(study: Study) -> dict[str, Any]:
    """All that was found, as plain values; what is not a finite number becomes null when it is written."""
    return {
        "caution": study.caution,
        "recipe": _recipe(study),
        "law": {name: _interval(study.law.interval(name, study.options.level)) for name in QUANTITIES},
        "as_published": {**quantities(study.published.theta), "objective": study.published.objective},
        "variable_projection": quantities(study.law.fit.projected),
        "deviation": study.law.fit.deviation,
        "degrees_of_freedom": study.law.fit.degrees,
        "noise_between_seeds": None if study.noise is None else asdict(study.noise),
        "budgets": [{"C": budget.compute, "N": _interval(budget.n), "D": _interval(budget.d),
                     "loss": _interval(budget.loss)} for budget in study.budgets],
        "held_out": [{"run": _run(one.run), "predicted": _interval(one.loss), "error": one.error, "inside": one.holds}
                     for one in study.predictions],
        "alarms": [asdict(alarm) for alarm in study.alarms],
        "single_laws": {name: {"runs": len(law.points), "exponent": _interval(law.exponent(study.options.level)),
                               "E": _interval(law.offset(study.options.level))}
                        for name, law in study.singles.items()},
        "isoflops": [{"C": isoflop.compute, "runs": len(isoflop.points), "N": isoflop.minimum}
                     for isoflop in study.isoflops],
        "tuning": [asdict(tuning) for tuning in study.tunings],
        "depth_and_width": _shapes(study),
        "repeated_text": _repetition(study),
        "bootstrap": _bootstrap(study),
        "remarks": list(study.remarks),
        "runs": _runs(study),
    }  # fmt: skip


def _recipe(study: Study) -> dict[str, Any]:
    """Enough to make the same figures again."""
    return {
        "form": "L = E + A N^-alpha + B D^-beta; C = 6 N D",
        "headline": "least squares on log L, started by variable projection; Student's t and the delta method",
        "published": {"loss": "sum of Huber's loss of differences of log L", "method": "BFGS with the gradient",
                      **asdict(DEFAULT_RECIPE), "exponents": EXPONENTS, "log_factors": LOG_FACTORS,
                      "log_offsets": LOG_OFFSETS},
        "variable_projection": {"exponents": [least_squares.LEAST_EXPONENT, least_squares.MOST_EXPONENT],
                                "grid": least_squares.GRID[2]},
        "alarms_by_chance": CHANCE,
        **asdict(study.options),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }  # fmt: skip


def _runs(study: Study) -> list[dict[str, Any]]:
    """Every run's facts; of those that were fitted also what the law gives, and log L measured minus fitted."""
    residuals = dict(zip(map(id, study.law.points.runs), study.law.fit.residuals, strict=True))
    found = []
    for run in study.table.runs:
        law = study.law.predict(run.N, run.D, study.options.level).value
        residual = residuals.get(id(run))
        found.append({**_run(run), "compute": run.compute, "fitted": residual is not None, "law": law,
                      "residual": None if residual is None else float(residual)})  # fmt: skip
    return found


def _run(run: Run) -> dict[str, Any]:
    return run.model_dump(exclude_defaults=True)


def _interval(interval: Interval) -> dict[str, float]:
    return asdict(interval)


def _shapes(study: Study) -> dict[str, Any] | None:
    if study.shapes is None:
        return None
    exponents = study.shapes.exponents(study.options.level)
    return {"exponents": {name: _interval(one) for name, one in exponents.items()},
            "trade_off": study.shapes.trade_off, "runs": len(study.shapes.points)}  # fmt: skip


def _repetition(study: Study) -> dict[str, Any] | None:
    if study.repetition is None:
        return None
    return {"characters": _interval(study.repetition.characters), "parameters": study.repetition.parameters,
            "law": quantities(study.repetition.theta)}  # fmt: skip


def _bootstrap(study: Study) -> Mapping[str, Any] | None:
    return None if study.bootstrap is None else asdict(study.bootstrap)
