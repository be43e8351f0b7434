"""Tenants through the API: each sees and changes its own, and no traffic but its own is steered.

Two tenants share a router: acme owns the cloud's first address, beta the second one. What one of
them tries with what is the other's, the operator's or nobody's is refused, naming the field, and
changes nothing.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from e2e.api import Answer, Client, web
from e2e.daemon import Daemon, running
from e2e.net import PORT, connect, ok, start_peer, who
from e2e.servers import body, cloud_web
from support import wait_until
from viscum.controller.api.route import EVENTS, Route
from viscum.controller.api.table import ROUTES
from viscum.controller.who.tokens import Role, Tokens
from viscum.kernel import process
from viscum.kernel.cgroup import Group
from viscum.lab import Lab
from viscum.lab.plan import AP_LAN4, AP_WAN4, CLOUDS4, CLOUDS6
from viscum.names import HostNames
from viscum.spec import Spec
from viscum.spec.types import fields

pytestmark = pytest.mark.req("C6")

ACME4, BETA4, FREE4 = CLOUDS4[:3]
PYTHON = "/usr/bin/python3"  # a sandboxed server sees the system's, not perhaps the tests' own
PEERS = str(Path(__file__).with_name("peers.py"))
POOL = "100.127.192.0/19"
TENANTS = {
    "acme": [
        "--target", ACME4, "--target", CLOUDS6[0], "--domain", "cloud.example", "--on", "wlan0",
        "--client", "10.1.0.0/16", "--client", "2001:db8:1::/64", "--pool", "100.127.200.0/28",
        "--quota", "services=3", "--quota", "cpu=1", "--quota", "memory=64M",
        "--quota", "processes=40",
    ],
    "beta": ["--target", BETA4, "--target", AP_WAN4, "--on", "wlan0"],
}  # fmt: skip


class House:
    """A router with a controller, the two tenants, and a service of each and of the operator's."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.config = lab.directory / "etc"
        self.config.mkdir()
        (self.config / "host.toml").write_text(f'pool = "{POOL}"\n')
        self.env = lab.environment("ap") | {"VISCUM_CONFIG_DIR": str(self.config)}
        for name, options in TENANTS.items():
            ok(self.viscum("tenant", "add", name, *options))
        self.tokens = Tokens(str(self.config))
        self.daemon = Daemon(lab).start()
        self.daemon.wait("api.listens")
        self.root = self.client("")
        self.acme, self.beta = (self.admit(name, "operator") for name in TENANTS)
        self.admin = {name: self.admit(name, "admin") for name in TENANTS}

    def viscum(self, *args: str) -> subprocess.CompletedProcess[str]:
        return self.lab.viscum(*args, env=self.env)

    def client(self, token: str) -> Client:
        return Client(self.lab.state_dir / "api.sock", token)

    def admit(self, tenant: str, role: Role) -> Client:
        """A client that shows a token of that tenant."""
        return self.client(self.tokens.add(f"{tenant}-{role}", role, tenant, None)[1])

    def stop(self) -> None:
        assert self.daemon.stop() == 0
        assert self.daemon.faults() == []


def small(target: str = ACME4, **changes: Any) -> dict[str, Any]:
    """What acme may run; changes by path, with __ for the dots."""
    spec = web(target=target, limits={"cpu": 0.2, "memory": "16M", "processes": 8})
    spec["steer"]["clients"] = ["10.1.0.0/24"]
    for path, value in changes.items():
        *tables, key = path.split("__")
        table = spec
        for name in tables:
            table = table.setdefault(name, {})
        table[key.replace("_", "-")] = value
    return spec


ACME, BETA, OWN = "/v1/services/acme-web", "/v1/services/beta-web", "/v1/services/zebra"


@pytest.fixture(scope="module")
def house(lab_factory: Any) -> Iterator[House]:
    lab = lab_factory()
    made = House(lab)
    cloud_web(lab)
    for client, path, spec in (
        (made.acme, ACME, small()),
        (made.beta, BETA, web(target=BETA4)),
        (made.root, OWN, web(81, target=FREE4)),
    ):
        answer = client.put(path, spec)
        assert answer.status == 201, answer.raw
    yield made
    made.stop()
    lab.down()


