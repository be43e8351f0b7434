"""Who may do what through the API: every route, every role; tokens, certificates, the socket."""

from __future__ import annotations

import http.client
import json
import os
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.api import Client, TlsClient, web
from e2e.certificates import Authority
from e2e.daemon import Daemon, running
from support import need_program, wait_until
from viscum.controller.api import listen
from viscum.controller.api.route import ROLES, Route
from viscum.controller.api.table import ROUTES
from viscum.controller.who.tokens import Role, Tokens
from viscum.lab import Lab

TLS = """
[api]
listen = "127.0.0.1:7443"
certificate = "{0}/server.crt"
key = "{0}/server.key"
client-ca = "{0}/ca.crt"
"""
WEB = "/v1/services/web"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    need_program("openssl")
    made = Authority(tmp_path_factory.mktemp("ca"))
    made.issue("server")
    return made


@pytest.fixture
def daemon(lab: Lab, authority: Authority) -> Iterator[Daemon]:
    Daemon(lab).configure(TLS.format(authority.directory))
    with running(lab) as made:
        made.wait("api.listens", count=2)
        yield made


def token(daemon: Daemon, name: str, role: Role, tenant: str | None = None) -> str:
    if tenant is not None:
        (daemon.config / "tenants").mkdir(exist_ok=True)
        (daemon.config / "tenants" / f"{tenant}.toml").touch()
    return Tokens(str(daemon.config)).add(name, role, tenant, None)[1]


def status(api: Client, route: Route) -> int:
    """Of a call that can do no harm: of things that are not there, with nothing in it."""
    connection = api.connection()
    try:
        path = route.path.replace("{", "nothing-").replace("}", "")
        body = b"{}" if route.body is not None else None
        connection.request(route.method, path, body, api.headers({}, body))
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.req("C5")
def test_every_route_is_for_its_role_and_those_above(daemon: Daemon, authority: Authority) -> None:
    who = {role: token(daemon, role, role) for role in ("viewer", "operator", "admin")}
    wrong = []
    for route in ROUTES:
        for role in ROLES:
            api = TlsClient(daemon.lab, authority.trust(), who.get(role, ""))
            found = status(api, route)
            allowed = ROLES.index(role) >= ROLES.index(route.role)
            expected = None if allowed else 401 if role == "anyone" else 403
            if (found in (401, 403)) if expected is None else found != expected:
                wrong.append(f"{route.method} {route.path} as {role}: {found}")
    assert wrong == []


@pytest.mark.req("C5", "C6")
def test_what_is_of_the_host_is_not_for_tenants(daemon: Daemon, authority: Authority) -> None:
    stranger = TlsClient(
        daemon.lab, authority.trust(), token(daemon, "ann", "admin", tenant="acme")
    )
    hosts = [route for route in ROUTES if route.host]
    assert {f"{r.path}: {status(stranger, r)}" for r in hosts} <= {f"{r.path}: 403" for r in hosts}
    own = Client(daemon.lab.state_dir / "api.sock")
    assert own.put(WEB, web()).status == 201
    assert stranger.get(WEB).status == 404, "that it exists is not told"
    assert stranger.get("/v1/services").json["items"] == []
    for word in ("enable", "disable", "stop", "start", "restart"):
        assert stranger.post(f"{WEB}/{word}").status == 404
    assert stranger.delete(WEB).status == 404
    refused = stranger.post("/v1/services/wep/stop").json
    assert "web" not in str(refused).replace("wep", ""), "nor is it in a hint"
    seen = stranger.get("/v1/events").json["items"]
    assert {event["tenant"] for event in seen} <= {"acme"}, "events are those of one's own"
    assert own.get("/metrics").raw.count(b'service="web"')
    assert stranger.get("/metrics").raw == b"\n", "nor is it measured for others, nor the host"


@pytest.mark.req("C5")
def test_tokens_that_do_not_count_and_headers_that_are_none(
    daemon: Daemon, authority: Authority
) -> None:
    good = token(daemon, "ann", "viewer")
    api = TlsClient(daemon.lab, authority.trust())
    for given in ("", f"Basic {good}", f"Bearer {good}x", "Bearer", "Bearer \xff", f"{good}"):
        answer = api.get("/v1/host", authorization=given)
        assert answer.status == 401, given
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert good not in answer.raw.decode()
    assert api.get("/v1/host", authorization=f"bearer {good}").json["you"] == "ann"
    Tokens(str(daemon.config)).remove({good.split("_")[1]})
    assert api.get("/v1/host", authorization=f"Bearer {good}").status == 401, "counts at once"


@pytest.mark.req("C5", "C6")
def test_who_is_refused_is_noted(lab: Lab, authority: Authority) -> None:
    Daemon(lab).configure(TLS.format(authority.directory))
    with running(lab) as daemon:
        daemon.wait("api.listens", count=2)
        good = token(daemon, "ann", "viewer", "acme")
        wrong = TlsClient(lab, authority.trust(), f"{good}x")
        ann = TlsClient(lab, authority.trust(), good)
        for _ in range(3):
            assert wrong.get("/v1/host").status == 401
            assert ann.put(WEB, web()).status == 403
        log = daemon.config / "audit.log"
        assert "api.refused" not in log.read_text()
    text = log.read_text()  # what was not told yet is told when the controller ends
    noted = {
        (e["principal"], e["how"], e["tenant"], e["object"], e["outcome"].partition(" within")[0])
        for e in map(json.loads, text.splitlines()) if e["action"] == "api.refused"
    }  # fmt: skip
    assert noted == {
        ("127.0.0.1", "nobody", "", "401", "3 times"),
        ("ann", "token", "acme", "403", "3 times"),
    }
    assert good.rpartition("_")[2] not in text


