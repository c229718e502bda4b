"""Machines that are none: Linux namespaces with a network, processes, /dev/shm and folders each.

Ray, gloo and verl see two hosts with addresses of their own, joined by a bridge; a folder is shared
between them unless it is made private. Killing a machine is pulling its plug.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

NETWORK = "10.77.0"


def sh(*command, check=True, **options):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, **options)
    assert not check or done.returncode == 0, (
        f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    )
    return done


def available():
    tools = all(shutil.which(tool) for tool in ("ip", "unshare", "nsenter"))
    return (
        tools
        and sh("unshare", "--net", "--mount", "--pid", "--fork", "true", check=False).returncode
        == 0
    )


class Namespace:
    """A process that does nothing, and the namespaces that live as long as it."""

    def __init__(self, *kinds):
        self.parent = subprocess.Popen(["unshare", *kinds, "sleep", "infinity"])
        children = Path(f"/proc/{self.parent.pid}/task/{self.parent.pid}/children")
        while not (found := children.read_text().split()):
            time.sleep(0.01)
        self.pid = found[0]
        self.enter = ("nsenter", "--target", self.pid, "--net", "--mount", "--pid")

    def sh(self, *command, **options):
        return sh(*self.enter, *command, **options)

    def unplug(self):
        subprocess.run(["kill", "-9", self.pid], check=False)
        self.parent.wait()


class Switch(Namespace):
    def __init__(self):
        super().__init__("--net", "--fork", "--kill-child")
        self.enter = ("nsenter", "--target", self.pid, "--net")
        self.sh("ip", "link", "add", "bridge", "type", "bridge")
        self.sh("ip", "addr", "add", f"{NETWORK}.254/24", "dev", "bridge")
        self.sh("ip", "link", "set", "bridge", "up")


class Machine(Namespace):
    def __init__(self, switch, number, private):
        super().__init__("--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
        self.address = f"{NETWORK}.{number}"
        port = f"port{number}"
        sh("ip", "link", "add", port, "type", "veth", "peer", "name", f"host{number}")
        sh("ip", "link", "set", port, "netns", switch.pid)
        sh("ip", "link", "set", f"host{number}", "netns", self.pid)
        switch.sh("ip", "link", "set", port, "master", "bridge", "up")
        self.sh("ip", "link", "set", "lo", "up")
        self.sh("ip", "link", "set", f"host{number}", "name", "eth0")
        self.sh("ip", "addr", "add", f"{self.address}/24", "dev", "eth0")
        self.sh("ip", "link", "set", "eth0", "up")
        self.sh("ip", "route", "add", "default", "via", f"{NETWORK}.254")
        for folder in ("/dev/shm", "/tmp/ray", private):
            Path(folder).mkdir(exist_ok=True)
            self.sh("mount", "-t", "tmpfs", "tmpfs", folder)

    def ray_start(self, ray, *arguments):
        """As docs/verl.md has it, plus a GPU that does not exist."""
        self.sh(
            *(ray, "start", *arguments, "--num-gpus=1", "--num-cpus=6", "--disable-usage-stats"),
            "--object-store-memory=200000000",
            cwd="/",
        )
