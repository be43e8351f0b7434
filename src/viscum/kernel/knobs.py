"""Files of proc, sysfs and cgroupfs. One write(2) is one message to the kernel, which a buffered
file might split, and whose refusal it would report late; and hundreds are read at once."""

from __future__ import annotations

import os


def read(path: str) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = b""
        while more := os.read(fd, 65536):
            data += more
        return data.decode(errors="surrogateescape")
    finally:
        os.close(fd)


def write(path: str | os.PathLike[str], text: str) -> None:
    """OSError that names the file and what it refused; FileNotFoundError if there is none."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror} (writing {text!r})", str(path)) from None
    finally:
        os.close(fd)
