"""What other services are given in confidence is not for a service to read."""

from __future__ import annotations

from pathlib import Path

import pytest

from support import wait_until
from viscum.lab import CLOUD4, Lab


@pytest.mark.req("N17")
def test_a_service_reads_no_saved_specs(lab: Lab, files: Path) -> None:
    """Root inside, it could read the environment of every other one."""
    config = files / "etc"
    saved = config / "services" / "other.toml"
    saved.parent.mkdir(parents=True)
    saved.write_text('TOKEN = "secret"\n')
    started = lab.viscum(
        "run", "--name", "web", "--on", "wlan0", "--target", CLOUD4, "--port", "80/tcp",
        "--start-timeout", "100ms", "--", "sh", "-c", f"cat {saved}; echo looked; sleep 1000",
        env=lab.environment("ap") | {"VISCUM_CONFIG_DIR": str(config)},
    )  # fmt: skip
    assert started.returncode in (0, 3), started.stderr

    def said() -> str:
        out = lab.viscum("logs", "web").stdout
        return out if "looked" in out else ""

    assert "secret" not in wait_until(said, "the server has looked")
