"""DeepSpeed as it is loaded here."""

import subprocess
import sys

import pytest

from megachar.base.errors import PlatformError
from megachar.parallel.library import check_deepspeed_version

CODE = """
import os, sys
os.environ["DS_ACCELERATOR"] = "cpu"
import torch
from megachar.parallel.library import load_deepspeed
load_deepspeed()
from deepspeed.runtime.zero.muon import muon_optimizer
from deepspeed.runtime import bf16_optimizer
bf16_optimizer.see_memory_usage("nobody asked", force=True)
for kind in (torch.optim.AdamW, torch.optim.SGD):
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = kind([weight], lr=0.5, fused=True)
    weight.sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    optimizer.load_state_dict(optimizer.state_dict())
    assert weight.detach().max() < 1 and weight.grad is None
print("LOADED", [name for name in ("torch._dynamo", "torch._inductor", "sympy") if name in sys.modules])
"""


def test_nothing_loads_the_compiler() -> None:
    """Neither DeepSpeed's Muon nor torch's optimizers; and no memory figures are printed."""
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-1:] == ["LOADED []"], done.stdout + done.stderr
    assert "nobody asked" not in done.stdout


@pytest.mark.parametrize("version", ["0.19.2", "0.20.0", "1.0.0"])
def test_another_deepspeed_is_refused(version: str) -> None:
    with pytest.raises(PlatformError, match=f"deepspeed {version} is not supported; install deepspeed>=0.19.8,<0.20"):
        check_deepspeed_version(version)


def test_this_deepspeed_will_do() -> None:
    check_deepspeed_version("0.19.8+cpu")