def services(client: Client) -> dict[str, str]:
    """What it sees: name → tenant."""
    return {s["name"]: s["tenant"] for s in client.get("/v1/services").json["items"]}


# ---- seeing ------------------------------------------------------------------------------------


def test_each_sees_its_own_services_and_the_operator_all(house: House) -> None:
    assert services(house.acme) == {"acme-web": "acme"}
    assert services(house.beta) == {"beta-web": "beta"}
    assert services(house.root) == {"acme-web": "acme", "beta-web": "beta", "zebra": ""}
    assert house.acme.get(ACME).json["spec"]["run"]["sandbox"] == "strict", "asked or not"


def test_a_tenants_server_is_an_unprivileged_process(house: House) -> None:
    group = Group(HostNames(str(house.lab.state_dir)).cgroup("acme-web", 1, 0))
    words = Path(f"/proc/{process.main_pid(group)}/status").read_text().split()
    assert words[words.index("Uid:") + 1] != "0"
    assert int(words[words.index("CapBnd:") + 1], 16) == 0


def called(client: Client, route: Route, names: dict[str, str]) -> tuple[int, str]:
    """(status, the answer; of a stream what comes within a second and a half)."""
    path = route.path
    for key, value in names.items():
        path = path.replace(f"{{{key}}}", value)
    given = None
    if route.body is not None:
        body = web(target=ACME4) if route.body is Spec else {}
        given = json.dumps({"name": "x"} if path == "/v1/tokens" else body).encode()
    if any(info.encode_name == "packet" for info in fields(route.query)):
        path += f"?on=wlan0&packet={quote(f'tcp 10.1.0.2:40000 > {ACME4}:80 syn')}"
    connection = client.connection(timeout=1.5)
    text = b""
    try:
        connection.request(route.method, path, given, client.headers({}, given))
        response = connection.getresponse()
        while block := response.read1(65536):
            text += block
            if response.headers["content-type"] == EVENTS and b"data" in text:
                break
    except TimeoutError:
        if not text and not path.endswith("stream"):
            raise
        return 200, text.decode()
    finally:
        connection.close()
    return response.status, text.decode()


def test_no_route_tells_a_stranger_anything(house: House) -> None:
    """Every route there is, as an admin of beta, with what is acme's or the operator's; also those
    that are added after this test was written."""
    stranger = house.admin["beta"]
    number = next(c.id for c in house.tokens.all().values() if c.tenant == "acme")
    before = house.root.get("/v1/services").json["items"]
    wrong = []
    for service in ("acme-web", "zebra", "acme-none"):
        for route in ROUTES:
            if service != "acme-web" and "{name}" not in route.path:
                continue
            names = {"name": service, "tenant": "acme", "id": number}
            status, text = called(stranger, route, names)
            where = f"{route.method} {route.path} of {service}"
            # What it gave itself may come back; what it could not know may not.
            known = text.replace(service, "").replace("/v1/tenants/acme", "").replace(number, "")
            allowed = [200, 201, 403]
            if "{" in route.path:
                allowed = [403, 404, 422 if route.method == "PUT" else 404]
                known = known.replace("acme", "")
            if status not in allowed:
                wrong.append(f"{where}: {status} {text[:300]}")
            wrong += [
                f"{where} tells {word!r}: {text[:300]}"
                for word in ("acme-web" if route.role == "anyone" else "acme", ACME4, "zebra")
                if word in known
            ]
    assert not wrong, "\n".join(wrong)
    after = house.root.get("/v1/services").json["items"]
    assert [s["spec"] for s in after] == [s["spec"] for s in before]
    assert [s["status"]["state"] for s in after] == ["running"] * 3


def test_whether_a_strangers_service_exists_can_not_be_found_out(house: House) -> None:
    def asked(name: str) -> list[tuple[int, str]]:
        path = f"/v1/services/{name}"
        answers = [
            house.beta.get(path),
            house.beta.put(path, web(target=BETA4)),
            house.beta.put(f"{path}?dry-run=true", web(target=BETA4)),
            house.beta.put(path, web(target=BETA4), if_match='"x"'),
            house.beta.delete(path),
            house.beta.post(f"{path}/stop"),
        ]
        return [(a.status, str({**a.json, "hint": ""}).replace(name, "NAME")) for a in answers]

    assert asked("acme-web") == asked("acme-wob")
    assert asked("zebra") == asked("zebro")


