"""A headless Chromium in a namespace of the lab, and the console in it."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

from support import need_program
from viscum.lab import Lab

# Nothing but the page's own requests: no sandbox, for the tests are root; no calls home.
SWITCHES = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--no-proxy-server", "--disable-lcd-text",
)  # fmt: skip


@contextmanager
def browsers(lab: Lab, *switches: str) -> Iterator[Callable[[str], Browser]]:
    """launch(role): Debian's Chromium there, until the block ends. Playwright speaks to it through
    a pipe, so that it may live anywhere. switches: more of Chromium's."""
    need_program("chromium")
    with sync_playwright() as playwright, ExitStack() as stack:

        def launch(role: str) -> Browser:
            program = lab.directory / f"chromium-{role}"
            words = [*lab.enter(role), shutil.which("chromium") or ""]
            program.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
            program.chmod(0o755)
            browser = playwright.chromium.launch(
                executable_path=str(program), args=[*SWITCHES, *switches]
            )
            stack.callback(browser.close)
            return browser

        yield launch


class Complaints(list[str]):
    """What a page has complained of: scripts that failed, what its policy refused, bad requests."""

    def listen(self, page: Page) -> None:
        page.on("pageerror", lambda error: self.append(f"{error}"))
        page.on("console", self._said)

    def bear(self, *words: str) -> None:
        """What begins so is no complaint from now on; when it comes is the browser's affair."""
        self._borne += words

    _borne: tuple[str, ...] = ()

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not message.text.startswith(self._borne):
            self.append(f"{message.text} ({message.location.get('url')})")
