"""Real programs for the tests: one nginx for the cloud, and the same for the edge."""

from __future__ import annotations

from pathlib import Path

from support import wait_until
from viscum.lab import Lab

EDGE = "edge"


def nginx_conf(answer: str, directory: str, listen: tuple[str, ...] = ("80", "[::]:80")) -> str:
    """An nginx that answers every request with `answer`, all its files below `directory`."""
    return f"""
daemon off; error_log stderr; pid {directory}/nginx.pid; worker_processes 1;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_timeout 0; default_type text/plain;
  client_body_temp_path {directory}/b; proxy_temp_path {directory}/p;
  fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
  server {{ {" ".join(f"listen {where};" for where in listen)} return 200 "{answer}"; }}
}}
"""


def nginx_command(answer: str, directory: Path) -> tuple[str, ...]:
    """As a service runs it. `directory` (the fixture `files`) holds its configuration: outside
    /tmp, which is private to services."""
    conf = directory / f"{answer}.conf"
    conf.write_text(nginx_conf(answer, "/tmp"))
    return ("nginx", "-c", str(conf))


def cloud_web(lab: Lab, answer: str = "cloud") -> None:
    """nginx in the cloud, listening when this returns."""
    directory = lab.directory / "cloud-web"
    directory.mkdir(parents=True, exist_ok=True)
    conf = directory / "nginx.conf"
    conf.write_text(nginx_conf(answer, str(directory)))
    lab.popen("cloud", ["nginx", "-c", str(conf)])
    wait_until(lambda: "LISTEN" in lab.run("cloud", ["ss", "-Htln", "sport = 80"]).stdout, "nginx")


def body(lab: Lab, target: str, role: str = "ue") -> str:
    """What one new connection is answered."""
    host = f"[{target}]" if ":" in target else target
    done = lab.run(role, ["curl", "-sS", "--noproxy", "*", "-m", "5", f"http://{host}/"])
    return done.stdout if done.returncode == 0 else f"curl: {done.stderr.strip()}"
