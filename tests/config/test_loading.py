"""Settings from presets, files and the command line: which wins, what is kept as written, and every refusal."""

import random
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from megachar.base.errors import ConfigError
from megachar.config.experiment import Experiment
from megachar.config.loading import load_experiment, preset_names, read_experiment, read_yaml, save_experiment
from megachar.optimizers.adamw import AdamWConfig
from megachar.optimizers.sgd import SgdConfig
from tests.config.conftest import BASE


def write(folder: Path, text: str | bytes, name: str = "experiment.yaml") -> str:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def random_experiment(draw: random.Random) -> Experiment:
    """An experiment that passes all checks, most of its settings unlike the defaults."""
    heads, layers = draw.choice([2, 4, 8]), draw.randint(2, 20)
    micro, data = draw.randint(1, 8), draw.randint(1, 4)
    optimizer: dict[str, Any] = {"name": "sgd", "momentum": draw.random(), "learning_rate": draw.uniform(1e-9, 1)}
    if draw.random() < 0.5:
        optimizer = {"name": "adamw", "beta1": draw.random(), "epsilon": 10.0 ** draw.randint(-20, 0)}
    return Experiment.model_validate({
        "name": draw.choice(["a", "1e5", "0x10", "on", "null", "-", "1_000", "run.3", "2024-01-01"]),
        "output": draw.choice(["runs", "/tmp/a b", "3", "true", "ü: #x", "${name}", "\\\\${a", "~"]),
        "seed": draw.randrange(2**63),
        "device": draw.choice(["auto", "cpu", "cuda"]),
        "deepspeed": "fp32",
        "data": {"path": draw.choice(["", "1e3", "data/x", "a: b"]), "order": draw.choice(["random", "epoch"])},
        "model": {"num_layers": layers, "num_heads": heads, "width": heads * draw.randint(1, 50),
                  "feed_forward_width": heads * 16, "dropout": draw.random(), "context": draw.randint(4, 999)},
        "auxiliary": {"num_targets": draw.randint(1, 3), "interval_steps": draw.choice([None, draw.uniform(0.1, 9e5)]),
                      "decay": draw.choice(["drop", "linear"]), "multiple_positions": draw.random() < 0.5},
        "optimizer": optimizer,
        "schedule": {"shape": draw.choice(["constant", "cosine", "linear"]), "warmup_steps": draw.randint(0, 9)},
        "batch": {"micro_size": micro, "global_size": micro * data * draw.randint(1, 5)},
        "parallel": {"data": data, "tensor": 2, "pipe": draw.randint(1, layers)},
        "training": {"total_steps": draw.randint(10, 10**7), "gradient_clipping": draw.random()},
    })  # fmt: skip


def test_save_and_load_give_the_same(tmp_path: Path, draw: random.Random) -> None:
    for _ in range(10):
        experiment = random_experiment(draw)
        save_experiment(experiment, tmp_path / "resolved.yaml")
        assert load_experiment(str(tmp_path / "resolved.yaml")) == experiment


@pytest.mark.parametrize("name", preset_names())
def test_presets_saved_and_loaded_are_the_same(name: str, tmp_path: Path) -> None:
    save_experiment(load_experiment(name), tmp_path / "resolved.yaml")
    assert load_experiment(str(tmp_path / "resolved.yaml")) == load_experiment(name)


def test_precedence(tmp_path: Path) -> None:
    """Defaults < preset < file < overrides."""
    path = write(tmp_path, f"preset: {BASE}\nmodel: {{num_layers: 7, context: 99}}\n")
    loaded = load_experiment(path, ["model.context=48", "seed=9"])
    assert loaded.model.feed_forward_width == 256  # the file it starts from
    assert loaded.model.num_layers == 7  # file
    assert loaded.model.context == 48  # override
    assert loaded.seed == 9
    assert loaded.model.vocabulary_size == 256  # default
    assert loaded.batch == load_experiment(BASE).batch


