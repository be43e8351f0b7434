"""What would happen: to a packet (explain), or to the host if specs were applied (plan)."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Annotated, Any

from msgspec import Meta, Struct
from msgspec.structs import replace

from viscum import explain
from viscum.controller.api.route import Call, Plain, Reply, Route
from viscum.controller.api.services import Steps, steps_of
from viscum.errors import InputError, Problem, located
from viscum.host import Host
from viscum.kernel.director.explain import SYNTAX, parse
from viscum.spec import BadSpec, Spec, from_mapping
from viscum.spec.types import Interface, Text
from viscum.spec.values import kind_of
from viscum.store import Record

MOST = 200  # specs in one plan


class PacketQuery(Struct, frozen=True, kw_only=True):
    packet: Annotated[
        Text, Meta(description=SYNTAX, examples=["tcp 10.1.0.2:40000 > 203.0.113.7:443 syn"])
    ]
    on: Annotated[
        Interface | None,
        Meta(description="Where it comes in; none: the service's first.", examples=["wlan0"]),
    ] = None


class HostPacketQuery(Struct, frozen=True, kw_only=True):
    packet: Annotated[
        Text, Meta(description=SYNTAX, examples=["tcp 10.1.0.2:40000 > 203.0.113.7:443 syn"])
    ]
    on: Annotated[Interface, Meta(description="Where it comes in.", examples=["wlan0"])]


WANTED = Plain(
    {
        "type": "object",
        "description": "specs: as PUT takes each; gone: names of services that are to go.",
        "additionalProperties": False,
        "properties": {
            "specs": {
                "type": "array",
                "maxItems": MOST,
                "items": {"$ref": "#/components/schemas/Spec"},
                "default": [],
            },
            "gone": {"type": "array", "items": {"type": "string"}, "default": []},
        },
    }
)


async def explained(call: Call) -> Reply:
    record = call.context.record(call.who, call.path["name"])
    interface = call.query.on or ""
    assert call.who is not None
    if call.who.of_host:
        return Reply(await _explain(call, record.name, interface))
    if interface and interface not in record.spec.steer.interfaces:
        raise _not_its("on", interface, record)
    answer = await _explain(call, record.name, interface)
    # The same whether it is somebody else's or nobody's, and wherever it goes.
    at = parse(call.query.packet).dst
    its = any(at in ip_network(address) for address in record.addresses)
    if answer.service != record.name and not (its and not answer.service):
        raise _not_its("packet", call.query.packet, record)
    return Reply(replace(answer, bypassed=()))


def _not_its(field: str, value: str, record: Record) -> InputError:
    message = f"is none that {record.name} has to do with"
    return InputError(Problem(field, value[:80], message, "ask of its own targets and interfaces"))


async def explained_on(call: Call) -> Reply:
    return Reply(await _explain(call, "", call.query.on))


async def _explain(call: Call, name: str, interface: str) -> explain.Answer:
    engine = call.context.engine
    try:
        with call.context.asking(call.who):
            answer = await engine.look(
                explain.explain, engine.host, call.query.packet, name=name, interface=interface
            )
    except InputError as error:  # in the words of the command line
        words = {"PACKET": "packet", "--on": "on"}
        raise InputError(
            *(replace(p, field=words.get(p.field, p.field)) for p in error.problems)
        ) from None
    return answer


async def planned(call: Call) -> Reply:
    context, engine = call.context, call.context.engine
    assert call.who is not None
    specs, gone = _wanted(call.body)
    problems: list[Problem] = []
    admitted: list[Spec] = []
    readable: list[Spec] = []  # of what can't be used otherwise: all problems at once
    world = engine.world
    for number, given in enumerate(specs):
        name = given.get("name") if isinstance(given, dict) else None
        source = name if isinstance(name, str) else f"specs[{number}]"
        try:
            spec = from_mapping(given)
            admitted.append(context.access.admit(call.who, spec, world))
        except InputError as error:
            problems += [located(p, source[:80]) for p in error.problems]
            # Not for a tenant: it would be told who has a target that is not its own.
            if isinstance(error, BadSpec) and error.partial.name and call.who.of_host:
                readable.append(error.partial)
    if problems:
        with context.asking(call.who):
            problems += await engine.wait_for(_besides, engine.host, readable, problems)
        raise InputError(*problems)
    mine = [context.record(call.who, name).name for name in gone]
    with context.asking(call.who):
        ops = await engine.wait_for(engine.host.plan, admitted, {}, mine)
    return Reply(steps_of(ops, call.who, [*mine, *(spec.name for spec in admitted)]))


def _besides(host: Host, specs: list[Spec], known: list[Problem]) -> list[Problem]:
    """What the box has against the rest of specs that have other problems already."""

    def stem(problem: Problem) -> str:
        return problem.field.partition("[")[0]

    stems = {stem(problem) for problem in known}
    try:
        host.check_all(specs)
    except InputError as more:
        return [p for p in more.problems if stem(p) not in stems]
    return []


def _wanted(body: Any) -> tuple[list[Any], list[str]]:
    """Raises InputError."""
    problems = []
    if not isinstance(body, dict):
        message = f"must be a table, not {kind_of(body)}"
        raise InputError(Problem("the body", "", message, "see /openapi.json"))
    specs, gone = body.get("specs", []), body.get("gone", [])
    if not isinstance(specs, list) or len(specs) > MOST:
        problems.append(Problem("specs", "", f"must be at most {MOST} specs", "write [{…}, …]"))
    if not isinstance(gone, list) or not all(isinstance(name, str) for name in gone):
        problems.append(Problem("gone", "", "must be names", 'write ["web", …]'))
    problems += [
        Problem(str(key)[:80], "", "is not a known key", "known here: specs, gone")
        for key in body.keys() - {"specs", "gone"}
    ]
    if problems:
        raise InputError(*problems)
    return specs, gone


ROUTES = (
    Route(
        method="GET",
        path="/v1/services/{name}/explain",
        role="viewer",
        summary="What the loaded data path would do with a packet, and why.",
        handler=explained,
        query=PacketQuery,
        answers={200: explain.Answer},
        errors=(404,),
    ),
    Route(
        method="GET",
        path="/v1/explain",
        role="viewer",
        host=True,
        summary="The same for whatever comes in by an interface.",
        handler=explained_on,
        query=HostPacketQuery,
        answers={200: explain.Answer},
    ),
    Route(
        method="POST",
        path="/v1/plan",
        role="operator",
        action=None,
        summary="The steps that making specs so would begin with; nothing is changed.",
        handler=planned,
        body=WANTED,
        answers={200: Steps},
        errors=(404, 409),
    ),
)
