"""A ladder: models of several sizes, each trained over several lengths, to fit a scaling law to. Imports no torch."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field, ValidationError

from megachar.base.errors import ConfigError
from megachar.config.differences import flatten
from megachar.config.experiment import Experiment
from megachar.config.loading import read_yaml
from megachar.config.sections.section import MAX_LAYERS, MAX_SIZE, Section
from megachar.config.text import is_text_setting
from megachar.families.counting import count_parameters
from megachar.runs.branching import why_not_shared
from megachar.runs.preflight import load_run
from megachar.runs.sweep_folder import RunName
from megachar.sweeps.sweep import Sweep, SweepRun, overrides_of, plan_runs
from megachar.training.progress import flops_of_steps

HELD_OUT_SEED: Final = 1_000_000
"""Added to the seeds of runs that are held out: they share no luck with those that are fitted."""
Characters = Annotated[float, Field(gt=0, le=1e18)]
Rate = Annotated[float, Field(gt=0, le=1e3)]


class Size(Section):
    """A model of the ladder. What it leaves out is the ladder's."""

    layers: int = Field(ge=1, le=MAX_LAYERS)
    width: int = Field(ge=1, le=MAX_SIZE)
    heads: int = Field(ge=1, le=MAX_SIZE)
    characters: tuple[Characters, ...] = ()
    seeds: int | None = Field(default=None, ge=1, le=1000)
    rates: tuple[Rate, ...] = ()
    settings: dict[str, Any] = Field(default_factory=dict)
    """Further settings of its runs."""


class HeldOut(Section):
    """A run that no law is fitted to: the laws are to predict it."""

    size: RunName
    characters: Characters
    seeds: int = Field(default=1, ge=1, le=1000)


class Tuning(Section):
    """Runs of one size and length that find its best learning rate. They are fitted like the others of that length."""

    size: RunName
    characters: Characters
    rates: Annotated[tuple[Rate, ...], Field(min_length=2)]


class Ladder(Section):
    """A ladder's file. Every size is trained over every length, with every rate, batch and seed."""

    name: RunName
    """Name of the folder, in `output`, that holds the run folders."""
    base: str = ""
    """A preset or experiment file that all runs start from. Off (""): it must be given with --base."""
    shared: dict[str, Any] = Field(default_factory=dict)
    """Settings of all runs."""
    sizes: Annotated[dict[RunName, Size], Field(min_length=1, max_length=1000)]
    characters: tuple[Characters, ...] = ()
    """Lengths of training; each is rounded to whole steps."""
    budgets: tuple[Annotated[float, Field(gt=0, le=1e30)], ...] = ()
    """Operations: every size is also trained for as long as takes so many (IsoFLOP)."""
    rates: tuple[Rate, ...] = ()
    """Learning rates; none: that of the base."""
    batches: tuple[Annotated[int, Field(ge=1, le=MAX_SIZE)], ...] = ()
    """Windows of a step; none: those of the base."""
    seeds: int = Field(default=1, ge=1, le=1000)
    """Number of seeds."""
    tuning: tuple[Tuning, ...] = ()
    held_out: tuple[HeldOut, ...] = ()


@dataclass(frozen=True)
class Account:
    """What a run costs and holds, from arithmetic alone."""

    characters: int
    """D: read in training, repeated ones included."""
    flops: float
    """C: operations of training, the classifiers of the layers that predict included."""
    products: float
    """N by what is computed: C / (6 D)."""
    blocks: int
    """N of the model in use, without embeddings, positions and classifiers."""
    parameters: int
    """N of all that is trained."""


@dataclass(frozen=True)
class LadderRun:
    """A run of a ladder."""

    run: SweepRun
    size: str
    trunk: str
    """Name of what runs of several lengths share: size, rate, batch and seed."""
    held_out: bool

    @property
    def name(self) -> str:
        """Of its folder."""
        return self.run.name

    @property
    def account(self) -> Account:
        """What it costs and holds."""
        return account_of(self.run.experiment)


def load_ladder(source: Path) -> Ladder:
    """Read a ladder's file.

    Raises:
        ConfigError: it cannot be read, or something in it is wrong.
    """
    try:
        ladder = Ladder.model_validate(read_yaml(source, _is_text))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{source} does not make a valid ladder: {where}: {first['msg']}") from error
    named = [*(run.size for run in ladder.held_out), *(tuned.size for tuned in ladder.tuning)]
    unknown = [size for size in named if size not in ladder.sizes]
    if unknown:
        raise ConfigError(f"{source} names the size {unknown[0]}, which is none of {', '.join(ladder.sizes)}")
    for name, size in ladder.sizes.items():
        if not (size.characters or ladder.characters or ladder.budgets):
            raise ConfigError(f"{source} gives size {name} no length; give the ladder `characters:` or `budgets:`")
    return ladder


