"""`megachar presets`: the experiments and sweeps that ship with megachar."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from megachar.base.tables import print_table
from megachar.config.loading import PRESETS, load_experiment, preset_names
from megachar.families.counting import count_parameters
from megachar.sweeps.sweep import SWEEPS, sweep_names


def presets() -> None:
    """List the presets and the sweeps with what each is."""
    console = Console()
    table = Table("preset", "what it is", "parameters", "DeepSpeed", "pipe x tensor x data")
    for name in preset_names():
        experiment = load_experiment(name)
        parameters = sum(part.training for part in count_parameters(experiment.model, experiment.auxiliary))
        parallel = experiment.parallel
        layout = f"{parallel.pipe}x{parallel.tensor}x{parallel.data}"
        table.add_row(
            name, _first_line(PRESETS / f"{name}.yaml"), f"{parameters / 1e6:.1f}M", str(experiment.deepspeed), layout
        )
    print_table(table, console)
    sweeps = Table("sweep", "what it is")
    for name in sweep_names():
        sweeps.add_row(name, _first_line(SWEEPS / f"{name}.yaml"))
    print_table(sweeps, console)


def _first_line(path: Path) -> str:
    """A YAML file's opening comment."""
    return path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
