"""Memory of this process, and the peak rates of devices by their names."""

from pathlib import Path

import pytest
import torch

from megachar.training.hardware import peak_flops, peak_memory_bytes

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def test_memory_of_this_process() -> None:
    """What Linux calls its high-water mark, where there is one to read; otherwise plausible: torch alone takes this."""
    status, peak = Path("/proc/self/status"), peak_memory_bytes(CPU)
    assert 50 * 2**20 < peak < 2**44
    marks = [line.split()[1] for line in status.read_text().splitlines() if "VmHWM" in line] if status.exists() else []
    for kilobytes in marks:
        assert peak == pytest.approx(int(kilobytes) * 1024, rel=0.05)


def test_no_peak_for_a_cpu_or_fp32() -> None:
    assert peak_flops(CPU, "bf16") is None
    assert peak_flops(GPU, "fp32") is None


@pytest.mark.parametrize(
    ("name", "flops"),
    [
        ("NVIDIA H200", 989e12), ("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12), ("NVIDIA A10G", 70e12), ("NVIDIA A10", 125e12), ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12), ("Tesla V100-SXM2-16GB", 125e12), ("NVIDIA Unknown", None), ("NVIDIA GB10", None),
    ],
)  # fmt: skip
def test_peaks_by_name(name: str, flops: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several names in the table the longest counts: an L40S is no L4, an A10G no A10."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_flops(GPU, "bf16") == flops
    assert peak_flops(GPU, "fp16") == flops
