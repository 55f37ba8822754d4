"""What training works with, made from an experiment: only here are its sections handed to what reads them."""

from dataclasses import dataclass

from megachar.base.device import choose_device
from megachar.base.files import json_text
from megachar.config.deepspeed import load_engine_config, render_deepspeed_config
from megachar.config.experiment import Experiment
from megachar.data.vocabulary import Vocabulary
from megachar.parallel.engine import PipelineTrainingEngine, TrainingEngine, WholeModelEngine
from megachar.parallel.mesh import Mesh, check_agreement, start
from megachar.parallel.proof import prove_membership
from megachar.parallel.stage import Stage
from megachar.parallel.state import EngineState
from megachar.parallel.topology import Topology
from megachar.runs.checkpoints.format import DataRecord
from megachar.runs.checkpoints.resuming import Resumption, resume_run
from megachar.runs.folder import run_folder
from megachar.runs.preflight import check_data, check_steps
from megachar.training.early_stopping import EarlyStopping
from megachar.training.garbage import no_collection
from megachar.training.guard import Guard
from megachar.training.micro_batches import MicroBatchSource, build_source
from megachar.training.optimizer import build_optimizer
from megachar.training.progress import Progress, flops_of_steps
from megachar.training.watching import connect_watch
from megachar.watch.rank import RankWatch


@dataclass(frozen=True)
class Setup:
    """What training works with."""

    mesh: Mesh
    state: EngineState
    source: MicroBatchSource
    guard: Guard
    stopping: EarlyStopping
    progress: Progress
    data: DataRecord
    vocabulary: Vocabulary
    resumed: Resumption


@no_collection()
def set_up(experiment: Experiment, resume: bool, watch: RankWatch) -> Setup:
    """Join the other ranks, build this one's part, and bring it to where training goes on."""
    blend = check_data(experiment)
    mesh = _join(experiment, watch)
    check_agreement(mesh, f"the data, {blend.description}", blend.fingerprint)
    engine = build_engine(experiment, mesh)
    state = EngineState(engine, experiment.optimizer.state_keys)
    source = build_source(experiment, blend, mesh)
    data = DataRecord(fingerprint=blend.fingerprint, description=blend.description)
    resumed = resume_run(run_folder(experiment), state, experiment, data, blend.vocabulary) if resume else Resumption()
    step, kept = resumed.position.step, resumed.position.loop_state
    check_steps(experiment, step)
    guard = Guard(experiment.guard)
    guard.watch(engine, kept)
    steps_taken = step + guard.skipped_batches
    source.continue_at(steps_taken, resumed.position.windows)
    stopping = EarlyStopping(experiment.training.early_stopping_patience)
    stopping.restore(kept)
    model, auxiliary, num_windows = experiment.model, experiment.auxiliary, experiment.batch.global_size
    progress = Progress(model.window_length, source.text_size)
    flops = flops_of_steps(model, auxiliary, num_windows, experiment.training.total_steps, steps_taken)
    progress.continue_from(kept, flops)
    return Setup(mesh, state, source, guard, stopping, progress, data, blend.vocabulary, resumed)


def build_engine(experiment: Experiment, mesh: Mesh) -> TrainingEngine:
    """This rank's stage of the experiment's model, with its initial weights, under the engine that the layout needs."""
    config = load_engine_config(experiment.deepspeed)
    stage: Stage = experiment.model.part("stage").build_stage(experiment, mesh).to(mesh.device)
    optimizer = build_optimizer(
        experiment.optimizer, experiment.model, stage.named_parameters(), experiment.kernels, config.zero_stage > 0
    )
    kind = PipelineTrainingEngine if mesh.topology.pipe_size > 1 else WholeModelEngine
    return kind(stage, optimizer, config, render_deepspeed_config(experiment), mesh)


def _join(experiment: Experiment, watch: RankWatch) -> Mesh:
    """Find the other ranks, and see that they were given the same experiment."""
    parallel = experiment.parallel
    topology = Topology(parallel.pipe, parallel.data, parallel.tensor)
    mesh = start(topology, choose_device(experiment.device), experiment.fault_tolerance.progress_timeout_seconds)
    secret = prove_membership(mesh, run_folder(experiment).launch)
    connect_watch(watch, mesh, secret)
    check_agreement(mesh, "the experiment", experiment.model_dump_json())
    engine = json_text(load_engine_config(experiment.deepspeed).raw)
    check_agreement(mesh, f"DeepSpeed JSON {experiment.deepspeed}", engine)
    return mesh