def test_events_are_those_of_ones_own(house: House) -> None:
    assert house.acme.post(f"{ACME}/restart").status == 200
    house.daemon.wait("audit.noted", count=4)
    mine = house.acme.get("/v1/events?limit=1000").json["items"]
    assert mine
    assert {e["tenant"] for e in mine} == {"acme"}
    theirs = house.beta.get("/v1/events?limit=1000").json["items"]
    assert {e["tenant"] for e in theirs} == {"beta"}
    told = [e for e in theirs if e["kind"] != "audit.noted"]  # of what it tried itself
    assert told
    assert "acme" not in json.dumps(told)
    with house.beta.stream("/v1/live") as stream:
        assert "acme" not in json.dumps(next(stream).data)


def test_explain_tells_of_ones_own_targets_alone(house: House) -> None:
    def asked(client: Client, target: str, more: str = "") -> Answer:
        packet = f"tcp 10.1.0.2:40000 > {target} syn".replace(" ", "%20").replace(">", "%3E")
        return client.get(f"{ACME}/explain?packet={packet}{more}")

    assert asked(house.acme, f"{ACME4}:80").json["reason"] == "edge-syn"
    assert asked(house.acme, f"{ACME4}:81").json["reason"] == "miss"
    said = [asked(house.acme, f"{a}:80").json for a in (BETA4, FREE4, "9.9.9.9")]
    assert {(s["status"], s["problems"][0]["message"]) for s in said} == {
        (422, "is none that acme-web has to do with")
    }
    assert asked(house.acme, f"{ACME4}:80", "&on=wan0").fields == ["on"]
    assert asked(house.root, f"{BETA4}:80").json["service"] == "beta-web"


def test_a_dry_run_tells_of_ones_own_service_alone(house: House) -> None:
    spec = small(command=["busybox", "httpd", "-f", "-p", "80", "-h", "/"])
    steps = house.acme.put(f"{ACME}?dry-run=true", spec).json["steps"]
    assert any("acme-web" in s["step"] for s in steps)
    assert "beta" not in json.dumps(steps)
    full = house.root.put(f"{ACME}?dry-run=true", spec).json["steps"]
    assert "beta-web" in json.dumps(full), "which would be there to be told"


def test_the_pool_is_its_own(house: House) -> None:
    def address(name: str) -> str:
        namespace = house.root.get(f"/v1/services/{name}").json["status"]["generations"][0][
            "instances"
        ][0]["namespace"]
        words = ["ip", "-n", namespace, "-4", "-j", "addr", "show", "dev", "eth0"]
        return str(json.loads(ok(house.lab.run("ap", words)))[0]["addr_info"][0]["local"])

    pool = ip_network("100.127.200.0/28")
    assert ip_address(address("acme-web")) in pool
    assert ip_address(address("beta-web")) not in pool
    assert ip_address(address("zebra")) not in pool


# ---- hijacks -----------------------------------------------------------------------------------

