"""U6: what is said of a certificate that clients would reject, by real servers' mistakes."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import LabFactory
from e2e.certificates import Authority
from e2e.daemon import running
from e2e.net import ok, run
from support import need_program, wait_until
from viscum.lab import Lab
from viscum.lab.plan import CLOUD4, CLOUD_NAME
from viscum.preflight import LIMIT

QUIC = str(Path(__file__).with_name("quic.py"))
PAST = ("20200101000000Z", "20200201000000Z")
FUTURE = ("20490101000000Z", "20490201000000Z")
NAMED = f"DNS:{CLOUD_NAME},DNS:www.{CLOUD_NAME}"


class Site:
    """A lab, authorities (`ca` is trusted), and the service `web` with whatever certificate."""

    def __init__(self, lab: Lab, files: Path) -> None:
        self.lab, self.files = lab, files
        self.ca = Authority(files)
        (files / "empty").mkdir()
        self.environment = lab.environment("ap") | {
            "SSL_CERT_FILE": str(self.ca.crt("ca")),
            "SSL_CERT_DIR": str(files / "empty"),
        }

    def conf(self, certificate: Path | None, key: Path | None, directory: str) -> str:
        """An nginx with that certificate on 443; None: without TLS."""
        tls = "" if certificate is None else f"ssl_certificate {certificate};"
        tls += "" if key is None else f"ssl_certificate_key {key};"
        path = self.files / f"{certificate.stem if certificate else 'plain'}.conf"
        path.write_text(f"""
            daemon off; error_log stderr; pid {directory}/nginx.pid; worker_processes 1;
            events {{ worker_connections 64; }}
            http {{
              access_log off; client_body_temp_path {directory}/b; proxy_temp_path {directory}/p;
              fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u;
              scgi_temp_path {directory}/s;
              server {{ listen 443{" ssl" if tls else ""}; {tls} return 200 "here\\n"; }}
            }}
        """)
        return str(path)

    def web(self, certificate: Path | None, key: Path | None, *targets: str) -> str:
        """What `viscum run` notes of it."""
        return self.run("443/tcp", "nginx", "-c", self.conf(certificate, key, "/tmp"),
                        targets=targets)  # fmt: skip

    def run(self, port: str, *command: str, targets: tuple[str, ...] = ()) -> str:
        words = [w for t in targets or (CLOUD_NAME,) for w in ("--target", t)]
        done = self.lab.viscum(
            "run", "--name", "web", "--on", "wlan0", *words, "--port", port, "--replace", "--",
            *command, env=self.environment,
        )  # fmt: skip
        ok(done)
        return done.stderr

    def doctor(self, *words: str) -> list[tuple[str, str]]:
        """(level, what) of all there is to say of the service's TLS."""
        found = json.loads(
            ok(self.lab.viscum("doctor", "web", "--json", *words, env=self.environment))
        )
        return [
            (f["level"], f["what"]) for f in found if "/tcp" in f["what"] or "/udp" in f["what"]
        ]


