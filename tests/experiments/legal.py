"""Legal experiments drawn at random, each trained for two steps on real processes and resumed for a third.

    python -m tests.experiments.legal --count 200
    python -m tests.experiments.legal --count 1 --seed 123456

Whatever passes the checks that are made before processes start must train. Prints how many were drawn, refused by the
checks and run, and every one that failed, with the seed that draws it again.
"""

import argparse
import json
import random
import secrets
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from megachar.base.errors import MegacharError
from megachar.config.checks import check_experiment
from megachar.config.deepspeed import DS_CONFIGS, load_engine_config
from megachar.config.experiment import Experiment
from megachar.corpora.preparation import cut_by_position, prepare_corpus
from megachar.data.characters import CharacterVocabulary
from megachar.data.corpus import Corpus
from megachar.data.pieces import PieceVocabulary
from megachar.data.used_bytes import UsedBytesVocabulary
from megachar.data.vocabulary import ByteVocabulary, Vocabulary
from megachar.runs.checkpoints.format import list_checkpoints
from megachar.runs.folder import run_folder
from megachar.runs.preflight import check_data
from tests.parallel.cases import fp16_on_cpu
from tests.parallel.pool import RankError, RankPool
from tests.parallel.whole_run import train

STEPS = 2
LAYOUTS = ((1, 1, 1), (1, 1, 2), (2, 1, 1), (1, 2, 1), (4, 1, 1), (2, 2, 1), (2, 1, 2), (1, 2, 2), (1, 1, 4), (1, 4, 1),
           (3, 1, 1), (1, 1, 3))  # fmt: skip
SWITCHES: dict[str, Sequence[Any]] = {
    "contiguous_gradients": (True, False), "reduce_scatter": (True, False), "reduce_bucket_size": (1, 1000, 5e8),
    "use_multi_rank_bucket_allreduce": (True, False), "allgather_partitions": (True, False),
    "allgather_bucket_size": (2, 1000, 5e8), "overlap_comm": (True, False, None),
    "load_from_fp32_weights": (True, False),
    "offload_param": (None, {"device": "none"}, {"device": "cpu"}, {"device": "cpu", "pin_memory": False}),
    "offload_optimizer": (None, {"device": "none"}, {"device": "cpu"}, {"device": "cpu", "pin_memory": False}),
    "sub_group_size": (1, 1000, 10**9), "round_robin_gradients": (True, False), "zero_hpz_partition_size": (1, 2),
    "ignore_unused_parameters": (True, False), "stage3_prefetch_bucket_size": (0, 1, 5e7),
    "stage3_param_persistence_threshold": (0, 100, 10**5), "stage3_model_persistence_threshold": (0, 1000),
    "stage3_max_live_parameters": (0, 1, 1e9), "stage3_max_reuse_distance": (0, 1, 1e9),
    "stage3_use_all_reduce_for_fetch_params": (True, False), "log_trace_cache_warnings": (True, False),
}  # fmt: skip
"""Keys of `zero_optimization`, and values to try."""
ENGINE_SWITCHES: dict[str, Sequence[Any]] = {
    "communication_data_type": (None, "fp32", "bf16"), "prescale_gradients": (True, False),
    "gradient_predivide_factor": (1.0, 2.0), "wall_clock_breakdown": (True, False), "memory_breakdown": (True, False),
    "dump_state": (True, False), "disable_allgather": (True, False),
    "checkpoint": ({"tag_validation": "Fail"}, {"load_universal": True}, {"parallel_write": {"pipeline_stage": True}}),
    "timers": ({"throughput": {"enabled": True, "synchronized": False}}, {"throughput": {"enabled": False}}),
    "comms_logger": ({"enabled": True}, {"enabled": False, "verbose": True}),
    "flops_profiler": ({"enabled": True, "profile_step": 1}, {"enabled": False}),
}  # fmt: skip

PRECISION_SWITCHES: dict[str, dict[str, Sequence[Any]]] = {
    "fp16": {"loss_scale": (0, 1, 128.0), "initial_scale_power": (0, 4, 24), "loss_scale_window": (1, 1000),
             "hysteresis": (1, 2), "consecutive_hysteresis": (True, False), "min_loss_scale": (1, 2)},
    "bf16": {"immediate_grad_update": (True, False), "check_grad_overflow": (True, False)},
}  # fmt: skip


@dataclass
class Tally:
    """What came of it."""

    drawn: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    """Begin of the message -> how often."""
    run: int = 0
    failed: dict[int, str] = field(default_factory=dict)
    """Seed -> what was run, and the traceback."""


