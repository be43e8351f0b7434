"""nginx as Debian ships it, in the cloud and at the edge, for the parts that need any server."""

from __future__ import annotations

from pathlib import Path

from kit import Stage, await_listening
from viscum.lab import CLOUD4

CONF = Path(__file__).with_name("nginx.conf")
STEERED = ("--on", "wlan0", "--target", CLOUD4, "--port", "80/tcp", "--ping", "edge")


def command(scene: Stage, name: str, prefix: str = "/tmp") -> list[str]:
    """prefix: a directory that it may write into; /tmp is a service's own."""
    text = CONF.read_text().replace("NAME", name).replace("PREFIX", prefix)
    path = scene.directory / f"{name}.conf"
    path.write_text(text.replace("FILES", str(scene.directory / "files")))
    return ["nginx", "-c", str(path)]


def serve(scene: Stage, role: str = "cloud") -> None:
    """One that is no service. Returns when it listens."""
    prefix = scene.directory / f"nginx-{role}"
    prefix.mkdir()
    scene.server(role, command(scene, role, str(prefix)))
    await_listening(scene.lab, role, 80)


def run(scene: Stage) -> list[str]:
    """The words of the command that puts it on the access point, or replaces it there."""
    return ["run", "--replace", "--name", "web", *STEERED, "--", *command(scene, "edge")]
