"""Every plate that a client was told of is in the cloud's MariaDB, once: whatever becomes of the
database, of the way there, of the disk, or of the server."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from e2e.net import sock
from plates.mariadb import ADDRESS, PORT, certificate
from plates.scene import Scene, scene
from support import wait_until
from viscum.lab import CLOUD4

FINE = ("ok", "not tried yet")  # what is said of a database
SECONDS = 3  # for an answer of the database's
# Protocol 10, a version, a thread, 8 bytes of salt; capabilities without CLIENT_SSL (0x800);
# latin1, a status, more capabilities; 21 bytes of salt, 10 in between; how to log in.
GREETING_WITHOUT_TLS = (
    b"\x0a5.5.5-10.11\0" + b"\1\0\0\0" + b"saltsalt\0" + b"\xff\xf7" + b"\x08\2\0" + b"\xff\x81"
    b"\x15" + bytes(10) + b"saltsaltsalt\0" + b"mysql_native_password\0"
)

pytestmark = pytest.mark.req("U1")


@pytest.fixture(scope="module")
def made() -> Iterator[Scene]:
    with scene() as it:
        it.move(PLATES_DATABASE_SECONDS=str(SECONDS))
        yield it


def post(
    scene: Scene, photo: Path, camera: str, port: int = 80, role: str = "ue"
) -> tuple[int, Any, float]:
    """By curl: status (0 without an answer), answer and seconds."""
    words = [
        "curl", "-s", "-m", "20", "-F", f"image=@{photo}", "-w", r"\n%{http_code} %{time_total}",
        f"http://{CLOUD4}:{port}/v2/recognize?country=eu&camera={camera}",
    ]  # fmt: skip
    text, _, told = scene.lab.run(role, words).stdout.rpartition("\n")
    status, seconds = told.split()
    return int(status), json.loads(text) if int(status) else None, float(seconds)


def told_by(scene: Scene, port: int) -> Any:
    """What a server in the cloud says of itself."""
    words = ["curl", "-s", "-m", "20", f"http://{CLOUD4}:{port}/status"]
    return json.loads(scene.lab.run("cloud", words).stdout)


def fill(path: Path) -> None:
    """To the disk's last page."""
    with path.open("wb", 0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise


def of(scene: Scene, start: str) -> list[str]:
    """The cameras in the database whose names begin so, one for each row."""
    return [row[0] for row in scene.database.rows("camera", f"camera LIKE '{start}%'")]


def test_a_row_says_what_where_when_and_how_sure(made: Scene, photo: Path) -> None:
    assert made.status()["database"] == "not tried yet"
    status, answer, _ = post(made, photo, "gate")
    assert status == 200
    made.await_delivered()
    assert made.status()["database"] == "ok"
    what = "plate, region, site, confidence, UNIX_TIMESTAMP(taken) - UNIX_TIMESTAMP(UTC_TIMESTAMP)"
    [[plate, region, site, confidence, age]] = made.database.rows(what, "camera = 'gate'")
    best = answer["results"][0]
    assert (plate, region, site) == (best["plate"], "eu", "edge")
    assert float(confidence) == pytest.approx(best["confidence"], abs=0.1)
    assert -60 < float(age) <= 0


def test_the_same_photo_of_the_same_camera_is_one_row(made: Scene, photo: Path) -> None:
    for camera in ("twin-1", "twin-1", "twin-2"):
        assert post(made, photo, camera)[0] == 200
    made.await_delivered()
    assert of(made, "twin") == ["twin-1", "twin-2"]


def test_a_database_that_is_down_gets_everything_when_it_is_up(made: Scene, photo: Path) -> None:
    with made.database.down():
        for number in range(5):
            status, _, seconds = post(made, photo, f"down-{number}")
            assert status == 200
            assert seconds < 3
        told = wait_until(lambda: (t := made.status())["database"] not in FINE and t, "it notices")
        assert told["waiting"] == 5
    made.await_delivered()
    assert of(made, "down") == [f"down-{number}" for number in range(5)]


def test_a_database_that_hangs_delays_nobody(made: Scene, photo: Path) -> None:
    """The rows it was given before it hung may be in it, and are sent again."""
    with made.database.hanging():
        told = [post(made, photo, f"slow-{number}") for number in range(8)]
        wait_until(lambda: "timed out" in made.status()["database"], "it gives up", 30)
    assert [status for status, _, _ in told] == [200] * 8
    assert max(seconds for _, _, seconds in told) < 3
    made.await_delivered()
    assert sorted(of(made, "slow")) == [f"slow-{number}" for number in range(8)]


def test_a_server_that_is_killed_leaves_it_to_the_next(made: Scene, photo: Path) -> None:
    with made.database.down():
        for number in range(3):
            assert post(made, photo, f"killed-{number}")[0] == 200
        kill(made)
        made.stage.viscum("start", "plates")
        assert post(made, photo, "killed-3")[0] == 200
    made.await_delivered()
    assert sorted(of(made, "killed")) == [f"killed-{number}" for number in range(4)]


def kill(scene: Scene) -> None:
    for pid in scene.processes():
        os.kill(pid, signal.SIGKILL)


def await_done(count: int, told: Sequence[Future[int]]) -> None:
    wait_until(lambda: sum(one.done() for one in told) >= count, "photos are answered", 60)


def test_kills_and_restarts_while_photos_come_lose_and_double_nothing(
    made: Scene, photo: Path
) -> None:
    """The cloud's own server takes what the edge can't; clients try again until they are told 200,
    which may be of a photo that was stored already."""
    original = made.serve()

    def insist(camera: str) -> int:
        for attempt in range(1, 20):
            if post(made, photo, camera)[0] == 200:
                return attempt
        raise AssertionError(f"{camera}: no answer in 20 tries")

    cameras = [f"storm-{number:02}" for number in range(16)]
    with ThreadPoolExecutor(4) as pool:
        told = [pool.submit(insist, camera) for camera in cameras]
        for answered in (4, 8, 12):
            await_done(answered, told)
            kill(made)
            made.stage.viscum("start", "plates")
        with made.database.down():
            pass
        assert all(attempt.result() for attempt in told)
    made.await_delivered()
    original.terminate()
    assert original.wait(20) == 0  # its own are delivered
    assert sorted(of(made, "storm")) == cameras


def test_what_another_server_leaves_when_it_dies_is_delivered(made: Scene, photo: Path) -> None:
    """By one that has looked before and found it in the other's hands, and to which nothing comes:
    as in an upgrade, when both run for a while."""
    spool = made.stage.directory / "shared"
    original = made.serve(port=8080, spool=spool, batch_seconds=1000)
    assert post(made, photo, "left-1", 8080, "cloud")[0] == 200
    other = made.serve(port=8081, spool=spool, batch_seconds=0)
    assert post(made, photo, "left-2", 8081, "cloud")[0] == 200
    wait_until(lambda: of(made, "left") == ["left-2"], "it has looked", 10)
    original.kill()
    original.wait()
    wait_until(lambda: len(of(made, "left")) == 2, "it looks again", 20)
    other.terminate()
    assert other.wait(20) == 0


def test_another_servers_certificate_gets_nothing(made: Scene, photo: Path) -> None:
    """Not even the password; and the upgrade that puts it right takes what waits along."""
    certificate(made.edge, "other", f"IP:{ADDRESS}")
    made.move(PLATES_DATABASE_CA=str(made.edge / "other.crt"))
    try:
        assert post(made, photo, "certificate")[0] == 200
        told = wait_until(lambda: (t := made.status())["database"] not in FINE and t, "it notices")
        assert "certificate verify failed" in told["database"]
        assert told["waiting"] == 1
    finally:
        made.move()
    made.await_delivered()
    assert of(made, "certificate") == ["certificate"]


def test_a_database_without_tls_gets_nothing(made: Scene, photo: Path) -> None:
    """Whoever is in between could say that there is none."""
    with sock(made.lab, "cloud", ADDRESS) as fake:
        fake.bind((ADDRESS, PORT + 1))
        fake.listen()
        server = made.serve(port=8082, database=f"{ADDRESS}:{PORT + 1}")
        assert post(made, photo, "plaintext", 8082, "cloud")[0] == 200
        victim, _ = fake.accept()
        with victim:
            victim.settimeout(20)
            victim.send(bytes([len(GREETING_WITHOUT_TLS), 0, 0, 0]) + GREETING_WITHOUT_TLS)
            assert victim.recv(4096) == b""
    assert told_by(made, 8082)["waiting"] == 1
    server.terminate()
    assert server.wait(20) == 0


def test_what_can_not_be_delivered_is_kept_and_holds_nothing_up(made: Scene, photo: Path) -> None:
    spool = made.stage.directory / "strange"
    spool.mkdir()
    strange = '{"id": "of another version"}\n'
    (spool / "0.jsonl").write_text(strange)
    server = made.serve(port=8083, spool=spool)
    assert post(made, photo, "strange", 8083, "cloud")[0] == 200
    wait_until(lambda: of(made, "strange") == ["strange"], "the rest is delivered", 20)
    wait_until(lambda: told_by(made, 8083)["waiting"] == 0, "all is delivered", 20)
    told = told_by(made, 8083)
    assert (told["aside"], told["delivered"], told["database"]) == (1, 1, "ok")
    assert [(p.name, p.read_text()) for p in spool.iterdir()] == [("0.aside", strange)]
    server.terminate()
    assert server.wait(20) == 0


def test_without_a_database_it_all_stays_in_the_spool(made: Scene, photo: Path) -> None:
    server = made.serve(port=8084, database="")
    assert post(made, photo, "kept", 8084, "cloud")[0] == 200
    assert told_by(made, 8084)["database"] == "none"
    server.terminate()
    assert server.wait(20) == 0
    server = made.serve(port=8084)
    wait_until(lambda: of(made, "kept") == ["kept"], "the next one delivers it", 20)
    server.terminate()
    assert server.wait(20) == 0


def test_it_may_connect_to_its_database_and_to_nothing_else(made: Scene) -> None:
    dial = f"import socket; socket.create_connection(({ADDRESS!r}, {PORT}), 1)"
    words = ("exec", "plates", "--", "python3", "-c")
    made.stage.viscum(*words, dial)
    other = dial.replace(ADDRESS, "198.18.0.12")
    assert made.stage.viscum(*words, other, ok=False).returncode != 0


def test_a_full_disk_is_said_and_nothing_acknowledged_is_lost(
    made: Scene, photo: Path, tmp_path: Path
) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", tmp_path], check=True)
    ballast = tmp_path / "ballast"
    server = None

    def send(number: int) -> tuple[int, Any]:
        return post(made, photo, f"full-{number:02}-{'x' * 50}", 8080, "cloud")[:2]

    try:
        with made.database.down():
            server = made.serve(port=8080, spool=tmp_path / "spool")
            assert send(0)[0] == 200
            fill(ballast)
            refused = 1
            while (told := send(refused))[0] == 200:  # what still goes into the spool's last page
                refused += 1
            assert told[0] == 503
            assert told[1]["error_code"] == 503
            assert "No space left on device" in told[1]["error"]
            ballast.unlink()
            assert send(refused)[0] == 200
        wait_until(lambda: len(of(made, "full")) > refused, "all is delivered", 30)
        assert [camera[:7] for camera in of(made, "full")] == [
            f"full-{number:02}" for number in range(refused + 1)
        ]
    finally:
        if server is not None:
            server.terminate()
            server.wait(20)
        subprocess.run(["umount", tmp_path], check=True)
