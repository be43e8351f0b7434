"""`viscum --host URL COMMAND`: the same output and exit status as on the box itself."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e import echo
from e2e.certificates import Authority
from e2e.daemon import Daemon, running
from support import need_program, wait_until
from viscum.controller.who.tokens import Tokens
from viscum.lab import CLOUD4, Lab

Done = subprocess.CompletedProcess[str]


@pytest.fixture
def box(lab: Lab) -> Iterator[Lab]:
    with running(lab) as daemon:
        daemon.wait("api.listens")
        echo.start(lab, "cloud", "cloud")
        yield lab


def remote(lab: Lab, *words: str, **options: object) -> Done:
    return lab.viscum("--host", f"unix://{lab.state_dir / 'api.sock'}", *words, **options)


def run_words(*flags: str, server: tuple[str, ...] = ()) -> tuple[str, ...]:
    return ("run", "--name", "web", "--on", "wlan0", "--target", CLOUD4, "--port", "7000/tcp",
            *flags, "--", *(server or echo.command("edge")))  # fmt: skip


def same(lab: Lab, *words: str) -> Done:
    """Runs it here and there; what changes by itself is left out of the comparison."""

    def plain(text: str) -> str:
        return re.sub(r"\d+(\.\d+)?", "N", text)

    here, there = lab.viscum(*words), remote(lab, *words)
    assert (plain(there.stdout), plain(there.stderr)) == (plain(here.stdout), plain(here.stderr))
    assert there.returncode == here.returncode
    return there


@pytest.mark.req("C5")
def test_a_service_from_afar_from_its_start_to_its_end(box: Lab, tmp_path: Path) -> None:
    done = remote(box, *run_words())
    assert (done.returncode, done.stdout) == (0, "web started\n"), done.stderr
    assert echo.who(box, CLOUD4) == "edge"
    assert "nothing to do" in remote(box, *run_words()).stdout
    refused = remote(box, *run_words("--drain", "5s"))
    assert (refused.returncode, "--replace" in refused.stderr) == (2, True)
    same(box, *run_words("--drain", "5s"))

    packet = f"tcp 10.1.0.2:40000 > {CLOUD4}:7000 syn"
    for words in (
        ("ls",),
        ("ps",),
        ("status", "web"),
        ("export", "web"),
        ("logs", "web"),
        ("explain", "web", packet),
        ("explain", "--on", "wlan0", packet),
    ):
        assert same(box, *words).returncode == 0
    for words in (("ls", "--json"), ("status", "web", "--json")):
        found = [json.loads(box.viscum(*words).stdout), json.loads(remote(box, *words).stdout)]
        for one in found:
            status = one[0] if isinstance(one, list) else one
            status["generations"][0]["instances"][0] |= {"cpu": None, "memory": None}
        assert found[0] == found[1]

    spec = tmp_path / "web.toml"
    spec.write_text(same(box, "export", "web").stdout.replace('"edge"', '"newer"'))
    assert "would" in same(box, "apply", "--dry-run", str(spec)).stdout
    assert same(box, "plan", str(spec)).stdout
    with echo.hold(box, CLOUD4) as held:
        sock = f"unix://{box.state_dir / 'api.sock'}"
        upgrade = echo.begin(box, "--host", sock, "apply", str(spec))
        wait_until(lambda: echo.who(box, CLOUD4) == "newer", "the new generation serves")
        assert held.alive()
        assert upgrade.poll() is None, "it waits, as on the box"
    out, _ = upgrade.communicate(timeout=30)
    assert (upgrade.returncode, "moved to a new generation" in out) == (0, True)

    for word, said in (("disable", "web disabled"), ("enable", "web enabled"),
                       ("restart", "moved to new processes"), ("stop", "web stopped"),
                       ("start", "web started"), ("rm", "web removed")):  # fmt: skip
        done = remote(box, word, "web")
        assert (done.returncode, said in done.stdout) == (0, True), done
    assert remote(box, "ls").stdout == ""


@pytest.mark.req("C5")
def test_flows_that_are_waited_for_and_reset_are_counted(box: Lab) -> None:
    remote(box, *run_words("--drain", "1s"))
    with echo.hold(box, CLOUD4) as held:
        done = remote(box, "disable", "web", "--drain", "1s")
        assert done.stdout == "web disabled; 1 flow was reset\n"
        assert "1 flow still open" in done.stderr
        assert held.was_reset()
    remote(box, "enable", "web")
    with echo.hold(box, CLOUD4) as held:
        assert remote(box, "rm", "--no-wait", "web").stdout == "web draining\n"
        assert held.was_reset()
    wait_until(lambda: remote(box, "ls").stdout == "", "its end")


@pytest.mark.req("C5")
def test_flows_that_are_not_waited_for(box: Lab) -> None:
    """The controller ends what the last of them leaves."""
    remote(box, *run_words("--drain", "0"))
    with echo.hold(box, CLOUD4) as held:
        done = remote(box, *run_words(
            "--replace", "--no-wait", "--drain", "0", server=echo.command("newer")))  # fmt: skip
        assert (done.returncode, done.stdout) == (0, "web moved to a new generation\n"), done
        assert echo.who(box, CLOUD4) == "newer"
        with echo.hold(box, CLOUD4) as newer:
            done = remote(box, "restart", "--no-wait", "web")
            assert (done.returncode, "moved to new processes" in done.stdout) == (0, True), done
            assert remote(box, "stop", "--no-wait", "web").stdout == "web draining\n"
            assert held.alive()
            assert newer.alive()
    wait_until(lambda: echo.status(box)["state"] == "stopped", "its end")


@pytest.mark.req("C5")
def test_an_upgrade_that_replaces(box: Lab) -> None:
    words = ("--upgrade", "replace", "--drain", "30s")
    remote(box, *run_words(*words))
    with echo.hold(box, CLOUD4):
        upgrade = echo.begin(
            box, "--host", f"unix://{box.state_dir / 'api.sock'}",
            *run_words("--replace", *words, server=echo.command("newer")),
        )  # fmt: skip
        wait_until(lambda: echo.who(box, CLOUD4) == "cloud", "the old one takes no new flows")
    out, err = upgrade.communicate(timeout=30)
    assert (upgrade.returncode, out) == (0, "web moved to a new generation\n"), err
    assert echo.who(box, CLOUD4) == "newer"
    assert remote(box, "restart", "web").returncode == 0
    bad = remote(box, *run_words("--replace", *words, server=echo.command("bad", "--exit", "3")))
    assert (bad.returncode, "ended before it listened" in bad.stderr) == (1, True), bad


@pytest.mark.req("C5")
def test_what_is_wrong_is_said_in_the_same_words(box: Lab, tmp_path: Path) -> None:
    remote(box, *run_words())
    bad = tmp_path / "bad.toml"
    bad.write_text('name = "bad"\ncommand = ["/nonsense"]\n[steer]\ninterfaces = ["nowhere"]\n'
                   'targets = ["203.0.113.9"]\nports = ["7000/tcp"]\n')  # fmt: skip
    for words in (
        ("status", "wep"),
        ("enable", "wep"),
        ("logs", "wep"),
        ("explain", "web", "nonsense"),
        ("apply", str(bad)),
        ("plan", str(bad)),
        (
            "run",
            "--name",
            "b",
            "--on",
            "nowhere",
            "--target",
            "127.0.0.1",
            "--port",
            "0/tcp",
            "--",
            "sh",
        ),
    ):
        assert same(box, *words).returncode == 2, words


@pytest.mark.req("C5")
def test_what_needs_the_box_itself_says_so(lab: Lab) -> None:
    for words in (("exec", "web", "true"), ("tidy",), ("doctor",), ("controller",)):
        done = remote(lab, *words)
        assert (done.returncode, "needs the box itself" in done.stderr) == (2, True), done
    done = remote(lab, *run_words("--foreground"))
    assert (done.returncode, "needs the box itself" in done.stderr) == (2, True), done
    nobody = remote(lab, "ls")
    assert (nobody.returncode, "is the controller (viscumd) running?" in nobody.stderr) == (1, True)
    for url in ("http://router", "router", "https://a/b", "unix://relative", "https://[::1"):
        done = lab.viscum("--host", url, "ls")
        assert (done.returncode, "--host" in done.stderr) == (2, True), done


@pytest.mark.req("C5")
def test_over_tls_with_a_token_or_a_certificate(lab: Lab, tmp_path: Path) -> None:
    need_program("openssl")
    authority = Authority(tmp_path)
    authority.issue("server")
    authority.issue("ann")
    daemon = Daemon(lab)
    daemon.configure(
        f'[api]\nlisten = "127.0.0.1:7443"\ncertificate = "{authority.crt("server")}"\n'
        f'key = "{authority.key("server")}"\nclient-ca = "{authority.crt("ca")}"\n'
    )
    tokens = Tokens(str(daemon.config))
    tokens.add("ann", "viewer", None, None, "certificate")
    token = tmp_path / "token"
    token.write_text(tokens.add("ben", "operator", None, None)[1] + "\n")
    with running(lab) as made:
        made.wait("api.listens", count=2)
        at = ("--host", "https://localhost:7443", "--ca", str(authority.crt("ca")))
        own = ("--cert", str(authority.crt("ann")), "--key", str(authority.key("ann")))
        assert lab.viscum(*at, "--token-file", str(token), *run_words()).returncode == 0
        assert lab.viscum(*at, *own, "ls").stdout.startswith("web\t")
        denied = lab.viscum(*at, *own, "rm", "web")
        assert (denied.returncode, "viewer" in denied.stderr) == (1, True)
        unknown = lab.viscum(*at, "ls")
        assert (unknown.returncode, "Bearer" in unknown.stderr) == (1, True)
        strange = lab.viscum("--host", "https://localhost:7443", "ls")
        assert (strange.returncode, "not trusted" in strange.stderr) == (1, True)
        env = lab.environment("ap") | {
            "VISCUM_HOST": "https://localhost:7443",
            "VISCUM_TOKEN": token.read_text().strip(),
            "SSL_CERT_FILE": str(authority.crt("ca")),
        }
        assert lab.viscum("ls", env=env).stdout.startswith("web\t")
    assert token.read_text().strip() not in made.log.read_text()


@pytest.mark.req("C5")
def test_commands_without_host_import_nothing_of_it() -> None:
    code = (
        "import sys; sys.argv = ['viscum', 'ls']\n"
        "from viscum.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(*sorted(m for m in sys.modules if m in"
        " ('http.client', 'ssl', 'viscum.remote', 'viscum.cli.remote', 'asyncio')))"
    )
    env = os.environ | {"VISCUM_STATE_DIR": "/run/vt-none"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.stdout.strip() == "", done


@pytest.mark.req("C5")
def test_a_service_is_kept_for_the_next_boot_if_asked(box: Lab) -> None:
    kept = box.directory / "etc" / "services" / "web.toml"
    assert remote(box, *run_words()).returncode == 0
    assert not kept.exists(), "not by itself"
    done = remote(box, *run_words("--save"))
    assert (done.returncode, "kept in that box" in done.stdout) == (0, True), done.stderr
    assert kept.read_text() == box.viscum("export", "web").stdout
    assert kept.stat().st_mode & 0o777 == 0o600
    assert remote(box, "rm", "--now", "web").returncode == 0
    assert kept.exists(), "taking it away does not mean that the next boot may not start it"
    socket = str(box.state_dir / "api.sock")
    assert remote(box, *run_words()).returncode == 0
    words = ("curl", "-sS", "--fail", "--unix-socket", socket, "-X", "DELETE")
    box.run("ap", [*words, "http://localhost/v1/services/web?now=true&save=true"], check=True)
    assert not kept.exists()