HIJACKS: list[tuple[str, dict[str, Any]]] = [
    ("steer.targets[0]", {"steer__targets": [BETA4]}),
    ("steer.targets[0]", {"steer__targets": [FREE4]}),
    ("steer.targets[1]", {"steer__targets": [ACME4, BETA4]}),
    ("steer.targets[0]", {"steer__targets": ["198.18.0.0/24"]}),
    ("steer.targets[0]", {"steer__targets": ["198.18.0.8/29"]}),
    ("steer.targets[0]", {"steer__targets": ["0.0.0.0/0"]}),
    ("steer.targets[0]", {"steer__targets": ["::/0"]}),
    ("steer.targets[0]", {"steer__targets": [f"::ffff:{BETA4}"]}),
    ("steer.targets[0]", {"steer__targets": [f"::ffff:{ACME4}"]}),
    ("steer.targets[0]", {"steer__targets": [AP_LAN4]}),
    ("steer.targets[0]", {"steer__targets": [AP_WAN4]}),
    ("steer.targets[0]", {"steer__targets": ["127.0.0.1"]}),
    ("steer.targets[0]", {"steer__targets": ["bank.example"]}),
    ("steer.targets[0]", {"steer__targets": ["evilcloud.example"]}),
    ("steer.targets[0]", {"steer__targets": ["cloud.example.bank.example"]}),
    ("steer.interfaces[0]", {"steer__interfaces": ["wan0"]}),
    ("steer.interfaces[1]", {"steer__interfaces": ["wlan0", "lo"]}),
    ("steer.clients", {"steer__clients": []}),
    ("steer.clients[0]", {"steer__clients": ["10.0.0.0/8"]}),
    ("egress.allow[0]", {"egress": {"allow": ["lan"]}}),
    ("egress.allow[0]", {"egress": {"allow": ["router"]}}),
    ("egress.allow[0]", {"egress": {"allow": ["10.1.0.0/24"]}}),
    ("run.user", {"run__user": "root"}),
    ("run.sandbox", {"run__sandbox": "none"}),
    ("run.capabilities", {"run__capabilities": ["sys-admin"]}),
    ("run.root", {"run__root": "/"}),
    ("run.root", {"run__root": "/var"}),
    ("limits.cpu", {"limits__cpu": 1.1}),
    ("limits.cpu", {"limits": {}}),
    ("limits.memory", {"limits__memory": "65M"}),
    ("limits.processes", {"limits__processes": 41}),
    ("tenant", {"tenant": "beta"}),
    ("name", {"name": "beta-web"}),
]


@pytest.mark.parametrize(  # of a service that is there, and of one that is not
    ("field", "changes", "name"),
    [(f, c, ("acme-web", "acme-new")[n % 2]) for n, (f, c) in enumerate(HIJACKS)],
    ids=[f"{f} {list(c.values())[-1]}"[:50] for f, c in HIJACKS],
)
def test_what_is_beyond_is_refused_and_changes_nothing(
    house: House, name: str, field: str, changes: dict[str, Any]
) -> None:
    before = house.root.get("/v1/services").json["items"]
    answer = house.acme.put(f"/v1/services/{name}", small(**changes))
    assert answer.status == 422, answer.raw
    assert field in answer.fields, answer.raw
    after = house.root.get("/v1/services").json["items"]
    assert [s["spec"] for s in after] == [s["spec"] for s in before]


def test_traffic_of_others_stays_where_it_was(house: House) -> None:
    """After all that was tried above."""
    assert body(house.lab, FREE4) == "cloud"
    targets = house.root.get(ACME).json["status"]["targets"]
    assert targets == [f"{ACME4}/32"]


def test_the_boxs_own_address_is_nobodys_even_if_granted(house: House) -> None:
    answer = house.beta.put("/v1/services/beta-own", web(82, target=AP_WAN4))
    assert answer.status == 422
    assert "this box's own address" in answer.json["problems"][0]["message"]


def test_a_taken_target_is_refused_without_naming_whose_it_is(house: House) -> None:
    taken = house.root.put("/v1/services/secret-name", web(8080, target=ACME4))
    assert taken.status == 201, taken.raw
    try:
        answer = house.acme.put("/v1/services/acme-two", small(steer__ports=["8080/tcp"]))
        assert answer.status == 422
        assert "secret-name" not in answer.raw.decode()
        assert "somebody else's already" in answer.json["problems"][0]["message"]
    finally:
        house.root.delete("/v1/services/secret-name?now=true")


def test_one_service_too_many(house: House) -> None:
    made = []
    try:
        for number in range(3):
            path = f"/v1/services/acme-n{number}"
            spec = small(steer__ports=[f"{9000 + number}/tcp"])
            spec["command"][-1] = str(9000 + number)
            answer = house.acme.put(path, spec)
            if answer.status == 201:
                made.append(path)
        assert len(made) == 2, "with the one there is it has three"
        assert answer.fields == ["name"]
        assert "quota of 3" in answer.json["detail"]
    finally:
        for path in made:
            assert house.acme.delete(f"{path}?now=true").status == 200


