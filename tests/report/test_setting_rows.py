"""Which settings a report shows as different between runs, or as chosen by one."""

from pathlib import Path

from megachar.config.loading import load_experiment
from megachar.optimizers.sgd import SgdConfig
from megachar.report.setting_rows import ABSENT, SettingRow, chosen, defaults_of, differing, flatten, flatten_json, rows
from tests.report.runs import make_experiment


def test_what_differs_between_families() -> None:
    one = flatten(load_experiment("t12"))
    two = flatten(load_experiment("mlstm-20m"))
    found = {row.key: row.values for row in differing([one, two])}
    assert found["model.family"] == ("transformer", "recurrent")
    assert found["model.context"] == ("512", ABSENT)
    assert found["model.cell"] == (ABSENT, "mlstm")
    assert "name" not in found
    assert "seed" not in found
    assert set(one) | set(two) == {row.key for row in rows([one, two])}


def test_the_same_settings_do_not_differ() -> None:
    settings = flatten(load_experiment("t12"))
    assert differing([settings, settings, settings]) == []


def test_what_a_run_chose() -> None:
    experiment = make_experiment(Path("data/some"), optimizer=SgdConfig(momentum=0.5))
    found = {row.key: row for row in chosen(experiment)}
    assert found["data.path"] == SettingRow("data.path", ("data/some",), '""')
    assert found["optimizer.momentum"] == SettingRow("optimizer.momentum", ("0.5",), "0.99")
    assert "optimizer.beta1" not in found
    assert defaults_of(load_experiment("mlstm-20m"))["model.hidden_size"] == "1900"


def test_json() -> None:
    values = {"zero": {"stage": 1, "empty": {}}, "list": [1, "a"], "text": "", "none": None}
    assert flatten_json(values, "DeepSpeed: ") == {
        "DeepSpeed: zero.stage": "1", "DeepSpeed: zero.empty": "{}", "DeepSpeed: list": '[1, "a"]',
        "DeepSpeed: text": '""', "DeepSpeed: none": "null",
    }  # fmt: skip