def make_corpora(folder: Path) -> tuple[Path, ...]:
    """Small corpora, each of another vocabulary; beside each, for blends, one of the same on other text."""
    text, vocabularies = text_of(1), dict[str, Vocabulary]()
    vocabularies["bytes"], vocabularies["used"] = ByteVocabulary(), UsedBytesVocabulary(b"\n " + bytes(range(97, 123)))
    letters = "".join(map(chr, range(97, 121)))  # two are left to the bytes
    vocabularies["characters"] = CharacterVocabulary(letters, bytes_for_others=True)
    vocabularies["pieces"] = PieceVocabulary.train([(text, str)], 288, "bpe")
    for number, data in enumerate((text, text_of(2))):
        (folder / f"text-{number}").write_bytes(data)
        for name, vocabulary in vocabularies.items():
            target = folder / (name if number == 0 else other_text(name))
            prepare_corpus(cut_by_position(folder / f"text-{number}"), target, vocabulary, durable=False)
    return tuple(folder / name for name in vocabularies)


def text_of(seed: int) -> bytes:
    """Random words, one to a line."""
    letters = np.random.default_rng(seed).integers(97, 123, 12_000, dtype=np.uint8)
    letters[5::7] = ord("\n")
    return letters.tobytes()


def other_text(name: str) -> str:
    """Name of the corpus of the same vocabulary on other text."""
    return f"{name}-too"


def draw_engine(draw: random.Random, folder: Path) -> str:
    """A DeepSpeed JSON: one that ships, or one of a user's own with a few more switches."""
    names = sorted(path.stem for path in DS_CONFIGS.glob("*.json"))
    precision = draw.choice(["bf16", "fp16", "fp32"])
    name = draw.choice([name for name in names if name.startswith(precision)])
    if draw.random() < 0.4:
        return name
    raw = json.loads((DS_CONFIGS / f"{name}.json").read_text(encoding="utf-8"))
    raw["zero_optimization"]["stage"] = draw.randint(0, 3)
    for key in draw.sample(sorted(SWITCHES), draw.randint(0, 7)):
        raw["zero_optimization"][key] = draw.choice(SWITCHES[key])
    for precision in PRECISION_SWITCHES.keys() & raw.keys():
        switches = PRECISION_SWITCHES[precision]
        raw[precision] |= {key: draw.choice(switches[key]) for key in draw.sample(sorted(switches), draw.randint(0, 2))}
    for key in draw.sample(sorted(ENGINE_SWITCHES), draw.randint(0, 2)):
        raw[key] = draw.choice(ENGINE_SWITCHES[key])
    path = folder / f"engine-{draw.randrange(10**6)}.json"
    path.write_text(json.dumps(raw), encoding="utf-8")
    return str(path)


def draw_model(draw: random.Random, layout: tuple[int, int, int], corpus: Path) -> dict[str, Any]:
    """The sections that depend on the family."""
    pipe, tensor, _ = layout
    if (pipe, tensor) == (1, 1) and draw.random() < 0.5:
        embedding = draw.choice([0, 8])
        model = {
            "family": "recurrent", "cell": draw.choice(["mlstm", "lstm", "milstm"]), "num_layers": draw.randint(1, 3),
            "output_gate": draw.choice(["outside", "inside"]), "hidden_size": draw.choice([4, 7, 16]),
            "embedding_size": embedding, "segment_length": draw.choice([1, 5, 16]), "softmax_bias": draw.random() < 0.5,
            "weight_norm": draw.random() < 0.5, "forget_bias": draw.choice([0.0, 1.0]),
            "orthogonal_scale": draw.choice([0.0, 0.95]), "hidden_dropout": draw.choice([0.0, 0.3]),
            "embedding_dropout": draw.choice([0.0, 0.3]) if embedding else 0.0,
        }  # fmt: skip
        return {"model": model, "auxiliary": {"intermediate_layers": False, "num_targets": 1},
                "data": {"order": "streams", "path": str(corpus)}}  # fmt: skip
    heads, positions = tensor * draw.choice([1, 2, 3]), draw.choice(["learned", "sinusoidal"])
    model = {
        "num_layers": pipe + draw.randint(0, 3), "num_heads": heads, "width": heads * draw.choice([4, 8]),
        "feed_forward_width": draw.choice([8, 24, 60]), "context": draw.choice([2, 5, 8, 16]), "positions": positions,
        "dropout": draw.choice([0.0, 0.2]),
        "local_offsets": draw.choice([[], [[1]], [[], [1]]]) if positions == "learned" else [],
    }  # fmt: skip
    auxiliary = {
        "multiple_positions": draw.random() < 0.7, "intermediate_layers": draw.random() < 0.7,
        "decay": draw.choice(["drop", "linear"]), "interval_steps": draw.choice([None, 0.2, 1.0, 9.0]),
        "num_targets": draw.randint(1, 4), "extra_target_weight": draw.choice([0.0, 0.5]),
        "reduction": draw.choice(["sum", "mean"]),
    }  # fmt: skip
    data: dict[str, Any] = {"order": draw.choice(["random", "epoch"]), "windows": draw.choice(["stream", "document"])}
    if draw.random() < 0.25:
        too = corpus.with_name(other_text(corpus.name))
        data["blend"] = [{"path": str(corpus), "weight": 3}, {"path": str(too), "weight": draw.choice([0.1, 1, 40])}]
    else:
        data["path"] = str(corpus)
    return {"model": model, "auxiliary": auxiliary, "data": data}


