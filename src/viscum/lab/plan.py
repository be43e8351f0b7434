"""What the lab consists of, as lines for ``ip -batch``, ``tc -batch`` and ``nft -f``: plain text.

::

    <prefix>-ue  eth0 ── wlan0  <prefix>-ap  wan0 ── [<prefix>-wan] ── eth0  <prefix>-cloud
    10.1.0.2             10.1.0.1       198.18.0.1                    198.18.0.10 …
    2001:db8:1::2        2001:db8:1::1  2001:db8:c::1                 2001:db8:c::10 …

With several clients ``wlan0`` is a bridge. The namespace in the middle is there only when the WAN
has a delay or loses packets.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

AP_LAN4, AP_LAN6 = "10.1.0.1", "2001:db8:1::1"
AP_WAN4, AP_WAN6 = "198.18.0.1", "2001:db8:c::1"
# the router the access point sends everything to that it has no route for: the cloud itself
GATEWAY4, GATEWAY6 = "198.18.0.2", "2001:db8:c::2"
CLOUDS4 = tuple(f"198.18.0.{n}" for n in (10, 11, 12, 13))
CLOUDS6 = tuple(f"2001:db8:c::{n}" for n in (10, 11, 12, 13))
CLOUD4, CLOUD6 = CLOUDS4[0], CLOUDS6[0]
CLOUD_NAME = "cloud.example"
MAX_CLIENTS = 200
AP_WAN_MAC, CLOUD_MAC = "02:00:00:00:c6:01", "02:00:00:00:c6:02"
FRAME = 1514  # bytes


def ue4(client: int = 1) -> str:
    """IPv4 address of a client, counted from 1."""
    return f"10.1.0.{client + 1}"


def ue6(client: int = 1) -> str:
    return f"2001:db8:1::{client + 1:x}"


class Firewall(StrEnum):
    """What the access point's operator has set up."""

    NONE = "none"  # plain routing
    ROUTER = "router"  # a home router's: stateful, drops INVALID, nothing new from outside, NAT
    STRICT = "strict"  # the same with a forward policy that drops whatever is not LAN to WAN


@dataclass(frozen=True, slots=True)
class Settings:
    """What a lab was made with.

    wan_rtt: seconds, both ways together; wan_rate, radio_rate: bit/s each way, 0 for no limit;
    loss: probability per packet and direction on the WAN.
    """

    prefix: str = "viscum-lab"
    clients: int = 1
    wan_rtt: float = 0.060
    wan_rate: float = 50e6
    radio_rate: float = 300e6
    loss: float = 0.0
    firewall: Firewall = Firewall.ROUTER
    dns: bool = False

    @property
    def roles(self) -> tuple[str, ...]:
        ues = tuple("ue" if n == 1 else f"ue{n}" for n in range(1, self.clients + 1))
        return (*ues, "ap", "cloud", *(("wan",) if self.has_wan else ()))

    @property
    def has_wan(self) -> bool:
        return self.wan_rtt > 0 or self.loss > 0

    def namespace(self, role: str) -> str:
        return f"{self.prefix}-{role}"


def sysctls(role: str) -> dict[str, str]:
    """Set (where they exist) before there is any interface: `default` reaches them all."""
    settings = {
        "net/ipv6/conf/default/accept_dad": "0",  # an address is there at once
        "net/ipv6/conf/default/accept_ra": "0",
        "net/ipv4/conf/all/rp_filter": "0",
        "net/ipv4/conf/default/rp_filter": "0",
    }
    if role == "ap":
        settings |= {
            "net/ipv4/ip_forward": "1",
            "net/ipv6/conf/all/forwarding": "1",
            # client to client is the bridge's business, not the firewall's (where br_netfilter is)
            "net/bridge/bridge-nf-call-iptables": "0",
            "net/bridge/bridge-nf-call-ip6tables": "0",
            "net/bridge/bridge-nf-call-arptables": "0",
        }
    if role == "wan":
        settings["net/ipv6/conf/default/disable_ipv6"] = "1"  # a wire has no addresses
    return settings


def links(s: Settings) -> dict[str, list[str]]:
    """Lines for ``ip -batch`` by role, in the order the roles have to be done in."""
    lan = _lan(s)
    wan = ["link set lo up"]
    if s.has_wan:
        lan.append(f"link add wan0 type veth peer name ap netns {s.namespace('wan')}")
        wan.append(f"link add eth0 type veth peer name cloud netns {s.namespace('wan')}")
    else:
        lan.append(f"link add wan0 type veth peer name eth0 netns {s.namespace('cloud')}")
    if s.loss:
        # a lost frame is to be one packet, not 64 kB of them
        lan.append("link set wan0 gso_max_segs 1")
        wan.append("link set eth0 gso_max_segs 1")
    lan.append(f"link set wan0 address {AP_WAN_MAC}")
    wan.append(f"link set eth0 address {CLOUD_MAC}")
    ap = [
        *lan,
        *_addresses("wlan0", [f"{AP_LAN4}/24"], [f"{AP_LAN6}/64"]),
        *_addresses("wan0", [f"{AP_WAN4}/24"], [f"{AP_WAN6}/64"]),
        f"route add default via {GATEWAY4}",
        f"route add default via {GATEWAY6}",
        *_neighbours("wan0", (*CLOUDS4, GATEWAY4, *CLOUDS6, GATEWAY6), CLOUD_MAC),
    ]
    cloud = [
        *wan,
        *_addresses(
            "eth0",
            [f"{a}/24" for a in (*CLOUDS4, GATEWAY4)],
            [f"{a}/64" for a in (*CLOUDS6, GATEWAY6)],
        ),
        f"route add default via {AP_WAN4}",
        f"route add default via {AP_WAN6}",
        *_neighbours("eth0", (AP_WAN4, AP_WAN6), AP_WAN_MAC),
    ]
    result = {"ap": ap, "cloud": cloud}
    for n in range(1, s.clients + 1):
        result["ue" if n == 1 else f"ue{n}"] = [
            "link set lo up",
            *_addresses("eth0", [f"{ue4(n)}/24"], [f"{ue6(n)}/64"]),
            f"route add default via {AP_LAN4}",
            f"route add default via {AP_LAN6}",
        ]
    if s.has_wan:
        result["wan"] = ["link set lo up", "link set ap up", "link set cloud up"]
    return result


