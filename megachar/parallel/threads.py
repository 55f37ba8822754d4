"""How many threads the products of a model are worth, where it predicts on a CPU."""

import os

import torch
from torch import nn

from megachar.parallel.mesh import available_cores

MULTIPLICATIONS_PER_THREAD = 4_000_000
"""Of a matrix product, below which a second thread costs more than it saves (`tools/benchmark_start.py threads`).

On two cores with other work beside, (rows, n) x (n, 4n) on two threads took, against one, 1.0 times as long at 1 x 192,
3.7 to 15 times at 32 x 64 to 32 x 512, 1.1 times at 32 x 2048: threads wait for each other in every product, and where
a core is taken, for whoever has it.
"""


def use_threads(asked: int | None, model: nn.Module, rows: int) -> None:
    """Set the threads of this process: as many as are asked for, else what suits the model.

    Args:
        asked: by the user; else OMP_NUM_THREADS counts, where it is set.
        model: whose largest matrix makes the largest product.
        rows: vectors that are multiplied with it at once; 1 where text is generated.
    """
    if asked is not None:
        torch.set_num_threads(asked)
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(fitting_threads(model, rows, available_cores()))


def fitting_threads(model: nn.Module, rows: int, cores: int) -> int:
    """What `use_threads` takes on a machine of `cores`. It goes by sizes alone: the same run gives the same text."""
    largest = max((matrix.numel() for matrix in model.parameters() if matrix.dim() == 2), default=0)
    return min(cores, max(1, rows * largest // MULTIPLICATIONS_PER_THREAD))