@pytest.fixture(scope="module")
def site(lab_factory: LabFactory, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    need_program("openssl", "nginx", "dnsmasq")
    lab = lab_factory(dns=True)
    with tempfile.TemporaryDirectory(prefix="vt-", dir="/var/tmp") as path:
        Path(path).chmod(0o755)
        yield Site(lab, Path(path))
    lab.down()


Made = Callable[[Authority], tuple[Path, Path]]


# ---- what the operator gives the server


def wrong_name(ca: Authority) -> tuple[Path, Path]:
    ca.issue("other", alt="DNS:other.example")
    return ca.crt("other"), ca.key("other")


def expired(ca: Authority) -> tuple[Path, Path]:
    ca.issue("past", alt=NAMED, valid=PAST)
    return ca.crt("past"), ca.key("past")


def too_early(ca: Authority) -> tuple[Path, Path]:
    ca.issue("future", alt=NAMED, valid=FUTURE)
    return ca.crt("future"), ca.key("future")


def common_name(ca: Authority) -> tuple[Path, Path]:
    ca.issue("common", CLOUD_NAME, alt="email:root@example.com")
    return ca.crt("common"), ca.key("common")


def self_signed(ca: Authority) -> tuple[Path, Path]:
    alone = Authority(ca.directory, "alone", alt=NAMED)
    return alone.crt("alone"), alone.key("alone")


def unknown_issuer(ca: Authority) -> tuple[Path, Path]:
    Authority(ca.directory, "stranger").issue("strange", alt=NAMED)
    return ca.crt("strange"), ca.key("strange")


def unknown_root(ca: Authority) -> tuple[Path, Path]:
    Authority(ca.directory, "\x1b[2Jnobody").issue("sent", alt=NAMED)
    return ca.bundle("sent", "\x1b[2Jnobody"), ca.key("sent")


def incomplete(ca: Authority) -> tuple[Path, Path]:
    between = Authority(ca.directory, "between", ca)
    aia = "authorityInfoAccess=caIssuers;URI:http://ca.example/between.crt"
    between.issue("leaf", alt=NAMED, extensions=aia)
    return ca.crt("leaf"), ca.key("leaf")


def stale_issuer(ca: Authority) -> tuple[Path, Path]:
    Authority(ca.directory, "stale", ca, valid=PAST).issue("fresh", alt=NAMED)
    return ca.bundle("fresh", "stale"), ca.key("fresh")


REJECTED: dict[Made, list[str]] = {
    wrong_name: ["it is for other.example, not for cloud.example"],
    expired: ["it has expired on 2020-02-01"],
    too_early: ["it is not valid before 2049-01-01"],
    common_name: ["not for cloud.example"],
    self_signed: ["it is self-signed"],
    unknown_issuer: ["its issuer is unknown to this box: stranger"],
    unknown_root: ["its issuer is unknown to this box: ?[2Jnobody"],
    incomplete: ["the chain is incomplete", "certificate of between"],
    stale_issuer: ["a certificate of its issuers is not valid at this time"],
}


@pytest.mark.req("U6")
@pytest.mark.parametrize("make", REJECTED, ids=lambda m: m.__name__)
def test_a_certificate_that_clients_reject(site: Site, make: Made) -> None:
    noted = site.web(*make(site.ca))
    (line,) = (line for line in noted.splitlines() if "certificate" in line)
    assert line.startswith("note: 443/tcp: clients of cloud.example reject its certificate: ")
    assert all(words in line for words in REJECTED[make])
    assert "web" in ok(site.lab.viscum("ls")), "the service runs all the same"
    assert ("warn", line.removeprefix("note: ").split("; ")[0]) in [
        (level, what.split("; ")[0]) for level, what in site.doctor()
    ]


@pytest.mark.req("U6")
def test_all_that_is_wrong_is_said(site: Site) -> None:
    Authority(site.files, "third").issue("worst", alt="DNS:other.example", valid=PAST)
    noted = site.web(site.ca.crt("worst"), site.ca.key("worst"))
    assert [words in noted for words in ("not for cloud.example", "expired", "third")] == [True] * 3


@pytest.mark.req("U6")
def test_a_certificate_that_clients_accept_and_what_the_cloud_has_besides(site: Site) -> None:
    site.ca.issue("good", alt=f"DNS:{CLOUD_NAME}")
    site.ca.issue("cloud", alt=f"{NAMED},DNS:*.api.{CLOUD_NAME}")
    noted = site.web(site.ca.crt("good"), site.ca.key("good"))
    assert "certificate" not in noted
    accepted, cloud = site.doctor()
    assert accepted[0] == "ok"
    assert "clients of cloud.example accept its certificate (for cloud.example" in accepted[1]
    assert cloud[0] == "ok"
    assert "the cloud's certificate is not known: [Errno 111] Connection refused" in cloud[1]
    conf = site.conf(site.ca.crt("cloud"), site.ca.key("cloud"), str(site.lab.directory))
    site.lab.popen("cloud", ["nginx", "-c", conf])
    wait_until(lambda: site.lab.run("cloud", ["ss", "-Htln", "sport = 443"]).stdout, "the cloud")
    _, (level, what) = site.doctor()
    assert level == "warn"
    assert "also holds www.cloud.example, *.api.cloud.example;" in what
    site.ca.issue("all", alt=f"{NAMED},DNS:*.api.{CLOUD_NAME}")
    site.web(site.ca.crt("all"), site.ca.key("all"))
    assert [level for level, _ in site.doctor()] == ["ok", "ok"]


@pytest.mark.req("U6")
def test_an_address_is_asked_without_a_name(site: Site) -> None:
    noted = site.web(*wrong_name(site.ca), CLOUD4)
    assert "certificate" not in noted
    assert "can't be told: the targets are addresses" in site.doctor()[0][1]
    noted = site.web(*self_signed(site.ca), CLOUD4)
    assert "443/tcp: clients reject its certificate: it is self-signed" in noted


@pytest.mark.req("U6")
def test_a_box_that_knows_no_authority(site: Site) -> None:
    site.ca.issue("good", alt=f"DNS:{CLOUD_NAME}")
    site.web(site.ca.crt("good"), site.ca.key("good"))
    before = site.environment
    site.environment = before | {"SSL_CERT_FILE": str(site.files / "none")}
    try:
        assert "this box knows no authority" in site.doctor()[0][1]
    finally:
        site.environment = before


@pytest.mark.req("U6")
def test_no_tls_where_clients_expect_it(site: Site) -> None:
    noted = site.web(None, None)
    assert "clients of cloud.example expect TLS and get no connection: it answers" in noted


SILENT = "import socket, time; s = socket.create_server(('', {})); time.sleep(1e6)"


@pytest.mark.req("U6")
def test_a_server_that_says_nothing_holds_nobody_up(site: Site) -> None:
    """The service is up and the lock is free while it is asked."""
    words = ("run", "--name", "web", "--on", "wlan0", "--target", CLOUD_NAME, "--port", "443/tcp",
             "--replace", "--", sys.executable, "-c", SILENT.format(443))  # fmt: skip
    child = site.lab.popen(
        "ap", [str(Path(sys.executable).with_name("viscum")), *words], env=site.environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdout is not None
    assert child.stdout.readline().startswith("web "), "it is up"
    ok(site.lab.viscum("--lock-timeout", str(LIMIT / 2), "disable", "web"))
    assert "does not answer a client's hello" in child.communicate()[1]


@pytest.mark.req("U6")
def test_only_ports_that_are_tls_are_asked(site: Site) -> None:
    """Another one only if it is named, by the operator or as an https probe."""
    noted = run(site.lab, "web", (CLOUD_NAME,), "--port", "7000/tcp", "--replace", "--",
                sys.executable, "-c", SILENT.format(7000))  # fmt: skip
    assert "TLS" not in noted
    assert site.doctor() == []
    assert (
        "expect TLS and get no connection: it does not" in site.doctor("--port", "7000/tcp")[0][1]
    )
    assert site.doctor("--port", "7001/tcp") == [("warn", "nothing of web listens on 7001/tcp")]
    for words in (("--port", "443"), ("--port", "1-9/tcp"), ("nobody",)):
        assert site.lab.viscum("doctor", "web", *words).returncode == 2
    assert site.lab.viscum("doctor", "--port", "443/tcp").returncode == 2
    assert site.lab.viscum("doctor", "nobody").returncode == 2


@pytest.mark.req("U6")
def test_by_the_api(site: Site) -> None:
    """Among the notes of the answer, whoever asks."""
    certificate, key = self_signed(site.ca)
    conf = site.conf(certificate, key, "/tmp")
    with running(site.lab) as daemon:
        daemon.wait("api.listens")
        done = site.lab.viscum(
            "--host", f"unix://{site.lab.state_dir / 'api.sock'}", "run", "--name", "web", "--on",
            "wlan0", "--target", CLOUD_NAME, "--port", "443/tcp", "--port", "443/udp", "--replace",
            "--", "nginx", "-c", conf,
        )  # fmt: skip
        ok(done)
    assert "443/tcp: clients of cloud.example reject its certificate: it is self-signed" in (
        done.stderr
    )


# ---- QUIC ------------------------------------------------------------------------------------


def quic(site: Site, certificate: Path, key: Path, protocol: str = "h3") -> str:
    return site.run("443/udp", sys.executable, QUIC, "server", "edge", "::", "443",
                    str(certificate), str(key), protocol)  # fmt: skip


@pytest.mark.req("U6")
def test_over_quic(site: Site) -> None:
    site.ca.issue("good", alt=f"DNS:{CLOUD_NAME}")
    good = site.ca.crt("good"), site.ca.key("good")
    assert "QUIC" not in quic(site, *good)
    assert site.doctor() == [
        ("ok", "443/udp: clients of cloud.example that use QUIC accept its certificate (h3)")
    ]
    noted = quic(site, *wrong_name(site.ca))
    assert "443/udp: clients of cloud.example that use QUIC reject its certificate" in noted
    assert "'cloud.example' doesn't match 'other.example'" in noted
    assert "frame_type" not in noted, "aioquic's own log is not for the operator"
    assert "self-signed" in quic(site, *self_signed(site.ca)).replace("self signed", "self-signed")
    assert "use QUIC get no connection for h3" in quic(site, *good, "who")


@pytest.mark.req("U6")
def test_without_aioquic(site: Site) -> None:
    site.ca.issue("good", alt=f"DNS:{CLOUD_NAME}")
    quic(site, site.ca.crt("good"), site.ca.key("good"))
    code = (
        "import sys; sys.modules['aioquic'] = None; from viscum.cli import main;"
        "sys.argv = ['viscum', 'doctor', 'web']; main()"
    )
    done = site.lab.run("ap", [sys.executable, "-c", code], env=site.environment)
    assert "aioquic is not installed\n      in Viscum's checkout: make setup" in ok(done)


@pytest.mark.req("U6")
def test_a_stopped_service(site: Site) -> None:
    site.web(None, None)
    ok(site.lab.viscum("stop", "web"))
    found = json.loads(ok(site.lab.viscum("doctor", "web", "--json")))
    assert any("does not run" in f["what"] for f in found)