def draw_optimizer(draw: random.Random, layout: tuple[int, int, int]) -> dict[str, Any]:
    """The section of the optimizer: normalized_rmsprop only where the model is not cut."""
    choices: list[dict[str, Any]] = [
        {"name": "sgd", "learning_rate": 0.05, "momentum": draw.choice([0.0, 0.9]), "weight_decay": 0.01},
        {"name": "adamw", "learning_rate": 0.001, "weight_decay": draw.choice([0.0, 0.1]),
         "beta1": draw.choice([0.0, 0.9]), "epsilon": draw.choice([1e-8, 1e-30])},
        {"name": "normalized_rmsprop", "learning_rate": 0.05, "decay": draw.choice([0.0, 0.9])},
    ]  # fmt: skip
    return draw.choice(choices if layout[:2] == (1, 1) else choices[:2])


def draw_loop(draw: random.Random, family: str) -> dict[str, Any]:
    """The sections of what happens how often, and to a bad step."""
    shape = draw.choice(["constant", "cosine", "linear", "exponential"])
    checkpoint_interval, validation_interval = draw.choice([0, 1, 2]), draw.choice([0, 1, 2])
    return {
        "schedule": {"shape": shape, "warmup_steps": draw.randint(0, 1), "final_fraction": draw.choice([0.0, 0.1, 1.0]),
                     "step_factor": 0.9 if shape == "exponential" else None},
        "training": {"total_steps": STEPS, "checkpoint_interval": checkpoint_interval,
                     "keep_checkpoints": draw.randint(1, 3), "keep_best_checkpoint": draw.random() < 0.7,
                     "validation_interval": validation_interval, "validation_windows": draw.choice([1, 8]),
                     "early_stopping_patience": 5 if 0 < validation_interval == checkpoint_interval else 0,
                     "gradient_clipping": draw.choice([0.0, 0.01, 1.0]), "log_interval": draw.choice([1, 2, 10])},
        "guard": {"action": draw.choice(["skip", "rollback", "off"]), "window": draw.choice([2, 100]),
                  "spike_deviations": draw.choice([0.0, 1e6]), "max_consecutive": draw.choice([1, 5])},
        "parallel": {
            "activation_checkpoint_interval": 0 if family == "recurrent" else draw.choice([0, 0, 1, 2, 3])},
    }  # fmt: skip


def draw_experiment(draw: random.Random, corpora: Sequence[Path], folder: Path) -> Experiment:
    """An experiment that passes every check that is made before processes start.

    Raises:
        MegacharError: this one passes not all of them.
    """
    layout, corpus = draw.choice(LAYOUTS), draw.choice(corpora)
    sections = draw_model(draw, layout, corpus)
    family = sections["model"].get("family", "transformer")
    micro, (pipe, tensor, data) = draw.randint(1, 3), layout
    values = {
        **sections, **draw_loop(draw, family), "name": "run", "output": str(folder), "device": "cpu",
        "kernels": draw.choice(["torch", "torch", "apex"]), "deepspeed": draw_engine(draw, folder),
        "seed": draw.randrange(2**63), "optimizer": draw_optimizer(draw, layout),
        "batch": {"micro_size": micro, "global_size": micro * data * draw.randint(1, 3)},
    }  # fmt: skip
    values["parallel"] |= {"pipe": pipe, "tensor": tensor, "data": data}
    if draw.random() < 0.9:  # for the rest, what is given must fit by chance
        values["model"]["vocabulary_size"] = Corpus.open(corpus).vocabulary.size
    experiment = Experiment.model_validate(values)
    check_legal(experiment)
    return experiment