def test_the_word_off_is_no_false(tmp_path: Path) -> None:
    assert load_experiment(BASE, ["guard.action=off"]).guard.action == "off"
    assert load_experiment(write(tmp_path, "guard: {action: off}")).guard.action == "off"


AS_WRITTEN = ("007", "1.10", "2024_11_27", "1e3", "0x10", "null", "true", "off", "1_000", "2024-11-27")


@pytest.mark.parametrize("name", AS_WRITTEN)
def test_text_stays_as_it_is_written(name: str, tmp_path: Path) -> None:
    assert load_experiment(BASE, [f"name={name}"]).name == name
    if name != "null":  # which a file needs to say that there is nothing
        assert load_experiment(write(tmp_path, f"name: {name}\ndata: {{path: {name}}}\n")).data.path == name
    blend = load_experiment(BASE, [f"data.blend=[{{path: x{name}, weight: 7}}, {{path: {name}x, weight: 1e-1}}]"]).data
    assert [part.path for part in blend.blend] == [f"x{name}", f"{name}x"]


@pytest.mark.parametrize("path", ["/data/exp #3", "a: b", "${x}", "'a'", "[a", " a ", "a=b", "", "ü", "{}", "&a", "*a"])
def test_paths_are_taken_as_they_stand(path: str) -> None:
    assert load_experiment(BASE, [f"output={path}", f"data.path={path}"]).output == path


def test_a_preset_of_digits(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no preset is called '007'"):
        load_experiment(write(tmp_path, "preset: 007"))


@pytest.mark.parametrize(
    ("text", "groups", "given"),
    [
        ("preset: mlstm-46m", [], False),
        ("preset: mlstm-46m\nmodel: {vocabulary_size: 205}", [], True),
        ("preset: mlstm-46m\nmodel: {hidden_size: 8}", [["seed=2"]], False),
        ("preset: mlstm-46m", [["model={vocabulary_size: 27}"], ["seed=2"]], True),
        ("preset: mlstm-46m", [["model.vocabulary_size=27"], ["model.family=transformer"]], False),
    ],
)
def test_whose_number_of_symbols_it_is(text: str, groups: list[list[str]], given: bool, tmp_path: Path) -> None:
    """The user's or a preset's; naming another family drops it with the section's other settings."""
    assert read_experiment(write(tmp_path, text), *groups).vocabulary_size_is_given is given


def test_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path, f"preset: {BASE}\nseed: 5\n", "base.yaml")
    assert load_experiment(write(tmp_path, "preset: ~/base.yaml")).seed == 5
    assert load_experiment("~/base.yaml").seed == 5


def test_a_file_may_start_from_a_file(tmp_path: Path) -> None:
    base = write(tmp_path, "seed: 5\nname: base\n", "base.yml")
    loaded = load_experiment(write(tmp_path, f"preset: {base}\nname: derived\n"))
    assert (loaded.seed, loaded.name) == (5, "derived")


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    assert load_experiment(write(tmp_path, "")) == Experiment()


def test_sections_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load_experiment(BASE).model.width = 3


@pytest.mark.parametrize("order", [1, -1])
def test_another_optimizer_drops_the_settings_of_the_one_before(order: int) -> None:
    """momentum of t12 would be unknown to AdamW, and its learning rate wrong; settings beside the name stay."""
    overrides = ["optimizer.name=adamw", "optimizer.beta2=0.9"][::order]
    assert load_experiment("t12", overrides).optimizer == AdamWConfig(beta2=0.9)
    overrides = ["optimizer.name=sgd", "optimizer.momentum=0.5"][::order]
    assert load_experiment("t12-modern", overrides).optimizer == SgdConfig(momentum=0.5)


def test_another_optimizer_in_a_file(tmp_path: Path) -> None:
    loaded = load_experiment(write(tmp_path, "preset: t12\noptimizer: {name: adamw, epsilon: 0.1}\n"))
    assert loaded.optimizer == AdamWConfig(epsilon=0.1)


