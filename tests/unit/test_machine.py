"""What a machine offers, found by looking."""

from __future__ import annotations

from pathlib import Path

from slotsched.machine import nvidia_devices, usable_resources
from slotsched.scheduler import capacity_of
from slotsched.settings import Settings


def test_nvidia_devices_are_counted_and_what_is_beside_them_is_not(tmp_path: Path) -> None:
    for name in ("nvidia0", "nvidia1", "nvidia10", "nvidiactl", "nvidia-uvm", "nvidia0x"):
        (tmp_path / name).touch()
    assert nvidia_devices(tmp_path) == 3
    assert nvidia_devices(tmp_path / "none") == 0
    assert usable_resources({}, tmp_path) == {"gpu": 3}
    assert usable_resources({"license": 2}, tmp_path) == {"gpu": 3, "license": 2}
    assert usable_resources({"gpu": 1}, tmp_path) == {"gpu": 1}
    assert usable_resources({}, tmp_path / "none") == {}


def test_settings_name_resources_beside_what_is_found_or_instead_of_it() -> None:
    assert capacity_of(Settings(resources={"gpu": 7, "license": 2})).resources == {"gpu": 7, "license": 2}
    assert capacity_of(Settings(resources={"gpu": 0})).resources == {}