# ---- roles, tokens -----------------------------------------------------------------------------


def test_a_viewer_looks_and_an_operator_gives_no_tokens(house: House) -> None:
    viewer = house.admit("acme", "viewer")
    assert viewer.get(ACME).status == 200
    for answer in (viewer.put(ACME, small()), viewer.post(f"{ACME}/stop"), viewer.delete(ACME)):
        assert answer.status == 403
    for client in (viewer, house.acme):
        assert client.post("/v1/tokens", {"name": "x"}).status == 403
        assert client.get("/v1/audit").status == 403


def test_an_admin_of_a_tenant_gives_tokens_of_its_own(house: House) -> None:
    admin = house.admin["acme"]
    for tenant in ("beta", "nobody", ""):
        assert admin.post("/v1/tokens", {"name": "x", "tenant": tenant}).status == 403
    assert admin.post("/v1/tokens", {"name": "x", "kind": "certificate"}).status == 403
    assert admin.put("/v1/tenants/acme", {"targets": ["203.0.113.0/24"]}).status == 403
    assert admin.delete("/v1/tenants/acme").status == 403
    made = admin.post("/v1/tokens", {"name": "ci", "role": "operator", "expires": "1h"})
    assert made.status == 201
    assert made.headers["cache-control"] == "no-store"
    secret = made.json["token"]
    known = admin.get("/v1/tokens").json["items"]
    assert {c["tenant"] for c in known} == {"acme"}
    assert secret not in json.dumps(known)
    assert house.client(secret).get("/v1/host").json["tenant"] == "acme"
    for log in (house.daemon.log, house.config / "audit.log", house.config / "tokens.json"):
        assert secret.rpartition("_")[2] not in log.read_text()
    assert admin.delete(f"/v1/tokens/{made.json['id']}").status == 200
    assert house.client(secret).get("/v1/host").status == 401
    assert admin.delete(f"/v1/tokens/{made.json['id']}").status == 404


def test_a_token_that_is_taken_away_ends_its_streams(house: House) -> None:
    made = house.admin["acme"].post("/v1/tokens", {"name": "tv", "role": "viewer"}).json
    with house.client(made["token"]).stream("/v1/live") as stream:
        next(stream)
        ok(house.viscum("token", "rm", made["id"]))
        for _ in stream:  # or it times out
            pass


def test_a_token_that_expires_ends_its_streams(house: House) -> None:
    body = {"name": "tv", "role": "viewer", "expires": "1500ms"}
    made = house.admin["acme"].post("/v1/tokens", body).json
    with house.client(made["token"]).stream("/v1/events/stream") as stream:
        for _ in stream:  # silent as it is
            pass
    assert house.client(made["token"]).get("/v1/host").status == 401


# ---- audit -------------------------------------------------------------------------------------


def test_who_changed_what_is_noted(house: House) -> None:
    admin = house.admin["acme"]
    assert house.acme.post(f"{ACME}/disable", {"now": True}).status == 200
    refused = house.acme.put(ACME, small(steer__targets=[BETA4]))
    environment = {"SECRET": "correct horse battery"}
    changed = house.acme.put(ACME, small(steer__share=50, run__environment=environment))
    assert changed.status == 200, changed.raw
    ok(house.viscum("enable", "acme-web"))
    wait_until(
        lambda: "outside" in {e["how"] for e in admin.get("/v1/audit").json["items"]}, "the command"
    )
    every = admin.get("/v1/audit").json["items"]
    found = [e for e in every if e["action"] != "api.refused"]  # told once a minute
    newest = [(e["principal"], e["how"], e["action"], e["outcome"]) for e in found[:7]]
    assert newest == [
        ("root", "outside", "service.enable", "changed outside of the API"),
        ("acme-operator", "token", "service.put", "done"),
        ("acme-operator", "token", "service.put", "begun"),
        ("acme-operator", "token", "service.put", newest[3][3]),
        ("acme-operator", "token", "service.put", "begun"),
        ("acme-operator", "token", "service.disable", "done"),
        ("acme-operator", "token", "service.disable", "begun"),
    ]
    assert newest[3][3].startswith(f"failed: steer.targets[0] '{BETA4}'")
    assert found[3]["request"] == refused.headers["request-id"]
    assert set(found[1]["changes"]) == {
        "steer.share: 100 -> 50",
        "run.environment.SECRET: changed",
    }
    assert "battery" not in (house.config / "audit.log").read_text()
    assert "battery" not in house.daemon.log.read_text()
    assert {e["tenant"] for e in found} == {"acme"}
    theirs = house.admin["beta"].get("/v1/audit").json["items"]
    assert {e["principal"].partition("-")[0] for e in theirs} <= {"beta", "root"}
    page = admin.get("/v1/audit?limit=2").json
    assert page["items"] == every[:2]
    assert admin.get(f"/v1/audit?limit=2&after={page['next']}").json["items"] == every[2:4]


