"""An optimizer is one file: with it there, experiments name it, build it, and know its state and its size."""

import subprocess
import sys
from pathlib import Path

LION = '''
"""Lion (Chen et al. 2023)."""

from typing import ClassVar, Literal

from pydantic import Field

from megachar.optimizers.optimizer import OptimizerConfig, ParameterGroups


class LionConfig(OptimizerConfig):
    """The sign of a running mean of gradients."""

    name: Literal["lion"] = "lion"
    learning_rate: float = Field(default=1e-4, gt=0)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.99, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)

    state_keys: ClassVar = ("momentum",)

    def build(self, groups: ParameterGroups, *, apex: bool, partitioned: bool):
        import torch

        beta1, beta2 = self.beta1, self.beta2

        class Lion(torch.optim.Optimizer):
            @torch.no_grad()
            def step(self, closure=None):
                for group in self.param_groups:
                    for parameter in group["params"]:
                        momentum = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                        parameter.mul_(1 - group["lr"] * group["weight_decay"])
                        parameter.sub_(momentum.lerp(parameter.grad, 1 - beta1).sign_(), alpha=group["lr"])
                        momentum.lerp_(parameter.grad, 1 - beta2)

        return Lion(groups, {"lr": self.learning_rate, "weight_decay": 0.0})
'''
USE = """
import sys
import megachar.optimizers

megachar.optimizers.__path__.append(sys.argv[1])
from megachar.config.loading import load_experiment

assert "torch" not in sys.modules
experiment = load_experiment("small", ["optimizer.name=lion", "optimizer.beta1=0.5", "optimizer.weight_decay=0.25"])
from megachar.launching.checks import checkpoint_bytes

sgd = load_experiment("small", ["optimizer.name=sgd"])
assert checkpoint_bytes(experiment) == checkpoint_bytes(sgd)
import torch
from megachar.training.optimizer import build_optimizer

weight, bias = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
named = [("head.classifiers.0.weight", weight), ("head.classifiers.0.bias", bias)]
built = build_optimizer(experiment.optimizer, experiment.model, named)
for parameter in (weight, bias):
    parameter.grad = torch.tensor([3.0, -3.0])
for group in built.param_groups:
    group["lr"] = 0.5
built.step()
print(weight.tolist(), bias.tolist(), [*built.state[weight]])
"""


def test_one_file_is_an_optimizer(tmp_path: Path) -> None:
    (tmp_path / "lion.py").write_text(LION)
    done = subprocess.run([sys.executable, "-c", USE, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["[0.375, 1.375] [0.5, 1.5] ['momentum']"]
