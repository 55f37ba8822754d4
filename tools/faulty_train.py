"""`launcher/train.py` with a planted fault, for tools/chaos.py and the tests.

    MEGACHAR_FAULT=raise:1:3 torchrun --nproc_per_node 2 tools/faulty_train.py small data.path=data/corpus

KIND:RANK:STEP says what a rank does when it has taken that many steps: `raise` an error, `die` as if killed, `stop` as
by SIGSTOP, `sleep` for good, or `hold` the interpreter's lock for good. The moment is printed before. A path as a
fourth part makes the fault happen once: the file is made then, and where it exists nothing happens.
"""

import ctypes
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "launcher"))

import train

from megachar.training import loop

PRINTED = "planted fault at "
healthy = loop.layer_weights


def faulty(config: Any, num_layers: int, total_steps: int, step: int) -> Any:
    """What the loop calls first in every step."""
    kind, rank, at, *mark = os.environ["MEGACHAR_FAULT"].split(":", 3)
    if (os.environ["RANK"], step) == (rank, int(at)) and not any(Path(path).exists() for path in mark):
        for path in mark:
            Path(path).touch()
        print(f"{PRINTED}{time.time()}", flush=True)
        act(kind)
    return healthy(config, num_layers, total_steps, step)


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


if "MEGACHAR_FAULT" in os.environ:
    loop.layer_weights = faulty
sys.exit(train.main())
