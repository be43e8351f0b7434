"""OpenArena's own client, as Debian ships it, on a screen that is nowhere: drawn by the processor,
as small and as seldom as it may be."""

from __future__ import annotations

import subprocess
from typing import Any

from game.arena import PORT, Arena
from viscum.lab import CLOUD4

WORDS = [
    "/usr/games/openarena",
    *("+set", "s_initsound", "0", "+set", "ttycon", "0", "+set", "in_nograb", "1"),
    *("+set", "r_mode", "-1", "+set", "r_customwidth", "64", "+set", "r_customheight", "48"),
    *("+set", "r_fullscreen", "0", "+set", "r_picmip", "5", "+set", "r_vertexLight", "1"),
    *("+set", "com_maxfps", "20", "+set", "com_maxfpsUnfocused", "20"),
]


class Client:
    """A player of flesh and blood would sit in front of it."""

    def __init__(self, arena: Arena, name: str, role: str = "ue3") -> None:
        home = arena.scene.directory / name
        home.mkdir()
        self.log = home / "log"
        screen: subprocess.Popen[Any] = arena.scene.server(
            role,
            ["Xvfb", "-displayfd", "1", "-nolisten", "tcp", "-screen", "0", "320x240x24"],
            stdout=subprocess.PIPE,
        )
        assert screen.stdout is not None
        display = screen.stdout.readline().decode().strip()
        assert display, "Xvfb has no screen"
        environment = {
            "HOME": str(home), "DISPLAY": f":{display}", "SDL_AUDIODRIVER": "dummy",
            "LIBGL_ALWAYS_SOFTWARE": "1", "LP_NUM_THREADS": "1",
        }  # fmt: skip
        with self.log.open("wb") as log:
            self.process = arena.lab.popen(
                role,
                [*WORDS, "+set", "name", name, "+connect", f"{CLOUD4}:{PORT}"],
                env=arena.lab.environment(role) | environment,
                stdout=log,
                stderr=log,
            )
        self.screen = screen

    def leave(self) -> None:
        """As by its window's cross."""
        for process in (self.process, self.screen):
            process.terminate()
            process.wait(10)
