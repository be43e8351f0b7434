"""U8: a phone's browser is the camera, with nothing but a page of the server's."""

from __future__ import annotations

import base64
import hashlib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect

from e2e.browser import Complaints, browsers
from plates.mariadb import certificate
from plates.scene import Scene, plate_of, scene
from viscum.lab.plan import CLOUD_NAME

pytestmark = pytest.mark.req("U8")

PHONE = {"viewport": {"width": 412, "height": 839}, "device_scale_factor": 2, "is_mobile": True,
         "has_touch": True}  # fmt: skip
WAIT = 20_000  # ms


@pytest.fixture(scope="module")
def made() -> Iterator[Scene]:
    with scene() as it:
        certificate(it.edge, "page", f"DNS:{CLOUD_NAME}")
        it.move(
            PLATES_TLS_CERTIFICATE=str(it.edge / "page.crt"),
            PLATES_TLS_KEY=str(it.edge / "page.key"),
        )
        yield it


def pin(path: Path) -> str:
    """Of the certificate's key: what makes Chromium take it for one that it trusts."""
    words = ["openssl", "x509", "-in", str(path), "-noout", "-pubkey"]
    pem = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    key = base64.b64decode("".join(pem.splitlines()[1:-1]))
    return base64.b64encode(hashlib.sha256(key).digest()).decode()


@pytest.fixture(scope="module")
def browser(made: Scene, photos: Path) -> Iterator[Browser]:
    """On the phone; before its camera there is a car."""
    seen = photos / "seen.mjpeg"
    seen.write_bytes((photos / "plain-1.jpg").read_bytes())
    switches = (
        f"--ignore-certificate-errors-spki-list={pin(made.edge / 'page.crt')}",
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-video-capture={seen}",
    )
    with browsers(made.lab, *switches) as launch:
        yield launch("ue")


@pytest.fixture
def phone(browser: Browser) -> Iterator[BrowserContext]:
    """A new one: nothing is kept in it."""
    context = browser.new_context(**PHONE)  # type: ignore[arg-type]
    context.set_default_timeout(WAIT)
    yield context
    context.close()


def open_page(phone: BrowserContext, scheme: str = "https") -> tuple[Page, Complaints]:
    page, complaints = phone.new_page(), Complaints()
    complaints.listen(page)
    page.goto(f"{scheme}://{CLOUD_NAME}/")
    expect(page.locator("#state")).to_have_text("all photos are read", timeout=WAIT)
    return page, complaints


def take(page: Page, photo: Path) -> None:
    page.locator("#photo").set_input_files(photo)


def reads(page: Page, *plates: str) -> None:
    """The newest first."""
    expect(page.locator("#results strong")).to_have_text(list(plates), timeout=WAIT)


def camera(page: Page) -> str:
    return str(page.evaluate("localStorage.getItem('camera')"))


def rows(made: Scene, page: Page) -> list[list[str]]:
    made.await_delivered()
    return made.database.rows("plate, site", f"camera = '{camera(page)}'")


@pytest.mark.parametrize("scheme", ["https", "http"])
def test_a_photo_is_read_and_stored(
    made: Scene, phone: BrowserContext, photos: Path, scheme: str
) -> None:
    page, complaints = open_page(phone, scheme)
    for name in ("plain-1.jpg", "aslant-1.jpg"):
        take(page, photos / name)
        expect(page.locator("#results li").first).to_contain_text("% sure", timeout=WAIT)
    wanted = [plate_of(photos, name) for name in ("plain-1.jpg", "aslant-1.jpg")]
    reads(page, *reversed(wanted))
    assert rows(made, page) == [[plate, "edge"] for plate in wanted]
    assert complaints == []


def test_it_opens_and_takes_photos_without_a_network_and_sends_them_later(
    made: Scene, phone: BrowserContext, photos: Path
) -> None:
    page, _ = open_page(phone)
    expect(page.locator("html[data-offline=ready]")).to_be_attached(timeout=WAIT)
    phone.set_offline(True)
    page.reload()
    take(page, photos / "plain-1.jpg")
    expect(page.locator("#state")).to_have_text("no connection; 1 waiting", timeout=WAIT)
    page.close()  # and it may be put away
    page = phone.new_page()
    page.goto(f"https://{CLOUD_NAME}/")
    expect(page.locator("#state")).to_have_text("no connection; 1 waiting", timeout=WAIT)
    take(page, photos / "noise-1.jpg")
    expect(page.locator("#state")).to_have_text("no connection; 2 waiting", timeout=WAIT)
    assert rows(made, page) == []
    phone.set_offline(False)
    reads(page, plate_of(photos, "noise-1.jpg"), plate_of(photos, "plain-1.jpg"))
    expect(page.locator("#state")).to_have_text("all photos are read", timeout=WAIT)
    assert len(rows(made, page)) == 2


def test_what_can_not_be_read_is_said_and_not_sent_again(
    phone: BrowserContext, photos: Path, tmp_path: Path
) -> None:
    page, _ = open_page(phone)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"<img src=x onerror=alert(1)>")
    take(page, broken)
    line = page.locator("#results li").first
    expect(line).to_contain_text("not a JPEG, PNG or WebP image", timeout=WAIT)
    take(page, photos / "plain-1.jpg")
    reads(page, plate_of(photos, "plain-1.jpg"))
    page.reload()
    expect(page.locator("#state")).to_have_text("all photos are read", timeout=WAIT)
    expect(page.locator("#results li")).to_have_count(0)


def test_a_photo_that_is_taken_while_another_is_sent_follows_it(
    phone: BrowserContext, photos: Path
) -> None:
    page, _ = open_page(phone)
    held: list[Route] = []

    def hold_the_first(route: Route) -> None:
        held.append(route)
        if len(held) > 1:
            route.continue_()

    page.route("**/v2/recognize?*", hold_the_first)
    take(page, photos / "plain-1.jpg")
    expect(page.locator("#results li").first).to_contain_text("reading", timeout=WAIT)
    take(page, photos / "aslant-1.jpg")
    expect(page.locator("#results li")).to_have_count(2)
    held[0].continue_()
    reads(page, plate_of(photos, "aslant-1.jpg"), plate_of(photos, "plain-1.jpg"))


def test_a_photo_is_kept_until_the_page_has_the_key(phone: BrowserContext, photos: Path) -> None:
    """Which may have been forgotten in the address."""
    page, _ = open_page(phone)
    words = {"error": "invalid secret_key", "error_code": 401}
    page.route("**/v2/recognize?*", lambda route: route.fulfill(status=401, json=words))
    take(page, photos / "plain-1.jpg")
    line = page.locator("#results li").first
    expect(line).to_contain_text("waiting: invalid secret_key", timeout=WAIT)
    page.unroute_all()
    page.reload()
    reads(page, plate_of(photos, "plain-1.jpg"))


def test_it_watches(made: Scene, phone: BrowserContext, photos: Path) -> None:
    page, complaints = open_page(phone)
    page.get_by_role("button", name="Watch").click()
    reads(page, plate_of(photos, "plain-1.jpg"))
    page.get_by_role("button", name="Stop watching").click()
    expect(page.locator("#view")).to_be_hidden()
    assert [plate_of(photos, "plain-1.jpg"), "edge"] in rows(made, page)
    assert complaints == []


def test_everybody_can_use_it(phone: BrowserContext, photos: Path) -> None:
    page, _ = open_page(phone)
    take(page, photos / "plain-1.jpg")
    reads(page, plate_of(photos, "plain-1.jpg"))
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= PHONE["viewport"]["width"]  # type: ignore[index]
    expect(page).to_have_title(re.compile("plates"))
