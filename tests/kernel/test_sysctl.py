"""Kernel parameters of a namespace against sysctl(8)."""

from __future__ import annotations

import pytest

from kernel.conftest import Space
from viscum.kernel import sysctl


def test_a_parameter_is_read_and_written_in_its_namespace(space: Space) -> None:
    space.run("ip", "link", "add", "vs3", "type", "veth", "peer", "v1")
    outside = sysctl.read("net.ipv4.ip_forward")
    for name in ("net.ipv4.ip_forward", "net.ipv4.conf.vs3.rp_filter"):
        for value in ("1", "0"):
            sysctl.write(name, value, space.fd)
            assert sysctl.read(name, space.fd) == value
            assert space.run("sysctl", "-n", name).stdout.strip() == value
    sysctl.write("net.ipv4.ip_local_port_range", "40000 50000", space.fd)
    assert sysctl.read("net.ipv4.ip_local_port_range", space.fd) == "40000\t50000"
    assert sysctl.read("net.ipv4.ip_forward") == outside
    with pytest.raises(FileNotFoundError):
        sysctl.read("net.ipv4.conf.vs3.rp_filter")


def test_a_links_name_may_have_dots(space: Space) -> None:
    space.run("ip", "link", "add", "eth0.100", "type", "veth", "peer", "v1")
    sysctl.write("net.ipv4.conf.eth0.100.rp_filter", 2, space.fd)
    assert space.run("sysctl", "-n", "net/ipv4/conf/eth0.100/rp_filter").stdout == "2\n"


def test_a_value_the_kernel_refuses_is_an_error(space: Space) -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        sysctl.write("net.ipv4.ip_forward", "many", space.fd)
    with pytest.raises(FileNotFoundError):
        sysctl.write("net.ipv4.nope", 1, space.fd)


@pytest.mark.parametrize(
    "bad",
    ["", "net", "net/ipv4", "net..ipv4", "..", "net.ipv4.conf.../../x.rp_filter", "net.", "a\0b.c"],
)
def test_what_is_no_name_is_refused(bad: str) -> None:
    with pytest.raises(ValueError, match="not the name"):
        sysctl.read(bad)
    with pytest.raises(ValueError, match="not the name"):
        sysctl.write(bad, 1)
