"""The device of a process."""

import os

import torch

from megachar.base.errors import ConfigError


def choose_device(setting: str) -> torch.device:
    """The device of this process from the `device` setting and LOCAL_RANK."""
    if setting == "cpu" or (setting == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError("device=cuda, but torch sees no CUDA device here; set device=cpu or device=auto")
    local_rank, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local_rank >= count:
        raise ConfigError(f"local rank {local_rank} has no GPU: this host has {count}; start at most {count} processes")
    return torch.device("cuda", local_rank)
