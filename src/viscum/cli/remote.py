"""The host behind `--host`: what the commands call on a `Host`, asked of a controller instead.

Commands wait for what drains, as they do on the box; the controller itself does not.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from viscum.cli.output import note
from viscum.errors import InputError, Problem, ViscumError, located
from viscum.explain import Answer
from viscum.host import known
from viscum.rarely import Rarely
from viscum.remote import Client, Place, Refused, path, place
from viscum.slowly import Slowly, finish
from viscum.spec import Spec, from_mapping, to_mapping
from viscum.start import Outcome
from viscum.status import ServiceStatus
from viscum.store import HostRecord, Record, World

POLL, LONGEST_POLL = 0.2, 1.0  # seconds between two looks at what drains
MADE = 3.0  # seconds within which what was made just now has a status


class RemoteStep(Struct, frozen=True):
    """A step of a plan, as an Op tells of itself."""

    step: str
    commands: tuple[str, ...]

    def describe(self) -> str:
        return self.step

    def shell(self) -> tuple[str, ...]:
        return self.commands


class InstanceLog(Struct, frozen=True):
    label: str
    lines: tuple[str, ...]
    complete: bool


def of(
    url: str, token_file: str | None, ca: str | None, cert: str | None, key: str | None
) -> RemoteHost:
    """Raises InputError."""
    socket, host, port = place(url)
    if key and not cert:
        raise InputError(Problem("--key", key, "is of no use alone", "give --cert with it"))
    token = os.environ.get("VISCUM_TOKEN", "")
    if token_file is not None:
        try:
            token = Path(token_file).read_text().strip()
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or "it is no text"
            raise InputError(
                Problem("--token-file", token_file, f"can't be read: {why}", "name a file")
            ) from None
    if not token.isascii() or not token.isprintable() or " " in token:
        raise InputError(
            Problem("--token-file", "", "holds no token", "`viscum token add` makes one")
        )
    return RemoteHost(Client(Place(socket, host, port, token, ca, cert, key)))


class RemoteHost:
    """Of one controller. Raises what a Host raises, and ViscumError where there is none."""

    def __init__(self, client: Client) -> None:
        self.client = client

    # ---- looking

    def load(self) -> World:
        """What is asked for, as far as one sees it."""
        records = {}
        for one in self.client.pages("/v1/services", {"limit": 500}):
            status = one["status"] or {}
            addresses = tuple(status.get("targets", ()))
            records[one["name"]] = Record(one["name"], 0, _spec(one["spec"]), addresses)
        return World(HostRecord("", "", ""), records)

    def known(self, world: World, name: str) -> Record:
        return known(world, name)

    def services(self, names: tuple[str, ...] = (), *, deep: bool = False) -> list[ServiceStatus]:
        if names:
            named = [self._service(name, deep=deep) for name in names]
            return [_status(one) for one in named if one is not None and one["status"]]
        end = time.monotonic() + MADE
        while True:
            found = list(self.client.pages("/v1/services", {"limit": 500}))
            if all(one["status"] for one in found) or time.monotonic() > end:
                return [_status(one) for one in found if one["status"]]
            time.sleep(POLL)

    def explain(self, packet: str, *, name: str = "", interface: str = "") -> Answer:
        where = path("services", name, "explain") if name else path("explain")
        try:
            found = self.client.request(
                "GET", where, query={"packet": packet, "on": interface or None}
            )
        except InputError as error:
            words = {"packet": "PACKET", "on": "--on"}
            raise InputError(
                *(
                    msgspec.structs.replace(p, field=words.get(p.field, p.field))
                    for p in error.problems
                )
            ) from None
        return msgspec.convert(found.body, Answer)

    def logs(self, name: str, lines: int | None, since: float | None) -> list[InstanceLog]:
        query = {"lines": lines, "since": since}
        found = self.client.request("GET", path("services", name, "logs"), query=query).body
        return [msgspec.convert(one, InstanceLog) for one in found["logs"]]

    def has_log(self, name: str) -> bool:
        """That box does not tell of services that never started."""
        return False

    def follow(self, name: str, lines: int | None, since: float | None) -> Iterator[str]:
        query = {"lines": lines, "since": since}
        for sent in self.client.stream(path("services", name, "logs", "stream"), query):
            yield from sent.data["lines"]

    def remarks(self, spec: Spec) -> list[str]:
        """They are among the notes of the outcome."""
        return []

    def named(self, service: str) -> str:
        """Whose the service is, that box knows."""
        return ""

    def check_all(self, specs: list[Spec], sources: Mapping[str, str] | None = None) -> None:
        self.plan(specs, sources)

    def plan(
        self,
        specs: list[Spec],
        sources: Mapping[str, str] | None = None,
        gone: Iterable[str] = (),
    ) -> tuple[RemoteStep, ...]:
        asked = {"specs": [to_mapping(spec) for spec in specs], "gone": list(gone)}
        try:
            found = self.client.request("POST", "/v1/plan", asked).body
        except InputError as error:
            raise InputError(*(_sourced(p, sources or {}) for p in error.problems)) from None
        return tuple(RemoteStep(s["step"], tuple(s["shell"])) for s in found["steps"])

    # ---- changing

    def up(self, spec: Spec, *, replacing: bool = True, wait: bool = True) -> Slowly[Outcome]:
        headers = {}
        if not replacing:
            found = self._service(spec.name)
            if found is None:
                headers["if-none-match"] = "*"
            elif _spec(found["spec"]) != spec:
                raise _runs_already(spec.name)
        until = _is_up if wait else _has_begun
        change = _Change("PUT", path("services", spec.name), "upgraded", until)
        try:
            return (yield from self._changed(spec.name, change, to_mapping(spec), headers=headers))
        except Refused as refused:
            if refused.status == 412 and headers:
                raise _runs_already(spec.name) from None
            raise

    def keep(self, spec: Spec) -> str:
        """For the next boot of that box."""
        query = {"save": "true"}
        self.client.request("PUT", path("services", spec.name), to_mapping(spec), query=query)
        return "that box, for its next boot"

    def enable(self, name: str, *, for_seconds: float | None = None) -> Outcome:
        return finish(self._act(name, "enable", "enabled", _at_once, {"for": for_seconds}))

    def disable(
        self, name: str, *, drain: float | None = None, for_seconds: float | None = None
    ) -> Slowly[Outcome]:
        given: dict[str, Any] = {"for": for_seconds}
        given |= {"now": True} if drain == 0 else {"drain": drain}
        until = _is_reset if drain else _at_once
        return (yield from self._act(name, "disable", "disabled", until, given))

    def stop(self, name: str, *, wait: bool = True) -> Slowly[Outcome]:
        until = _has_stopped if wait else _at_once
        outcome = yield from self._act(name, "stop", "stopped", until, {})
        one = None if wait else self._service(name)
        if one is not None and one["status"] and not _has_stopped(one):
            outcome.did = "draining"
        return outcome

    def start_again(self, name: str, *, wait: bool = True) -> Slowly[Outcome]:
        until = _is_up if wait else _has_begun
        return (yield from self._act(name, "start", "started", until, {}))

    def restart(self, name: str, *, wait: bool = True) -> Slowly[Outcome]:
        until = _is_up if wait else _has_begun
        return (yield from self._act(name, "restart", "restarted", until, {}))

    def remove(self, name: str, *, wait: bool = True, at_once: bool = False) -> Slowly[Outcome]:
        change = _Change("DELETE", path("services", name), "removed", _never if wait else _at_once)
        query = {"now": "true"} if at_once else None
        outcome = yield from self._changed(name, change, query=query)
        if not wait and self._service(name) is not None:
            outcome.did = "draining"
        return outcome

    def sweep(self) -> None:
        """Nothing: a controller tidies by itself."""

    # ---- waiting

    def _act(
        self, name: str, word: str, did: str, until: Callable[[Any], bool], given: dict[str, Any]
    ) -> Slowly[Outcome]:
        body = {key: value for key, value in given.items() if value is not None}
        change = _Change("POST", path("services", name, word), did, until)
        return (yield from self._changed(name, change, body))

    def _changed(
        self,
        name: str,
        change: _Change,
        body: Any = None,
        *,
        query: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> Slowly[Outcome]:
        """What the controller did, once it has ended."""
        before = self.client.request("GET", "/v1/host").body["events"]
        answer = self.client.request(
            change.method, change.where, body, query=query, headers=headers
        )
        outcome = msgspec.convert(answer.body, Outcome)
        if outcome.did == "draining":
            outcome.did, outcome.notes = change.did, []
        if change.until is _at_once:
            return outcome
        if (yield from self._waiting(name, change.until, before)):
            outcome.flows_reset += self._resets(name, before)
        return outcome

    def _waiting(self, name: str, until: Callable[[Any], bool], before: str) -> Slowly[bool]:
        """Whether it had to wait. Raises ViscumError for what could not be started then."""
        pause, waited, tell = POLL, False, Rarely(note)
        while True:
            one = self._service(name)
            if one is None or (one["status"] and until(one)):
                return waited
            for event in self._events(before):
                if event["service"] == name and event["kind"] == "service.not-started":
                    raise ViscumError(event["message"], hint=f"viscum logs {name}")
            if line := _left(one):
                tell(one["status"]["flows"], line)
            yield pause
            waited, pause = True, min(pause * 1.5, LONGEST_POLL)

    def _service(self, name: str, *, deep: bool = False) -> Any:
        """None: it is not there."""
        query = {"deep": "true"} if deep else None
        try:
            return self.client.request("GET", path("services", name), query=query).body
        except Refused as refused:
            if refused.status == 404:
                return None
            raise

    def _events(self, after: str) -> list[Any]:
        return list(
            self.client.request("GET", "/v1/events", query={"after": after, "limit": 1000}).body[
                "items"
            ]
        )

    def _resets(self, name: str, before: str) -> int:
        return sum(
            e["data"].get("flows", 0)
            for e in self._events(before)
            if e["kind"] == "service.flows-reset" and e["service"] == name
        )


class _Change(NamedTuple):
    """One request that changes something; did: its name when it has ended; until: when it has."""

    method: str
    where: str
    did: str
    until: Callable[[Any], bool]


def _is_up(one: Any) -> bool:
    generations = one["status"]["generations"]
    draining = any(g["state"] == "draining" for g in generations)
    return bool(generations) and not draining and bool(one["wanted"]["running"])


def _has_begun(one: Any) -> bool:
    """Whatever still drains."""
    generations = one["status"]["generations"]
    return any(g["state"] != "draining" for g in generations) and bool(one["wanted"]["running"])


def _has_stopped(one: Any) -> bool:
    return not one["status"]["generations"]


def _is_reset(one: Any) -> bool:
    return one["wanted"]["resets_in"] is None


def _at_once(one: Any) -> bool:
    return True


def _never(one: Any) -> bool:
    return False


def _left(one: Any) -> str:
    status = one["status"]
    if not status or not status["flows"]:
        return ""
    count = status["flows"]
    line = f"{one['name']}: {count} flow{'s' if count != 1 else ''} still open"
    ends = [g["ends_in"] for g in status["generations"] if g["ends_in"] is not None]
    ends += [one["wanted"]["resets_in"]] if one["wanted"]["resets_in"] is not None else []
    return f"{line}, reset in {min(ends):.0f} s" if ends else line


def _spec(given: Any) -> Spec:
    return from_mapping(given)


def _status(one: Any) -> ServiceStatus:
    return msgspec.convert(one["status"], ServiceStatus)


def _runs_already(name: str) -> InputError:
    return InputError(
        Problem(
            "name",
            name,
            "runs already, with another spec",
            "give --replace to upgrade it, or choose another name",
        )
    )


def _sourced(problem: Problem, sources: Mapping[str, str]) -> Problem:
    """`NAME: field` with the file in place of the name."""
    name, colon, field = problem.field.partition(": ")
    if not colon or name not in sources:
        return problem
    return located(msgspec.structs.replace(problem, field=field), sources[name])
