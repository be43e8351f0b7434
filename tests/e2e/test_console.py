"""The web console: what is served, and a browser that looks at a live controller with it."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from conftest import Figure, LabFactory
from e2e import echo, servers
from e2e.api import Client, client
from e2e.api import web as api_web
from e2e.browser import Complaints, browsers
from e2e.certificates import Authority
from e2e.daemon import Daemon, running
from support import need_program, wait_until
from viscum.controller.who.tokens import Role, Tokens
from viscum.lab import CLOUD4, CLOUDS4, Lab
from viscum.lab.plan import AP_LAN4, ue4

STATIC = Path(__file__).parents[2] / "src/viscum/controller/console/static"
MOST = 150_000  # bytes, of everything that is sent to a browser
PORT = 8443
# What the browser says of an answer that is a refusal, and of none.
REFUSED = "Failed to load resource: the server responded with a status of 4"
UNANSWERED = ("Failed to load resource: net::ERR", "TypeError: network error")
TLS = f"""
[api]
listen = "{AP_LAN4}:7443"
certificate = "{{0}}/server.crt"
key = "{{0}}/server.key"
[guard]
mode = "off"  # what else runs on this machine is none of these tests' business
"""


class Site(NamedTuple):
    lab: Lab
    daemon: Daemon
    api: Client
    launch: Callable[[str], Browser]
    browser: Browser  # on the access point

    def forwarded(self) -> str:
        """The console as through `ssh -L`: a local port that leads to the Unix socket."""
        return f"http://127.0.0.1:{PORT}/"

    def token(self, role: Role, tenant: str | None = None) -> str:
        """A new one."""
        return Tokens(str(self.daemon.config)).add("somebody", role, tenant, None)[1]


@pytest.fixture(scope="module")
def site(lab_factory: LabFactory, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A lab whose cloud has a web server, a controller and a browser on the access point."""
    need_program("openssl", "socat")
    authority = Authority(tmp_path_factory.mktemp("ca"))
    authority.issue("server")
    lab = lab_factory()
    servers.cloud_web(lab)
    config = lab.directory / "etc"
    config.mkdir()
    (config / "controller.toml").write_text(TLS.format(authority.directory))
    with running(lab) as daemon:
        api = client(daemon)
        daemon.wait("api.listens", count=2)
        lab.popen("ap", [
            "socat", f"TCP-LISTEN:{PORT},bind=127.0.0.1,fork,reuseaddr",
            f"UNIX-CONNECT:{api.where}",
        ])  # fmt: skip
        wait_until(
            lambda: lab.run("ap", ["ss", "-Htln", f"sport = {PORT}"]).stdout, "the forwarded port"
        )
        with browsers(lab) as launch:
            yield Site(lab, daemon, api, launch, launch("ap"))
    lab.down()


@pytest.fixture
def complaints() -> Complaints:
    return Complaints()


@pytest.fixture
def page(site: Site, complaints: Complaints) -> Iterator[Page]:
    """A new tab, that must not have complained of anything by the end."""
    context = site.browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(15_000)
    complaints.listen(page)
    yield page
    context.close()
    assert complaints == []


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
def test_a_service_is_seen_and_disabled(site: Site, web: str, page: Page) -> None:
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


@pytest.mark.req("C8", "C7")
def test_rates_and_latency_are_live(site: Site, web: str, page: Page) -> None:
    page.goto(site.forwarded())
    row = page.get_by_role("row", name=re.compile(f"^{web}"))
    expect(row.locator(".c-latency")).to_have_text("–")
    ask = f"while :; do curl -s -o /dev/null http://{CLOUD4}/; done"
    clients = site.lab.popen("ue", ["sh", "-c", ask])
    try:
        expect(row.locator(".c-latency")).to_have_text(re.compile(r"\d (µs|ms) / "))
        expect(row.locator(".c-out")).to_have_text(re.compile("kbit/s|Mbit/s"))
        row.get_by_role("link").click()
        for title in ("Traffic", "New flows to the edge", "SYN to SYN-ACK"):
            expect(page.get_by_role("figure", name=re.compile(f"^{title}"))).to_be_visible()
        expect(page.get_by_role("row", name=re.compile("^edge new connection"))).to_be_visible()
    finally:
        clients.kill()
        clients.wait()


