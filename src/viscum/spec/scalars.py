"""The values of a spec that are not about the network: words, durations, sizes, capabilities.

Every parser takes whatever TOML, JSON or the command line gave and returns the typed value, or
raises `BadValue`. What is written canonically parses to the same value again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

MAX_SECONDS: Final = 366 * 86400
MAX_BYTES: Final = 2**63 - 1


class BadValue(ValueError):
    """A value that can't be used. message: what is wrong; fix: the next step."""

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(f"{message}; {fix}")
        self.message = message
        self.fix = fix


class Kind:
    """How a value is called, read from plain data, and its JSON Schema; sits in an `Annotated`."""

    __slots__ = ("name", "parse", "schema")

    def __init__(
        self, name: str, parse: Callable[[object], Any], pattern: str = "", number: str = ""
    ) -> None:
        self.name = name
        self.parse = parse
        self.schema: dict[str, Any] = {"type": ["string", number] if number else "string"}
        if pattern:
            self.schema["pattern"] = pattern
        if number:
            self.schema["minimum"] = 0


# ---- text ------------------------------------------------------------------------------------


def text(value: object) -> str:
    """A string that can be an argument of execve(2) and can be written as UTF-8; may be empty."""
    if not isinstance(value, str):
        fix = 'put it in quotes: "…"'
        if isinstance(value, bool):
            fix = f'write "{str(value).lower()}"'
        elif isinstance(value, (int, float)):
            fix = f'write "{shown(value)}"'
        raise BadValue(f"must be a string, not {kind_of(value)}", fix)
    if "\0" in value:
        raise BadValue("contains a NUL byte", "remove it")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise BadValue("is not valid UTF-8", "use a path or word that is") from None
    return str(value)


def shown(value: object) -> str:
    """A given value as its writer may recognise it, at most 80 characters."""
    if isinstance(value, bool):
        return str(value).lower()
    try:
        given = value if isinstance(value, str) else repr(value)
    except (ValueError, RecursionError):  # an integer of more than 4300 digits; a deep nesting
        return kind_of(value)
    return given if len(given) <= 80 else f"{given[:79]}…"


def kind_of(value: object) -> str:
    """What a value is in TOML's words."""
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int):
        return "an integer"
    if isinstance(value, float):
        return "a float"
    if isinstance(value, str):
        return "a string"
    if isinstance(value, (list, tuple)):
        return "an array"
    if isinstance(value, dict):
        return "a table"
    return f"a {type(value).__name__}"


def word_of(value: object, what: str, example: str) -> str:
    """Text that is not empty and holds neither white space nor anything unprintable."""
    word = text(value)
    if not word:
        raise BadValue("is empty", f"write {what} such as {example}")
    if not word.isprintable() or " " in word:
        raise BadValue("contains white space or control characters", f"write only {what}")
    return word


LOWER: Final = frozenset("abcdefghijklmnopqrstuvwxyz")
DIGITS: Final = frozenset("0123456789")
ALNUM: Final = LOWER | DIGITS


def name(value: object) -> str:
    """A service's name: [a-z0-9][a-z0-9-]{0,39}; it becomes part of paths and kernel names."""
    given = text(value)
    rule = "use 1 to 40 of a-z, 0-9 and '-', beginning with a letter or digit"
    if not given:
        raise BadValue("is empty", rule)
    if len(given) > 40:
        raise BadValue(f"has {len(given)} characters", rule)
    if given[0] not in ALNUM or not ALNUM.issuperset(given.replace("-", "")):
        raise BadValue("is not a service name", rule)
    return given


def user(value: object) -> str:
    """USER or USER:GROUP, each a name or a number; whether they exist is checked on the host."""
    word = word_of(value, "a user", "www-data or 1000:1000")
    parts = word.split(":")
    if len(parts) > 2 or not all(parts):
        raise BadValue("is not USER or USER:GROUP", "write for example www-data or 1000:1000")
    for part in parts:
        if part.isascii() and part.isdigit():
            if int(part[:11]) >= 2**32 - 1:
                raise BadValue(f"number {part} is too large", "use one below 4294967295")
        elif part[0] in "-.+0123456789" or not set(part.lower()) <= ALNUM | set("_-.$"):
            raise BadValue("is not a user or group name", "see `getent passwd`")
    return word


def environment_key(value: object) -> str:
    """The name of an environment variable: no '=', white space or control characters."""
    word = word_of(value, "a variable's name", "RUST_LOG")
    if "=" in word:
        raise BadValue("contains '='", "write NAME = \"VALUE\", without '=' in the name")
    return word


def absolute_path(value: object) -> str:
    """An absolute path without '..'."""
    path = text(value)
    if not path:
        raise BadValue("is empty", "write an absolute path or leave the key out")
    if not path.startswith("/"):
        raise BadValue("is a relative path", "write it from / on")
    if ".." in path.split("/"):
        raise BadValue("contains '..'", "write the path it leads to")
    return path


# ---- capabilities ----------------------------------------------------------------------------

CAPABILITIES: Final = (  # the index is the number in linux/capability.h
    "chown",
    "dac-override",
    "dac-read-search",
    "fowner",
    "fsetid",
    "kill",
    "setgid",
    "setuid",
    "setpcap",
    "linux-immutable",
    "net-bind-service",
    "net-broadcast",
    "net-admin",
    "net-raw",
    "ipc-lock",
    "ipc-owner",
    "sys-module",
    "sys-rawio",
    "sys-chroot",
    "sys-ptrace",
    "sys-pacct",
    "sys-admin",
    "sys-boot",
    "sys-nice",
    "sys-resource",
    "sys-time",
    "sys-tty-config",
    "mknod",
    "lease",
    "audit-write",
    "audit-control",
    "setfcap",
    "mac-override",
    "mac-admin",
    "syslog",
    "wake-alarm",
    "block-suspend",
    "audit-read",
    "perfmon",
    "bpf",
    "checkpoint-restore",
)


