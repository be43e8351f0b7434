"""Runs viscum commands in forks of one interpreter, and kills them where a test says.

Started inside the access point's network namespace. One request a line on standard input, one
answer a line on standard output (JSON). A fork costs a few milliseconds where a new interpreter
costs 150: that is what makes hundreds of killed commands affordable. The fork runs
`viscum.cli.main` with the arguments of the request; all that differs from the real command are the
*points* it counts: before and after every Op and every file that is replaced or removed.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import IO, Any

WARM = (
    "cli.app cli.common cli.control cli.run cli.show doctor foreground host status "
    "kernel.bpf kernel.director.ebpf kernel.director.steps kernel.service kernel.nft "
    "kernel.conntrack kernel.journal spec.doc"
)


SLEEP = "sleep"  # the first long wait: for a server to listen, for flows to end


class Zygote:
    """The test's end: starts the process and talks to it."""

    def __init__(self, popen: Callable[..., subprocess.Popen[str]], attach: str = "auto") -> None:
        self._process = popen(
            [sys.executable, __file__, attach],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout

    def __call__(self, *argv: str, at: int | str = -1, after: float | None = None) -> Ran:
        """Runs a command. at: the number of the point it kills itself at, or SLEEP; after: killed
        so many seconds later."""
        self._stdin.write(json.dumps([argv, at, after]) + "\n")
        self._stdin.flush()
        answer = self._stdout.readline()
        assert answer, "the zygote has died"
        return Ran(argv, **json.loads(answer))

    def close(self) -> None:
        self._stdin.close()
        self._process.wait(10)
        self._stdout.close()


class Ran:
    """How a command ended; status -9: killed. points: what it passed, in order."""

    def __init__(
        self,
        argv: tuple[str, ...],
        status: int,
        out: str,
        err: str,
        points: list[str],
        seconds: float,
    ) -> None:
        self.argv, self.status, self.out, self.err = argv, status, out, err
        self.points, self.seconds = points, seconds

    @property
    def killed(self) -> bool:
        return self.status == -signal.SIGKILL

    def __repr__(self) -> str:
        last = f" at {self.points[-1]!r}" if self.killed and self.points else ""
        return f"viscum {' '.join(self.argv[:4])} … → {self.status}{last}\n{self.out}{self.err}"


# ---- the other end -------------------------------------------------------------------------------


def main() -> None:
    for name in WARM.split():
        __import__(f"viscum.{name}")
    attach = sys.argv[1]
    for line in sys.stdin:
        argv, at, after = json.loads(line)
        with (
            tempfile.TemporaryFile("w+") as out,
            tempfile.TemporaryFile("w+") as err,
            tempfile.TemporaryFile("w+") as points,
        ):
            begun = time.monotonic()
            pid = os.fork()
            if pid == 0:
                _child(argv, at, attach, out, err, points)
            status = _wait(pid, after)
            seconds = time.monotonic() - begun
            texts = []
            for file in (out, err, points):
                file.seek(0)
                texts.append(file.read())
        answer = {"status": status, "out": texts[0], "err": texts[1], "seconds": seconds}
        sys.stdout.write(json.dumps({**answer, "points": texts[2].splitlines()}) + "\n")
        sys.stdout.flush()


def _wait(pid: int, after: float | None) -> int:
    if after is not None:
        fd = os.pidfd_open(pid)
        if not select.select([fd], [], [], after)[0]:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(fd, signal.SIGKILL)
        os.close(fd)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _child(argv: list[str], at: int | str, attach: str, *files: IO[str]) -> None:
    from viscum import cli

    os.dup2(files[0].fileno(), 1)
    os.dup2(files[1].fileno(), 2)
    os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
    _count(files[2], at)
    if attach != "auto":
        from viscum.host import Host

        defaults = Host.__init__.__kwdefaults__
        assert defaults is not None
        defaults["attach"] = attach
    sys.argv = ["viscum", *argv]
    code = 1
    try:
        cli.main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _count(points: IO[str], at: int | str) -> None:
    """Makes this process note the points it passes, and kill itself at number `at`."""
    from viscum import flows, ops
    from viscum.kernel.director import steps

    me, passed = os.getpid(), 0

    def point(label: str) -> None:
        nonlocal passed
        if os.getpid() != me:
            return  # the helper that becomes the server
        os.write(points.fileno(), f"{label}\n".encode())
        if passed == at:
            os.kill(me, signal.SIGKILL)
        passed += 1

    def around(owner: Any, name: str, label: Callable[..., str]) -> None:
        inner = getattr(owner, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            words = label(*args).replace("\n", " ")
            point(f"before {words}")
            result = inner(*args, **kwargs)
            point(f"after {words}")
            return result

        setattr(owner, name, wrapped)

    for module in (ops, steps):
        for kind in vars(module).values():
            own = isinstance(kind, type) and kind.__module__ == module.__name__
            if own and hasattr(kind, "apply") and not getattr(kind, "_is_protocol", False):
                around(kind, "apply", lambda op: op.describe())
    around(os, "replace", lambda a, b: f"replace {b}")
    around(os, "unlink", lambda path, **_: f"unlink {path}")
    around(flows, "reset", lambda *_: "reset flows")
    sleep = time.sleep

    def sleeping(seconds: float) -> None:
        if at == SLEEP and seconds > 0.04 and os.getpid() == me:
            os.kill(me, signal.SIGKILL)
        sleep(seconds)

    setattr(time, "sleep", sleeping)  # noqa: B010  (typed as a builtin)


if __name__ == "__main__":
    main()