def ends(s: Settings) -> dict[str, tuple[str, ...]]:
    """The links with addresses, by role."""
    return {
        role: ("wlan0", "wan0") if role == "ap" else ("eth0",) for role in s.roles if role != "wan"
    }


def _lan(s: Settings) -> list[str]:
    if s.clients == 1:
        peer = s.namespace("ue")
        return ["link set lo up", f"link add wlan0 type veth peer name eth0 netns {peer}"]
    lines = ["link set lo up", "link add wlan0 type bridge stp_state 0 mcast_snooping 0"]
    for n in range(1, s.clients + 1):
        peer = s.namespace("ue" if n == 1 else f"ue{n}")
        lines += [
            f"link add radio{n} type veth peer name eth0 netns {peer}",
            f"link set radio{n} master wlan0 up",
        ]
    return lines


def _addresses(link: str, v4: list[str], v6: list[str]) -> list[str]:
    return [
        *(f"addr add {a} dev {link}" for a in v4),
        *(f"addr add {a} dev {link} nodad" for a in v6),
        f"link set {link} up",
    ]


def _neighbours(link: str, addresses: tuple[str, ...], mac: str) -> list[str]:
    """Known beforehand: a real next hop is near, and asking for it takes no WAN round trip."""
    return [f"neigh add {a} lladdr {mac} dev {link} nud permanent" for a in addresses]


def rates(s: Settings) -> dict[str, list[str]]:
    """Lines for ``tc -batch`` by role: the radio and the WAN, each way."""
    lines: dict[str, list[str]] = {}
    if s.radio_rate:
        for n in range(1, s.clients + 1):
            lines["ue" if n == 1 else f"ue{n}"] = [_rate("eth0", s.radio_rate)]
        lines["ap"] = [_rate("wlan0", s.radio_rate)]
    if s.wan_rate:
        lines.setdefault("ap", []).append(_rate("wan0", s.wan_rate))
        lines["cloud"] = [_rate("eth0", s.wan_rate)]
    return lines


def _rate(link: str, rate: float) -> str:
    """2 ms of burst (short flows feel the rate too), 100 ms of queue."""
    burst = max(2 * FRAME, int(rate / 8 * 0.002))
    return f"qdisc add dev {link} root tbf rate {rate:.0f} burst {burst} latency 100ms"


def netem(s: Settings) -> list[str]:
    """Lines for ``tc -batch`` in the middle namespace, on a kernel that has netem.

    netem delays on the way out of a port; a bridge joins the two.
    """
    loss = f" loss {s.loss * 100:g}%" if s.loss else ""
    delay = f"delay {s.wan_rtt / 2 * 1e6:.0f}us{loss} limit 100000"
    return [f"qdisc add dev {port} root netem {delay}" for port in ("ap", "cloud")]


BRIDGE = [
    "link add wire type bridge stp_state 0 mcast_snooping 0",
    "link set ap master wire",
    "link set cloud master wire",
    "link set wire up",
]


def firewall(s: Settings) -> str:
    """The operator's nft ruleset on the access point.

    Protocols by number, 1 and 58 for ICMP: a bare Debian has no /etc/protocols.
    """
    if s.firewall is Firewall.NONE:
        return ""
    policy = "drop" if s.firewall is Firewall.STRICT else "accept"
    return f"""
table inet router {{
    chain input {{
        type filter hook input priority filter; policy drop;
        ct state established,related accept
        ct state invalid drop
        iifname != "wan0" accept
        meta l4proto {{ 1, 58 }} accept
    }}
    chain forward {{
        type filter hook forward priority filter; policy {policy};
        ct state invalid drop
        ct state established,related accept
        iifname "wan0" drop
        iifname "wlan0" oifname "wan0" accept
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        meta nfproto ipv4 oifname "wan0" masquerade
    }}
}}
"""


def dns(nameservers: list[str]) -> list[str]:
    """Arguments of a dnsmasq that knows the cloud's names and nothing else."""
    hosts = [f"--host-record={CLOUD_NAME},{CLOUD4},{CLOUD6}"]
    for n, (v4, v6) in enumerate(zip(CLOUDS4, CLOUDS6, strict=True), 1):
        hosts.append(f"--host-record=www{n}.{CLOUD_NAME},{v4},{v6}")
    listen = [f"--listen-address={a}" for a in nameservers]
    return [
        "dnsmasq",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
        "--pid-file=",
        "--user=root",
        "--bind-interfaces",
        "--local=/#/",
        *listen,
        *hosts,
    ]
