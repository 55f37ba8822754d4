"""Prepares a corpus slowly, so that a test can meet it at work: slow_preparation.py INPUT OUTPUT NUM_WORKERS.

NUM_WORKERS is "mpi" for the ranks of an MPI job.
"""

import signal
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from megachar.base.errors import MegacharError
from megachar.corpora.preparation import cut_by_position, prepare_corpus
from megachar.corpora.workers import mpi_ranks
from megachar.data.vocabulary import ByteVocabulary


class SlowVocabulary(ByteVocabulary):
    """Bytes, 0.1 seconds a block."""

    def encode(self, text: bytes) -> npt.NDArray[np.uint8]:
        """The bytes, later."""
        time.sleep(0.1)
        return super().encode(text)


def stop(signal_number: int, frame: Any) -> None:
    """As the tool does."""
    sys.exit(128 + signal_number)


def main() -> None:
    """See the top."""
    signal.signal(signal.SIGTERM, stop)
    source, output, num_workers = sys.argv[1:]
    with_mpi = num_workers == "mpi"
    try:
        with mpi_ranks() if with_mpi else nullcontext((None, 1)) as (executor, num_ranks):
            if with_mpi and executor is None:
                return
            prepare_corpus(
                cut_by_position(Path(source)), Path(output), SlowVocabulary(), overwrite=True,
                num_workers=1 if with_mpi else int(num_workers), ranks=(executor, num_ranks) if executor else None,
                unit_bytes=1000, chunk_bytes=500,
            )  # fmt: skip
    except MegacharError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
