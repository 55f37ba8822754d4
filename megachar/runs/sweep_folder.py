"""The folder of a sweep: the runs in it, and which ones it was to have. Imports no torch.

    runs/ablation/sweep.json    what each run was given of its own, also of those that have not begun
    runs/ablation/full/         a run folder, and so on

A folder of runs without `sweep.json`, of an older megachar or put together by hand, stands for its runs all the same.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from megachar.base.errors import ConfigError
from megachar.base.files import atomic_write, read_regular
from megachar.config.experiment import RUN_NAME
from megachar.runs.folder import RunFolder, runs_inside

RunName = Annotated[str, Field(pattern=RUN_NAME)]
_MOST_BYTES: Final = 1 << 24


class SweepPlan(BaseModel):
    """`sweep.json`."""

    model_config = ConfigDict(frozen=True, strict=True)

    points: list[str]
    """Settings of the grid, at each point of which every variant is trained; none where there are no variants."""
    runs: dict[RunName, list[str]]
    """Name of a run, in their order -> the settings that it alone is given, `section.key=value`."""


def find_runs(sources: Iterable[Path]) -> list[Path]:
    """The run folders that these folders, of runs and of sweeps, stand for, in order.

    Raises:
        ConfigError: one is neither.
        OSError: one cannot be looked into.
    """
    found = []
    for source in sources:
        inside = [source] if RunFolder(source).experiment_file.is_file() else runs_inside(source)
        if not inside:
            raise ConfigError(f"{source} is neither a run folder nor a folder of runs: it has no "
                              f"{RunFolder(source).experiment_file.name}, nor has a folder in it; name one such as "
                              f"runs/small or runs/ablation")  # fmt: skip
        found += inside
    return found


def say_not_begun(sources: Iterable[Path]) -> list[str]:
    """A sentence on each of these folders whose sweep has runs that have not begun. ConfigError as `read_plan`."""
    said = []
    for source in sources:
        plan = read_plan(source)
        names = [name for name in plan.runs if not (source / name).is_dir()] if plan is not None else []
        if names:
            said.append(f"{source} has runs that have not begun: {', '.join(names)}")
    return said


def plan_file(folder: Path) -> Path:
    """Where the plan of the sweep in `folder` is."""
    return folder / "sweep.json"


def read_plan(folder: Path) -> SweepPlan | None:
    """The plan of the sweep in `folder`; None where there is none.

    Raises:
        ConfigError: it is damaged or cannot be read.
    """
    path = plan_file(folder)
    try:
        return SweepPlan.model_validate_json(read_regular(path, _MOST_BYTES))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}; mend that, or delete it") from error
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"]) or "the whole of it"
        raise ConfigError(f"{path} is damaged ({where}: {error.errors()[0]['msg']}); delete it: the sweep writes it "
                          f"anew") from error  # fmt: skip


def record_plan(folder: Path, points: Iterable[str], runs: Mapping[str, Iterable[str]]) -> None:
    """Write the plan of a sweep into its folder, whole or not at all.

    Runs of an earlier plan stay in it where they have begun: they are in the folder, and are compared with the others.

    Raises:
        ConfigError: as `read_plan`.
        OSError: it cannot be written.
    """
    before = read_plan(folder)
    kept = {} if before is None else {run: own for run, own in before.runs.items() if (folder / run).is_dir()}
    planned = {run: list(own) for run, own in runs.items()}
    kept = {run: own for run, own in kept.items() if run not in planned}
    plan = SweepPlan(points=list(points), runs=planned | kept)
    if plan == before:
        return
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(plan_file(folder)) as part:
        part.write_text(plan.model_dump_json(indent=1) + "\n", encoding="utf-8")