def test_tampering_with_the_audit_log_shows(house: House) -> None:
    path = house.config / "audit.log"
    said = ok(house.viscum("audit", "verify"))
    assert "entries, from the first one on" in said
    content = path.read_text()
    try:
        path.write_text(content.replace("acme-operator", "beta-operator", 1))
        done = house.viscum("audit", "verify")
        assert done.returncode == 1
        assert "was changed" in done.stderr
        path.write_text("".join(content.splitlines(keepends=True)[1:]))
        done = house.viscum("audit", "verify")
        assert "1 entries" not in done.stdout
        assert "from entry 2 on" in done.stdout or done.returncode == 1
    finally:
        path.write_text(content)
    noted = house.daemon.events("audit.noted")[-1]["data"]
    assert noted["hash"] in content, "a copy of what it says is in the controller's log"


def test_what_can_not_be_noted_is_not_done(house: House) -> None:
    path = house.config / "audit.log"
    aside = path.with_name("aside")
    path.rename(aside)
    path.mkdir()
    try:
        answer = house.acme.post(f"{ACME}/stop")
        assert answer.status >= 500, answer.raw
        assert "audit log" in answer.json["detail"]
        assert "nothing was changed" in answer.json["state"]
        assert house.acme.get(ACME).json["status"]["state"] == "running"
    finally:
        path.rmdir()
        aside.rename(path)
    assert house.acme.post(f"{ACME}/enable").status == 200


# ---- the operator's commands -------------------------------------------------------------------


def test_the_operator_keeps_whose_it_is_and_what_it_may(house: House) -> None:
    """A command that upgrades a tenant's service: it stays the tenant's, sandboxed and within."""
    words = ("--on", "wlan0", "--target", ACME4, "--port", "80/tcp", "--client", "10.1.0.0/24",
             "--cpus", "0.3", "--memory", "16M", "--pids-limit", "8", "--replace")  # fmt: skip
    server = ("--", "busybox", "httpd", "-f", "-p", "80", "-h", "/")
    ok(house.viscum("run", "--name", "acme-web", *words, *server))
    found = house.acme.get(ACME).json
    assert found["tenant"] == "acme"
    assert found["spec"]["run"]["sandbox"] == "strict"
    assert found["spec"]["limits"]["cpu"] == 0.3
    beyond = house.viscum("run", "--name", "acme-web", *words, "--target", FREE4, *server)
    assert beyond.returncode == 2
    assert "is not in a prefix of tenant acme's" in beyond.stderr
    file = house.lab.directory / "services.toml"  # as at boot: its name says whose it is
    file.write_text(ok(house.viscum("export", "acme-web")))
    ok(house.viscum("rm", "acme-web", "--now"))
    ok(house.viscum("apply", str(file), "--prune"))
    left = {"acme-web": "acme", "beta-web": "beta"}  # what tenants run is not pruned
    wait_until(lambda: services(house.root) == left, "the operator's own to go")
    assert house.root.put(OWN, web(81, target=FREE4)).status == 201


