"""/metrics of a real controller against what real clients have done (C7)."""

from __future__ import annotations

import os
import signal
import socket

import pytest
from prometheus_client.parser import text_string_to_metric_families

from conftest import Figure
from e2e import echo
from e2e.api import Client, client, web
from e2e.daemon import running
from support import wait_until
from viscum.controller import metrics
from viscum.lab import CLOUD4, Lab


def scrape(api: Client) -> dict[tuple[str, str], float]:
    """Value by name and the labels but `service`."""
    answer = api.get("/metrics")
    assert (answer.status, answer.headers["content-type"]) == (200, metrics.MEDIA)
    return {
        (s.name, ",".join(v for k, v in sorted(s.labels.items()) if k != "service")): s.value
        for family in text_string_to_metric_families(answer.raw.decode())
        for s in family.samples
        if s.labels.get("service") in (None, "web")
    }


def ask(lab: Lab) -> bytes:
    def get() -> bytes:
        with socket.create_connection((CLOUD4, 80), 10) as sock:
            sock.sendall(b"GET /nothing HTTP/1.0\r\n\r\n")
            return b"".join(iter(lambda: sock.recv(65536), b""))

    answer: bytes = echo.within(lab, "ue", get)
    return answer


@pytest.mark.req("C7")
def test_it_counts_what_clients_do(lab: Lab, figure: Figure) -> None:
    with running(lab) as daemon:
        api = client(daemon)
        assert api.put("/v1/services/web", web(run={"restart": "always"})).status == 201
        before = scrape(api)
        assert before["viscum_service_up", ""] == 1
        assert before["viscum_service_connect_seconds_count", ""] == 0
        assert before["viscum_instance_processes", "1,0"] == 1
        answers = [ask(lab) for _ in range(3)]
        found = wait_until(
            lambda: (
                (seen := scrape(api))["viscum_service_client_rtt_seconds_count", ""] == 3 and seen
            ),
            "three connections",
        )
        assert found["viscum_service_packets_total", "edge-syn"] == 3
        assert found["viscum_service_connect_seconds_count", ""] == 3
        assert found["viscum_service_redirected_bytes_total", "out"] > sum(map(len, answers))
        assert found["viscum_service_own_bytes_total", "out"] == 0
        assert found["viscum_service_off_wan_bytes", ""] == sum(
            found["viscum_service_redirected_bytes_total", way] for way in ("in", "out")
        )
        assert found["viscum_events_total", "service.added"] == 1
        assert found["process_resident_memory_bytes", ""] > 1 << 20
        for name in ("connect", "client_rtt"):
            mean = found[f"viscum_service_{name}_seconds_sum", ""] / 3
            figure(f"{name}, mean of 3", mean * 1e6, "µs")

        status = api.get("/v1/services/web").json["status"]
        os.kill(status["generations"][0]["instances"][0]["pid"], signal.SIGKILL)
        daemon.wait("service.restarted", "web")
        wait_until(lambda: scrape(api)["viscum_service_restarts_total", ""] == 1, "the restart")
        assert scrape(api)["viscum_service_packets_total", "edge-syn"] == 3, "it outlives servers"
