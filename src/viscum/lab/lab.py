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
from viscum.lab import plan
from viscum.lab.plan import Firewall, Settings
from viscum.lab.processes import kill_all, processes_in

RUN_DIR = Path("/run/viscum-lab")
NETNS_DIR = Path("/run/netns")
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
            self._build()
        except BaseException:
            self.down()
            raise

    def _build(self) -> None:
        s = self.settings
        self.directory.mkdir(parents=True)
        self.state_dir.mkdir()
        (self.directory / "settings.json").write_text(json.dumps(asdict(s)))
        _batch(["ip"], [f"netns add {s.namespace(role)}" for role in s.roles])
        for role in s.roles:
            self._set(role, plan.sysctls(role))
        for role, lines in plan.links(s).items():
            _batch(["ip", "-n", s.namespace(role)], lines)
        for role, lines in plan.rates(s).items():
            _batch(["tc", "-n", s.namespace(role)], lines)
        rules = plan.firewall(s)
        if rules:
            _call([*self.enter("ap"), "nft", "-f", "-"], rules)
        if s.has_wan:
            self._lay_wire()
        if s.dns:
            self._serve_names()

    def _set(self, role: str, values: Mapping[str, str]) -> None:
        """Sysctls; /proc/sys/net shows the namespace of the thread that opens it."""
        from viscum.lab.processes import in_netns

        def write() -> None:
            for key, value in values.items():
                Path("/proc/sys", key).write_text(value)

        in_netns(NETNS_DIR / self.namespace(role), write)

    def _lay_wire(self) -> None:
        """netem where the kernel has it, otherwise a process."""
        s = self.settings
        name = s.namespace("wan")
        try:
            _batch(["tc", "-n", name], plan.netem(s))
        except ViscumError:
            pass
        else:
            _batch(["ip", "-n", name], plan.BRIDGE)
            return
        program = str(Path(__file__).with_name("delayline.py"))
        with (self.directory / "wire.log").open("wb") as log:
            child = subprocess.Popen(
                [*self.enter("wan"), sys.executable, "-I", "-S", program]
                + ["ap", "cloud", f"{s.wan_rtt / 2:.9f}", f"{s.loss:.9f}"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                cwd="/",
            )
        self._children.append(child)
        assert child.stdout is not None
        with child.stdout:
            if child.stdout.readline() != b"ready\n":
                words = (self.directory / "wire.log").read_text().strip()
                raise ViscumError(f"the lab's delay line did not start: {words}")

    def _serve_names(self) -> None:
        """The machine's own resolv.conf holds in the lab: the cloud takes its nameservers' place.

        A nameserver on loopback (systemd-resolved) is stood in for in each namespace.
        """
        words = Path("/etc/resolv.conf").read_text()
        servers = re.findall(r"^nameserver\s+([0-9a-fA-F.:]+)\s*$", words, re.MULTILINE)
        local = [a for a in servers if a.startswith("127.") or a == "::1"]
        remote = [a for a in servers if a not in local]
        if remote:
            _batch(
                ["ip", "-n", self.cloud],
                [f"addr add {a} dev lo{' nodad' if ':' in a else ''}" for a in remote],
            )
            _call([*self.enter("cloud"), *plan.dns(remote)])
        if local:
            for role in self.settings.roles:
                if role != "wan":
                    _call([*self.enter(role), *plan.dns(local)])

    def down(self) -> None:
        """Take away everything of this prefix; nothing to do is fine.

        Services that the access point's Viscum runs are removed first: they live in namespaces of
        their own. Raises ViscumError with all that could not be done, having done the rest.
        """
        errors: list[str] = []
        if (
            (NETNS_DIR / self.ap).exists()
            and self.state_dir.is_dir()
            and any(self.state_dir.iterdir())
        ):
            done = self.viscum("rm", "--all", "--no-wait")
            if done.returncode:
                errors.append(done.stderr.strip())
        names = self._namespaces()
        try:
            kill_all([NETNS_DIR / name for name in names])
        except OSError as error:
            errors.append(str(error))
        for child in self._children:
            child.wait()
        self._children.clear()
        for name in names:
            try:
                _batch(["ip"], [f"netns del {name}"])
            except ViscumError as error:
                errors.append(error.message)
        shutil.rmtree(self.directory, ignore_errors=True)
        try:
            RUN_DIR.rmdir()
        except OSError:
            pass  # other labs
        if errors:
            raise ViscumError("; ".join(errors), hint="try again: lab down")

    def _namespaces(self) -> list[str]:
        """Those of this prefix that exist, whatever number of clients they were made for."""
        start = f"{self.settings.prefix}-"
        return sorted(
            p.name
            for p in (NETNS_DIR.iterdir() if NETNS_DIR.is_dir() else ())
            if p.name.startswith(start) and ROLE.fullmatch(p.name.removeprefix(start))
        )

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
            wire = "process" if processes[wan] else "netem" if _has_bridge(wan) else "broken"
        up = settings is not None and wanted <= set(names) and wire != "broken"
        return LabStatus(up, settings, names, processes, wire)

    def __enter__(self) -> Lab:
        self.up()
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    # --- programs ------------------------------------------------------------------------------

    def enter(self, role: str) -> list[str]:
        """The words that put a command into a namespace (and, unlike `ip netns exec`, only that)."""
        return ["nsenter", f"--net={NETNS_DIR / self.namespace(role)}", "--"]

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


def _has_bridge(namespace: str) -> bool:
    return (
        subprocess.run(
            ["ip", "-n", namespace, "link", "show", "wire"], capture_output=True, check=False
        ).returncode
        == 0
    )


def _batch(tool: list[str], lines: list[str]) -> None:
    if lines:
        _call([*tool, "-batch", "-"], "\n".join(lines) + "\n")


def _call(argv: list[str], words: str = "") -> None:
    """Raises ViscumError with the tool's own words."""
    done = subprocess.run(argv, input=words, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip()
        raise ViscumError(f"lab: {' '.join(argv)}: {said}")
