"""The devices a plan is for, and which link two ranks of a layout share."""

from collections.abc import Sequence
from dataclasses import dataclass

from megachar.planning.devices import Device, Link
from megachar.planning.layouts import Layout


@dataclass(frozen=True)
class Cluster:
    """Devices of one kind in machines of one size."""

    device: Device
    devices: int
    """All of them."""
    per_node: int
    """Of each machine."""

    @staticmethod
    def of(device: Device, devices: int) -> "Cluster":
        """So many devices, in machines of the usual size."""
        return Cluster(device, devices, min(device.per_node, devices))

    @staticmethod
    def of_hosts(device: Device, slots: Sequence[int]) -> "Cluster":
        """Machines with so many devices each; the smallest one counts for the links."""
        return Cluster(device, sum(slots), min(slots))

    def tensor_link(self, layout: Layout) -> Link:
        """Between tensor ranks, which have neighboring numbers."""
        return self._link(layout.parallel.tensor)

    def data_link(self, layout: Layout) -> Link:
        """Between replicas of a stage."""
        return self._link(layout.parallel.tensor * layout.parallel.data)

    def stage_link(self, layout: Layout) -> Link:
        """The slowest between two stages."""
        inside = layout.parallel.world_size <= self.per_node
        return self.device.link if inside else self.device.network

    def _link(self, span: int) -> Link:
        """The slowest among as many ranks as follow on each other from a multiple of their number on."""
        inside = span <= self.per_node and self.per_node % span == 0
        return self.device.link if inside or span == 1 else self.device.network
