"""The text that Prometheus reads, read by its own parser (C7)."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from viscum.controller import metrics
from viscum.controller.guard.law import Reading
from viscum.controller.metrics import FAMILIES, Host, Seen, render
from viscum.kernel.itself import Usage
from viscum.model import Histogram, Hold
from viscum.status import GenerationStatus, InstanceStatus, ServiceStatus

pytestmark = pytest.mark.req("C7")

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "contrib" / "grafana" / "viscum.json"
NAME = re.compile(r"\b((?:viscum|process)_[a-z_]+)")

INSTANCE = InstanceStatus(
    label="3.0", namespace="n", link="vs1", pid=7, listens=("0.0.0.0:80/tcp",), flows=2, cpu=1.5,
    memory=4096, processes=3, throttled=0.25, oom_kills=1,
)  # fmt: skip
STATUS = ServiceStatus(
    name="web", state="running", steering="edge", share=80, held=Hold(load=50.0),
    turns_back_in=None, targets=("198.51.100.1",), ports=(), interfaces=("wlan0",),
    director="ebpf", flows=2, in_bytes=100, out_bytes=1000, decisions={"edge-syn": 3, "own-in": 1},
    generations=(GenerationStatus(3, "serving", None, (INSTANCE,)),), drift=(),
    own_in_bytes=70, own_out_bytes=30, off_wan_bytes=1000,
    connect=Histogram(90, (0, 0, 0, 0, 0, 1, 2)),
    rtt=Histogram(20_000_005, (0, 0, 0, 1) + (0,) * 19 + (2,)),
)  # fmt: skip
HOST = Host(
    Usage(2.5, 40 << 20, 30, 1.7e9),
    (Reading("cpu-busy", 93.5, 85.0, 1.1),),
    {"service.crashed": 2, "controller.started": 1},
)
WHOLE = render([Seen(STATUS, "acme", 4, True)], HOST)


def samples(text: str) -> dict[str, float]:
    """Value by name and labels, as PromQL writes them."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f'{k}="{v}"' for k, v in sorted(sample.labels.items()))
            key = f"{sample.name}{{{labels}}}" if labels else sample.name
            assert key not in found
            found[key] = sample.value
    return found


def test_every_family_is_there_with_its_kind_and_stands_together() -> None:
    parsed = {f.name: f for f in text_string_to_metric_families(WHOLE)}
    for family in FAMILIES:
        base = family.name.removesuffix("_total") if family.kind == "counter" else family.name
        assert parsed[base].type == family.kind
        assert parsed[base].documentation == family.help
        assert (family.kind == "counter") == family.name.endswith("_total")
    heads = [line.split()[2] for line in WHOLE.splitlines() if line.startswith("# HELP")]
    assert heads == [f.name for f in FAMILIES]
    assert WHOLE.endswith("\n")


def test_the_values() -> None:
    found = samples(WHOLE)
    service = 'service="web"'
    assert found['viscum_service_info{director="ebpf",service="web",tenant="acme"}'] == 1
    assert found[f"viscum_service_share_asked_ratio{{{service}}}"] == 0.8
    assert found[f"viscum_service_share_effective_ratio{{{service}}}"] == 0.5
    assert found[f'viscum_service_held_ratio{{{service},why="load"}}'] == 0.5
    assert found[f'viscum_service_packets_total{{reason="edge-syn",{service}}}'] == 3
    assert found[f'viscum_service_redirected_bytes_total{{direction="out",{service}}}'] == 1000
    assert found[f'viscum_service_own_bytes_total{{direction="in",{service}}}'] == 70
    assert found[f"viscum_service_off_wan_bytes{{{service}}}"] == 1000
    assert found[f"viscum_service_restarts_total{{{service}}}"] == 4
    assert found[f'viscum_instance_cpu_seconds_total{{generation="3",index="0",{service}}}'] == 1.5
    assert found[f'viscum_instance_oom_kills_total{{generation="3",index="0",{service}}}'] == 1
    assert found['viscum_events_total{kind="service.crashed"}'] == 2
    assert found['viscum_guard_pressure_ratio{signal="cpu-busy"}'] == 1.1
    assert found["process_resident_memory_bytes"] == 40 << 20


def test_histograms_are_cumulative_and_in_seconds() -> None:
    found = samples(WHOLE)

    def bucket(name: str, le: str) -> float:
        return found[f'viscum_service_{name}_seconds_bucket{{le="{le}",service="web"}}']

    assert [bucket("connect", le) for le in ("1.6e-05", "3.2e-05", "6.4e-05", "+Inf")] == [
        0, 1, 3, 3,
    ]  # fmt: skip
    assert found['viscum_service_connect_seconds_sum{service="web"}'] == pytest.approx(90e-6)
    assert found['viscum_service_connect_seconds_count{service="web"}'] == 3
    # what took less than the least bound, and what took longer than the greatest
    assert [bucket("client_rtt", le) for le in ("1.6e-05", "4.194304", "+Inf")] == [1, 1, 3]
    for family in text_string_to_metric_families(WHOLE):
        if family.type == "histogram":
            values = [s.value for s in family.samples if s.name.endswith("_bucket")]
            bounds = [float(s.labels["le"]) for s in family.samples if "le" in s.labels]
            assert values == sorted(values)
            assert bounds == sorted(bounds)


def test_what_is_not_known_is_left_out() -> None:
    found = samples(render([Seen(STATUS)]))
    assert not any(name.startswith(("process_", "viscum_guard_", "viscum_e")) for name in found)
    assert not any("healthy" in name for name in found)
    assert render([]) == "\n"


def test_labels_are_escaped() -> None:
    odd = 'a"b\\c\nd'
    (found,) = (
        sample.labels["tenant"]
        for family in text_string_to_metric_families(render([Seen(STATUS, odd)]))
        for sample in family.samples
        if "tenant" in sample.labels
    )
    assert found == odd


def test_what_the_dashboard_and_the_documentation_name_exists() -> None:
    suffixes = ("_bucket", "_sum", "_count")
    known = {f.name for f in FAMILIES}
    known |= {f.name + s for f in FAMILIES if f.kind == "histogram" for s in suffixes}
    board = json.loads(DASHBOARD.read_text())
    shown = {
        n
        for panel in board["panels"]
        for t in panel.get("targets", ())
        for n in NAME.findall(t["expr"])
    }
    shown |= {n for v in board["templating"]["list"] for n in NAME.findall(json.dumps(v))}
    assert shown
    assert shown <= known
    documented = set(NAME.findall((ROOT / "docs" / "metrics.md").read_text()))
    assert {f.name for f in FAMILIES} <= documented <= known


def test_quantiles_are_prometheus_own() -> None:
    assert Histogram().quantile(0.5) is None
    one = Histogram(0, (0, 0, 0, 4))  # four between 4 and 8 µs
    assert one.quantile(0.5) == pytest.approx(6e-6)
    assert one.quantile(1.0) == pytest.approx(8e-6)
    two = one + Histogram(7, (0, 4))
    assert two.quantile(0.5) == pytest.approx(2e-6)
    assert (two - one).count == 4
    assert (two - one).sum_us == 7


def test_it_says_what_it_is() -> None:
    assert metrics.MEDIA.startswith("text/plain; version=0.0.4")