def test_tenants_by_command(house: House) -> None:
    assert "acme-web" in ok(house.viscum("tenant", "show", "acme"))
    made = ok(house.viscum("token", "add", "ann", "--tenant", "acme", "--expires", "1d")).strip()
    assert house.client(made).get("/v1/host").json["role"] == "viewer"
    overlap = house.viscum("tenant", "add", "gamma", "--target", "198.18.0.0/24")
    assert overlap.returncode == 2
    for name in TENANTS:
        assert f"{name} and gamma both have it" in overlap.stderr or (
            f"gamma and {name} both have it" in overlap.stderr
        )
    outside = house.viscum("tenant", "add", "gamma", "--pool", "10.0.0.0/28")
    assert "is not inside this host's pool" in outside.stderr
    shared = house.viscum("tenant", "add", "gamma", "--pool", "100.127.200.8/29")
    assert "both have it" in shared.stderr
    kept = house.viscum("tenant", "rm", "acme")
    assert kept.returncode == 1
    assert "acme has services: acme-web" in kept.stderr
    assert house.acme.get(ACME).status == 200


def test_what_is_kept_for_the_next_boot_counts_and_can_be_forgotten(house: House) -> None:
    def path(number: int) -> str:
        return f"/v1/services/acme-kept{number}"

    def spec(number: int) -> dict[str, Any]:
        port = str(90 + number)
        command = ["busybox", "httpd", "-f", "-p", port]
        return small(command=command, steer__ports=[f"{port}/tcp"])

    files = house.config / "services"
    for number in (1, 2):  # and acme-web is the third
        assert house.acme.put(f"{path(number)}?save=true", spec(number)).status == 201
        assert house.acme.delete(f"{path(number)}?now=true").status == 200
    refused = house.acme.put(path(3), spec(3))
    assert (refused.status, refused.fields) == (422, ["name"])
    told = house.acme.get("/v1/tenants/acme").json
    assert (told["kept"], told["used"]["services"]) == (["acme-kept1", "acme-kept2"], 3)
    assert house.acme.put(path(1), spec(1)).status == 201, "counted already"
    assert house.acme.delete(f"{path(1)}?now=true&save=true").status == 200
    assert not (files / "acme-kept1.toml").exists()
    assert house.beta.delete(f"{path(2)}?save=true").status == 404
    assert house.acme.delete(path(2)).status == 404, "it is not there"
    assert (files / "acme-kept2.toml").exists()
    assert house.acme.delete(f"{path(2)}?save=true").status == 200
    assert not (files / "acme-kept2.toml").exists()
    assert house.acme.delete(f"{path(2)}?save=true").status == 404


def test_what_a_tenant_keeps_does_not_keep_the_operators_from_starting(house: House) -> None:
    """At boot all are applied together, and whether a tenant's is still good is its own affair."""
    files = house.lab.directory / "boot"
    files.mkdir()
    made = 'command = ["busybox", "httpd", "-f", "-p", "{0}"]\n[steer]\ninterfaces = ["wlan0"]\n'
    made += 'targets = ["{1}"]\nports = ["{0}/tcp"]\n'
    (files / "acme-gone.toml").write_text('name = "acme-gone"\n' + made.format(95, BETA4))
    (files / "own.toml").write_text('name = "own"\n' + made.format(96, FREE4))
    done = house.viscum("apply", str(files))
    assert done.returncode == 0, "nor is it tried again and again"
    assert "acme-gone.toml: could not be applied" in done.stderr
    assert "is not in a prefix of tenant acme's" in done.stderr
    wait_until(lambda: "own" in services(house.root), "the operator's")
    assert "acme-gone" not in services(house.root)
    ok(house.viscum("rm", "own", "--now"))
    assert house.viscum("apply", str(files / "acme-gone.toml")).returncode == 2


def test_a_broken_file_stops_one_tenant_and_tells_the_operator(house: House) -> None:
    path = house.config / "tenants" / "beta.toml"
    content = path.read_text()
    path.write_text("targets = [")
    try:
        answer = house.beta.put(BETA, web(target=BETA4, priority=10))
        assert answer.status == 500
        assert "can't be used just now" in answer.json["detail"]
        assert house.beta.get(BETA).status == 200
        assert house.beta.post(f"{BETA}/disable", {}).status == 200, "what asks for no more"
        assert house.acme.put(ACME, small()).status == 200
        house.daemon.wait("tenants.unusable")
        assert house.root.get("/v1/tenants").json["unusable"]
    finally:
        path.write_text(content)
    assert house.beta.post(f"{BETA}/enable", {}).status == 200


