"""How many GPUs a process here may use, without torch."""

import os
import subprocess


def count_gpus() -> int:
    """NVIDIA GPUs of this machine that CUDA_VISIBLE_DEVICES leaves, by the driver's tool; torch would take seconds."""
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return 0
    return count_visible(len(listed.stdout.splitlines()), os.environ.get("CUDA_VISIBLE_DEVICES"))


def count_visible(installed: int, visible: str | None) -> int:
    """How many of the installed GPUs a value of CUDA_VISIBLE_DEVICES leaves; CUDA reads it up to what names none."""
    if visible is None:
        return installed
    count = 0
    for name in map(str.strip, visible.split(",")):
        if not (name.startswith(("GPU-", "MIG-")) or (name.isdecimal() and int(name) < installed)):
            break
        count += 1
    return count
