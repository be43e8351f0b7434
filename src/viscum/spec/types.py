"""The spec's types: what a service is asked to be. One source for reading, docs, schema, --help.

Every field carries its description and examples (msgspec.Meta) and how it is read (values.Kind).
Keys in TOML are the field names with '-' for '_'. Lists that default to () mean "all", except
`run.capabilities`, where () is "none" and None is "the small default set".
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias

from msgspec import Meta, Struct, field, structs
from msgspec.structs import FieldInfo

from viscum.model import Network
from viscum.names import MAX_INSTANCES, MAX_INTERFACES
from viscum.spec import values
from viscum.spec.values import Bytes, EgressRule, Kind, Port, Seconds

_DECIMAL: Final = r"[0-9]+(\.[0-9]+)?"
_SPAN: Final = "[0-9]{1,5}(-[0-9]{1,5})?"
_PROTO: Final = "([tT][cC][pP]|[uU][dD][pP])"

Text: TypeAlias = Annotated[str, Kind("string", values.text)]
Name: TypeAlias = Annotated[str, Kind("name", values.name, "^[a-z0-9][a-z0-9-]{0,39}$")]
Interface: TypeAlias = Annotated[
    str, Kind("interface", values.interface, r"^(?!-|\.{1,2}$)[^\s/:]{1,15}$")
]
Target: TypeAlias = Annotated[str, Kind("target", values.target, r"^[0-9A-Za-z.:/\[\]-]+$")]
Net: TypeAlias = Annotated[
    Network, Kind("network", values.network, "^[0-9A-Fa-f.:]+(/[0-9]{1,3})?$")
]
PortSpan: TypeAlias = Annotated[
    Port, Kind("port", Port.parse, f"^({_SPAN}/{_PROTO}|{_PROTO}/{_SPAN})$")
]
Rule: TypeAlias = Annotated[EgressRule, Kind("egress rule", EgressRule.parse)]
Duration: TypeAlias = Annotated[
    Seconds,
    Kind("duration", Seconds.parse, f"^({_DECIMAL}|({_DECIMAL}(d|h|m|s|ms))+)$", "number"),
]
Size: TypeAlias = Annotated[
    Bytes, Kind("size", Bytes.parse, f"^{_DECIMAL}([KMGTkmgt]([iI][bB])?)?$", "integer")
]
User: TypeAlias = Annotated[str, Kind("user", values.user, r"^[^:\s]+(:[^:\s]+)?$")]
Path: TypeAlias = Annotated[str, Kind("absolute path", values.absolute_path, "^/")]
Key: TypeAlias = Annotated[str, Kind("string", values.environment_key, r"^[^=\s]+$")]
Capability: TypeAlias = Annotated[str, Kind("capability", values.capability, "^[A-Za-z_-]+$")]


class Udp(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """How UDP flows, which have no sockets of their own, are told apart."""

    idle: Annotated[
        Duration,
        Meta(
            description="A UDP flow ends after this long without a packet.",
            examples=["2m"],
            gt=0,
        ),
    ] = Seconds(60)
    open: Annotated[
        Literal["any", "quic-initial"],
        Meta(
            description="What may begin a flow at the edge: any datagram, or only a QUIC Initial."
        ),
    ] = "any"
    arm: Annotated[
        Duration,
        Meta(
            description="For this long after steering begins, unknown UDP flows are taken to be "
            "older than it and stay on the cloud (not needed with quic-initial).",
            examples=["30s"],
        ),
    ] = Seconds(5)


class TargetNames(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """How a controller keeps up with the addresses of targets that are names."""

    refresh: Annotated[
        Literal["on", "off"],
        Meta(
            description="Whether it asks for A and AAAA again when their time to live is over; "
            "off: the addresses of when the spec was applied stay."
        ),
    ] = "on"
    learn: Annotated[
        Literal["off", "on"],
        Meta(
            description="Whether addresses are also taken from the DNS answers that clients get "
            "(they differ by client with some CDNs). Read docs/names.md before."
        ),
    ] = "off"
    within: Annotated[
        tuple[Net, ...],
        Meta(
            description="The only addresses a name may bring; none given: every public one.",
            examples=[["203.0.113.0/24", "2001:db8::/32"]],
            extra_json_schema={"uniqueItems": True},
        ),
    ] = ()
    hold: Annotated[
        Duration,
        Meta(
            description="How long an address stays at least after it was last in an answer "
            "(or twice its time to live).",
            examples=["1h"],
            gt=0,
        ),
    ] = Seconds(600)
    min_ttl: Annotated[
        Duration,
        Meta(description="A shorter time to live counts as this.", examples=["10s"], gt=0),
    ] = Seconds(30)
    max_ttl: Annotated[
        Duration,
        Meta(description="A longer time to live counts as this.", examples=["10m"], gt=0),
    ] = Seconds(3600)
    max_addresses: Annotated[
        int,
        Meta(
            description="So many addresses at most, of all names together.",
            examples=[16],
            ge=1,
            le=512,
        ),
    ] = 64


class Steer(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """Which packets go to the service."""

    interfaces: Annotated[
        tuple[Interface, ...],
        Meta(
            description="Where clients' packets arrive; a bridge, not its ports.",
            examples=[["wlan0", "br-lan"]],
            extra_json_schema={"uniqueItems": True},
            min_length=1,
            max_length=MAX_INTERFACES,
        ),
    ]
    targets: Annotated[
        tuple[Target, ...],
        Meta(
            description="The cloud service's addresses, prefixes or names; names are resolved "
            "(A and AAAA) when the spec is applied, and kept up by a controller.",
            examples=[["cloud.example.com", "203.0.113.7", "2001:db8::/64"]],
            extra_json_schema={"uniqueItems": True},
            min_length=1,
        ),
    ]
    ports: Annotated[
        tuple[PortSpan, ...],
        Meta(
            description="Ports with their protocol; none given: every port of TCP and UDP.",
            examples=[["443/tcp", "443/udp", "8000-8010/tcp"]],
            extra_json_schema={"uniqueItems": True},
        ),
    ] = ()
    clients: Annotated[
        tuple[Net, ...],
        Meta(
            description="Whose packets are steered; none given: everybody on the interfaces.",
            examples=[["10.1.0.0/16"]],
            extra_json_schema={"uniqueItems": True},
        ),
    ] = ()
    share: Annotated[
        int,
        Meta(
            description="Percent of the clients (or of new flows, see share-by) that go to the "
            "edge.",
            examples=[10],
            ge=0,
            le=100,
        ),
    ] = 100
    share_by: Annotated[
        Literal["client", "flow"],
        Meta(
            description="What `share` counts; by client, no browser session is split between "
            "edge and cloud."
        ),
    ] = "client"
    when_down: Annotated[
        Literal["cloud", "drop"],
        Meta(description="Where packets go when the service can't take them."),
    ] = "cloud"
    firewall: Annotated[
        Literal["bypass", "honour"],
        Meta(
            description="Whether steered packets bypass the router's forward rules, or are routed "
            "through them (slower)."
        ),
    ] = "bypass"
    udp: Annotated[Udp, Meta(description="How UDP flows are told apart.")] = field(
        default_factory=Udp
    )
    ping: Annotated[
        Literal["cloud", "edge"],
        Meta(description="Who answers ICMP echo requests to the targets."),
    ] = "cloud"
    names: Annotated[
        TargetNames,
        Meta(description="How a controller keeps up with the addresses of names."),
    ] = field(default_factory=TargetNames)


class Run(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """How the server's process is run."""

    user: Annotated[
        User | None,
        Meta(
            description="USER or USER:GROUP, names or numbers; none given: root, without its "
            "powers (see capabilities). Not with a sandbox, which gives a user of its own.",
            examples=["www-data", "1000:1000"],
        ),
    ] = None
    environment: Annotated[
        dict[Key, Text],
        Meta(
            description="Environment variables added to a minimal environment.",
            examples=[{"RUST_LOG": "info"}],
        ),
    ] = field(default_factory=dict)
    working_directory: Annotated[
        Path | None,
        Meta(
            description="Where the server is started; none given: /.", examples=["/var/lib/plates"]
        ),
    ] = None
    start_timeout: Annotated[
        Duration,
        Meta(
            description="How long a new generation may take until it listens.",
            examples=["1m"],
            gt=0,
        ),
    ] = Seconds(10)
    stop_timeout: Annotated[
        Duration,
        Meta(description="How long the server has between SIGTERM and SIGKILL.", examples=["30s"]),
    ] = Seconds(10)
    drain: Annotated[
        Duration,
        Meta(
            description='How long an upgrade or `rm` waits for open flows; "0": for ever.',
            examples=["5m"],
        ),
    ] = Seconds(60)
    root: Annotated[
        Path | None,
        Meta(
            description="An unpacked root file system the server sees as /.",
            examples=["/srv/plates"],
        ),
    ] = None
    capabilities: Annotated[
        tuple[Capability, ...] | None,
        Meta(
            description="Linux capabilities of the server; none given: a small default set; "
            "[]: none at all.",
            examples=[["net-bind-service"]],
            extra_json_schema={"uniqueItems": True},
        ),
    ] = None
    sandbox: Annotated[
        Literal["off", "strict"],
        Meta(
            description="strict: as a user of its own, without capabilities, with a list of system "
            "calls, a read-only system and no view of other processes. A tenant's services always "
            "are."
        ),
    ] = "off"
    ready: Annotated[
        tuple[Text, ...],
        Meta(
            description="A command that is run where the server runs once it listens; a new "
            "generation takes flows when it has exited with 0.",
            examples=[["/usr/local/bin/warmed-up"]],
        ),
    ] = ()
    restart: Annotated[
        Literal["on-failure", "always", "no"],
        Meta(
            description="When a controller starts a server again that has ended: after a failure "
            "(a signal, or another exit status than 0), always or never."
        ),
    ] = "on-failure"
    restart_delay: Annotated[
        Duration,
        Meta(
            description="How long the controller waits before it does so, at least 100ms; doubled "
            "with each failure that follows soon.",
            examples=["5s"],
            ge=0.1,
        ),
    ] = Seconds(1)
    restart_max_delay: Annotated[
        Duration,
        Meta(
            description="At most this long; a server that has run for as long, and for 10 s at "
            "least, begins anew with restart-delay.",
            examples=["5m"],
            ge=0.1,
        ),
    ] = Seconds(60)


