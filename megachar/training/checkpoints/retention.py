"""Which checkpoints of a run stay."""

import shutil

from megachar.training.checkpoints.format import list_checkpoints
from megachar.training.run_folder import RunFolder


def delete_old(folder: RunFolder, keep: int) -> None:
    """Delete all but the newest `keep`."""
    for checkpoint in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(checkpoint.path)
