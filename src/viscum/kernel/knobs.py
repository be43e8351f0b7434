"""Files of proc, sysfs and cgroupfs that change something: one write(2) is one message to the
kernel, which a buffered file might split, and whose refusal it would report late."""

from __future__ import annotations

import os


def write(path: str | os.PathLike[str], text: str) -> None:
    """OSError that names the file and what it refused; FileNotFoundError if there is none."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror} (writing {text!r})", str(path)) from None
    finally:
        os.close(fd)
