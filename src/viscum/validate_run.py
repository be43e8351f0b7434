"""Whether a spec's server can be run on this box: its program, directories and user."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator

from viscum.errors import Problem
from viscum.kernel import identity, process
from viscum.spec import Spec

HIDDEN = ("/tmp", "/run")  # private to each instance


def process_problems(spec: Spec) -> Iterator[Problem]:
    """Each with the next step."""
    run = spec.run
    root = run.root or ""
    strict = run.sandbox == "strict"
    if root and not os.path.isdir(root):
        yield Problem("run.root", root, "is not a directory", "unpack the root file system there")
        return
    if run.user is not None and not strict:
        try:
            identity.look_up(run.user, run.root)
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error)
            yield Problem("run.user", run.user, why, "see `getent passwd` and `getent group`")
    hidden = _nothing if root else _sandbox_hides if strict else _hides
    directory = run.working_directory
    if directory is not None:
        if why := hidden(directory):
            yield _is_hidden("run.working-directory", directory, why)
        elif not os.path.isdir(root + directory):
            yield Problem("run.working-directory", directory, "is not a directory", "create it")
        elif strict and (closed := _closed(root, directory)):
            yield _is_closed("run.working-directory", directory, closed)
    if spec.command:
        path = dict(run.environment).get("PATH", process.PATH)
        yield from _command(spec.command[0], root, path, hidden)
        if strict and (closed := _closed(root, spec.command[0])):
            yield _is_closed("command[0]", spec.command[0], closed)
    if strict:
        from viscum.kernel import seccomp

        if why := seccomp.missing():
            yield Problem("run.sandbox", "strict", why, "run it elsewhere, or without a sandbox")


def _command(program: str, root: str, path: str, hidden: Callable[[str], str]) -> Iterator[Problem]:
    if not program.startswith("/"):
        found = [f"{d}/{program}" for d in path.split(":") if d.startswith("/")]
        if not any(_executable(root + f) and not hidden(f) for f in found):
            yield Problem(
                "command[0]",
                program,
                f"is not found in {path}",
                "give its absolute path, or install it",
            )
        return
    if why := hidden(program):
        yield _is_hidden("command[0]", program, why)
    elif not os.path.exists(root + program):
        yield Problem("command[0]", program, "does not exist", "check the path, or install it")
    elif os.path.isdir(root + program):
        yield Problem("command[0]", program, "is a directory", "name the program in it")
    elif not _executable(root + program):
        yield Problem("command[0]", program, "can't be executed", f"chmod +x {root}{program}")


def _executable(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)


def _nothing(path: str) -> str:
    """A root file system of its own shows all of itself."""
    return ""


def _hides(path: str) -> str:
    real = os.path.realpath(path)
    private = any(real == h or real.startswith(f"{h}/") for h in HIDDEN)
    return "whose /tmp and /run are its own" if private else ""


def _sandbox_hides(path: str) -> str:
    from viscum.kernel import sandbox

    if why := _hides(path):
        return why
    where = ", ".join(sandbox.HIDDEN)
    return f'which finds nothing in {where} (sandbox = "strict")' if sandbox.is_hidden(path) else ""


def _is_hidden(field: str, path: str, why: str) -> Problem:
    return Problem(
        field,
        path,
        f"is hidden from the server, {why}",
        "move it elsewhere, for example to /srv or /opt",
    )


def _closed(root: str, path: str) -> str:
    """The first directory or program on the way there that others than its owner and group may not
    use; "" if there is none, or nothing at all. What links lead to is looked at too."""
    if not path.startswith("/"):
        return ""  # along PATH: programs of the system
    for start in {path, os.path.realpath(path)} if not root else {path}:
        at = root or "/"
        for name in ["", *start.strip("/").split("/")]:
            at = os.path.join(at, name) if name else at
            try:
                mode = os.stat(at).st_mode
            except OSError:
                break
            if not mode & stat.S_IXOTH:
                return at
    return ""


def _is_closed(field: str, path: str, closed: str) -> Problem:
    return Problem(
        field,
        path,
        f'{closed} is closed to others, which a server with sandbox = "strict" is one of',
        f"chmod o+rx {closed}, or move it elsewhere",
    )
