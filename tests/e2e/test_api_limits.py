"""The API and those who ask wrongly, too much, too slowly, or at the same time as others."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from conftest import Figure
from e2e.api import Client, client, web
from e2e.daemon import Daemon, running
from support import wait_until
from viscum.controller.api import listen, read, streams
from viscum.kernel import endpoint
from viscum.lab import CLOUD4, Lab

WEB = "/v1/services/web"


@pytest.fixture
def daemon(lab: Lab) -> Iterator[Daemon]:
    with running(lab) as made:
        yield made


@pytest.fixture
def api(daemon: Daemon) -> Client:
    return client(daemon)


def changed(where: str, value: Any) -> dict[str, Any]:
    """A good spec with one value that is not."""
    spec: dict[str, Any] = json.loads(json.dumps(web()))
    table, _, key = where.rpartition(".")
    (spec.setdefault(table, {}) if table else spec)[key] = value
    return spec


MALFORMED: list[tuple[str, Any, str]] = [
    ("name", "other", "name"),
    ("name", 7, "name"),
    ("command", "httpd", "command"),
    ("command", [], "command"),
    ("command", ["/nonsense"], "command[0]"),
    ("instances", 0, "instances"),
    ("instances", "two", "instances"),
    ("director", "nonsense", "director"),
    ("upgrade", "sometimes", "upgrade"),
    ("priority", 101, "priority"),
    ("steer.interfaces", ["nowhere"], "steer.interfaces[0]"),
    ("steer.targets", ["127.0.0.1"], "steer.targets[0]"),
    ("steer.targets", None, "steer.targets"),
    ("steer.ports", [80], "steer.ports[0]"),
    ("steer.ports", ["80/sctp"], "steer.ports[0]"),
    ("steer.clients", ["10.0.0.1/8"], "steer.clients[0]"),
    ("steer.share", 1.5, "steer.share"),
    ("steer.nonsense", 1, "steer.nonsense"),
    ("run.drain", "soon", "run.drain"),
    ("run.environment", {"A=B": "x"}, 'run.environment."A=B"'),
    ("run.user", "nobody:nobody:nobody", "run.user"),
    ("limits.memory", -1, "limits.memory"),
    ("limits.cpu", True, "limits.cpu"),
    ("egress.allow", ["moon"], "egress.allow[0]"),
    ("nonsense", {}, "nonsense"),
]


@pytest.mark.req("C5")
def test_every_problem_of_a_spec_names_its_place(api: Client) -> None:
    wrong = []
    for where, value, field in MALFORMED:
        answer = api.put(WEB, changed(where, value))
        if (answer.status, field in answer.fields) != (422, True):
            wrong.append((where, value, answer.status, answer.fields))
    assert wrong == []
    both = api.put(WEB, {"steer": {"targets": ["x y"], "share": 200}})
    assert {"command", "steer.interfaces", "steer.targets[0]", "steer.share"} <= set(both.fields)
    assert api.get("/v1/services").json["items"] == [], "nothing was made"


@pytest.mark.req("C5")
def test_requests_that_are_none(api: Client) -> None:
    for body, status in (
        (b"{", 400),
        (b"\xff", 400),
        (b"[" * 100_000, 400),
        (b"[]", 422),
        (b"null", 422),
        (b'"web"', 422),
        (b"{}", 422),
        (b" " * (read.MAX_BODY + 1), 413),
    ):
        answer = api("PUT", WEB, body)
        assert answer.status == status, (body[:20], answer.raw[:200])
        assert answer.headers["content-type"] == "application/problem+json"
    assert api("PUT", WEB, b"name=web", content_type="text/plain").status == 415
    for path, field in (
        ("/v1/services?limit=0", "limit"),
        ("/v1/services?limit=x", "limit"),
        ("/v1/services?limit=1&limit=2", "limit"),
        ("/v1/services?nonsense=1", "nonsense"),
        ("/v1/events?after=x", "after"),
        (f"{WEB}/logs?since=soon", "since"),
    ):
        answer = api.get(path)
        assert (answer.status, answer.fields) == (422, [field]), path
    assert api.post(f"{WEB}/disable", {"now": True, "drain": "1s"}).fields == ["now"]
    assert api.post(f"{WEB}/disable", {"drain": "soon", "for": -1}).fields == ["for", "drain"]
    for tag in ("web", '"web', "W/x"):
        assert api.put(WEB, web(), if_match=tag).status == 412
        assert api.put(WEB, web(), if_none_match=tag).status == 412
    refused = api("PATCH", WEB)
    assert (refused.status, refused.headers["allow"]) == (405, "DELETE, GET, HEAD, PUT")
    assert api.get("/v1/services/%2e%2e%2fetc").status == 404
    assert api.get("/nothing").status == 404
    assert api("HEAD", "/v1/host").raw == b""


@pytest.mark.slow  # as long as the API waits for a body
@pytest.mark.req("C5")
def test_who_speaks_no_http_or_too_slowly_is_let_go(api: Client) -> None:
    huge = b"GET / HTTP/1.1\r\nhost: localhost\r\nx: " + b"x" * (listen.HEAD_BYTES + 1000)
    body = b"PUT /v1/services/web HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n{"
    asked = ((b"nonsense\r\n\r\n", 400), (huge, 431), (b"", 408), (b"GET /v1", 408), (body, 408))
    held = []
    for data, _ in asked:
        held.append(endpoint.connect_unix(api.where, 60))
        held[-1].sendall(data)
    for connection, (data, status) in zip(held, asked, strict=True):
        answer = b""
        while part := connection.recv(65536):  # until it is closed
            answer += part
        assert answer.startswith(f"HTTP/1.1 {status} ".encode()), (data[:50], answer)
        connection.close()
    assert api.get("/v1/host").status == 200


@pytest.mark.req("C5")
def test_connections_and_streams_are_bounded(api: Client) -> None:
    held: list[http.client.HTTPConnection] = []
    try:
        for _ in range(streams.MOST_EACH):
            held.append(api.connection())
            held[-1].request("GET", "/v1/events/stream")
            assert held[-1].getresponse().status == 200
        refused = api.get("/v1/live")
        assert (refused.status, refused.headers["retry-after"]) == (429, "10")
    finally:
        for one in held:
            one.close()
    wait_until(lambda: api("HEAD", "/v1/live").status == 200, "streams that were left end")

    many: list[socket.socket] = []
    try:
        for _ in range(listen.LOCAL + 8):
            many.append(endpoint.connect_unix(api.where, 10))
        assert many[-1].recv(65536).startswith(b"HTTP/1.1 429")
    finally:
        for one_more in many:
            one_more.close()
    wait_until(lambda: api.get("/v1/host").status == 200, "connections that were left end")


@pytest.mark.req("C5")
def test_pages_follow_one_another(api: Client) -> None:
    names = [f"s{n}" for n in range(5)]
    for number, name in enumerate(names):
        made = api.put(f"/v1/services/{name}", web(8000 + number))
        assert made.status == 201, made.json
    found, after = [], ""
    while True:
        page = api.get(f"/v1/services?limit=2{after}").json
        assert len(page["items"]) <= 2
        found += [one["name"] for one in page["items"]]
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    assert found == names
    events, cursor = [], None
    while True:
        page = api.get(f"/v1/events?limit=3{f'&after={cursor}' if cursor else ''}").json
        if not page["items"]:
            break
        events += [event["id"] for event in page["items"]]
        cursor = page["next"]
    assert events == sorted(set(events))
    assert len(events) >= 5


@pytest.mark.req("C5")
def test_of_many_who_change_the_same_one_wins(api: Client, figure: Figure) -> None:
    api.put(WEB, web())
    assert api.put(WEB, web(), if_none_match="*").status == 412
    assert api.put("/v1/services/none", web(81), if_match="*").status == 412
    tag = api.get(WEB).etag
    assert api.get(WEB, if_none_match=tag).status == 304
    assert api.get(WEB, if_none_match=f'"x", W/{tag}').status == 304
    assert api.put(WEB, web(), if_match=f'"x", {tag}').json["did"] == "unchanged"

    found: list[int] = []

    def race(number: int) -> None:
        found.append(api.put(WEB, web(priority=number), if_match=tag).status)

    racers = [threading.Thread(target=race, args=(n,)) for n in range(1, 17)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert sorted(found) == [200] + [412] * 15
    new = api.get(WEB).etag
    assert new != tag
    assert api.delete(WEB, if_match=tag).status == 412
    assert api.delete(WEB, if_match=new).status == 200
    figure("of 16 who change the same service at once", "1 wins, 15 are told so (412)", "")


@pytest.mark.req("C5")
def test_what_conflicts_is_told(api: Client, lab: Lab) -> None:
    api.put(WEB, web())
    other = api.put("/v1/services/other", web())
    assert (other.status, "web" in other.raw.decode()) == (422, True), "the same target and port"
    with socket_held(lab):
        assert api.delete(WEB).status == 202
        assert api.put(WEB, web()).status == 409
        assert api.post(f"{WEB}/enable").status == 409
        assert api.delete(f"{WEB}?now=true").status == 200
    wait_until(lambda: api.get(WEB).status == 404, "its end")


class socket_held:
    """A client's connection to the service."""

    def __init__(self, lab: Lab) -> None:
        from e2e import echo

        self.socket = echo.within(lab, "ue", lambda: socket.create_connection((CLOUD4, 80), 10))

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        self.socket.close()


@pytest.mark.req("C5")
def test_what_makes_the_box_look_is_bounded(api: Client) -> None:
    """All are answered, or told to come again; none waits behind a hundred others."""
    found: list[int] = []

    def plan() -> None:
        found.append(api.post("/v1/plan", {"specs": [web() | {"name": "web"}]}).status)

    asking = [threading.Thread(target=plan) for _ in range(48)]
    for one in asking:
        one.start()
    for one in asking:
        one.join()
    assert set(found) == {200, 429}
    assert api.post("/v1/plan", {"specs": []}).status == 200
