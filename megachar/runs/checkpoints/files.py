"""The writing of one checkpoint's files, so that what has its name is whole, also after a power cut."""

import hashlib
import os
from pathlib import Path

import safetensors.torch
from torch import Tensor

from megachar.base.errors import CheckpointError
from megachar.base.files import fsync_path
from megachar.runs.checkpoints.format import MANIFEST, Checkpoint, FileRecord, Manifest, fingerprint, read_checkpoint


def write_layer(path: Path, tensors: dict[str, Tensor]) -> FileRecord:
    """Write tensors on the CPU as safetensors, and read them back from the disk. Raises as `write_file`."""
    return write_file(path, safetensors.torch.save(tensors))


def write_file(path: Path, data: bytes) -> FileRecord:
    """Write a file of a checkpoint, and read it back from the disk.

    Raises:
        OSError: the file cannot be written.
        CheckpointError: what the disk gives back is not what was written.
    """
    record = FileRecord(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, data)
    if fingerprint(path) != record:
        raise CheckpointError(f"{path} was written and reads back otherwise: the disk or the memory is broken")
    return record


def publish(part: Path, final: Path, manifest: Manifest) -> Checkpoint:
    """Add the manifest to a folder of written files and give it its name, last of all.

    Raises:
        OSError: that could not be done.
        CheckpointError: files that other ranks wrote are not in the folder, or the manifest cannot be read back.
    """
    for name, record in manifest.files.items():
        path = part / name
        if not path.is_file() or path.stat().st_size != record.bytes:
            raise CheckpointError(f"{path} was written by another host and is not seen here: the run's folder must be "
                                  f"on a disk that all hosts share")  # fmt: skip
    write_durably(part / MANIFEST, manifest.to_json())
    for folder in {part / Path(name).parent for name in manifest.files} | {part}:
        fsync_path(folder)
    part.rename(final)
    fsync_path(final.parent)
    return read_checkpoint(final)  # as everyone will see it


def write_durably(path: Path, data: bytes) -> None:
    """Write a file down to the disk, and out of the page cache, so that it will be read from the disk."""
    try:
        with path.open("wb") as file:
            file.write(data)
            file.flush()
            fsync_file(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error  # a full disk names no file


def fsync_file(path: Path) -> None:
    """Send a file that is written to the disk, and out of the page cache."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
