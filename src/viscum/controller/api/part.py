"""The part of the controller that others speak to."""

from __future__ import annotations

import asyncio
import grp
from pathlib import Path
from typing import TYPE_CHECKING

from viscum import store
from viscum.controller.access import Access
from viscum.controller.engine import Engine
from viscum.controller.settings import Api as Settings
from viscum.errors import ViscumError
from viscum.kernel import endpoint
from viscum.store import API_SOCKET

if TYPE_CHECKING:
    from viscum.controller.probes import Probes
    from viscum.controller.supervise import Supervisor


class Api:
    """Listens while it runs."""

    name = "API"

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        access: Access,
        supervisor: Supervisor,
        probes: Probes,
    ) -> None:
        self.engine = engine
        self.settings = settings
        self.access = access
        self.supervisor = supervisor
        self.probes = probes

    async def run(self) -> None:
        from viscum.controller.api.app import App
        from viscum.controller.api.context import Context
        from viscum.controller.api.listen import Server

        server = Server(App(Context(self.engine, self.access, self.supervisor, self.probes)))
        path = self.path
        listener = self._listen(path)
        loop = asyncio.get_running_loop()
        try:
            unix = await loop.create_unix_server(server.protocol, sock=listener)
            async with unix:
                self.engine.events.publish("api.listens", f"the API listens at {path}", at=path)
                await asyncio.Event().wait()
        finally:
            listener.close()
            Path(path).unlink(missing_ok=True)
            store.remove_empty(Path(self.engine.host.names.state_dir))
            await server.close()

    @property
    def path(self) -> str:
        default = Path(self.engine.host.names.state_dir) / API_SOCKET
        return self.settings.socket or str(default)

    def _listen(self, path: str) -> endpoint.Listener:
        try:
            gid = grp.getgrnam(self.settings.group).gr_gid
        except KeyError:
            gid = 0
        directory = Path(self.engine.host.names.state_dir)
        try:
            directory.mkdir(0o755, parents=True, exist_ok=True)
            store.refuse_of_others(directory)
            return endpoint.listen_unix(path, gid)
        except OSError as error:
            raise ViscumError(
                f"can't listen at {path}: {error.strerror or error}",
                state="the API can't be reached",
                hint="move away what is there, or set [api] socket in controller.toml",
            ) from None