def plan_ladder(ladder: Ladder, base: str | None, overrides: Sequence[str]) -> tuple[LadderRun, ...]:
    """Every run of a ladder, loaded and checked: by trunk, and in each from the shortest to the longest.

    Raises:
        ConfigError: a run's settings are wrong, or two runs are the same.
        DataError: a run's corpus is missing or damaged.
    """
    source = base or ladder.base
    if not source:
        raise ConfigError(f"the ladder {ladder.name} names no base; give it a preset or an experiment file with --base")
    variants: dict[str, dict[str, Any] | None] = {}
    known: dict[str, tuple[str, str, bool]] = {}
    for size in ladder.sizes:
        settings = _settings_of(ladder.sizes[size])
        groups = (overrides_of(flatten(ladder.shared)), list(overrides), overrides_of(flatten(settings)))
        sized = load_run(source, *groups)
        for trunk, own, lengths, held_out in _trunks(ladder, size, sized):
            for steps in lengths:
                name = f"{trunk}-{_short(steps * _characters_per_step(sized, own))}"
                every = {**flatten(settings), **own, "training.total_steps": steps}
                if variants.setdefault(name, every) != every:
                    raise ConfigError(f"two runs of the ladder {ladder.name} would be called {name}; give lengths that "
                                      f"differ in their first four figures")  # fmt: skip
                known[name] = (size, trunk, held_out)
    sweep = Sweep(name=ladder.name, base=source, shared=ladder.shared, variants=variants)
    return tuple(LadderRun(run, *known[run.name]) for run in plan_runs(sweep, base, overrides))


def account_of(experiment: Experiment) -> Account:
    """What a run costs and holds."""
    model, auxiliary, training = experiment.model, experiment.auxiliary, experiment.training
    num_windows, steps = experiment.batch.global_size, training.total_steps
    characters = steps * num_windows * model.window_length
    flops = flops_of_steps(model, auxiliary, num_windows, steps, steps)
    parts = count_parameters(model, auxiliary)
    inside = sum(part.inference for part in parts if part.name not in ("embedding", "positions", "final classifier"))
    return Account(characters, flops, flops / (6 * characters), inside, sum(part.training for part in parts))


def shares_trunks(runs: Sequence[LadderRun]) -> str | None:
    """Why runs of several lengths share no trunk; None where they do."""
    return why_not_shared(runs[0].run.experiment)


def _settings_of(size: Size) -> dict[str, Any]:
    """Settings of the runs of a size: those of its model, and what it adds."""
    model = {"model.num_layers": size.layers, "model.width": size.width, "model.num_heads": size.heads,
             "model.feed_forward_width": 4 * size.width}  # fmt: skip
    return model | flatten(size.settings)


def _trunks(ladder: Ladder, size: str, sized: Experiment) -> Iterator[tuple[str, dict[str, Any], list[int], bool]]:
    """Name, own settings, lengths in steps and whether they are held out, of every trunk of a size."""
    one = ladder.sizes[size]
    rates, batches = one.rates or ladder.rates or (None,), ladder.batches or (None,)
    for rate, batch in itertools.product(rates, batches):
        own: dict[str, Any] = {} if rate is None else {"optimizer.learning_rate": rate}
        own |= {} if batch is None else {"batch.global_size": batch}
        name = size + ("" if rate is None else f"-r{rate:g}") + ("" if batch is None else f"-b{batch}")
        lengths = _lengths(ladder, one, sized, own)
        for number in range(one.seeds or ladder.seeds):
            yield f"{name}-s{number + 1}", {**own, "seed": sized.seed + number}, lengths, False
    for tuned in ladder.tuning:
        lengths = [_steps(tuned.characters, _characters_per_step(sized, {}))]
        for rate in tuned.rates if tuned.size == size else ():
            yield f"{size}-r{rate:g}-s1", {"optimizer.learning_rate": rate, "seed": sized.seed}, lengths, False
    for run in ladder.held_out:
        if run.size == size:
            for number in range(run.seeds):
                lengths = [_steps(run.characters, _characters_per_step(sized, {}))]
                own = {"seed": sized.seed + HELD_OUT_SEED + number}
                yield f"{size}-held-out-s{number + 1}", own, lengths, True


def _lengths(ladder: Ladder, size: Size, sized: Experiment, own: dict[str, Any]) -> list[int]:
    """Numbers of steps, in order."""
    per_step = _characters_per_step(sized, own)
    steps = {_steps(characters, per_step) for characters in size.characters or ladder.characters}
    num_windows = own.get("batch.global_size", sized.batch.global_size)
    for budget in ladder.budgets:
        found = 1
        for _ in range(8):  # layers that fall silent by shares of the length make this no straight line
            flops = flops_of_steps(sized.model, sized.auxiliary, num_windows, found, found)
            found = max(1, round(found * budget / flops))
        steps.add(found)
    return sorted(steps)


def _characters_per_step(experiment: Experiment, own: dict[str, Any]) -> int:
    windows: int = own.get("batch.global_size", experiment.batch.global_size)
    return windows * experiment.model.window_length


def _steps(characters: float, per_step: int) -> int:
    return max(1, round(characters / per_step))


def _short(characters: int) -> str:
    """`1.5M` for 1,500,000, as a part of a name."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if characters >= unit:
            return f"{characters / unit:.4g}{name}"
    return str(characters)


def _is_text(path: tuple[str, ...]) -> bool:
    """Whether the value at a path of keys of a ladder's file is text."""
    section, *setting = path or ("",)
    if section == "shared":
        return is_text_setting(tuple(".".join(setting).split(".")))
    if section == "sizes" and setting[1:2] == ["settings"]:
        return is_text_setting(tuple(".".join(setting[2:]).split(".")))
    return section in ("name", "base") or (section in ("held_out", "tuning") and setting[-1:] == ["size"])
