"""`launcher/train.py` with a fault: rank 1 raises at its third step, while the others wait for it."""

import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "launcher"))

import train

from megachar.training import loop

healthy = loop.layer_weights


def faulty(config: Any, num_layers: int, total_steps: int, step: int) -> Any:
    if os.environ["RANK"] == "1" and step == 2:
        raise RuntimeError("the planted fault")
    return healthy(config, num_layers, total_steps, step)


loop.layer_weights = faulty
sys.exit(train.main())
