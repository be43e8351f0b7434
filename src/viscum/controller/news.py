"""What has been asked of services, by whomever (the API, a command): told as events."""

from __future__ import annotations

from collections.abc import Iterator

from viscum.controller.engine import Engine
from viscum.spec import diff
from viscum.store import Record, World


class News:
    """The part that compares the records with what they were."""

    name = "news"

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    async def run(self) -> None:
        seen: World | None = None
        async for world in self.engine.worlds():
            if seen is not None:
                for name in sorted(world.services.keys() | seen.services.keys()):
                    before, after = seen.services.get(name), world.services.get(name)
                    if before is not after:
                        self._tell(name, before, after)
            seen = world

    def _tell(self, name: str, before: Record | None, after: Record | None) -> None:
        publish = self.engine.events.publish
        if after is None:
            tenant = before.tenant if before else ""
            publish("service.removed", f"{name} is gone", service=name, tenant=tenant)
            return
        if before is None:
            publish("service.added", f"{name} was added", service=name)
            return
        changed = [change.path for change in diff(before.spec, after.spec)]
        if changed:
            words = f"{name} was changed: {', '.join(changed)}"
            publish("service.changed", words, service=name, keys=changed)
        for kind, words in _turns(before, after):
            publish(kind, f"{name} {words}", service=name)


def _turns(before: Record, after: Record) -> Iterator[tuple[str, str]]:
    if before.enabled != after.enabled:
        word = "enabled" if after.enabled else "disabled"
        yield f"service.{word}", f"was {word}"
    if before.running != after.running:
        word = "started" if after.running else "stopped"
        yield f"service.{word}", f"was {word}"
    if after.removing and not before.removing:
        yield "service.removing", "goes once its flows have ended"
    numbers = [g.number for g in before.generations]
    for generation in after.generations:
        if generation.number not in numbers:
            yield "service.generation", f"has generation {generation.number}"
