"""/etc/viscum/controller.toml: what the operator fixes for the controller. Every key has a default.

The types are read as a spec's are: unknown keys, wrong values and all problems at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from viscum.errors import InputError, Problem
from viscum.hostconfig import toml_of
from viscum.spec import read_table
from viscum.spec.types import Net, Size, Text
from viscum.spec.types import Path as AbsolutePath
from viscum.spec.values import Bytes

FILE = "controller.toml"


class Api(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """Where the controller is spoken to."""

    socket: Annotated[
        AbsolutePath | None,
        Meta(
            description="The Unix socket; none given: api.sock in the state directory.",
            examples=["/run/viscum-api.sock"],
        ),
    ] = None
    group: Annotated[
        Text,
        Meta(
            description="Who may speak to it besides root, if there is such a group.",
            examples=["netadmin"],
        ),
    ] = "viscum"
    listen: Annotated[
        Text | None,
        Meta(
            description="ADDRESS:PORT for TLS on TCP; none given: the Unix socket alone.",
            examples=["0.0.0.0:7443", "[::]:7443"],
        ),
    ] = None
    certificate: Annotated[
        AbsolutePath | None,
        Meta(
            description="PEM file of the certificate (chain).",
            examples=["/etc/viscum/tls.crt"],
        ),
    ] = None
    key: Annotated[
        AbsolutePath | None,
        Meta(description="PEM file of its private key.", examples=["/etc/viscum/tls.key"]),
    ] = None
    client_ca: Annotated[
        AbsolutePath | None,
        Meta(
            description="PEM file of who signs client certificates; none given: only tokens are "
            "accepted.",
            examples=["/etc/viscum/clients.crt"],
        ),
    ] = None


class Names(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """How targets that are names are kept up with."""

    servers: Annotated[
        tuple[Net, ...],
        Meta(
            description="The name servers to ask; none given: those of /etc/resolv.conf.",
            examples=[["192.0.2.53"]],
        ),
    ] = ()
    trust: Annotated[
        tuple[Net, ...],
        Meta(
            description="Name servers beyond this box whose answers to clients services may learn "
            "from (steer.names.learn), besides this box's own. Whoever can send packets in their "
            "name to a client can add targets.",
            examples=[["9.9.9.9", "2620:fe::fe"]],
        ),
    ] = ()


class Audit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """Where is noted who changed what."""

    file: Annotated[
        AbsolutePath | None,
        Meta(
            description="The newest lines; older ones are beside it, with .1, .2, … none given: "
            "/var/log/viscum/audit.log, or audit.log beside other settings than /etc/viscum.",
            examples=["/srv/log/viscum-audit.log"],
        ),
    ] = None
    max_size: Annotated[
        Size, Meta(description="A file that is larger is put aside.", examples=["16M"], ge=4096)
    ] = Bytes(2**22)
    keep: Annotated[
        int, Meta(description="So many older files are kept.", examples=[20], ge=1, le=1000)
    ] = 8


class Guard(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """What the router needs for its first job; beyond a set-point services give way. 0: that signal
    is not looked at."""

    mode: Annotated[
        Literal["on", "off"],
        Meta(
            description="Whether services give way at all; off also lets go of those that had to."
        ),
    ] = "on"
    cpus: Annotated[
        tuple[Annotated[int, Meta(ge=0)], ...],
        Meta(
            description="The processors whose load counts, such as those that forward; none "
            "given: all.",
            examples=[[0, 1]],
            extra_json_schema={"uniqueItems": True},
        ),
    ] = ()
    cpu: Annotated[
        float,
        Meta(description="Percent of their time that processors are busy.", ge=0, le=100),
    ] = 70.0
    cpu_pressure: Annotated[
        float,
        Meta(
            description="Percent of the time in which something waited for a processor (PSI); it "
            "counts as far as the processors are busy, since what a limit of its own holds back "
            "waits too.",
            ge=0,
            le=100,
        ),
    ] = 60.0
    memory_pressure: Annotated[
        float,
        Meta(
            description="Percent of the time in which something waited for memory (PSI).",
            ge=0,
            le=100,
        ),
    ] = 10.0
    memory_available: Annotated[
        float,
        Meta(description="Percent of the memory that stay available.", ge=0, le=100),
    ] = 10.0
    memory_floor: Annotated[
        float,
        Meta(
            description="Percent of the memory; with less available no service takes a new flow.",
            ge=0,
            le=100,
        ),
    ] = 3.0
    time_squeezes: Annotated[
        float,
        Meta(
            description="Times a second that a processor had more packets than one turn takes "
            "(softnet_stat).",
            ge=0,
        ),
    ] = 200.0
    drops: Annotated[
        float,
        Meta(
            description="Packets a second dropped because a processor's queue was full "
            "(softnet_stat); in two seconds together no service takes a new flow.",
            ge=0,
        ),
    ] = 20.0
    throttled: Annotated[
        float,
        Meta(
            description="Percent of the time in which a service runs into its own limits.cpu; it "
            "alone gives way. A spec's guard.throttled comes first.",
            ge=0,
            le=100,
        ),
    ] = 40.0
    resume: Annotated[
        float,
        Meta(
            description="Percent of the set-points below which services get new flows back.",
            examples=[70],
            ge=10,
            le=95,
        ),
    ] = 80.0


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """The whole file."""

    api: Annotated[Api, Meta(description="Where the controller is spoken to.")] = field(
        default_factory=Api
    )
    names: Annotated[Names, Meta(description="How targets that are names are kept up with.")] = (
        field(default_factory=Names)
    )
    audit: Annotated[Audit, Meta(description="Where is noted who changed what.")] = field(
        default_factory=Audit
    )
    guard: Annotated[Guard, Meta(description="When services give way to the router.")] = field(
        default_factory=Guard
    )


def read(directory: str) -> Settings:
    """Raises InputError with every problem; a file that is not there fixes nothing."""
    path = Path(directory) / FILE
    settings = read_table(Settings, toml_of(path), source=str(path))
    _check(settings, path)
    return settings


def _check(settings: Settings, path: Path) -> None:
    """What no single value shows. Raises InputError."""
    api = settings.api
    problems = [
        Problem(
            f"{path}: api.{key}",
            "",
            "is missing, and api.listen is TLS only",
            "give the PEM file, or leave api.listen out",
        )
        for key in ("certificate", "key")
        if api.listen and getattr(api, key) is None
    ]
    problems += [
        Problem(
            f"{path}: names.servers[{index}]",
            str(network),
            "is a prefix, not one name server",
            "write its address",
        )
        for index, network in enumerate(settings.names.servers)
        if network.num_addresses > 1
    ]
    if problems:
        raise InputError(*problems)
