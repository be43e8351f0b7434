"""Hypothesis strategies for specs: right ones, and data of the right and the wrong shape."""

from __future__ import annotations

import string
from ipaddress import ip_network
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from msgspec.structs import replace

from viscum.spec import (
    Bytes,
    Egress,
    EgressRule,
    Guard,
    Limits,
    Port,
    Probe,
    Run,
    Seconds,
    Spec,
    Steer,
    TargetNames,
    Udp,
    to_mapping,
    values,
)
from viscum.spec.rules import across
from viscum.spec.values import BadValue

settings.register_profile("viscum", deadline=None)  # nothing is measured by a busy machine's clock
settings.load_profile("viscum")

WORD = string.ascii_lowercase + string.digits


def _names(longest: int) -> st.SearchStrategy[str]:
    return st.builds(str.__add__, st.sampled_from(WORD), st.text(WORD + "-", max_size=longest - 1))


def _arrays(
    items: st.SearchStrategy[Any], *, min_size: int = 0, max_size: int
) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(items, min_size=min_size, max_size=max_size, unique=True).map(tuple)


def _is_target(given: str) -> bool:
    try:
        return values.target(given) == given
    except BadValue:
        return False


TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
DURATIONS = st.integers(0, values.MAX_SECONDS * 1000).map(lambda ms: Seconds(ms / 1000))
SOME_TIME = DURATIONS.filter(bool)
PATHS = TEXTS.filter(lambda text: ".." not in text).map(lambda text: f"/srv/{text}")
PORTS = st.builds(
    lambda proto, a, b: Port(proto, min(a, b), max(a, b)),
    st.sampled_from(["tcp", "udp"]),
    st.integers(1, 65535),
    st.integers(1, 65535),
)
NETWORKS = st.builds(
    lambda a, n: ip_network((a, n), strict=False),
    st.integers(1 << 24, 2**32 - 1),
    st.integers(0, 32),
) | st.builds(
    lambda a, n: ip_network((0x2001_0DB8 << 96 | a, 32 + n), strict=False),
    st.integers(0, 2**96 - 1),
    st.integers(0, 96),
)
HOSTS = st.lists(_names(10).map(lambda n: n.rstrip("-")), min_size=1, max_size=4).map(".".join)
TARGETS = (NETWORKS.map(values.network_text) | HOSTS).filter(_is_target)
KEYS = TEXTS.filter(lambda text: bool(text) and text.isprintable() and not set(text) & set("= "))

VISIBLE = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20)
PROBES = st.builds(
    Probe,
    type=st.sampled_from(["none", "tcp", "http", "https", "udp"]),
    port=st.integers(1, 65535),
    path=VISIBLE.map(lambda text: f"/{text}"),
    host=st.none() | VISIBLE.filter(bool),
    send=TEXTS,
    expect=TEXTS,
    interval=SOME_TIME,
    timeout=SOME_TIME,
    failures=st.integers(1, 1000),
    successes=st.integers(1, 1000),
    restart_after=st.integers(0, 1000),
) | st.builds(Probe, type=st.just("exec"), command=st.tuples(TEXTS))


def _sandboxed(spec: Spec) -> Spec:
    """A sandbox leaves no choice of these two; without this, most such specs would be filtered."""
    if spec.run.sandbox == "off":
        return spec
    return replace(spec, run=replace(spec.run, user=None, capabilities=None))


SPECS: st.SearchStrategy[Spec] = (
    st.builds(
        Spec,
        name=_names(40),
        command=st.builds(
            lambda program, rest: (program, *rest),
            _names(8) | PATHS.filter(lambda path: not path.endswith("/")),
            st.lists(TEXTS, max_size=3),
        ),
        instances=st.integers(1, 8),
        director=st.sampled_from(["auto", "ebpf", "flower"]),
        upgrade=st.sampled_from(["beside", "replace"]),
        steer=st.builds(
            Steer,
            interfaces=_arrays(_names(15), min_size=1, max_size=8),
            targets=_arrays(TARGETS, min_size=1, max_size=4),
            ports=_arrays(PORTS, max_size=3),
            clients=_arrays(NETWORKS, max_size=3),
            share=st.integers(0, 100),
            share_by=st.sampled_from(["client", "flow"]),
            when_down=st.sampled_from(["cloud", "drop"]),
            firewall=st.sampled_from(["bypass", "honour"]),
            udp=st.builds(
                Udp,
                idle=SOME_TIME,
                open=st.sampled_from(["any", "quic-initial"]),
                arm=DURATIONS,
            ),
            ping=st.sampled_from(["cloud", "edge"]),
            names=st.builds(
                TargetNames,
                refresh=st.sampled_from(["on", "off"]),
                learn=st.sampled_from(["on", "off"]),
                within=_arrays(NETWORKS, max_size=3),
                hold=SOME_TIME,
                min_ttl=st.integers(1, 1000).map(lambda ms: Seconds(ms / 1000)),
                max_ttl=st.integers(1000, 10**6).map(lambda ms: Seconds(ms / 1000)),
                max_addresses=st.integers(1, 512),
            ),
        ),
        run=st.builds(
            Run,
            user=st.sampled_from([None, "www-data", "1000:1000"]),
            environment=st.dictionaries(KEYS, TEXTS, max_size=3),
            working_directory=st.none() | PATHS,
            start_timeout=SOME_TIME,
            stop_timeout=DURATIONS,
            drain=DURATIONS,
            root=st.none() | PATHS,
            capabilities=st.none() | _arrays(st.sampled_from(values.CAPABILITIES), max_size=3),
            sandbox=st.sampled_from(["off", "strict"]),
            ready=st.lists(TEXTS, max_size=2).map(tuple),
            restart=st.sampled_from(["on-failure", "always", "no"]),
            restart_delay=st.integers(100, 1000).map(lambda ms: Seconds(ms / 1000)),
            restart_max_delay=st.integers(1000, 10**6).map(lambda ms: Seconds(ms / 1000)),
        ),
        limits=st.builds(
            Limits,
            cpu=st.none() | st.floats(0.01, 1024),
            memory=st.none() | st.integers(2**20, 2**40).map(Bytes),
            processes=st.none() | st.integers(1, 2**22),
            log=st.integers(4096, 2**40).map(Bytes),
        ),
        egress=st.builds(
            Egress,
            allow=_arrays(
                st.builds(
                    EgressRule,
                    to=st.sampled_from(["internet", "router", "lan"])
                    | NETWORKS.map(values.network_text),
                    port=st.none() | PORTS,
                ),
                max_size=3,
            ),
        ),
        priority=st.integers(0, 100),
        probe=st.just(Probe()) | PROBES,
        guard=st.builds(
            Guard,
            mode=st.sampled_from(["on", "off"]),
            min_share=st.integers(0, 100),
            cpu=st.none() | st.floats(0.01, 1024),
            throttled=st.none() | st.floats(0, 100),
        ),
    )
    .map(_sandboxed)
    .filter(lambda spec: not across(spec))
)

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=10)
    | st.binary(max_size=5)
    | st.datetimes()
)
NESTED = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=4)
    ),
    max_leaves=8,
)


def _shaped() -> st.SearchStrategy[dict[str, Any]]:
    """Right tables and keys, of which some hold anything."""

    def loose(right: Any) -> st.SearchStrategy[Any]:
        if isinstance(right, dict):
            return st.fixed_dictionaries({key: loose(value) for key, value in right.items()})
        return st.just(right) | NESTED

    return SPECS.flatmap(lambda spec: loose(to_mapping(spec, defaults=True)))


MAPPINGS = _shaped()
