"""A machine of its own as far as the network goes: a namespace, and a cable to it that can be pulled.

Pulling it is silent: nothing is refused and nothing is reset, packets just do not arrive, in either direction. Only
root may do this. Names and addresses are chosen at random, so that test runs do not meet; what an earlier run left,
because it was killed, is taken away by the next one.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

_PREFIX = "ssched"
_NETWORKS = range(16, 32)  # 10.213.16.0/24 ... 10.213.31.0/24
_STALE_SECONDS = 3600.0


class Namespace:
    """One namespace and its cable. `host` is this side's address, where servers for it have to listen."""

    def __init__(self, name: str, network: str) -> None:
        self.name = name
        self.network = network
        self.host, self.inside = f"{network}.1", f"{network}.2"
        self._ours, self._theirs = f"{name}-h", f"{name}-n"

    @property
    def prefix(self) -> list[str]:
        """Before a command that is to run inside. Only the network is another one: /sys and its cgroups stay."""
        return ["nsenter", f"--net=/run/netns/{self.name}", "--"]

    def lay(self) -> None:
        ip("netns", "add", self.name)
        ip("link", "add", self._ours, "type", "veth", "peer", "name", self._theirs, "netns", self.name)
        ip("addr", "add", f"{self.host}/24", "dev", self._ours)
        ip("link", "set", self._ours, "up")
        # While the cable is out nothing may wander off to wherever the machine's default route leads.
        ip("route", "add", "blackhole", f"{self.network}.0/24", "metric", "4096")
        ip("-n", self.name, "addr", "add", f"{self.inside}/24", "dev", self._theirs)
        for device in ("lo", self._theirs):
            ip("-n", self.name, "link", "set", device, "up")

    def pull(self) -> None:
        """From now on nothing arrives, on either side."""
        ip("link", "set", self._ours, "down")

    def plug(self) -> None:
        ip("link", "set", self._ours, "up")

    def remove(self) -> None:
        with contextlib.suppress(subprocess.CalledProcessError):
            ip("route", "del", "blackhole", f"{self.network}.0/24", "metric", "4096")
        with contextlib.suppress(subprocess.CalledProcessError):
            ip("link", "del", self._ours)  # the other end goes with it
        with contextlib.suppress(subprocess.CalledProcessError):
            ip("netns", "del", self.name)


def ip(*words: str) -> str:
    """The command of iproute2. Raises CalledProcessError with what it said."""
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=20).stdout


@contextlib.contextmanager
def namespace() -> Iterator[Namespace]:
    """A namespace for a while; the test is skipped, loudly, where that cannot be had."""
    _require()
    _remove_stale()
    made = Namespace(f"{_PREFIX}{secrets.token_hex(2)}", _free_network())
    try:
        try:
            made.lay()
        except subprocess.CalledProcessError as error:
            pytest.skip(f"NOT TESTED HERE: no network namespaces: {error.stderr.strip()}")
        yield made
    finally:
        made.remove()


def _require() -> None:
    if os.geteuid() != 0:
        pytest.skip("NOT TESTED HERE: only root may make network namespaces")
    for tool, package in (("ip", "iproute2"), ("nsenter", "util-linux")):
        if shutil.which(tool) is None:
            words = f"partitions need `{tool}` (apt-get install {package})"
            if os.environ.get("CI"):
                pytest.fail(words, pytrace=False)
            pytest.skip(f"NOT TESTED HERE: {words}")


def _free_network() -> str:
    used = set(re.findall(r"10\.213\.(\d+)\.", ip("route", "show")))
    free = [number for number in _NETWORKS if str(number) not in used]
    assert free, "every network of the tests is in use"
    return f"10.213.{secrets.choice(free)}"


def _remove_stale() -> None:
    """What a killed run left. A living one's is younger than any run lasts."""
    folder = Path("/run/netns")
    for path in folder.glob(f"{_PREFIX}*") if folder.is_dir() else []:
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                found = re.search(r"10\.213\.\d+", _addresses(path.name))
                Namespace(path.name, found[0] if found else "10.213.0").remove()


def _addresses(name: str) -> str:
    try:
        return ip("-n", name, "addr", "show")
    except subprocess.CalledProcessError:
        return ""