@pytest.mark.req("C8", "C3")
def test_a_service_that_is_held_back_says_why(site: Site, page: Page, files: Path) -> None:
    spec = {
        "command": list(servers.nginx_command("edge", files)),
        "steer": {"interfaces": ["wlan0"], "targets": [CLOUD4], "ports": ["80/tcp"]},
        "probe": {"type": "tcp", "port": 81, "interval": "200ms", "failures": 1},
    }
    assert site.api.put("/v1/services/ill", spec).status == 201
    try:
        page.goto(site.forwarded())
        row = page.get_by_role("row", name=re.compile("^ill"))
        expect(row).to_contain_text("0 %, held: health")
        expect(row).to_contain_text("unhealthy")
        row.get_by_role("link").click()
        said = "New flows go to the cloud, since its health probe fails."
        expect(page.get_by_text(said)).to_be_visible()
        expect(page.get_by_role("img", name=re.compile("now 0 %, asked for 100 %"))).to_be_visible()
        page.goto("about:blank")
    finally:
        site.api.delete("/v1/services/ill?now=true")


@pytest.mark.req("C8", "N14")
def test_it_explains_why_a_packet_goes_where_it_goes(
    site: Site, web: str, page: Page, complaints: Complaints
) -> None:
    page.goto(f"{site.forwarded()}#/services/{web}")
    page.get_by_role("textbox", name="Client").fill(ue4())
    page.get_by_role("button", name="Explain").click()
    expect(page.locator(".answer")).to_contain_text("goes to the edge")
    expect(page.locator(".answer")).to_contain_text(f"tcp {ue4()}:40000 > {CLOUD4}:80 syn")
    page.get_by_role("spinbutton", name="Port").fill("81")
    page.keyboard.press("Enter")
    expect(page.locator(".answer")).to_contain_text("no service claims")
    complaints.bear(REFUSED)
    page.get_by_role("textbox", name="Client").fill("nobody")
    page.keyboard.press("Enter")
    expect(page.locator(".answer .wrong")).to_contain_text("nobody")


@pytest.mark.req("C8")
def test_everything_is_done_by_keyboard(site: Site, web: str, page: Page) -> None:
    page.goto(site.forwarded())
    expect(page.get_by_role("link", name=web, exact=True)).to_be_visible()
    press = page.keyboard.press
    press("/")
    expect(page.get_by_role("searchbox")).to_be_focused()
    page.keyboard.type("nothing of this name")
    expect(page.get_by_text("No service matches the filter.")).to_be_visible()
    press("ControlOrMeta+a")
    page.keyboard.type(CLOUD4)
    press("Escape")
    press("j")
    expect(page.get_by_role("link", name=web, exact=True)).to_be_focused()
    press("d")
    expect(page.get_by_role("dialog")).to_contain_text(f"Disable {web}?")
    press("Enter")
    expect(page.get_by_role("row", name=re.compile(f"^{web}"))).to_contain_text("off")
    assert servers.body(site.lab, CLOUD4) == "cloud"
    press("Enter")
    expect(page.get_by_role("heading", name=web)).to_be_visible()
    press("e")
    expect(page.get_by_role("dialog")).to_contain_text("New flows go to the edge.")
    press("Enter")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.get_by_text("New flows go to the edge.")).to_be_visible()
    assert servers.body(site.lab, CLOUD4) == "edge"
    press("?")
    expect(page.get_by_role("dialog")).to_contain_text("disable it")
    press("Escape")
    press("u")
    expect(page.get_by_role("heading", name="Services")).to_be_visible()
    press("g")
    expect(page.get_by_role("heading", name="Events")).to_be_visible()
    expect(page.locator(".event", has_text="service.enabled").first).to_be_visible()


@pytest.mark.req("C8")
def test_a_drain_says_what_it_does_and_does_it(site: Site, page: Page, files: Path) -> None:
    spec = {
        "command": list(echo.command("edge")),
        "steer": {"interfaces": ["wlan0"], "targets": [CLOUD4], "ports": [f"{echo.PORT}/tcp"]},
    }
    assert site.api.put("/v1/services/held", spec).status == 201
    try:
        with echo.hold(site.lab, CLOUD4) as held:
            page.goto(f"{site.forwarded()}#/services/held")
            expect(page.get_by_role("row", name=re.compile("^1.0 live"))).to_be_visible()
            page.get_by_role("button", name="Drain").click()
            dialog = page.get_by_role("dialog")
            expect(dialog).to_contain_text("Of 1 open flow, what is left after 30 s is reset")
            dialog.get_by_text("are reset at once").click()
            expect(dialog).to_contain_text("1 open flow reset at once")
            dialog.get_by_role("button", name="Drain").click()
            assert held.was_reset()
        expect(page.get_by_text("It is disabled: new flows go to the cloud.")).to_be_visible()
        page.goto("about:blank")
    finally:
        site.api.delete("/v1/services/held?now=true")


