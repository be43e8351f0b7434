"""/v1/services: looking at services and changing them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any

from msgspec import Meta, Struct

from viscum.controller.api import etag, view
from viscum.controller.api.context import Context
from viscum.controller.api.read import Flag
from viscum.controller.api.route import Call, Conflict, Plain, Reply, Route
from viscum.controller.who.access import Principal
from viscum.controller.who.audit import differs
from viscum.errors import InputError, Problem
from viscum.ops import Op
from viscum.spec import Spec, from_mapping
from viscum.spec.types import Duration, Text
from viscum.start import Outcome
from viscum.status import mentions
from viscum.store import Record

SPEC = Plain({"$ref": "#/components/schemas/Spec"})


class PageQuery(Struct, frozen=True, kw_only=True, rename="kebab"):
    limit: Annotated[int, Meta(description="So many at most.", ge=1, le=500)] = 100
    after: Annotated[
        Text | None, Meta(description="The `next` of the page before; none: from the start.")
    ] = None


class OneQuery(Struct, frozen=True, kw_only=True):
    deep: Annotated[
        Flag, Meta(description="Compare everything with what was asked too (status.drift).")
    ] = False


class PutQuery(Struct, frozen=True, kw_only=True, rename="kebab"):
    dry_run: Annotated[Flag, Meta(description="Answer the steps and change nothing.")] = False
    save: Annotated[
        Flag, Meta(description="Also keep it for the next boot, as `viscum run --save` does.")
    ] = False


class RemoveQuery(Struct, frozen=True, kw_only=True, rename="kebab"):
    now: Annotated[Flag, Meta(description="Reset its client connections instead of waiting.")] = (
        False
    )
    save: Annotated[Flag, Meta(description="Also take it away from what the next boot starts.")] = (
        False
    )


class Enable(Struct, frozen=True, kw_only=True, rename={"for_": "for"}):
    """How it is enabled."""

    for_: Annotated[
        Duration | None, Meta(description="Turn back by itself after this long.", examples=["10m"])
    ] = None


class Disable(Struct, frozen=True, kw_only=True, rename={"for_": "for"}):
    """How it is disabled."""

    for_: Annotated[
        Duration | None, Meta(description="Turn back by itself after this long.", examples=["1h"])
    ] = None
    drain: Annotated[
        Duration | None,
        Meta(description="Reset what is left after this long; none: never.", examples=["30s"]),
    ] = None
    now: Annotated[Flag, Meta(description="Reset the service's client connections at once.")] = (
        False
    )


class Step(Struct, frozen=True):
    """One step of a plan, in words and as shell commands."""

    step: str
    shell: tuple[str, ...]


class Steps(Struct, frozen=True):
    """What would be done."""

    steps: tuple[Step, ...]


async def listed(call: Call) -> Reply:
    query: PageQuery = call.query
    return Reply(await call.context.view.page(call.who, query.limit, query.after))


async def one(call: Call) -> Reply:
    record = call.context.record(call.who, call.path["name"])
    query: OneQuery = call.query
    tag = call.context.asked(record).etag
    unless = call.headers.get("if-none-match")
    same = unless is not None and etag.matches(unless, tag, weak=True)
    if query.deep:
        return Reply(await call.context.view.deep(call.who, record))
    if same:
        return Reply(None, 304, {"etag": tag})
    return Reply(await call.context.view.service(call.who, record), 200, {"etag": tag})


async def put(call: Call) -> Reply:
    context, engine = call.context, call.context.engine
    assert call.who is not None
    spec = _spec(call.path["name"], call.body)
    spec = context.access.admit(call.who, spec, engine.world)
    query: PutQuery = call.query
    if query.dry_run:
        with context.asking(call.who):
            ops = await engine.wait_for(engine.host.plan, [spec], {spec.name: ""})
        return Reply(steps_of(ops, call.who, [spec.name]))
    owner = context.access.owner(call.who, spec.name, engine.world)
    made = False
    check = _check(call, owner)

    def first(record: Record | None) -> None:
        nonlocal made
        made = record is None
        check(record)
        call.noting.changes = differs(record.spec if record else None, spec)

    outcome = await context.changes.make(
        engine.host.begin, spec.name, spec, check=first, tenant=owner, save=query.save
    )
    if outcome.did != "unchanged":
        # aioquic would take 20 MB for as long as the controller runs
        outcome.notes += await engine.wait_for(engine.host.remarks, spec, quic=False)
    if query.save:
        outcome.notes.append(f"{spec.name} is kept for the next boot")
    return _changed(context, spec.name, outcome, 201 if made else 200)


def steps_of(ops: tuple[Op, ...], who: Principal, names: Iterable[str]) -> Steps:
    """A tenant is told what is done for its own services: the whole plan, and the commands (our
    table of the firewall is one), name the others."""
    if who.of_host:
        return Steps(tuple(Step(op.describe(), tuple(op.shell())) for op in ops))
    words = [op.describe() for op in ops]
    return Steps(tuple(Step(w, ()) for w in words if any(mentions(w, name) for name in names)))


def _spec(name: str, given: Any) -> Spec:
    """Raises InputError."""
    if isinstance(given, dict) and given.setdefault("name", name) != name:
        raise InputError(
            Problem(
                "name",
                str(given["name"])[:80],
                "is not the name in the path",
                f"write {name}, or leave it out",
            )
        )
    return from_mapping(given)


def _check(call: Call, owner: str | None = None) -> Callable[[Record | None], None]:
    """What has to hold under the lock, where nobody can change it any more."""
    if_match, if_none = call.headers.get("if-match"), call.headers.get("if-none-match")

    def check(record: Record | None) -> None:
        etag.require(call.context.asked(record).etag if record else None, if_match, if_none)
        if record is not None and owner is not None and record.tenant != owner:
            raise Conflict(
                f"the name {record.name} was taken by somebody else just now",
                state="nothing was changed",
                hint="choose another name",
            )
        if record is not None and record.removing and owner is not None:
            raise _removing(record)

    return check


async def remove(call: Call) -> Reply:
    context, query = call.context, call.query
    engine, name = context.engine, call.path["name"]
    if query.save and name not in engine.world.services and name in context.kept(call.who):
        return _changed(context, name, await engine.act(engine.host.forget, name))
    name = context.record(call.who, name).name
    outcome = await engine.act(
        engine.host.begin_remove,
        name,
        at_once=query.now,
        check=_check(call),
        forget=query.save,
    )
    return _changed(call.context, name, outcome)


async def enable(call: Call) -> Reply:
    body: Enable = call.body
    name = _mine(call).name
    engine = call.context.engine
    outcome = await engine.act(engine.host.enable, name, for_seconds=body.for_)
    return _changed(call.context, name, outcome)


async def disable(call: Call) -> Reply:
    body: Disable = call.body
    if body.now and body.drain is not None:
        raise InputError(Problem("now", "true", "goes not together with drain", "give one of them"))
    drain = 0.0 if body.now else body.drain
    name = _mine(call).name
    engine = call.context.engine
    outcome = await engine.act(engine.host.begin_disable, name, for_seconds=body.for_, drain=drain)
    return _changed(call.context, name, outcome)


async def stop(call: Call) -> Reply:
    name = _mine(call).name
    outcome = await call.context.engine.act(call.context.engine.host.begin_stop, name)
    return _changed(call.context, name, outcome)


async def start(call: Call) -> Reply:
    name = _mine(call).name
    outcome = await call.context.changes.make(call.context.engine.host.begin, name)
    return _changed(call.context, name, outcome)


async def restart(call: Call) -> Reply:
    name = _mine(call).name
    outcome = await call.context.changes.make(call.context.engine.host.begin_restart, name)
    return _changed(call.context, name, outcome)


def _mine(call: Call) -> Record:
    """The service that is to be changed. Raises NotFound, Conflict."""
    record = call.context.record(call.who, call.path["name"])
    if record.removing:
        raise _removing(record)
    return record


def _removing(record: Record) -> Conflict:
    return Conflict(
        f"{record.name} is being removed, and has flows that go on",
        state="nothing was changed",
        hint="try again when it is gone; DELETE with now=true ends them",
    )


def _changed(context: Context, name: str, outcome: Outcome, status: int = 200) -> Reply:
    headers = {}
    record = context.engine.world.services.get(name)
    if record is not None:
        headers["etag"] = context.asked(record).etag
    if status == 201:
        headers["location"] = f"/v1/services/{name}"
    return Reply(outcome, 202 if outcome.did == "draining" else status, headers)


def _action(word: str, summary: str, handler: Any, body: type[Struct] | None = None) -> Route:
    return Route(
        method="POST",
        path=f"/v1/services/{{name}}/{word}",
        role="operator",
        action=f"service.{word}",
        summary=summary,
        handler=handler,
        body=body,
        answers={200: Outcome, 202: Outcome},
        errors=(404, 409, 422) if body or word not in ("stop",) else (404, 409),
        headers=("ETag",),
    )


ROUTES = (
    Route(
        method="GET",
        path="/v1/services",
        role="viewer",
        summary="The services that are yours to see, by name.",
        handler=listed,
        query=PageQuery,
        answers={200: view.ServicePage},
        errors=(422,),
    ),
    Route(
        method="GET",
        path="/v1/services/{name}",
        role="viewer",
        summary="One service.",
        handler=one,
        query=OneQuery,
        answers={200: view.Service, 304: None},
        errors=(404,),
        request_headers=("If-None-Match",),
        headers=("ETag",),
    ),
    Route(
        method="PUT",
        path="/v1/services/{name}",
        role="operator",
        action="service.put",
        summary="Make a service what the spec says.",
        description="Answers when its new generation listens, or not yet (`listening`); what an "
        "upgrade leaves drains meanwhile.",
        handler=put,
        query=PutQuery,
        body=SPEC,
        answers={200: Outcome | Steps, 201: Outcome, 202: Outcome},
        errors=(409, 412, 422),
        request_headers=("If-Match", "If-None-Match"),
        headers=("ETag",),
    ),
    Route(
        method="DELETE",
        path="/v1/services/{name}",
        role="operator",
        action="service.remove",
        summary="Take a service away; its flows may end within its drain limit (202).",
        handler=remove,
        query=RemoveQuery,
        answers={200: Outcome, 202: Outcome},
        errors=(404, 412, 422),
        request_headers=("If-Match",),
        headers=("ETag",),
    ),
    _action("enable", "Steer new flows to it.", enable, Enable),
    _action("disable", "Steer new flows to the cloud.", disable, Disable),
    _action("stop", "End its server after its last flow; keep the spec.", stop),
    _action("start", "Start it again.", start),
    _action("restart", "Move to new processes, unnoticed.", restart),
)