class Limits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """What the service may use at most, for each instance; changed in place."""

    cpu: Annotated[
        float | None,
        Meta(description="CPU cores.", examples=[0.5], ge=0.01, le=1024),
    ] = None
    memory: Annotated[
        Size | None,
        Meta(
            description="Memory, with page cache; none given: unlimited, but in a sandbox 128M.",
            examples=["256M"],
            ge=2**20,
        ),
    ] = None
    processes: Annotated[
        int | None,
        Meta(
            description="Processes and threads; none given: unlimited, but in a sandbox 128.",
            examples=[64],
            ge=1,
            le=2**22,
        ),
    ] = None
    log: Annotated[
        Size,
        Meta(description="Of the server's output, how much is kept.", examples=["10M"], ge=4096),
    ] = Bytes(2**20)


class Egress(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """Where the service may open connections to."""

    allow: Annotated[
        tuple[Rule, ...],
        Meta(
            description='"internet", "router", "lan", or a prefix; each maybe with a port. From a '
            "sandbox at most 100 new connections a second.",
            examples=[["internet", "10.0.0.5 5432/tcp"]],
            extra_json_schema={"uniqueItems": True},
        ),
    ] = (EgressRule("internet"),)


class Probe(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """What a controller asks the server, inside its namespace; an unhealthy one takes no new
    flows."""

    type: Annotated[
        Literal["none", "tcp", "http", "https", "udp", "exec"],
        Meta(
            description="How: connect (and with send or expect talk), GET a page, send a "
            "datagram, or run a command that exits with 0."
        ),
    ] = "none"
    port: Annotated[
        int | None,
        Meta(
            description="Where; none given: the first port of steer.ports.",
            examples=[8080],
            ge=1,
            le=65535,
        ),
    ] = None
    path: Annotated[
        Text,
        Meta(
            description="http, https: the page; an answer from 200 to 399 is healthy.",
            examples=["/healthz"],
        ),
    ] = "/"
    host: Annotated[
        Text | None,
        Meta(
            description="http, https: the Host header (and the TLS server name); none given: the "
            "first target.",
            examples=["cloud.example.com"],
        ),
    ] = None
    send: Annotated[
        Text | None,
        Meta(description="tcp, udp: what is sent.", examples=["ping"]),
    ] = None
    expect: Annotated[
        Text | None,
        Meta(description="tcp, udp, http, https: what the answer has to contain.", examples=["ok"]),
    ] = None
    command: Annotated[
        tuple[Text, ...],
        Meta(description="exec: the command.", examples=[["/usr/local/bin/check"]]),
    ] = ()
    interval: Annotated[
        Duration, Meta(description="Time between two probes.", examples=["2s"], gt=0)
    ] = Seconds(5)
    timeout: Annotated[
        Duration,
        Meta(description="An answer that takes longer is a failure.", examples=["500ms"], gt=0),
    ] = Seconds(2)
    failures: Annotated[
        int,
        Meta(description="So many in a row make it unhealthy.", examples=[1], ge=1, le=1000),
    ] = 3
    successes: Annotated[
        int,
        Meta(description="So many in a row make it healthy again.", examples=[2], ge=1, le=1000),
    ] = 1
    restart_after: Annotated[
        int,
        Meta(
            description="So many failures in a row restart it; 0: never.",
            examples=[10],
            ge=0,
            le=100000,
        ),
    ] = 0


class Guard(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """How a controller lowers the service's share of new flows when the box is short of something;
    no flow is ever cut by it."""

    mode: Annotated[
        Literal["on", "off"],
        Meta(description="Whether this service gives way at all."),
    ] = "on"
    min_share: Annotated[
        int,
        Meta(description="Never below this percentage of new flows.", examples=[10], ge=0, le=100),
    ] = 0
    cpu: Annotated[
        float | None,
        Meta(
            description="CPU cores that it may use before it gives way, alone.",
            examples=[0.4],
            ge=0.01,
            le=1024,
        ),
    ] = None
    throttled: Annotated[
        float | None,
        Meta(
            description="Percent of the time in which it may run into its limits.cpu before it "
            "gives way, alone; 0: that does not count; none given: what the box's controller.toml "
            "says.",
            examples=[50],
            ge=0,
            le=100,
        ),
    ] = None


class Spec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """One service: an unmodified server that stands in for targets."""

    name: Annotated[
        Name,
        Meta(description="The service's name: 1 to 40 of a-z, 0-9 and '-'.", examples=["plates"]),
    ]
    command: Annotated[
        tuple[Text, ...],
        Meta(
            description="The server and its arguments (no shell); an absolute path, or a name "
            "looked up in PATH.",
            examples=[["/usr/local/bin/plate-server", "--port", "443"]],
            min_length=1,
        ),
    ]
    instances: Annotated[
        int,
        Meta(
            description="How many times the server runs, each in its own namespace.",
            examples=[2],
            ge=1,
            le=MAX_INSTANCES,
        ),
    ] = 1
    director: Annotated[
        Name,
        Meta(
            description="What recognises and redirects packets; auto: the best that works here.",
            examples=["ebpf"],
        ),
    ] = "auto"
    upgrade: Annotated[
        Literal["beside", "replace"],
        Meta(
            description="Whether a new generation starts beside the old one, or after it has "
            "ended, for servers that can't run twice."
        ),
    ] = "beside"
    priority: Annotated[
        int,
        Meta(
            description="Who keeps its flows longest when the box is short: the highest. The "
            "lowest gives way first.",
            examples=[80],
            ge=0,
            le=100,
        ),
    ] = 50
    steer: Annotated[Steer, Meta(description="Which packets go to the service.")]
    run: Annotated[Run, Meta(description="How the server's process is run.")] = field(
        default_factory=Run
    )
    limits: Annotated[Limits, Meta(description="What each instance may use at most.")] = field(
        default_factory=Limits
    )
    egress: Annotated[Egress, Meta(description="Where the service may open connections to.")] = (
        field(default_factory=Egress)
    )
    probe: Annotated[Probe, Meta(description="What a controller asks the server.")] = field(
        default_factory=Probe
    )
    guard: Annotated[Guard, Meta(description="How it gives way when the box is short.")] = field(
        default_factory=Guard
    )


_fields: Final[dict[type[Struct], tuple[FieldInfo, ...]]] = {}


def fields(cls: type[Struct]) -> tuple[FieldInfo, ...]:
    """Of one of the tables. Kept: msgspec reads the annotations anew each time, for 0.5 ms, and
    a command reads two specs for each service there is."""
    if cls not in _fields:
        _fields[cls] = structs.fields(cls)
    return _fields[cls]


#: Fields that are fixed for a generation's life; every other one is changed in place.
FIXED: Final = frozenset(
    {
        "command",
        "instances",
        "run.user",
        "run.environment",
        "run.working-directory",
        "run.root",
        "run.capabilities",
        "run.sandbox",
    }
)