HOSTILE = (
    "\x1b[31m<img src=x onerror=alert(1)><script>document.title='owned'</script>\x1b]0;t\x07\u202e"
)
SHOWN = "<img src=x onerror=alert(1)><script>document.title='owned'</script>^[]0;t^G⟨U+202E⟩"


@pytest.mark.req("C8")
def test_what_a_service_says_stays_text(site: Site, page: Page) -> None:
    """In the log, in the events, in the spec: no markup, no terminal's commands."""
    spec = {
        "command": list(echo.command("edge", "--say", HOSTILE)),
        "steer": {"interfaces": ["wlan0"], "targets": [CLOUD4], "ports": [f"{echo.PORT}/tcp"]},
        "run": {"environment": {"WORDS": HOSTILE.replace("\x1b", "").replace("\x07", "")}},
    }
    assert site.api.put("/v1/services/hostile", spec).status == 201
    try:
        page.goto(f"{site.forwarded()}#/services/hostile")
        expect(page.get_by_role("log")).to_contain_text(SHOWN)
        expect(page.get_by_label("Spec as TOML")).to_contain_text("<img src=x onerror=alert(1)>")
        status = site.api.get("/v1/services/hostile").json["status"]
        os.kill(status["generations"][0]["instances"][0]["pid"], signal.SIGKILL)
        site.daemon.wait("service.crashed", "hostile")
        page.goto(f"{site.forwarded()}#/events")
        page.get_by_text("details and last output").first.click()
        expect(page.locator("details[open] .log")).to_contain_text(SHOWN)
        assert page.locator("main img, main script").count() == 0
        assert "owned" not in page.title()
    finally:
        site.api.delete("/v1/services/hostile?now=true")


@pytest.mark.req("C8")
def test_it_bears_with_a_controller_that_goes_away(
    site: Site, web: str, page: Page, complaints: Complaints
) -> None:
    page.goto(site.forwarded())
    expect(page.locator("#live")).to_have_text("live")
    complaints.bear(*UNANSWERED)
    site.daemon.kill()
    expect(page.get_by_text("The controller does not answer.")).to_be_visible()
    expect(page.locator("#lost")).to_contain_text("Services and their flows go on without it.")
    expect(page.get_by_role("link", name=web, exact=True)).to_be_visible()
    assert servers.body(site.lab, CLOUD4) == "edge", "and so they do"
    site.daemon.start()
    page.get_by_role("button", name="Try now").click()
    expect(page.locator("#live")).to_have_text("live")
    expect(page.locator("#lost")).to_be_hidden()


@pytest.mark.req("C8")
@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (1280, "dark")])
def test_every_view_is_accessible_and_fits(
    site: Site, web: str, page: Page, width: int, scheme: Literal["light", "dark"]
) -> None:
    page.set_viewport_size({"width": width, "height": 740})
    page.emulate_media(color_scheme=scheme)
    for view, words in (
        ("#/", web),
        (f"#/services/{web}", "What it stands in for"),
        ("#/events", "controller.started"),
        ("#/tenants", "Tenants"),
        ("#/host", "Controller"),
    ):
        page.goto(f"{site.forwarded()}{view}")
        expect(page.get_by_text(words, exact=True).first).to_be_visible()
        found = Axe().run(page)
        assert found.violations_count == 0, f"{view}: {found.generate_report()}"
        wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0, f"{view} is {wide} px wider than the screen"
    page.goto(f"{site.forwarded()}#/services/{web}")
    page.get_by_role("button", name="Drain").click()
    assert Axe().run(page).violations_count == 0


@pytest.mark.req("C8", "C6")
def test_a_role_that_may_not_is_told_why(site: Site, web: str, page: Page) -> None:
    page.add_init_script(f"sessionStorage['viscum-token'] = {site.token('viewer')!r}")
    page.goto(f"{site.forwarded()}#/services/{web}")
    disable = page.get_by_role("button", name="Disable")
    expect(disable).to_have_attribute("aria-disabled", "true")
    expect(disable).to_have_attribute("title", re.compile("your role is viewer"))
    page.keyboard.press("d")
    expect(page.locator("#toast")).to_contain_text("your role is viewer")
    expect(page.get_by_role("dialog")).to_have_count(0)


@pytest.mark.req("C8")
def test_from_elsewhere_it_asks_for_a_token_and_keeps_it_for_the_tab(site: Site, web: str) -> None:
    """A client's browser on the other side of the radio, by TLS."""
    secret = site.token("operator")
    context = site.launch("ue").new_context(ignore_https_errors=True)  # the tests' authority
    page = context.new_page()
    page.goto(f"https://{AP_LAN4}:7443/")
    field = page.get_by_label("Token")
    expect(field).to_be_focused()
    field.fill(secret[:-1])
    page.keyboard.press("Enter")
    expect(page.get_by_text("The controller does not know this token.")).to_be_visible()
    field.fill(secret)
    page.keyboard.press("Enter")
    expect(page.get_by_role("link", name=web, exact=True)).to_be_visible()
    expect(page.locator("#live")).to_have_text("live")
    page.reload()
    expect(page.get_by_role("link", name=web, exact=True)).to_be_visible()
    other = context.new_page()
    other.goto(f"https://{AP_LAN4}:7443/")
    expect(other.get_by_label("Token")).to_be_visible()
    assert context.cookies() == []
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("Token")).to_be_visible()


@pytest.mark.req("C8", "C6")
def test_a_tenant_sees_its_own_and_nothing_else(site: Site, web: str, page: Page) -> None:
    (site.daemon.config / "tenants").mkdir(exist_ok=True)
    (site.daemon.config / "tenants" / "acme.toml").write_text(
        f'description = "Acme Ltd"\ntargets = ["{CLOUDS4[1]}/32"]\ninterfaces = ["wlan0"]\n'
        "[quotas]\nservices = 3\n"
    )
    secret = site.token("operator", "acme")
    its = Client(site.api.where, secret)
    made = its.put("/v1/services/acme-web", api_web(8000, CLOUDS4[1]))
    assert made.status == 201, made.raw
    try:
        page.add_init_script(f"sessionStorage['viscum-token'] = {secret!r}")
        page.goto(site.forwarded())
        expect(page.get_by_role("link", name="acme-web", exact=True)).to_be_visible()
        assert page.locator("a.service").all_inner_texts() == ["acme-web"]
        page.get_by_role("link", name="Tenants").click()
        expect(page.get_by_role("heading", name="Your tenant")).to_be_visible()
        expect(page.get_by_text("of 3", exact=True)).to_be_visible()
        page.goto(f"{site.forwarded()}#/services/{web}")
        expect(page.get_by_text(f"There is no service {web} here")).to_be_visible()
        page.goto(f"{site.forwarded()}#/events")
        expect(page.locator(".event", has_text="acme-web").first).to_be_visible()
        assert {*page.locator(".event .whose").all_inner_texts()} <= {"acme-web", "acme"}
    finally:
        site.api.delete("/v1/services/acme-web?now=true")


@pytest.mark.req("C8")
def test_the_theme_is_chosen_and_kept(site: Site, page: Page) -> None:
    page.emulate_media(color_scheme="dark")
    page.goto(site.forwarded())
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(ground)
    page.get_by_role("button", name="Auto").click()
    light = page.evaluate(ground)
    assert light != dark
    page.reload()
    assert page.evaluate(ground) == light
    expect(page.get_by_role("button", name="Light")).to_be_visible()


@pytest.mark.req("C8")
def test_a_page_of_another_site_in_the_same_browser_changes_nothing(
    site: Site, web: str, page: Page, files: Path, complaints: Complaints
) -> None:
    """As in `ssh -L`: the port is open to every page in the browser, and needs no token."""
    site.lab.popen("ap", ["busybox", "httpd", "-f", "-p", "127.0.0.1:8080", "-h", str(files)])
    wait_until(lambda: site.lab.run("ap", ["ss", "-Htln", "sport = 8080"]).stdout, "another site")
    icon = "<link rel=icon href=data:,>"  # else the browser asks for one, in its own time
    (files / "index.html").write_text(f"<title>another site</title>{icon}")
    page.goto("http://127.0.0.1:8080/")
    complaints.bear(REFUSED)
    post = "{method: 'POST', mode: 'no-cors'}"
    page.evaluate(f"fetch('{site.forwarded()}v1/services/{web}/disable', {post})")
    assert site.api.get(f"/v1/services/{web}").json["status"]["steering"] == "edge"