@pytest.mark.parametrize("overrides", [[], ["optimizer.name=sgd"]])
def test_the_same_optimizer_keeps_its_settings(overrides: list[str]) -> None:
    loaded = load_experiment("t12", [*overrides, "optimizer.weight_decay=0.1"])
    assert loaded.optimizer == SgdConfig(learning_rate=0.003, momentum=0.99, weight_decay=0.1)


def test_an_optimizer_section_without_a_name_is_adamw(tmp_path: Path) -> None:
    assert load_experiment(write(tmp_path, "optimizer: {beta1: 0.5}\n")).optimizer == AdamWConfig(beta1=0.5)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("t13", r"no preset is called 't13'; did you mean 't12'\? presets: .*t12, .*; a file must end in \.yaml"),
        ("zzzzzz", r"no preset is called 'zzzzzz'; presets: .*t12, "),
        ("nowhere.yaml", r"experiment file nowhere\.yaml does not exist; .*preset: .*t12, "),
        ("nowhere.yml", r"experiment file nowhere\.yml does not exist"),
    ],
)
def test_no_such_source(source: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_experiment(source)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: [1, 2", r"experiment\.yaml is not readable YAML: "),
        ("name: a\nname: b\n", r"experiment\.yaml is not readable YAML: (.|\n)*duplicate key name"),
        (b"name: \xff\xfe\n", r"experiment\.yaml is not readable YAML: "),
        ("[1, 2]", r"experiment\.yaml holds no sections of settings such as `model:`"),
        ("5", r"experiment\.yaml"),
        ("name: ${nothing}", r"experiment\.yaml.*: Interpolation key 'nothing' not found"),
        ("model: 5", r"model = 5: Input should be a valid dictionary"),
        ("model: " + "[" * 999, r"experiment\.yaml is not readable YAML: it is nested too deeply"),
        ("preset: t13", r"no preset is called 't13'; did you mean 't12'\?"),
        ("preset: nowhere.yaml", r"experiment file nowhere\.yaml does not exist"),
        ("optimizer: {name: [sgd]}", r"optimizer"),
    ],
)
def test_bad_files(text: str | bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        load_experiment(write(tmp_path, text))


def test_a_preset_that_names_itself(tmp_path: Path) -> None:
    path = write(tmp_path, f"preset: {tmp_path}/experiment.yaml\n")
    with pytest.raises(ConfigError, match=r"experiment\.yaml"):
        load_experiment(path)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.width"], r"override 'model\.width' is not of the form key=value, such as training\.total_steps=1000"),
        (["--resume"], r"override '--resume' is not of the form"),
        (["model.width={"], r"override 'model\.width=\{' is not readable: "),
        ([f"model.width={'[' * 999}"], r"override 'model\.width=\[+'\.\.\. is nested too deeply"),
        (["model.width=${model.context}"], r"model\.width = '\$\{model\.context\}': Input should be a valid integer"),
        (["model.num_layer=3"], r"model\.num_layer: unknown key; did you mean 'num_layers'\?"),
        (["modle.width=3"], r"modle: unknown key; did you mean 'model'\?"),
        (
            ["schedule.zzz=3"],
            r"schedule\.zzz: unknown key; known here: cooldown_fraction, final_fraction, shape, step_factor",
        ),
        (["optimizer.momentun=0.5"], r"optimizer\.momentun: unknown key; did you mean 'momentum'\?"),
        (["optimizer.name=adam"], r"optimizer\.name = 'adam': it must be one of adamw, normalized_rmsprop, sgd"),
        (["model.family=rnn"], r"model\.family = 'rnn': it must be one of recurrent, transformer"),
        (["model.width=abc"], r"model\.width = 'abc': Input should be a valid integer"),
        (["model.positions=none"], r"model\.positions = 'none': Input should be 'learned' or 'sinusoidal'"),
    ],
)
def test_bad_overrides(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_experiment("t12", overrides)


@pytest.mark.parametrize(("optimizer", "key"), [("adamw", "momentum"), ("sgd", "beta1")])
def test_a_setting_of_the_other_optimizer_is_not_suggested(optimizer: str, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"optimizer\.{key}: unknown key; ") as caught:
        load_experiment(BASE, [f"optimizer.name={optimizer}", f"optimizer.{key}=0.5"])
    assert f"did you mean '{key}'" not in str(caught.value)


def test_every_problem_is_in_one_message() -> None:
    with pytest.raises(ConfigError) as caught:
        load_experiment("t12", ["model.width=0", "batch.micro_siz=1", "seed=-1"])
    for problem in ("model.width = 0: ", "batch.micro_siz: unknown key; did you mean 'micro_size'?", "seed = -1: "):
        assert problem in str(caught.value)


@pytest.mark.parametrize(
    "override",
    [
        "model.num_layers=0", "model.width=0", "model.num_heads=0", "model.feed_forward_width=0", "model.context=0",
        "model.vocabulary_size=1", "model.dropout=1.0", "model.dropout=-0.1", "model.dropout=nan",
        "auxiliary.interval_steps=0", "auxiliary.num_targets=0", "auxiliary.extra_target_weight=-1",
        "auxiliary.decay=cosine", "auxiliary.reduction=max", "optimizer.learning_rate=0",
        "optimizer.learning_rate=inf", "optimizer.momentum=1.0", "optimizer.momentum=-0.1",
        "optimizer.weight_decay=-0.1", "schedule.shape=step", "schedule.warmup_steps=-1",
        "schedule.final_fraction=1.1", "batch.micro_size=0", "batch.global_size=0", "parallel.pipe=0",
        "parallel.tensor=0", "parallel.data=0", "parallel.activation_checkpoint_interval=-1", "training.total_steps=0",
        "training.gradient_clipping=-1", "training.gradient_clipping=nan", "training.log_interval=0",
        "training.validation_interval=-1", "training.validation_windows=0", "training.checkpoint_interval=-1",
        "training.validation_windows=1000000000000", "parallel.data=10000000", "model.width=1e30",
        "batch.micro_size=1e12",
        "training.total_steps=1000000000000000", "fault_tolerance.progress_timeout_seconds=1e300",
        f"name={'a' * 256}", f"model.context={'9' * 40}", "guard.window=1000000000",
        "training.keep_checkpoints=0", "seed=-1", "seed=9223372036854775808", "device=tpu", "kernels=triton",
        "data.order=sorted", "name=a/b", "name=..", "name=.", "name=''", "model.width=1.5",
    ],
)  # fmt: skip
def test_values_out_of_range(override: str) -> None:
    key = override.partition("=")[0]
    with pytest.raises(ConfigError, match=rf"t12 does not make a valid experiment:\n  {key} = "):
        load_experiment("t12", [override])


@pytest.mark.parametrize("override", ["optimizer.beta1=1", "optimizer.beta2=1", "optimizer.epsilon=0"])
def test_values_of_adamw_out_of_range(override: str) -> None:
    with pytest.raises(ConfigError, match=rf"{override.partition('=')[0]} = "):
        load_experiment(BASE, [override])


@pytest.mark.parametrize(
    "text", ["[" * 90_000, '{"a":' * 90_000, "- " * 5_000, "a: " + "9" * 9_000, "\xff\xfe", "&a [*a]"]
)
def test_yaml_that_would_crash_or_not_end(tmp_path: Path, text: str) -> None:
    """Deep nesting overflows the stack of YAML's library."""
    path = tmp_path / "resolved.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"resolved\.yaml is not readable YAML|holds no sections of settings"):
        read_yaml(path)


@pytest.mark.parametrize("text", ["'007'", "3", "[1]"])
def test_yaml_that_holds_no_sections(tmp_path: Path, text: str) -> None:
    path = tmp_path / "resolved.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"holds no sections of settings such as `model:`|is not readable YAML"):
        read_yaml(path)
