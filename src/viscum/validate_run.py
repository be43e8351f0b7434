"""Whether a spec's server can be run on this box: its programs, directories and user."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from typing import NamedTuple

from viscum.errors import Problem
from viscum.kernel import identity, process
from viscum.spec import Run, Spec

HIDDEN = ("/tmp", "/run")  # private to each instance
ANYWHERE = identity.mask(["dac-override"]) | identity.mask(["dac-read-search"])
NOBODY_ELSE = -1  # a uid and gid that own nothing


class Who(NamedTuple):
    """Whom the server runs as; words: the same for an operator."""

    user: identity.User
    capabilities: int
    words: str


def process_problems(spec: Spec) -> Iterator[Problem]:
    """Each with the next step."""
    run = spec.run
    root = run.root or ""
    strict = run.sandbox == "strict"
    if root and not os.path.isdir(root):
        yield Problem("run.root", root, "is not a directory", "unpack the root file system there")
        return
    try:
        who = _who(run)
    except (OSError, ValueError) as error:
        who = None
        why = getattr(error, "strerror", None) or str(error)
        if run.user is not None:
            yield Problem("run.user", run.user, why, "see `getent passwd` and `getent group`")
    hidden = _nothing if root else _sandbox_hides if strict else _hides
    directory = run.working_directory
    if directory is not None:
        if why := hidden(directory):
            yield _is_hidden("run.working-directory", directory, why)
        elif not os.path.isdir(root + directory):
            yield Problem("run.working-directory", directory, "is not a directory", "create it")
        elif who and (closed := _closed(root, directory, who)):
            yield _is_closed("run.working-directory", directory, closed, who)
    asked = spec.probe.command if spec.probe.type == "exec" else ()
    path = dict(run.environment).get("PATH", process.PATH)
    for field, argv in (("command", spec.command), ("run.ready", run.ready),
                        ("probe.command", asked)):  # fmt: skip
        for program in argv[:1]:
            yield from _program(f"{field}[0]", program, root, path, hidden)
            if who and (closed := _closed(root, program, who)):
                yield _is_closed(f"{field}[0]", program, closed, who)
    if strict:
        from viscum.kernel import seccomp

        if why := seccomp.missing():
            yield Problem("run.sandbox", "strict", why, "run it elsewhere, or without a sandbox")


def _who(run: Run) -> Who:
    """Raises OSError, ValueError for a user that there is not."""
    if run.sandbox == "strict":
        return Who(identity.sandboxed(NOBODY_ELSE), 0, 'others, as with sandbox = "strict"')
    user = identity.look_up(run.user, run.root)
    try:
        kept = identity.capabilities(run.capabilities, user.uid)
    except OSError:  # one that can't be given: said when it is started
        kept = ANYWHERE
    return Who(user, kept, user.name if run.user else "root without the capability dac-override")


def _program(
    field: str, program: str, root: str, path: str, hidden: Callable[[str], str]
) -> Iterator[Problem]:
    if not program.startswith("/"):
        found = [f"{d}/{program}" for d in path.split(":") if d.startswith("/")]
        if not any(_executable(root + f) and not hidden(f) for f in found):
            yield Problem(
                field,
                program,
                f"is not found in {path}",
                "give its absolute path, or install it",
            )
        return
    if why := hidden(program):
        yield _is_hidden(field, program, why)
    elif not os.path.exists(root + program):
        yield Problem(field, program, "does not exist", "check the path, or install it")
    elif os.path.isdir(root + program):
        yield Problem(field, program, "is a directory", "name the program in it")
    elif not _executable(root + program):
        yield Problem(field, program, "can't be executed", f"chmod +x {root}{program}")


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


def _closed(root: str, path: str, who: Who) -> str:
    """The first directory or program on the way there that it may not use; "" if there is none, or
    nothing at all. What links lead to is looked at too."""
    if not path.startswith("/") or who.capabilities & ANYWHERE:
        return ""  # along PATH: programs of the system
    for start in {path, os.path.realpath(path)} if not root else {path}:
        at = root or "/"
        for name in ["", *start.strip("/").split("/")]:
            at = os.path.join(at, name) if name else at
            try:
                found = os.stat(at)
            except OSError:
                break
            if not found.st_mode & _execute(found, who.user) and not _has_acl(at):
                return at
    return ""


def _execute(found: os.stat_result, user: identity.User) -> int:
    """The bit of the mode that counts for that user, inode(7)."""
    if found.st_uid == user.uid:
        return stat.S_IXUSR
    return stat.S_IXGRP if found.st_gid in (user.gid, *user.groups) else stat.S_IXOTH


def _has_acl(path: str) -> bool:
    """Whether more than the mode decides, acl(5)."""
    try:
        return "system.posix_acl_access" in os.listxattr(path)
    except OSError:
        return False  # a file system without them


def _is_closed(field: str, path: str, closed: str, who: Who) -> Problem:
    return Problem(
        field,
        path,
        f"{closed} is closed to {who.words}",
        f"chmod o+rx {closed}, or move it elsewhere",
    )
