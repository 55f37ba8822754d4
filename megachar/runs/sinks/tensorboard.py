"""TensorBoard's files: the numbers of records as curves. Imports no torch before they are opened."""

from typing import TYPE_CHECKING, Any, Final

from megachar.runs.folder import RunFolder
from megachar.runs.sinks.sink import Sink

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_AMOUNTS: Final = ("seconds", "characters", "flops")
"""Straight lines over steps, or nearly so: no curves."""


class TensorBoard(Sink):
    """Adds a file at every start, which makes TensorBoard forget what others say of later steps."""

    def __init__(self, folder: RunFolder, step: int) -> None:
        """See `Sink`."""
        self._folder = folder
        self._board = self._open(step)

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """See `Sink`."""
        for name, value in values.items():
            if isinstance(value, int | float) and name not in _AMOUNTS:
                self._board.add_scalar(f"{kind}/{name}", value, step)
        for layer, targets in enumerate(values.get("layers", []), start=1):
            for target, value in enumerate(targets, start=1):
                if value is not None:
                    self._board.add_scalar(f"{kind}_layers/{layer:02d}_target{target}_bits", value, step)

    def go_back(self, step: int) -> None:
        """See `Sink`."""
        self._board.close()
        self._board = self._open(step)

    def close(self) -> None:
        """See `Sink`."""
        self._board.close()

    def _open(self, step: int) -> "SummaryWriter":
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self._folder.tensorboard), purge_step=step + 1)
