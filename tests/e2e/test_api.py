"""The controller's API with a real controller and real services: looking, changing, complaining."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from e2e.api import Client, client, web
from e2e.daemon import running
from support import wait_until
from viscum.lab import Lab

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
