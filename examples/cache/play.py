"""U5: an nginx that stands in for a site and fetches from the same site, by the same address.

make example-cache
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

from cache.origin import Origin
from kit import Figures, Stage, run, spec_of, stage
from viscum.lab import CLOUD4, CLOUD6, CLOUD_NAME
from viscum.lab.plan import AP_WAN4, AP_WAN6, ue4, ue6

PHOTOS, SIZE = 30, 100_000
ACCESS = re.compile(r'(\S+) "GET \S+ HTTP/1.1" \d+ \S+$')  # a line of the edge's log
ADDRESSES = {"IPv4": CLOUD4, "IPv6": CLOUD6}


@dataclass(frozen=True)
class Answer:
    """cache: what X-Cache says, "" without it; status 0: there was no answer."""

    status: int
    cache: str
    seconds: float
    body: bytes


class Client:
    """A browser's cousin: it has the name's address already, and a connection for each page."""

    def __init__(self, scene: Stage) -> None:
        self.scene = scene
        self.directory = scene.directory / "client"
        self.directory.mkdir()

    def get(self, *pages: str, family: str = "IPv4", patience: int = 5) -> list[Answer]:
        """One after the other, each for at most so many seconds."""
        address = ADDRESSES[family]
        where = f"[{address}]" if ":" in address else address
        told = "%{http_code} %{time_total} %header{x-cache}\\n"
        argv = ["curl", "-sS", "--noproxy", "*", "-H", "Connection: close", "-m", str(patience),
                "--resolve", f"{CLOUD_NAME}:80:{where}", "-w", told]  # fmt: skip
        files = [self.directory / str(number) for number in range(len(pages))]
        for page, file in zip(pages, files, strict=True):
            file.write_bytes(b"")
            argv += [f"http://{CLOUD_NAME}/{page}", "-o", str(file)]
        done = self.scene.lab.run("ue", argv)
        lines = [line.split(" ") for line in done.stdout.splitlines()]
        return [
            Answer(int(status), cache, float(seconds), file.read_bytes())
            for (status, seconds, cache), file in zip(lines, files, strict=True)
        ]


def edge_spec(scene: Stage) -> str:
    """The example's, with its files in the stage's directory."""
    prefix = scene.directory / "edge"
    prefix.mkdir(exist_ok=True)
    return spec_of("cache").replace("/var/cache/viscum-example", str(prefix))


class Play:
    def __init__(self, scene: Stage, figures: Figures) -> None:
        self.scene, self.figures = scene, figures
        self.origin = Origin(scene, PHOTOS, SIZE)
        self.client = Client(scene)
        self.photos = [f"photos/{number}" for number in range(1, PHOTOS + 1)]

    def photographs(self, what: str, cache: str, family: str = "IPv4") -> None:
        """All photos once: each has to be the origin's, byte for byte."""
        before, asked = self.scene.wan_bytes(), len(self.origin.asked)
        answers = self.client.get(*self.photos, family=family)
        crossed = self.scene.wan_bytes() - before
        right = sum(
            (a.status, a.cache, a.body) == (200, cache, self.origin.read(page))
            for a, page in zip(answers, self.photos, strict=True)
        )
        add = self.figures.add
        add(f"{what}: right answers ({cache or 'no cache'})", right, f"of {PHOTOS}")
        add(f"{what}: a photo of {SIZE // 1000} kB", [a.seconds * 1000 for a in answers], "ms",
            command=f"curl http://{CLOUD_NAME}/photos/N")  # fmt: skip
        add(f"{what}: WAN bytes a photo", crossed / PHOTOS, "bytes")
        add(f"{what}: requests at the origin", len(self.origin.asked) - asked, f"of {PHOTOS}")

    def played(self) -> None:
        self.photographs("without", "")
        self.scene.apply(edge_spec(self.scene))
        self.photographs("edge, the first time", "MISS")
        self.photographs("edge, again", "HIT")
        self.photographs("edge, by IPv6", "HIT", "IPv6")
        self.scene.viscum("disable", "cache")
        self.photographs("disabled", "")
        self.scene.viscum("enable", "cache")
        self.photographs("enabled again", "HIT")
        self.private()
        self.cut_off()
        self.no_loop()

    def private(self) -> None:
        """A page that may not be kept is the origin's own, each time."""
        fresh = 0
        for number in range(5):
            self.origin.write("account/mine", b"%d" % number)
            fresh += self.client.get("account/mine")[0].body == b"%d" % number
        self.figures.add("pages that may not be kept, fresh from the origin", fresh, "of 5")

    def cut_off(self) -> None:
        """The uplink is gone: what was kept is there, however old, what was not is refused soon."""
        self.client.get("news/today")
        self.origin.write("news/today", b"second")
        cut(self.scene, True)
        time.sleep(1.5)  # the page is older than it may be, then: there is no event for that
        stale = self.client.get(*["news/today"] * 10)
        right = sum((a.status, a.body) == (200, b"first") for a in stale)
        add = self.figures.add
        add("WAN cut: a page that is too old, from the cache", right, "of 10")
        add("WAN cut: … how long it took", [a.seconds * 1000 for a in stale], "ms")
        self.photographs("WAN cut", "HIT")
        (never,) = self.client.get("news/never-asked-for")
        add("WAN cut: a page that was never asked for: status", never.status, "")
        add("WAN cut: … after", never.seconds, "s")
        self.scene.viscum("disable", "cache")
        without = self.client.get("news/today", patience=2)
        add("WAN cut: pages without the edge", sum(a.status == 200 for a in without), "of 1")
        self.scene.viscum("enable", "cache")
        cut(self.scene, False)
        end = time.monotonic() + 30
        while (answer := self.client.get("news/today")[0]).body != b"second":
            assert time.monotonic() < end, answer
            time.sleep(0.2)  # a page is fetched anew for who asks for it
        add("WAN back: the page is as the origin has it now", 1, "of 1")

    def no_loop(self) -> None:
        """Who has asked the edge was a client; its own requests have come to the origin, from the
        box's own addresses."""
        log = self.scene.viscum("logs", "cache", "-n", "10000").stdout.splitlines()
        askers = [found[1] for line in log if (found := ACCESS.search(line))]
        strange = sum(asker not in (ue4(), ue6()) for asker in askers)
        self.figures.add("requests at the edge that are not a client's", strange,
                         f"of {len(askers)}")  # fmt: skip
        edge = [peer for peer, forwarded, _ in self.origin.asked if forwarded != "-"]
        strange = sum(peer not in (AP_WAN4, AP_WAN6) for peer in edge)
        self.figures.add("requests of the edge at the origin from a strange address", strange,
                         f"of {len(edge)}")  # fmt: skip


CUT = "table inet cut { chain gone { type filter hook prerouting priority raw; policy drop; }; }"


def cut(scene: Stage, gone: bool) -> None:
    """Whatever comes to the cloud is lost on the way, without a word, as where a cable is cut."""
    words = [CUT] if gone else ["delete table inet cut"]
    scene.lab.run("cloud", ["nft", *words], check=True)


def main() -> None:
    figures = Figures("cache")
    with stage("cache", dns=True) as scene:
        Play(scene, figures).played()
    print(f"\nkept in {figures.save()}")


if __name__ == "__main__":
    run(main)
