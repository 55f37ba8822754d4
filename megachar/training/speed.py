"""How fast training is."""

import time
from collections.abc import Sequence

from megachar.config.deepspeed import load_engine_config
from megachar.config.experiment import Experiment
from megachar.families.counting import step_flops
from megachar.parallel.mesh import Mesh
from megachar.training.display import Report
from megachar.training.hardware import peak_flops, peak_memory_bytes


class SpeedMeter:
    """Counts characters and operations since its last restart."""

    def __init__(self, experiment: Experiment, mesh: Mesh) -> None:
        self.model, self.auxiliary, self.device = experiment.model, experiment.auxiliary, mesh.device
        self.windows_per_step = experiment.batch.global_size
        self.characters_per_step = self.windows_per_step * experiment.model.window_length
        peak = peak_flops(mesh.device, load_engine_config(experiment.deepspeed).precision)
        self.peak = peak * mesh.topology.world_size if peak is not None else None
        self.restart()

    def restart(self) -> None:
        """Count from here: after a report, and after anything that was not training."""
        self._steps, self._flops, self._since = 0, 0.0, time.perf_counter()

    def count(self, weights: Sequence[float]) -> None:
        """One more step was taken, with these layer weights."""
        num_layers = sum(weight > 0 for weight in weights)
        self._flops += step_flops(self.model, self.auxiliary, self.windows_per_step, num_layers)
        self._steps += 1

    def report(
        self, step: int, bits: float, rate: float, gradient_norm: float | None, validation: float | None
    ) -> Report:
        """The figures since the last restart."""
        seconds = max(time.perf_counter() - self._since, 1e-9)
        flops = self._flops / seconds
        return Report(
            step=step,
            bits_per_character=bits,
            learning_rate=rate,
            characters_per_second=self._steps * self.characters_per_step / seconds,
            flops_per_second=flops,
            device_share=flops / self.peak if self.peak is not None else None,
            memory_bytes=peak_memory_bytes(self.device),
            gradient_norm=gradient_norm,
            validation=validation,
        )
