"""U6: HTTPS and HTTP/3 at the edge by the operator's certificate, asked by clients that verify; and
what is said of a certificate that they would reject.

    make example-tls
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kit import Figures, Stage, await_listening, example_dir, installed, run, spec_of, stage
from tls.certificates import Authority
from viscum.lab import CLOUD4, CLOUD6, CLOUD_NAME

TIMES = 20
LIVE = f"/etc/letsencrypt/live/{CLOUD_NAME}"  # where the spec has them


class Site:
    """The name, its authority, and who has a certificate."""

    def __init__(self, scene: Stage) -> None:
        self.scene = scene
        self.authority = Authority(scene.directory / "authority")
        self.live = self.issue("live", CLOUD_NAME, f"www.{CLOUD_NAME}")

    def issue(self, directory: str, *names: str) -> Path:
        return self.authority.issue(self.scene.directory / directory, *names)

    def cloud(self) -> None:
        """The real one: the same software, and its own certificate."""
        words = [str(installed("tls") / "bin" / "hypercorn")]
        for address in (CLOUD4, f"[{CLOUD6}]"):
            words += ["--bind", f"{address}:443", "--quic-bind", f"{address}:443"]
        words += ["--certfile", f"{self.live}/fullchain.pem"]
        words += ["--keyfile", f"{self.live}/privkey.pem", "app:app"]
        environment = self.scene.lab.environment("cloud") | {"SITE": "cloud"}
        self.scene.server("cloud", words, cwd=example_dir("tls"), env=environment)
        await_listening(self.scene.lab, "cloud", 443)
        await_listening(self.scene.lab, "cloud", 443, udp=True)

    def apply(self, live: Path | None = None) -> str:
        """The example's spec, with that certificate; what is noted of it."""
        text = spec_of("tls").replace(LIVE, str(live or self.live))
        return self.scene.apply(text, SSL_CERT_FILE=str(self.authority.file)).stderr

    def doctor(self) -> list[dict[str, str]]:
        words = ("doctor", "tls", "--json")
        done = self.scene.viscum(*words, SSL_CERT_FILE=str(self.authority.file))
        found: list[dict[str, str]] = json.loads(done.stdout)
        return found

    def https(self) -> tuple[str, float]:
        """(what curl was answered, or how it failed; seconds, without the look-up of the name)."""
        argv = ["curl", "-sS", "--noproxy", "*", "-m", "10", "--cacert", str(self.authority.file),
                "-w", "\n%{json}", f"https://{CLOUD_NAME}/"]  # fmt: skip
        done = self.scene.lab.run("ue", argv)
        body, _, told = done.stdout.rpartition("\n")
        times: dict[str, Any] = json.loads(told)
        if done.returncode:
            return f"curl: {done.returncode}", 0.0
        return body, times["time_total"] - times["time_namelookup"]

    def http3(self, times: int = TIMES) -> list[tuple[str, float]] | str:
        """The same by HTTP/3; or why the certificate was refused."""
        argv = [str(installed("tls") / "bin" / "python"), str(example_dir("tls") / "h3get.py"),
                CLOUD_NAME, str(self.authority.file), str(times)]  # fmt: skip
        done = self.scene.lab.run("ue", argv)
        assert done.returncode == 0, done.stderr
        found: list[tuple[str, float]] | str = json.loads(done.stdout)
        return found


def measure(site: Site, figures: Figures, where: str) -> None:
    """Every answer has to come from there, by a certificate that the client has verified."""
    before = site.scene.wan_bytes()
    asked = {"HTTPS": [site.https() for _ in range(TIMES)], "HTTP/3": site.http3()}
    crossed = site.scene.wan_bytes() - before
    for protocol, answers in asked.items():
        assert isinstance(answers, list), answers
        others = [answer for answer, _ in answers if answer != where]
        figures.add(f"{protocol}, {where}: answers of somebody else", len(others), "")
        figures.add(
            f"{protocol}, {where}: a verified page by a new connection",
            [seconds * 1000 for _, seconds in answers], "ms",
            command=f"curl --cacert … https://{CLOUD_NAME}/" if protocol == "HTTPS" else "h3get.py",
        )  # fmt: skip
    figures.add(
        f"{where}: WAN bytes a page, with the look-up of its name", crossed / (2 * TIMES), "bytes"
    )


def said(findings: list[dict[str, str]]) -> list[str]:
    return [f["what"] for f in findings if "443/" in f["what"]]


def play(scene: Stage, figures: Figures) -> None:
    site = Site(scene)
    site.cloud()
    noted = site.apply()
    figures.add("notes of a good certificate", noted.count("certificate"), "")
    print("viscum doctor tls", *said(site.doctor()), sep="\n  ")
    measure(site, figures, "edge")
    scene.viscum("disable", "tls")
    measure(site, figures, "cloud")
    scene.viscum("enable", "tls")

    print("with a certificate for another name")
    noted = site.apply(site.issue("other", "other.example"))
    print(*(line for line in noted.splitlines() if "443/" in line), sep="\n")
    https, http3 = site.https()[0], site.http3(1)
    print(f"  {https}; HTTP/3: {http3}")
    figures.add("clients that reject the wrong one", (https == "curl: 60") + (http3 != "edge"
                and isinstance(http3, str)), "of 2")  # fmt: skip
    foretold = [line for line in noted.splitlines() if "reject its certificate" in line]
    figures.add("… of which the preflight has told", len(foretold), "of 2")

    print("the right one again, renewed")
    noted = site.apply(site.issue("renewed", CLOUD_NAME, f"www.{CLOUD_NAME}"))
    figures.add("notes of the renewed one", noted.count("certificate"), "")
    figures.add("answers of the edge with it", site.https()[0] == "edge", "of 1")


def main() -> None:
    figures = Figures("tls")
    with stage("tls", dns=True) as scene:
        play(scene, figures)
    print(f"\nkept in {figures.save()}")


if __name__ == "__main__":
    run(main)
