"""Builds the lab, runs programs in it and takes it away again.

Nothing of it is found by a process' or namespace's likeness: the namespaces have exactly the
names of this prefix, and a process belongs to the lab if its network namespace is one of them. So
whoever comes next can clean up, whatever became of the one who built it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from viscum.errors import InputError, Problem, ViscumError
from viscum.kernel.logs import unmount_dir
from viscum.lab import plan
from viscum.lab.build import build, call, enter, has_netem
from viscum.lab.plan import Firewall, Settings
from viscum.lab.processes import NETNS_DIR, kill_all, processes_in
from viscum.names import HostNames

RUN_DIR = Path("/run/viscum-lab")
ROLE = re.compile(r"ue|ue[1-9][0-9]*|ap|cloud|wan")
PREFIX = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")


@dataclass(frozen=True, slots=True)
class LabStatus:
    """What is there. wire: what delays the WAN ("netem", "process" or "" for nothing)."""

    up: bool
    settings: Settings | None
    namespaces: tuple[str, ...]
    processes: Mapping[str, tuple[int, ...]]
    wire: str


class Lab:
    """One lab, told apart from others by its prefix. For the parameters see `Settings`.

    Making the object touches nothing. As a context manager it is up inside and down afterwards.
    """

    def __init__(
        self,
        prefix: str = "viscum-lab",
        *,
        clients: int = 1,
        wan_rtt: float = 0.060,
        wan_rate: float = 50e6,
        radio_rate: float = 300e6,
        loss: float = 0.0,
        firewall: Firewall | str = Firewall.ROUTER,
        dns: bool = False,
    ) -> None:
        """Raises InputError."""
        problems = [
            Problem(field, str(value), message)
            for field, value, wrong, message in (
                ("prefix", prefix, not PREFIX.fullmatch(prefix), "use a-z, 0-9 and dashes"),
                ("clients", clients, not 1 <= clients <= plan.MAX_CLIENTS, "1 … 200"),
                ("wan-rtt", wan_rtt, not 0 <= wan_rtt <= 10, "0 … 10 s"),
                ("wan-rate", wan_rate, wan_rate != 0 and wan_rate < 64e3, "at least 64 kbit/s"),
                (
                    "radio-rate",
                    radio_rate,
                    radio_rate != 0 and radio_rate < 64e3,
                    "at least 64 kbit/s",
                ),
                ("loss", loss, not 0 <= loss < 1, "0 … 1"),
            )
            if wrong
        ]
        if firewall not in tuple(Firewall):
            problems.append(Problem("firewall", str(firewall), f"one of {', '.join(Firewall)}"))
        if problems:
            raise InputError(*problems)
        self.settings = Settings(
            prefix, clients, wan_rtt, wan_rate, radio_rate, loss, Firewall(firewall), dns
        )
        self._children: list[subprocess.Popen[Any]] = []

    # --- names --------------------------------------------------------------------------------

    @property
    def ue(self) -> str:
        """Namespace of the first client."""
        return self.namespace("ue")

    @property
    def ues(self) -> tuple[str, ...]:
        return tuple(self.namespace(r) for r in self.settings.roles if r.startswith("ue"))

    @property
    def ap(self) -> str:
        return self.namespace("ap")

    @property
    def cloud(self) -> str:
        return self.namespace("cloud")

    @property
    def directory(self) -> Path:
        return RUN_DIR / self.settings.prefix

    @property
    def state_dir(self) -> Path:
        """VISCUM_STATE_DIR of the access point."""
        return self.directory / "ap"

    def namespace(self, role: str) -> str:
        """Raises InputError."""
        if not ROLE.fullmatch(role):
            raise InputError(Problem("role", role, "no such place", "ue, ue2 …, ap or cloud"))
        return self.settings.namespace(role)

    # --- up and down ---------------------------------------------------------------------------

    def up(self) -> None:
        """Build it; what is left of an earlier one of this prefix goes first.

        Raises ViscumError, with nothing left behind.
        """
        self.down()
        try:
            self.state_dir.mkdir(parents=True)
            words = json.dumps(asdict(self.settings))
            (self.directory / "settings.json").write_text(words)
            self._children += build(self.settings, self.directory)
        except BaseException:
            self.down()
            raise

    def down(self) -> None:
        """Take away everything of this prefix; nothing to do is fine.

        Services that the access point's Viscum runs are removed first: they live in namespaces of
        their own. Raises ViscumError with all that could not be done, having done the rest.
        """
        errors: list[str] = []
        if (NETNS_DIR / self.ap).exists() and _entries(self.state_dir):
            done = self.viscum("rm", "--all", "--now")
            if done.returncode:
                errors.append(f"viscum rm --all on the access point: {done.stderr.strip()}")
        names = self._namespaces() + self._service_namespaces()
        try:
            kill_all([NETNS_DIR / name for name in names])
        except OSError as error:
            errors.append(str(error))
        for child in self._children:
            child.wait()
        self._children.clear()
        for name in names:
            try:
                call(["ip", "netns", "del", name])
            except ViscumError as error:
                errors.append(error.message)
        for logs in self.state_dir.glob("logs/*"):
            unmount_dir(str(logs))
        shutil.rmtree(self.directory, ignore_errors=True)
        try:
            RUN_DIR.rmdir()
        except OSError:
            pass  # not there, or other labs are
        if errors:
            raise ViscumError("; ".join(errors), hint="try again: viscum lab down")

    def _namespaces(self) -> list[str]:
        """Those of this prefix that exist, whatever number of clients they were made for."""
        start = f"{self.settings.prefix}-"
        return sorted(
            name
            for name in _entries(NETNS_DIR)
            if name.startswith(start) and ROLE.fullmatch(name.removeprefix(start))
        )

    def _service_namespaces(self) -> list[str]:
        """Those of the access point's services that its own `rm` could not reach."""
        start = f"{HostNames(str(self.state_dir)).prefix}."
        return sorted(name for name in _entries(NETNS_DIR) if name.startswith(start))

    def status(self) -> LabStatus:
        """Read from the kernel; only the settings come from the file `up` wrote."""
        try:
            raw = json.loads((self.directory / "settings.json").read_text())
            settings = replace(Settings(**raw), firewall=Firewall(raw["firewall"]))
        except (OSError, ValueError, TypeError):
            settings = None
        names = tuple(self._namespaces())
        processes = {n: tuple(processes_in(NETNS_DIR / n)) for n in names}
        wanted = {settings.namespace(r) for r in settings.roles} if settings else set()
        wire = ""
        if settings and settings.has_wan and settings.namespace("wan") in names:
            wan = settings.namespace("wan")
            wire = "process" if processes[wan] else "netem" if has_netem(wan) else "broken"
        up = settings is not None and wanted <= set(names) and wire != "broken"
        return LabStatus(up, settings, names, processes, wire)

    def __enter__(self) -> Lab:
        self.up()
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    # --- programs ------------------------------------------------------------------------------

    def enter(self, role: str) -> list[str]:
        """The words that put a command there (and, unlike `ip netns exec`, nothing else)."""
        return enter(self.namespace(role))

    def environment(self, role: str) -> dict[str, str]:
        """The caller's, and on the access point VISCUM_STATE_DIR."""
        own = {"VISCUM_STATE_DIR": str(self.state_dir)} if role == "ap" else {}
        return {**os.environ, **own}

    def run(
        self, role: str, argv: Sequence[str], *, check: bool = False, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run to its end, output as text; options as subprocess.run."""
        options = {"capture_output": True, "text": True, "stdin": subprocess.DEVNULL} | options
        if "input" in options:
            options.pop("stdin")
        options.setdefault("env", self.environment(role))
        return subprocess.run([*self.enter(role), *argv], check=check, **options)

    def popen(self, role: str, argv: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a program that down() will kill; options as subprocess.Popen."""
        options = {"stdin": subprocess.DEVNULL} | options
        options.setdefault("env", self.environment(role))
        child = subprocess.Popen([*self.enter(role), *argv], **options)
        self._children.append(child)
        return child

    def viscum(self, *args: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run the viscum command on the access point."""
        return self.run("ap", [str(Path(sys.executable).with_name("viscum")), *args], **options)

    def exec_in(self, role: str, argv: Sequence[str]) -> NoReturn:
        """Become the command (for the command line). Raises ViscumError."""
        if not (NETNS_DIR / self.namespace(role)).exists():
            raise ViscumError(f"the lab has no {role}", hint="viscum lab up")
        words = [*self.enter(role), *argv]
        os.execvpe(words[0], words, self.environment(role))


def _entries(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []
