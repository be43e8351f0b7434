"""The pictures of docs/console.md, of a live controller with real services in a lab (as root).

    .venv/bin/python scripts/console_pictures.py [DIRECTORY]

Takes three minutes: the plots have to fill.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from playwright.sync_api import Browser, expect  # noqa: E402

from e2e import servers  # noqa: E402
from e2e.api import Client, client  # noqa: E402
from e2e.browser import browsers  # noqa: E402
from e2e.daemon import running  # noqa: E402
from viscum.controller.who.tokens import Tokens  # noqa: E402
from viscum.lab import CLOUD6, CLOUDS4, Lab, ue4  # noqa: E402

SECONDS = 150
PORT = 8443
URL = f"http://127.0.0.1:{PORT}/"
CONTROLLER = "[guard]\ncpu = 0\ncpu-pressure = 0\nmemory-available = 0\n"  # whatever else runs here
ACME = f"""
description = "Acme Ltd, cameras"
targets = ["{CLOUDS4[3]}/32"]
domains = ["cams.example"]
interfaces = ["wlan0"]
[quotas]
services = 4
memory = "1G"
processes = 512
"""
GZIP = """
daemon off; error_log stderr; pid /tmp/nginx.pid; worker_processes 1;
events {{ worker_connections 1024; }}
http {{
  access_log /dev/stdout; gzip on; gzip_comp_level 9; gzip_types *; default_type text/plain;
  client_body_temp_path /tmp/b; proxy_temp_path /tmp/p; fastcgi_temp_path /tmp/f;
  uwsgi_temp_path /tmp/u; scgi_temp_path /tmp/s;
  server {{ listen 80; root {0}; }}
}}
"""


def spec(command: list[str], target: str, **more: Any) -> dict[str, Any]:
    steer = {"interfaces": ["wlan0"], "targets": [target], "ports": ["80/tcp"]}
    return {"command": command, "steer": steer | more.pop("steer", {}), **more}


def put(api: Client, name: str, given: dict[str, Any]) -> None:
    made = api.put(f"/v1/services/{name}", given)
    assert made.status == 201, made.raw


def services(api: Client, its: Client, files: Path) -> None:
    (files / "tile").write_text("".join(f"{n} {n * n % 977} " for n in range(40_000)))
    (files / "tile").chmod(0o644)
    (files / "gzip.conf").write_text(GZIP.format(files))
    httpd = ["busybox", "httpd", "-f", "-p", "80", "-h", str(files)]
    probe = {"type": "http", "interval": "2s", "path": "/tile"}
    by_flow = {"share-by": "flow"}
    guard = {"throttled": 20, "min-share": 10}
    put(api, "tiles", spec(["nginx", "-c", str(files / "gzip.conf")], CLOUDS4[0], probe=probe,
                           limits={"cpu": 0.2}, steer=by_flow, guard=guard))  # fmt: skip
    put(api, "maps", spec(httpd, CLOUDS4[1], probe=probe, steer=by_flow | {"share": 60}))
    put(api, "speech", spec(httpd, CLOUDS4[2], probe=probe | {"path": "/ready", "failures": 2}))
    put(api, "archive", spec(httpd, CLOUD6))
    api.post("/v1/services/archive/stop")
    put(its, "acme-cams", spec([*httpd[:-1], "/usr/share/common-licenses"], CLOUDS4[3]))


def load(lab: Lab) -> None:
    """Clients that come and go."""
    for page, pause, jobs in (
        (f"{CLOUDS4[0]}/tile", 0.02, 4),
        (f"{CLOUDS4[1]}/tile", 0.2, 2),
        (f"{CLOUDS4[3]}/GPL-3", 0.1, 1),
    ):
        words = f"curl -s --compressed -m 20 --limit-rate 4M -o /dev/null http://{page}"
        for _ in range(jobs):
            lab.popen("ue", ["sh", "-c", f"while :; do {words}; sleep {pause}; done"])


def shoot(browser: Browser, path: Path, view: str, *, width: int, height: int, dark: bool = False,
          token: str = "", explain: bool = False) -> None:  # fmt: skip
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light"
    )
    page = context.new_page()
    if token:
        page.add_init_script(f"sessionStorage['viscum-token'] = {token!r}")
    page.goto(URL + view)
    expect(page.locator("#live")).to_have_text("live")
    page.wait_for_timeout(SECONDS * 1000)
    if explain:
        page.get_by_role("textbox", name="Client").fill(ue4())
        page.get_by_role("button", name="Explain").click()
        expect(page.locator(".answer")).to_contain_text("The packet")
        page.evaluate("document.activeElement.blur()")
        page.get_by_role("region", name="Why does a packet").screenshot(
            path=path.with_name("console-explain.png")
        )
        page.evaluate("scrollTo(0, 0)")
    page.screenshot(path=path)
    context.close()
    print(path, path.stat().st_size, "bytes")


def main(out: Path) -> None:
    global SECONDS
    out.mkdir(exist_ok=True)
    files = Path(tempfile.mkdtemp(prefix="viscum-pictures-", dir="/var/tmp"))
    files.chmod(0o755)
    lab = Lab("viscum-pictures", wan_rtt=0.02, wan_rate=0, radio_rate=0)
    try:
        with lab:
            servers.cloud_web(lab)
            config = lab.directory / "etc"
            (config / "tenants").mkdir(parents=True)
            (config / "controller.toml").write_text(CONTROLLER)
            (config / "tenants" / "acme.toml").write_text(ACME)
            token = Tokens(str(config)).add("acme-deploy", "operator", "acme", None)[1]
            with running(lab) as daemon, browsers(lab) as launch:
                api = client(daemon)
                services(api, Client(api.where, token), files)
                load(lab)
                lab.popen("ap", ["socat", f"TCP-LISTEN:{PORT},bind=127.0.0.1,fork,reuseaddr",
                                 f"UNIX-CONNECT:{api.where}"])  # fmt: skip
                time.sleep(1)
                browser = launch("ap")
                shoot(browser, out / "console-service.png", "#/services/tiles", width=1280,
                      height=800, dark=True, explain=True)  # fmt: skip
                SECONDS = 60
                shoot(browser, out / "console-services.png", "", width=1280, height=440)
                SECONDS = 5
                shoot(browser, out / "console-phone.png", "", width=360, height=720)
                shoot(browser, out / "console-tenant.png", "#/tenants", width=900, height=520,
                      token=token)  # fmt: skip
    finally:
        shutil.rmtree(files)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "img")
