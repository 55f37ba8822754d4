"""The file of devices, and a user's own over it."""

from pathlib import Path

import pytest

from megachar.base.errors import ConfigError
from megachar.config.loading import load_experiment
from megachar.planning.cluster import Cluster
from megachar.planning.devices import SHIPPED, load_device, own_devices_file, save_device
from tests.config.conftest import BASE
from tests.planning.layouts import layout_of


@pytest.mark.parametrize("name", ["a100", "h100", "h200", "cpu"])
def test_devices_that_ship(name: str) -> None:
    device = load_device(name)
    assert device.cpu == (name == "cpu")
    assert set(device.product_flops) == {"bf16", "fp16", "fp32"}
    assert all(device.product_flops[key] < peak for key, peak in device.peak_flops.items())


def test_a_saved_device_is_read_back_from_the_users_own_file() -> None:
    path, h100 = own_devices_file(), load_device("h100")
    save_device("here", h100.model_copy(update={"description": "007"}), path)
    save_device("there", h100, path)
    assert load_device("here").description == "007"
    assert load_device("there") == h100
    assert load_device("a100") == load_device("a100", path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("h100: {memory_bytes: 3}", "h100.description: Field required"),
        ("h100: 3", "h100: Input should be"),
        ("[", "not readable YAML"),
        ("{}", "no device is called 'mine'"),
        ("mine: {memory_bytes: .inf}", "mine.memory_bytes"),
    ],
)
def test_a_file_that_is_wrong(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "devices.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_device("mine", path)


def test_a_device_that_is_unknown() -> None:
    with pytest.raises(ConfigError, match=r"no device is called 'h10'; did you mean 'h100'\? .*--calibrate"):
        load_device("h10")
    with pytest.raises(ConfigError, match=r"nowhere\.yaml is not readable"):
        load_device("h100", Path("nowhere.yaml"))


def test_links() -> None:
    experiment, device = load_experiment(BASE), load_device("h100")
    cluster = Cluster.of(device, 64)
    inside, across = device.link, device.network

    def links(pipe: int, tensor: int, data: int) -> list[object]:
        layout = layout_of(experiment, pipe, tensor, data, 1, "fp32")
        return [cluster.tensor_link(layout), cluster.data_link(layout), cluster.stage_link(layout)]

    assert links(1, 2, 4) == [inside, inside, inside]
    assert links(2, 2, 4) == [inside, inside, across]
    assert links(1, 2, 8) == [inside, across, across]
    assert links(1, 3, 2) == [across, across, inside]  # the third group of three lies over two machines
    assert Cluster.of_hosts(device, [8, 4]).per_node == 4
    assert SHIPPED.is_file()