def capability(value: object) -> str:
    """`net-bind-service`; CAP_NET_BIND_SERVICE and net_bind_service are read as that."""
    word = word_of(value, "a capability", "net-bind-service")
    kebab = word.lower().replace("_", "-").removeprefix("cap-")
    if kebab not in CAPABILITIES:
        raise BadValue(
            "is not a capability", did_you_mean(kebab, CAPABILITIES, "see man capabilities")
        )
    return kebab


def did_you_mean(given: str, known: Sequence[str], otherwise: str) -> str:
    """The nearest of `known`, as the words of a fix."""
    near = nearest(given, known)
    return f"did you mean {near}?" if near else otherwise


def nearest(given: str, known: Sequence[str]) -> str | None:
    """The one that begins so, or else the one most like it, if there is one."""
    begun = [word for word in known if given and word.startswith(given)]
    if len(begun) == 1:
        return begun[0]
    from difflib import get_close_matches  # 11 ms, only on the way to an error

    return next(iter(get_close_matches(given[:80], known, n=1)), None)


# ---- durations and sizes ---------------------------------------------------------------------

_TIME_UNITS: Final = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1))
_SIZE_UNITS: Final = (("T", 2**40), ("G", 2**30), ("M", 2**20), ("K", 2**10))


def _decimal(digits: str) -> tuple[int, int] | None:
    """'1.25' → (125, 100); None if it is not an unsigned decimal of at most 30 characters."""
    whole, point, fraction = digits.partition(".")
    if not whole or len(digits) > 30 or bool(point) != bool(fraction):
        return None
    if not DIGITS.issuperset(whole + fraction):
        return None
    return int(whole + fraction), int(10 ** len(fraction))


class Seconds(float):
    """A duration in seconds, a whole number of milliseconds, 0 to 366 days."""

    __slots__ = ()

    @classmethod
    def parse(cls, value: object) -> Seconds:
        """Reads '500ms', '10s', '1h30m', '0', or a number of seconds."""
        fix = 'write for example "500ms", "10s", "5m" or "1h30m"'
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise BadValue(f"must be a duration, not {kind_of(value)}", fix)
        if not isinstance(value, str):
            if not 0 <= value <= MAX_SECONDS:  # also false for NaN
                raise BadValue("is not between 0 and 366 days", fix)
            ms = value * 1000
            if abs(ms - round(ms)) > 1e-3:
                raise BadValue("is finer than a millisecond", fix)
            return cls(round(ms) / 1000)
        return cls(cls._milliseconds(value, fix) / 1000)

    @staticmethod
    def _milliseconds(given: str, fix: str) -> int:
        total, rest, last = 0, given, 10**9
        while rest:
            length = next((i for i, c in enumerate(rest) if c not in "0123456789."), len(rest))
            number, rest = _decimal(rest[:length]), rest[length:]
            length = next((i for i, c in enumerate(rest) if c in DIGITS), len(rest))
            unit, rest = rest[:length], rest[length:]
            if not unit and total == 0 and last == 10**9:
                unit = "s"  # a bare number
            scale = dict(_TIME_UNITS).get(unit)
            if number is None or scale is None or scale >= last:
                raise BadValue("is not a duration", fix)
            value, remainder = divmod(number[0] * scale, number[1])
            if remainder:
                raise BadValue("is finer than a millisecond", fix)
            total, last = total + value, scale
        if not given:
            raise BadValue("is not a duration", fix)
        if total > MAX_SECONDS * 1000:
            raise BadValue("is longer than 366 days", fix)
        return total

    def __str__(self) -> str:
        """In the largest unit that leaves a whole number."""
        ms = round(self * 1000)
        for unit, scale in _TIME_UNITS:
            if ms and ms % scale == 0:
                return f"{ms // scale}{unit}"
        return "0"

    def __repr__(self) -> str:
        return f"Seconds({float(self)!r})"

    @property
    def ns(self) -> int:
        """In nanoseconds, exactly."""
        return round(self * 1000) * 1_000_000


class Bytes(int):
    """A size in bytes, 0 to 2**63 - 1."""

    __slots__ = ()

    @classmethod
    def parse(cls, value: object) -> Bytes:
        """Reads '256M', '1G' (binary multiples; also 256MiB), or a number of bytes."""
        fix = 'write for example "256M" or "1G" (multiples of 1024)'
        if isinstance(value, bool) or not isinstance(value, (int, str)):
            raise BadValue(f"must be a size, not {kind_of(value)}", fix)
        if not isinstance(value, str):
            size = value
        else:
            length = next((i for i, c in enumerate(value) if c not in "0123456789."), len(value))
            number, unit = _decimal(value[:length]), value[length:].upper().removesuffix("IB")
            scale = 1 if length == len(value) else dict(_SIZE_UNITS).get(unit)
            if number is None or scale is None:
                raise BadValue("is not a size", fix)
            size, remainder = divmod(number[0] * scale, number[1])
            if remainder:
                raise BadValue("is not a whole number of bytes", fix)
        if not 0 <= size <= MAX_BYTES:
            raise BadValue("is not between 0 and 8 EiB", fix)
        return cls(size)

    def __str__(self) -> str:
        """In the largest unit that leaves a whole number."""
        for unit, scale in _SIZE_UNITS:
            if self and self % scale == 0:
                return f"{self // scale}{unit}"
        return int.__repr__(self)

    def __repr__(self) -> str:
        return f"Bytes({int(self)})"
