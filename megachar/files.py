"""What every part of megachar needs of the file system."""

import os
from pathlib import Path


def fsync_path(path: Path) -> None:
    """Wait until the file or folder `path` is on the disk; a folder stands for the names in it, not what is in them."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
