"""The real site, in the lab's cloud: an nginx with pages that may be kept for an hour, a second, or
not at all, and a log of who asked for what."""

from __future__ import annotations

import os
from pathlib import Path

from kit import Stage, await_listening

CONFIGURATION = """
daemon off; pid {0}/nginx.pid; error_log stderr; worker_processes 1;
events {{ worker_connections 1024; }}
http {{
  log_format who '$remote_addr $http_x_forwarded_for $uri';
  access_log {0}/access.log who;
  client_body_temp_path {0}/b; proxy_temp_path {0}/p;
  fastcgi_temp_path {0}/f; uwsgi_temp_path {0}/u; scgi_temp_path {0}/s;
  server {{
    listen 80; listen [::]:80; root {0}/files;
    location /photos/ {{ add_header Cache-Control max-age=3600; }}
    location /news/ {{ add_header Cache-Control max-age=1; }}
    location /account/ {{ add_header Cache-Control no-store; }}
    location /broken/ {{ if (-f {0}/broken) {{ return 503; }} add_header Cache-Control max-age=1; }}
  }}
}}
"""


class Origin:
    """photos: how many, each of `size` random bytes: /photos/1 …"""

    def __init__(self, scene: Stage, photos: int, size: int) -> None:
        self.directory = scene.directory / "origin"
        self.photos, self.size = photos, size
        for number in range(1, photos + 1):
            self.write(f"photos/{number}", os.urandom(size))
        for page in ("news/today", "account/mine", "broken/page"):
            self.write(page, b"first")
        conf = self.directory / "nginx.conf"
        conf.write_text(CONFIGURATION.format(self.directory))
        for path in (self.directory, *self.directory.rglob("*")):
            path.chmod(0o755)
        scene.server("cloud", ["nginx", "-c", str(conf)])
        await_listening(scene.lab, "cloud", 80)

    def write(self, page: str, content: bytes) -> None:
        path = self.directory / "files" / page
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def read(self, page: str) -> bytes:
        return (self.directory / "files" / page).read_bytes()

    @property
    def asked(self) -> list[list[str]]:
        """[peer's address, what it forwards for, page], of every request there has been."""
        return [line.split() for line in self._log.read_text().splitlines()]

    @property
    def _log(self) -> Path:
        return self.directory / "access.log"

    def breaks(self, broken: bool) -> None:
        """Whether /broken/ is answered with an error."""
        flag = self.directory / "broken"
        flag.touch() if broken else flag.unlink()
