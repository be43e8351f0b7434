"""How what there is is shared out, and who is one client."""

from __future__ import annotations

import pytest

from serving.limits import Share, client_of

pytestmark = pytest.mark.req("U1", "U4")


def test_a_share_is_for_each_and_in_all() -> None:
    share = Share(total=5, each=3)
    assert share.take("a", 3)
    assert not share.take("a")
    assert not share.take("b", 3)
    assert share.take("b", 2)
    assert not share.take("c")
    share.give("a", 3)
    with share.lent("c", 3) as free:
        assert free
        with share.lent("a", 1) as free:
            assert not free
    assert share.take("a", 3)


def test_who_has_a_network_is_one_client() -> None:
    assert client_of("192.0.2.7") == "192.0.2.7"
    assert client_of("2001:db8:1::2") == client_of("2001:db8:1:0:ffff::9") == "2001:db8:1::"
    assert client_of("fe80::1%wlan0") == "fe80::"
