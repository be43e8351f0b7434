"""The parts of the controller that others speak to: the Unix socket, and TLS on TCP."""

from __future__ import annotations

import asyncio
import grp
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from viscum import store
from viscum.controller.api import tls
from viscum.controller.api.changes import Changes
from viscum.controller.settings import Api as Settings
from viscum.errors import InputError, ViscumError
from viscum.kernel import endpoint
from viscum.store import API_SOCKET

if TYPE_CHECKING:
    from viscum.controller.api.listen import Server
    from viscum.controller.main import Controller

LOOK = 2.0  # seconds between two looks whether certificates were renewed


class Api:
    """What both have in common. Raises InputError for settings that can't be used."""

    def __init__(self, controller: Controller) -> None:
        self.controller = controller
        self.settings: Settings = controller.settings.api
        if self.settings.listen is not None:
            tls.place(self.settings.listen)
            tls.context(self.settings)

    def parts(self) -> tuple[OnUnix | OnTcp, ...]:
        return (OnUnix(self), OnTcp(self)) if self.settings.listen else (OnUnix(self),)

    @cached_property
    def server(self) -> Server:
        from viscum.controller.api.app import App
        from viscum.controller.api.context import Context
        from viscum.controller.api.listen import Server

        changes = Changes(self.controller.engine, self.controller.audit)
        return Server(App(Context(self.controller, changes)))


class OnUnix:
    """For root and the group that the settings name."""

    name = "API"

    def __init__(self, api: Api) -> None:
        self.api = api
        self.state_dir = Path(api.controller.engine.host.names.state_dir)
        self.path = api.settings.socket or str(self.state_dir / API_SOCKET)

    async def run(self) -> None:
        listener = self._listen()
        loop = asyncio.get_running_loop()
        server = self.api.server
        try:
            # Not `async with`: from Python 3.12 on that waits for the connections to end.
            with closing(
                await loop.create_unix_server(
                    server.protocol, sock=listener, backlog=endpoint.BACKLOG
                )
            ):
                self.api.controller.engine.events.publish(
                    "api.listens", f"the API listens at {self.path}", at=self.path
                )
                await asyncio.Event().wait()
        finally:
            listener.close()
            Path(self.path).unlink(missing_ok=True)
            store.remove_empty(self.state_dir)
            await server.close()

    def _listen(self) -> endpoint.Listener:
        try:
            gid = grp.getgrnam(self.api.settings.group).gr_gid
        except KeyError:
            gid = 0
        try:
            self.state_dir.mkdir(0o755, parents=True, exist_ok=True)
            store.refuse_of_others(self.state_dir)
            return endpoint.listen_unix(self.path, gid)
        except OSError as error:
            raise ViscumError(
                f"can't listen at {self.path}: {error.strerror or error}",
                state="the API can't be reached there",
                hint="move away what is there, or set [api] socket in controller.toml",
            ) from None


class OnTcp:
    """For who shows a token or a certificate."""

    name = "API on TCP"

    def __init__(self, api: Api) -> None:
        self.api = api

    async def run(self) -> None:
        assert self.api.settings.listen is not None
        address, port = tls.place(self.api.settings.listen)
        try:
            listener = endpoint.listen_tcp(address, port)
        except OSError as error:
            raise ViscumError(
                f"can't listen at {self.api.settings.listen}: {error.strerror or error}",
                state="the API can't be reached there",
                hint="see [api] listen in controller.toml; `ss -ltnp` shows who listens",
            ) from None
        try:
            await self._serve(listener)
        finally:
            listener.close()

    async def _serve(self, listener: endpoint.Listener) -> None:
        """Anew, on the same socket, whenever certificates have changed; connections stay."""
        settings, events = self.api.settings, self.api.controller.engine.events
        from viscum.controller.api.listen import HANDSHAKE

        loop = asyncio.get_running_loop()
        serving: asyncio.Server | None = None
        seen: object = None
        try:
            while True:
                now = tls.marks(settings)
                if now != seen:
                    try:
                        context = tls.context(settings)
                    except InputError as error:
                        events.publish(
                            "api.certificate", f"the old one goes on: {error}", level="error"
                        )
                    else:
                        new = await loop.create_server(
                            self.api.server.secure,
                            sock=listener.dup(),
                            backlog=endpoint.BACKLOG,
                            ssl=context,
                            ssl_handshake_timeout=HANDSHAKE,
                            ssl_shutdown_timeout=HANDSHAKE,
                        )
                        if serving is not None:
                            serving.close()
                        serving = new
                        where = settings.listen
                        events.publish("api.listens", f"the API listens at {where}", at=where)
                    seen = now
                await asyncio.sleep(LOOK)
        finally:
            if serving is not None:
                serving.close()
