"""`megachar presets`: what ships with megachar."""

from rich.console import Console
from rich.table import Table

from megachar.config.loading import PRESETS, load_experiment, preset_names
from megachar.models.counting import count_parameters


def presets() -> None:
    """List the presets with what each is."""
    table = Table("preset", "what it is", "parameters", "DeepSpeed", "pipe x tensor x data")
    for name in preset_names():
        experiment = load_experiment(name)
        comment = (PRESETS / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        parameters = sum(part.training for part in count_parameters(experiment.model, experiment.auxiliary))
        parallel = experiment.parallel
        layout = f"{parallel.pipe} x {parallel.tensor} x {parallel.data}"
        table.add_row(name, comment, f"{parameters / 1e6:.1f}M", experiment.deepspeed, layout)
    Console().print(table)
