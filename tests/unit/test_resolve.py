"""Names of a spec: all looked up at once, and none may hold up the host for long."""

from __future__ import annotations

import threading

import pytest

from viscum import validate
from viscum.errors import InputError
from viscum.spec import Spec, Steer

SPEC = Spec(
    name="web",
    command=("httpd",),
    steer=Steer(interfaces=("wlan0",), targets=("198.18.0.10", "localhost", "a.invalid")),
)


@pytest.mark.req("N15", "C6")
def test_what_has_no_address_and_what_never_answers_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A name server that never answers stands behind the second name."""
    never = threading.Event()

    def look_up(name: str) -> list[str]:
        if name == "localhost":
            never.wait(30)
        raise OSError(-2, "Name or service not known")

    monkeypatch.setattr(validate, "_look_up", look_up)
    monkeypatch.setattr(validate, "RESOLVED", 0.2)
    try:
        with pytest.raises(InputError) as caught:
            validate.resolve(SPEC)
    finally:
        never.set()
    first, second = caught.value.problems
    assert (first.field, first.value) == ("steer.targets[1]", "localhost")
    assert "no answer within 0.2 s" in first.message
    assert (second.field, second.value) == ("steer.targets[2]", "a.invalid")
    assert "not known" in second.message
