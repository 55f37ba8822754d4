"""On a CUDA device: the engine in bf16 against the single-device model in fp32, and T12 and T64 themselves."""

import os

import numpy as np
import pytest
import torch

from megachar.config.experiment import Experiment
from megachar.config.loading import load_experiment
from megachar.losses.auxiliary import layer_weights
from megachar.parallel.engine import TrainingEngine
from megachar.parallel.mesh import start
from megachar.parallel.topology import Topology
from megachar.selftest.reference import Reference, micro_batch, weights_at
from megachar.training.setup import build_engine
from tests.parallel.cases import small_experiment

GPU = torch.device("cuda", 0)
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device on this machine"),
]


def engine_on_gpu(experiment: Experiment) -> TrainingEngine:
    os.environ.setdefault("MASTER_PORT", "29517")
    mesh = start(Topology(1, 1, 1), GPU)
    return build_engine(experiment, mesh)


def test_bf16_on_gpu_stays_close_to_fp32_on_cpu() -> None:
    experiment = small_experiment(deepspeed="bf16_zero1", device="cuda")
    expected, engine = Reference(experiment, 3), engine_on_gpu(experiment)
    for step in range(3):
        batches = [micro_batch(experiment, step, i).to(GPU) for i in range(experiment.batch.num_micro_batches)]
        engine.train_step(batches, weights_at(experiment, step), experiment.optimizer.learning_rate)
        np.testing.assert_allclose(engine.gather_losses().nats, expected.nats[step], rtol=5e-3)


@pytest.mark.parametrize("preset", ["t12-modern", "t64-modern"])
def test_paper_models_train_on_gpu(preset: str) -> None:
    overrides = ["parallel.pipe=1", "batch.micro_size=8", "batch.global_size=8", "device=cuda"]
    experiment = load_experiment(preset, overrides)
    engine, losses = engine_on_gpu(experiment), []
    batch = micro_batch(experiment, 0, 0).to(GPU)
    weights = layer_weights(experiment.auxiliary, experiment.model.num_layers, experiment.training.total_steps, 0)
    for _ in range(4):
        engine.train_step([batch], weights, 1e-4)
        losses.append(engine.gather_losses().bits_per_character())
    assert losses[0] == pytest.approx(8.0, rel=0.02)
    assert losses[-1] < losses[0]
