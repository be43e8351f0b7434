"""The web console: what is served, and a browser that looks at a live controller with it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from playwright.sync_api import Browser, Page, expect

from conftest import Figure, LabFactory
from e2e import servers
from e2e.api import Client, client
from e2e.browser import Complaints, chromium
from e2e.daemon import Daemon, running
from support import wait_until
from viscum.lab import CLOUD4, Lab

STATIC = Path(__file__).parents[2] / "src/viscum/controller/console/static"
MOST = 150_000  # bytes, of everything that is sent to a browser
PORT = 8443


class Site(NamedTuple):
    lab: Lab
    daemon: Daemon
    api: Client
    browser: Browser

    def forwarded(self) -> str:
        """The console as through `ssh -L`: a local port that leads to the Unix socket."""
        return f"http://127.0.0.1:{PORT}/"


@pytest.fixture(scope="module")
def site(lab_factory: LabFactory, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A lab whose cloud has a web server, a controller and a browser on the access point."""
    lab = lab_factory()
    servers.cloud_web(lab)
    with running(lab) as daemon:
        api = client(daemon)
        lab.popen("ap", [
            "socat", f"TCP-LISTEN:{PORT},bind=127.0.0.1,fork,reuseaddr",
            f"UNIX-CONNECT:{api.where}",
        ])  # fmt: skip
        wait_until(
            lambda: lab.run("ap", ["ss", "-Htln", f"sport = {PORT}"]).stdout, "the forwarded port"
        )
        with chromium(lab) as browser:
            yield Site(lab, daemon, api, browser)
    lab.down()


@pytest.fixture
def page(site: Site) -> Iterator[Page]:
    """A new tab, that must not complain of anything by the end."""
    context = site.browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(15_000)
    complaints = Complaints(page)
    yield page
    context.close()
    assert [c for c in complaints if "/logs/stream" not in c] == []  # not served yet


@pytest.fixture
def web(site: Site, files: Path) -> Iterator[str]:
    """The name of a service that runs nginx for the cloud's address."""
    spec = {
        "command": list(servers.nginx_command("edge", files)),
        "steer": {"interfaces": ["wlan0"], "targets": [CLOUD4], "ports": ["80/tcp"]},
    }
    made = site.api.put("/v1/services/web", spec)
    assert made.status == 201, made.raw
    yield "web"
    site.api.delete("/v1/services/web?now=true")


@pytest.mark.req("C8")
def test_all_of_it_is_small_and_comes_from_the_controller_alone(site: Site, figure: Figure) -> None:
    names = [path for path in STATIC.rglob("*") if path.is_file() and path.suffix != ".LICENSE"]
    sizes = {path.name: len(site.api.get(f"/console/{path.name}").raw) for path in names}
    assert "uPlot.iife.min.js" in sizes, "scripts/build-console has not been run"
    figure("console, uncompressed", sum(sizes.values()) / 1000, "kB")
    assert sum(sizes.values()) < MOST
    for path in names:
        if path.parent == STATIC and path.suffix != ".svg":
            text = path.read_text().replace("http://www.w3.org/2000/svg", "")  # a name, no address
            assert not re.search(r"https?://|[\"'(]//", text), f"{path.name} goes out"
            assert not re.search(
                r"\b(innerHTML|outerHTML|insertAdjacent\w+|eval)\b", path.read_text()
            )


@pytest.mark.req("C8")
def test_the_page_may_do_nothing_but_what_it_needs(site: Site) -> None:
    page = site.api.get("/")
    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert "unsafe" not in policy
    for words in ("default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"):
        assert words in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["referrer-policy"] == "no-referrer"
    assert site.api.get("/", if_none_match=page.etag).status == 304
    assert site.api.get("/console/nothing.js").status == 404
    assert site.api.get("/console/..%2f__init__.py").status == 404


@pytest.mark.req("C8")
def test_a_page_of_another_site_may_not_act_for_who_is_let_in(site: Site, web: str) -> None:
    """The Unix socket says who one is without a token, and `ssh -L` brings it to a browser."""
    disable = f"/v1/services/{web}/disable"
    for headers in (
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"host": f"evil.example:{PORT}"},
    ):
        refused = site.api.post(disable, **headers)
        assert refused.status == 403, headers
    assert site.api.get("/v1/services", host="evil.example").status == 403
    assert site.api.get(f"/v1/services/{web}").json["status"]["steering"] == "edge"
    own = {"host": f"127.0.0.1:{PORT}", "origin": f"http://127.0.0.1:{PORT}"}
    assert site.api.post(disable, sec_fetch_site="same-origin", **own).status == 200


@pytest.mark.req("C8")
def test_a_service_is_seen_and_disabled(site: Site, page: Page, web: str) -> None:
    assert servers.body(site.lab, CLOUD4) == "edge"
    page.goto(site.forwarded())
    row = page.get_by_role("row", name=re.compile(f"^{web}"))
    expect(row).to_contain_text("running")
    page.get_by_role("link", name=web, exact=True).click()
    expect(page.get_by_role("heading", name=web)).to_be_visible()
    expect(page.get_by_text("New flows go to the edge.")).to_be_visible()
    expect(page.locator(".plot canvas").first).to_be_visible()

    page.get_by_role("button", name="Disable").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("New flows go to the cloud; the server keeps running.")
    dialog.get_by_role("button", name="Disable").click()
    expect(page.get_by_text("It is disabled: new flows go to the cloud.")).to_be_visible()
    assert servers.body(site.lab, CLOUD4) == "cloud"
