"""How many threads the products of a model are worth, where it predicts on a CPU."""

import os

import torch
from torch import nn

from megachar.parallel.mesh import available_cores

MULTIPLICATIONS_PER_THREAD = 8_000_000
"""Of a matrix product, below which a second thread costs more than it saves (`tools/benchmark_start.py threads`).

On two quiet cores, (rows, n) x (n, 4n) on two threads was, against one, 1.0 times as fast at 1 x 64 to 1 x 1900, which
wait for memory; 0.54 times at 32 x 64, 0.84 at 32 x 192, 1.29 at 32 x 512; 1.71 at 1024 x 64 and 1.75 to 1.91 above.
Where a core is taken by other work, small products on two threads wait for whoever has it: 4 to 15 times as long.
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