def check_legal(experiment: Experiment) -> None:
    """All that is checked before processes start, or `MegacharError`."""
    check_experiment(experiment)
    check_data(experiment)
    if load_engine_config(experiment.deepspeed).needs_gpu:
        raise MegacharError("works on GPUs only")


def train_case(values: dict[str, Any], resume: bool) -> None:
    """On a rank: the whole loop; fp16 is computed also where DeepSpeed would refuse it."""
    experiment = Experiment.model_validate(values)
    with fp16_on_cpu() if load_engine_config(experiment.deepspeed).precision == "fp16" else nullcontext():
        train(experiment, resume)


def moved(draw: random.Random, experiment: Experiment) -> Experiment:
    """The same run, one step longer, on another legal layout, with another DeepSpeed JSON or both, or as it was."""
    longer = experiment.model_copy(
        update={"training": experiment.training.model_copy(update={"total_steps": STEPS + 1})}
    )
    for pipe, tensor, data in draw.sample(LAYOUTS, 5):
        parallel = experiment.parallel.model_copy(update={"pipe": pipe, "tensor": tensor, "data": data})
        engine = draw_engine(draw, Path(experiment.output)) if draw.random() < 0.5 else experiment.deepspeed
        other = longer.model_copy(update={"parallel": parallel, "deepspeed": engine})
        with suppress(MegacharError):
            check_legal(other)
            return other
    return longer


def run(draw: random.Random, experiment: Experiment, ranks: Callable[[int], RankPool]) -> None:
    """Train two steps, and one more from the newest checkpoint; `RankError` if either fails."""
    pool, folder = ranks(experiment.parallel.world_size), run_folder(experiment)
    pool.run(train_case, experiment.model_dump(), False)
    checkpoints = list_checkpoints(folder)
    if checkpoints[-1].step != STEPS:
        raise RankError(f"checkpoints of steps {[checkpoint.step for checkpoint in checkpoints]} are left")
    resumed = moved(draw, experiment)
    try:
        ranks(resumed.parallel.world_size).run(train_case, resumed.model_dump(), True)
    except RankError as error:
        engine = json.dumps(load_engine_config(resumed.deepspeed).raw)
        raise RankError(f"resumed as {resumed.model_dump_json(exclude_defaults=True)}\n{engine}\n{error}") from error
    if list_checkpoints(folder)[-1].step != STEPS + 1:
        raise RankError("the resumed run saved nothing")


def run_many(seeds: Sequence[int], count: int, folder: Path, ranks: Callable[[int], RankPool]) -> Tally:
    """Draw an experiment of each seed, and run those that are legal, until there are `count`."""
    tally, corpora = Tally(), make_corpora(folder)
    for seed in seeds:
        if tally.run == count:
            break
        place = folder / str(seed)
        place.mkdir()
        tally.drawn += 1
        try:
            draw = random.Random(seed)
            experiment = draw_experiment(draw, corpora, place)
        except MegacharError as error:
            tally.refused[str(error).replace(f"{place}/", "")[:50]] += 1
            continue
        tally.run += 1
        try:
            run(draw, experiment, ranks)
        except RankError as error:
            settings = experiment.model_dump_json(exclude_defaults=True)
            engine = json.dumps(load_engine_config(experiment.deepspeed).raw)
            tally.failed[seed] = f"{settings}\n{engine}\n{error}"
        shutil.rmtree(place)
    return tally


def main() -> int:
    """Run experiments and say what came of them; 1 if any failed."""
    parser = argparse.ArgumentParser(description="Train legal experiments that are drawn at random.")
    parser.add_argument("--count", type=int, default=100, help="how many to run")
    parser.add_argument("--seed", type=int, help="draw this one alone")
    given = parser.parse_args()
    seeds = [secrets.randbits(32) for _ in range(100 * given.count)] if given.seed is None else [given.seed]
    with tempfile.TemporaryDirectory() as folder:
        tally = run_many(seeds, given.count, Path(folder), RankPool)
    for seed, error in tally.failed.items():
        print(f"--- seed {seed}\n{error}\n")
    for message, times in tally.refused.most_common(30):
        print(f"refused {times} times: {message}...")
    print(f"{tally.drawn} experiments drawn, {tally.refused.total()} refused by the checks, {tally.run} run, "
          f"{len(tally.failed)} failed")  # fmt: skip
    return int(bool(tally.failed))


if __name__ == "__main__":
    sys.exit(main())
