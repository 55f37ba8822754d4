"""`launcher/train.py` with a planted fault, for tools/chaos.py and the tests.

    MEGACHAR_FAULT=raise:1:3 torchrun --nproc_per_node 2 tools/faulty_train.py small data.path=data/corpus

KIND:RANK:STEP says what a rank does when it has taken that many steps: `raise` an error, `die` as if killed, `stop` as
by SIGSTOP, `sleep` for good, or `hold` the interpreter's lock for good. The moment is printed before. A path as a
fourth part makes the fault happen once: the file is made then, and where it exists nothing happens.

MEGACHAR_BAD_STEPS=PATH: once there is a file PATH that holds the number of a rank, that rank's gradients are not finite
from the next checkpoint on, for as many steps as the guard lets pass. The file is removed then.
"""

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "launcher"))

import train
from torch import Tensor

from megachar.training import loop

PRINTED = "planted fault at "


class FaultyLoop(loop._Loop):
    """The loop of training, with what is planted before each step."""

    _bad_steps = 0
    """That are still to come."""

    def _take_step(self) -> None:
        if "MEGACHAR_FAULT" in os.environ:
            self._fail()
        if not self._is_bad():
            super()._take_step()
            return
        self._bad_steps -= 1
        hook = next(self.engine.stage.parameters()).register_hook(_spoil)
        try:
            super()._take_step()
        finally:
            hook.remove()

    def _fail(self) -> None:
        kind, rank, step, *mark = os.environ["MEGACHAR_FAULT"].split(":", 3)
        if (os.environ["RANK"], self.step) == (rank, int(step)) and not any(Path(path).exists() for path in mark):
            for path in mark:
                Path(path).touch()
            print(f"{PRINTED}{time.time()}", flush=True)
            act(kind)

    def _is_bad(self) -> bool:
        """Whether this step is bad, as the first or a later one of a row."""
        order = Path(os.environ.get("MEGACHAR_BAD_STEPS", os.devnull))
        saved = self.step % self.experiment.training.checkpoint_interval == 0
        if saved and order.is_file() and order.read_text() == os.environ["RANK"]:
            order.unlink()
            self._bad_steps = self.experiment.guard.max_consecutive
        return self._bad_steps > 0


def _spoil(gradient: Tensor) -> Tensor:
    return gradient * float("nan")


def act(kind: str) -> None:
    """The fault."""
    if kind == "raise":
        raise RuntimeError("the planted fault")
    if kind == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if kind == "hold":
        ctypes.PyDLL(None).sleep(10**6)  # unlike CDLL, it keeps the lock
    while kind in ("sleep", "stop"):
        time.sleep(1)
    raise ValueError(f"MEGACHAR_FAULT names the unknown fault {kind}")


loop._Loop = FaultyLoop  # type: ignore[misc]
sys.exit(train.main())
