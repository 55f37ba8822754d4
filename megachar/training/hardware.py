"""What the device can do and what the process uses of it."""

import resource
import sys

import torch
import torch.distributed as dist

_PEAK_FLOPS: list[tuple[str, float]] = [
    ("H200", 989e12), ("H100 PCIe", 756e12), ("H100", 989e12), ("B200", 2250e12), ("A100", 312e12),
    ("L40S", 362e12), ("L4", 121e12), ("A10G", 70e12), ("A10", 125e12), ("V100", 125e12), ("RTX 4090", 165e12),
]  # fmt: skip
"""Dense bf16/fp16 operations per second with fp32 accumulation, from NVIDIA's data sheets, by part of the name."""


def peak_flops(device: torch.device, precision: str) -> float | None:
    """Peak operations per second of the device in half precision; None for fp32 and for devices not in the table."""
    if device.type != "cuda" or precision == "fp32":
        return None
    name = torch.cuda.get_device_name(device)
    return next((flops for part, flops in _PEAK_FLOPS if part in name), None)


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory this process has held so far: on the GPU, or resident in main memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def peak_memory_of_all_ranks(device: torch.device) -> list[int]:
    """`peak_memory_bytes` of every rank, in order of ranks; all ranks must call it."""
    peaks = torch.zeros(dist.get_world_size(), dtype=torch.int64, device=device)
    peaks[dist.get_rank()] = peak_memory_bytes(device)
    dist.all_reduce(peaks)
    return [int(peak) for peak in peaks]
