"""A network between programs and what runs in a namespace of its own, by cables (veth) that can be pulled one by one.

Linux, as root: the kernel of this machine is the network. It is gone with the process that made it.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from subprocess import DEVNULL, PIPE
from types import TracebackType
from typing import Final, Self

NEEDED: Final = ("ip", "nsenter", "setpriv", "unshare")


def missing() -> str | None:
    """Why there can be no such network here, and what to do about it; None where there can."""
    if sys.platform != "linux":
        return "network namespaces are Linux'"
    if lacks := [name for name in NEEDED if shutil.which(name) is None]:
        return f"no {', '.join(lacks)}: apt-get install iproute2 util-linux"
    trial = ["unshare", "--net", "ip", "link", "add", "trial", "type", "veth", "peer", "name", "other"]
    done = subprocess.run(trial, capture_output=True, text=True, check=False)
    if os.geteuid() != 0 or done.returncode != 0:
        return f"this machine gives us no network namespace (root, CAP_NET_ADMIN, veth): {done.stderr.strip()}"
    return None


class Network:
    """A context manager: a namespace, and a cable to it for each name. `address(name)` is its far end."""

    def __init__(self, *names: str) -> None:
        self._cables = {name: number for number, name in enumerate(names)}
        self._which = random.randrange(1 << 16)  # of those that other tests make meanwhile
        self._inside: subprocess.Popen[str]

    def __enter__(self) -> Self:
        lives = ["unshare", "--net", "sh", "-c", "ip link set lo up && echo ready && exec cat"]  # to its end of file
        self._inside = subprocess.Popen(lives, stdin=PIPE, stdout=PIPE, text=True)
        try:
            assert self._inside.stdout is not None
            assert self._inside.stdout.readline() == "ready\n"
            for name in self._cables:
                near, far = self._ends(name)
                self._ip("link", "add", near, "type", "veth", "peer", "name", far, "netns", str(self.pid))
                self._ip("address", "add", f"{self._host(name, 1)}/30", "dev", near)
                self._ip("link", "set", near, "up")
                self._ip("address", "add", f"{self._host(name, 2)}/30", "dev", far, inside=True)
                self.heal(name)
        except BaseException:  # boundary: the caller gets it, and nothing is left of the network
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    @property
    def pid(self) -> int:
        """A process in the namespace."""
        return self._inside.pid

    def address(self, name: str) -> str:
        """Where the inside is reached by this cable."""
        return self._host(name, 2)

    def cut(self, name: str) -> None:
        """Pull the cable: what is sent is lost, and nobody is told."""
        self._ip("link", "set", self._ends(name)[1], "down", inside=True)

    def heal(self, name: str) -> None:
        """Put it in again."""
        self._ip("link", "set", self._ends(name)[1], "up", inside=True)

    def _ends(self, name: str) -> tuple[str, str]:
        return f"baa{self._which:04x}n{self._cables[name]}", f"baa{self._which:04x}f{self._cables[name]}"

    def _host(self, name: str, number: int) -> str:
        """Of a block that no network has in use: it is for measuring them."""
        return f"198.18.{self._which % 256}.{self._cables[name] * 4 + number}"

    def _ip(self, *command: str, inside: bool = False) -> None:
        there = ["nsenter", f"--net=/proc/{self.pid}/ns/net"] if inside else []
        done = subprocess.run([*there, "ip", *command], stdin=DEVNULL, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stderr}"

    def _remove(self) -> None:
        self._inside.kill()  # the namespace ends with its last process, and the cables with it
        self._inside.communicate()
        for name in self._cables:
            subprocess.run(["ip", "link", "delete", self._ends(name)[0]], capture_output=True, check=False)