@pytest.mark.req("C5")
def test_who_takes_every_connection_keeps_nobody_from_the_socket(
    daemon: Daemon, authority: Authority
) -> None:
    tls = TlsClient(daemon.lab, authority.trust())
    held: list[http.client.HTTPConnection] = []
    try:
        for _ in range(listen.REMOTE):
            held.append(tls.connection())
            held[-1].connect()
        assert tls.get("/v1/host").status == 429
        assert Client(daemon.lab.state_dir / "api.sock").get("/v1/host").status == 200
    finally:
        for one in held:
            one.close()


@pytest.mark.req("C5")
def test_certificates_of_clients_and_of_the_server(
    daemon: Daemon, authority: Authority, tmp_path: Path
) -> None:
    authority.issue("ann")
    authority.issue("ben")
    Tokens(str(daemon.config)).add("ann", "operator", None, None, "certificate")
    host = TlsClient(daemon.lab, authority.trust("ann")).get("/v1/host").json
    assert (host["you"], host["role"]) == ("ann", "operator")
    assert TlsClient(daemon.lab, authority.trust("ben")).get("/v1/host").status == 401
    other = Authority(tmp_path, "other")
    other.issue("ann")
    forged = authority.trust()
    forged.load_cert_chain(other.crt("ann"), other.key("ann"))
    with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
        TlsClient(daemon.lab, forged).get("/v1/host")

    def speaks(version: str) -> bool:
        words = ["openssl", "s_client", "-connect", "127.0.0.1:7443", f"-{version}", "-cipher",
                 "ALL:@SECLEVEL=0", "-CAfile", str(authority.crt("ca"))]  # fmt: skip
        return daemon.lab.run("ap", words).returncode == 0

    assert [v for v in ("tls1", "tls1_1", "tls1_2", "tls1_3") if speaks(v)] == ["tls1_2", "tls1_3"]

    def serial() -> str:
        api = TlsClient(daemon.lab, authority.trust()).connection()
        api.connect()
        assert isinstance(api.sock, ssl.SSLSocket)
        found = api.sock.getpeercert()
        api.close()
        return str(found and found["serialNumber"])

    first = serial()
    with TlsClient(daemon.lab, authority.trust("ann")).stream("/v1/live") as live:
        next(live)
        authority.issue("server")
        wait_until(lambda: serial() != first, "the renewed certificate", 20)
        next(live)  # goes on
    authority.crt("server").write_text("nonsense")
    assert daemon.wait("api.certificate")["level"] == "error"
    assert serial(), "the one before goes on"
    authority.issue("server")


@pytest.mark.req("C5")
def test_the_socket_is_for_root_and_its_group(daemon: Daemon) -> None:
    need_program("curl", "setpriv")
    path = daemon.lab.state_dir / "api.sock"
    there = path.stat()
    assert (there.st_uid, there.st_mode & 0o777) == (0, 0o660)
    curl = ["curl", "-sS", "-o", os.devnull, "-w", "%{http_code}", "--unix-socket", str(path)]
    as_other = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *curl]
    done = subprocess.run([*as_other, "http://localhost/v1/host"], capture_output=True, text=True)
    assert done.returncode == 7, "may not connect"
    path.chmod(0o666)  # the file's mode is not all that keeps others out
    done = subprocess.run([*as_other, "http://localhost/v1/host"], capture_output=True, text=True)
    assert done.stdout == "401"
    done = subprocess.run([*curl, "http://localhost/v1/host"], capture_output=True, text=True)
    assert done.stdout == "200"


@pytest.mark.req("C5", "C6")
def test_what_is_changed_is_noted_and_what_is_not_is_not(daemon: Daemon) -> None:
    api = Client(daemon.lab.state_dir / "api.sock", token(daemon, "ann", "operator"))
    log = daemon.config / "audit.log"
    api.get("/v1/services")
    api.put(f"{WEB}?dry-run=true", web())
    assert "ann" not in log.read_text()
    api.put(WEB, web(run={"environment": {"KEY": "hush"}}))
    api.post(f"{WEB}/stop")
    api.post("/v1/services/nothing/stop")
    text = log.read_text()
    noted = [(e["principal"], e["action"], e["object"], e["outcome"].partition(":")[0])
             for e in map(json.loads, text.splitlines()) if e["principal"] == "ann"]  # fmt: skip
    assert noted == [
        ("ann", action, thing, outcome)
        for action, thing, became in (
            ("service.put", "web", "done"),
            ("service.stop", "web", "done"),
            ("service.stop", "nothing", "failed"),
        )
        for outcome in ("begun", became)
    ]
    assert "run.environment.KEY" in text
    assert "hush" not in text
    log.rename(log.with_suffix(".old"))
    log.mkdir()
    assert api.delete(WEB).status == 500, "what can't be noted is not done"
    assert api.get(WEB).status == 200
    log.rmdir()