def test_a_tenant_goes_with_its_services_and_tokens(house: House) -> None:
    """The last one: beta is gone then."""
    assert house.root.delete("/v1/tenants/beta").status == 409
    with house.beta.stream("/v1/events/stream") as stream:
        ok(house.viscum("tenant", "rm", "beta", "--with-services"))
        for _ in stream:
            pass
    assert house.beta.get(BETA).status == 401
    left = {"acme-web": "acme", "zebra": ""}
    wait_until(lambda: services(house.root) == left, "its services to go")
    assert body(house.lab, BETA4) == "cloud"


# ---- quotas of flows, names --------------------------------------------------------------------


def test_at_the_quota_of_flows_new_ones_go_to_the_cloud(lab: Lab) -> None:
    start_peer(lab)
    config = lab.directory / "etc"
    (config / "tenants").mkdir(parents=True)
    (config / "tenants" / "acme.toml").write_text(
        f'targets = ["{ACME4}"]\ninterfaces = ["wlan0"]\n[quotas]\nflows = 3\n'
    )
    _, secret = Tokens(str(config)).add("ann", "operator", "acme", None)
    with running(lab) as daemon:
        daemon.wait("api.listens")
        acme = Client(lab.state_dir / "api.sock", secret)
        spec = web(PORT, target=ACME4)
        spec["command"] = [PYTHON, "-I", "-S", PEERS, "edge", str(PORT), "::"]
        assert acme.put("/v1/services/acme", spec).status == 201
        held = [connect(lab, ACME4) for _ in range(3)]
        full = daemon.wait("tenant.flows-full")
        assert (full["tenant"], full["data"]) == ("acme", {"flows": 3, "quota": 3})
        wait_until(lambda: who(lab, ACME4) == "cloud", "the next ones")
        assert acme.post("/v1/services/acme/enable", {}).status == 200
        assert who(lab, ACME4) == "cloud", "enabling it is no way around"
        for conn in held:  # nobody was cut off
            conn.send(b"who\n")
            assert conn.recv(100).split()[0] == b"edge"
            conn.close()
        daemon.wait("tenant.flows-room")
        wait_until(lambda: who(lab, ACME4) == "edge", "room again")


@pytest.mark.parametrize("lab", [{"dns": True, "firewall": "none"}], indirect=True)
def test_a_name_of_its_own_does_not_lead_to_somebody_elses_address(lab: Lab) -> None:
    """A tenant answers for its domain, and lets it point to the bank's server."""
    from e2e.nameserver import Zone

    config = lab.directory / "etc"
    (config / "tenants").mkdir(parents=True)
    tenant = config / "tenants" / "acme.toml"
    text = 'domains = ["cloud.example"]\ninterfaces = ["wlan0"]\n'
    tenant.write_text(text)
    _, secret = Tokens(str(config)).add("ann", "operator", "acme", None)
    zone = Zone(lab, CLOUDS4[3])
    zone.set("cloud.example", A=[ACME4], AAAA=[CLOUDS6[0]])
    (config / "controller.toml").write_text(f'[names]\nservers = ["{CLOUDS4[3]}"]\n')
    with running(lab) as daemon:
        daemon.wait("api.listens")
        acme = Client(lab.state_dir / "api.sock", secret)
        spec = web(target="cloud.example")
        spec["steer"]["names"] = {"min-ttl": "1s", "hold": "1s"}
        answer = acme.put("/v1/services/acme", spec)
        assert answer.status == 422
        assert "though its name leads there" in answer.json["problems"][0]["message"]
        tenant.write_text(text + f'targets = ["{ACME4}", "{CLOUDS6[0]}"]\n')
        made = acme.put("/v1/services/acme", spec)
        assert made.status == 201, made.raw
        zone.set("cloud.example", A=[ACME4, BETA4], AAAA=[CLOUDS6[0]])
        refused = daemon.wait("names.refused", "acme")
        assert "is beyond the tenant's allowance" in refused["message"]
        targets = acme.get("/v1/services/acme").json["status"]["targets"]
        assert set(targets) == {f"{ACME4}/32", f"{CLOUDS6[0]}/128"}
