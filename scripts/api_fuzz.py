"""Asks the controller's API everything its own description allows, and much that it does not.

schemathesis (in the extra `fuzz`) reads /openapi.json from a live controller in a lab, with one
real service, and calls every operation with generated input as an admin of the host. What it finds
ends this script with status 1. Streams, which never end, are left out.

    python scripts/api_fuzz.py [--examples 100] [arguments of `schemathesis run` …]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from e2e.api import Client, web  # noqa: E402
from e2e.certificates import Authority  # noqa: E402
from e2e.daemon import Daemon, running  # noqa: E402
from viscum.controller.who.tokens import Tokens  # noqa: E402
from viscum.lab import Lab  # noqa: E402

CONFIG = Path(__file__).with_name("api_fuzz.toml")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=100, help="for each operation")
    given, more = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as directory, Lab("viscum-fuzz", wan_rtt=0, dns=True) as lab:
        authority = Authority(Path(directory))
        authority.issue("server")
        daemon = Daemon(lab)
        daemon.configure(
            f'[api]\nlisten = "127.0.0.1:7443"\ncertificate = "{authority.crt("server")}"\n'
            f'key = "{authority.key("server")}"\n'
        )
        token = Tokens(str(daemon.config)).add("fuzz", "admin", None, None)[1]
        with running(lab) as made:
            made.wait("api.listens", count=2)
            own = Client(lab.state_dir / "api.sock")
            assert own.put("/v1/services/web", web()).status == 201
            done = lab.run(
                "ap",
                [
                    str(Path(sys.executable).with_name("schemathesis")), "--config-file",
                    str(CONFIG), "run", "https://localhost:7443/openapi.json",
                    "--header", f"Authorization: Bearer {token}",
                    "--tls-verify", str(authority.crt("ca")),
                    "--request-timeout", "60", "--max-examples", str(given.examples), *more,
                ],
                capture_output=False,
                cwd=directory,
            )  # fmt: skip
            assert own.get("/v1/host").status == 200, "it still answers"
        errors = [e for e in made.events() if e["kind"] == "controller.error"]
        print(json.dumps(errors, indent=2) if errors else "the controller told of no error")
    return done.returncode or bool(errors)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as error:
        sys.exit(f"{error}: {error.stderr}")
