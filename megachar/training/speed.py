"""How fast training is."""

import time

from megachar.parallel.mesh import Mesh
from megachar.training.display import Report
from megachar.training.hardware import peak_flops, peak_memory_bytes


class SpeedMeter:
    """Counts characters and operations since its last restart."""

    def __init__(self, characters_per_step: int, precision: str, mesh: Mesh) -> None:
        """`precision`: that of the products, whose peak the share is taken of."""
        self.characters_per_step, self.device = characters_per_step, mesh.device
        peak = peak_flops(mesh.device, precision)
        self.peak = peak * mesh.topology.world_size if peak is not None else None
        self.restart()

    def restart(self) -> None:
        """Count from here: after a report, and after anything that was not training."""
        self._steps, self._flops, self._since = 0, 0.0, time.perf_counter()

    def count(self, flops: float) -> None:
        """One more step was taken, of so many operations."""
        self._flops += flops
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
