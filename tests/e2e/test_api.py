"""The controller's API with a real controller and real services: looking, changing, complaining."""

from __future__ import annotations

import json
from collections.abc import Iterator
from urllib.parse import urlencode

import pytest

from e2e.api import Client, client, web
from e2e.daemon import Daemon, running
from support import wait_until
from viscum.lab import CLOUD4, Lab

WEB = "/v1/services/web"


@pytest.fixture
def api(lab: Lab) -> Iterator[Client]:
    with running(lab) as daemon:
        yield client(daemon)


@pytest.mark.req("C5")
def test_a_service_is_made_looked_at_changed_and_taken_away(api: Client, lab: Lab) -> None:
    assert api.get("/v1/services").json == {"items": [], "next": None}

    made = api.put(WEB, web())
    assert (made.status, made.json["did"]) == (201, "started")
    assert made.headers["location"] == WEB
    found = api.get(WEB)
    assert found.status == 200
    assert found.etag == made.etag
    assert found.json["spec"]["command"][0] == "busybox"
    assert found.json["status"]["state"] == "running"

    again = api.put(WEB, web())
    assert (again.status, again.json["did"], again.etag) == (200, "unchanged", made.etag)
    changed = api.put(WEB, web(priority=70))
    assert (changed.status, changed.json["did"]) == (200, "changed")
    assert changed.etag != made.etag

    for word, did, steering in (
        ("disable", "disabled", "cloud"),
        ("enable", "enabled", "edge"),
        ("restart", "restarted", "edge"),
        ("stop", "stopped", "cloud"),
        ("start", "started", "edge"),
    ):
        done = api.post(f"{WEB}/{word}")
        assert (done.status, done.json["did"]) == (200, did)
        assert api.get(WEB).json["status"]["steering"] == steering
    listed = json.loads(lab.viscum("ls", "--json").stdout)
    assert [s["name"] for s in listed] == ["web"], "the command line sees the same"

    gone = api.delete(WEB)
    assert (gone.status, gone.json["did"]) == (200, "removed")
    assert api.get(WEB).status == 404
    assert api.delete(WEB).status == 404


@pytest.mark.req("C5")
def test_what_commands_change_is_seen_at_once(api: Client, lab: Lab) -> None:
    api.put(WEB, web())
    before = api.get(WEB).etag
    assert lab.viscum("disable", "web").returncode == 0
    wait_until(lambda: api.get(WEB).etag != before, "the change of a command")
    assert lab.viscum("rm", "web").returncode == 0
    wait_until(lambda: api.get(WEB).status == 404, "the removal by a command")


@pytest.mark.req("C5")
def test_changes_come_as_events_and_a_stream_is_resumed(api: Client) -> None:
    with api.stream("/v1/events/stream") as stream:
        api.put(WEB, web())
        sent = next(s for s in stream if s.data["kind"] == "service.added")
        assert sent.data["service"] == "web"
    api.post(f"{WEB}/disable")
    api.post(f"{WEB}/enable")
    with api.stream("/v1/events/stream", last_event_id=sent.id) as stream:
        assert stream.until("service.disabled")["service"] == "web"
        assert stream.until("service.enabled")["service"] == "web"
    with api.stream("/v1/events/stream", last_event_id="0-7") as stream:
        missed = next(stream)
        assert (missed.event, missed.data) == ("missed", {})
    with api.stream("/v1/live") as live:
        assert [s["name"] for s in next(live).data["services"]] == ["web"]
        assert next(live).data["at"]


@pytest.mark.req("C5")
def test_the_log_is_shown_and_followed(api: Client, lab: Lab) -> None:
    spec = web()
    spec["command"].insert(2, "-vv")  # tells of every request
    assert api.put(WEB, spec).status == 201

    def ask(word: str) -> None:
        lab.run("ue", ["curl", "-sS", "-m", "5", f"http://{CLOUD4}/{word}"])

    def lines(path: str) -> str:
        found = api.get(path).json["logs"]
        assert [one["label"] for one in found] == ["1.0"]
        return "\n".join(found[0]["lines"])

    ask("first")
    wait_until(lambda: "first" in lines(f"{WEB}/logs"), "the request in the log")
    assert lines(f"{WEB}/logs?lines=0") == ""
    with api.stream(f"{WEB}/logs/stream?lines=100") as stream:
        assert "first" in str(next(stream).data["lines"])
        assert next(stream).data["lines"] == [], "that was all there was"
        ask("second")
        assert any("second" in str(sent.data["lines"]) for sent in stream)
        assert api.delete(f"{WEB}?now=true").status == 200
        for _ in stream:
            pass  # it ends with the instance
    assert api.get(f"{WEB}/logs").status == 404


@pytest.mark.req("C5")
def test_explain_and_plan_tell_what_would_happen(api: Client) -> None:
    api.put(WEB, web())
    packet = f"tcp 10.1.0.2:40000 > {CLOUD4}:80 syn"
    answer = api.get(f"{WEB}/explain?{urlencode({'packet': packet})}")
    assert (answer.status, answer.json["where"]) == (200, "edge")
    answer = api.get(f"/v1/explain?{urlencode({'packet': packet, 'on': 'wlan0'})}")
    assert answer.json["service"] == "web"
    assert api.get(f"{WEB}/explain?packet=nonsense").fields == ["packet"]
    assert api.get(f"{WEB}/explain").fields == ["packet"]

    steps = api.post("/v1/plan", {"specs": [web(81) | {"name": "other"}], "gone": ["web"]})
    words = " ".join(step["step"] for step in steps.json["steps"])
    assert "other" in words
    assert "web" in words
    bad = api.post("/v1/plan", {"specs": [web() | {"name": "a"}, web() | {"name": "b"}]})
    assert bad.status == 422, "the same target and port twice"
    assert bad.fields[0].startswith("a: ") or bad.fields[0].startswith("b: ")
    assert [s["name"] for s in api.get("/v1/services").json["items"]] == ["web"]
    assert api.get(f"{WEB}?deep=true").json["status"]["drift"] == []


@pytest.mark.req("C5")
def test_the_socket_of_a_killed_controller_is_in_nobodys_way(lab: Lab) -> None:
    daemon = Daemon(lab).start()
    api = client(daemon)
    api.put(WEB, web())
    daemon.kill()
    path = lab.state_dir / "api.sock"
    assert path.is_socket(), "it is left"
    daemon.start()
    daemon.wait("api.listens", count=2)
    assert api.get(WEB).json["status"]["state"] == "running", "the next one answers there"
    daemon.kill()
    assert lab.viscum("rm", "web").returncode == 0
    assert not lab.state_dir.exists(), "nothing is left of either"

    with running(lab) as other:
        other.wait("api.listens", count=3)
        assert path.is_socket()
        second = lab.viscum("controller")
        assert second.returncode == 1
        assert f"(pid {other.process.pid})" in second.stderr if other.process else False
        assert api.get("/v1/host").status == 200
    assert not lab.state_dir.exists()
