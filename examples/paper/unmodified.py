"""Whether the servers of the examples are byte for byte what Debian ships."""

from __future__ import annotations

import shutil
import subprocess
import sys

from kit import Figures, run
from kit.stage import EXAMPLES
from paper.docker import CANNOT

ALWAYS = {"iperf3", "nginx-light", "busybox-static"}  # of the examples that install nothing


def packages() -> set[str]:
    found = set(ALWAYS)
    for path in EXAMPLES.glob("*/packages"):
        if path.parent.name == "paper":
            continue  # what servers are compared with
        for line in path.read_text().splitlines():
            found |= set(line.partition("#")[0].split())
    return found


def main() -> None:
    if not shutil.which("dpkg"):
        print("no dpkg here to compare the servers' files with", file=sys.stderr)
        raise SystemExit(CANNOT)
    figures, changed = Figures("paper-unmodified"), 0
    installed = [name for name in sorted(packages()) if is_installed(name)]
    for name in installed:
        # "??5??????   /path": another checksum; a "c" before the path: a configuration file
        said = subprocess.run(["dpkg", "-V", name], capture_output=True, text=True, check=False)
        lines = [line.split() for line in said.stdout.splitlines()]
        for flags, *rest in lines:
            if flags[2:3] == "5" and "c" not in rest[:-1]:
                print(f"    {name}: {rest[-1]} is not Debian's")
                changed += 1
    figures.add("files of the servers' packages that are not Debian's", changed, "")
    figures.add("packages compared", len(installed), "")
    figures.save()


def is_installed(name: str) -> bool:
    argv = ["dpkg-query", "-W", "-f", "${db:Status-Status}", name]
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout == "installed"


if __name__ == "__main__":
    run(main)
