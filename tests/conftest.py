"""Requirements, figures, skips that count, leaks, and the lab's fixtures.

- ``@pytest.mark.req("N5")`` says what a test proves; ``--acceptance`` prints requirement → tests →
  result → figure, and fails for a requirement that nothing proves.
- ``VISCUM_REQUIRE_ALL=1`` makes every skip a failure, but for what the kernel lacks (support.py).
- After the last test the machine has to be what it was before the first.
"""

from __future__ import annotations

import fcntl
import os
import signal
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, TextIO

import pytest

from support import LACKS, leaks, machine_state
from viscum.lab import Lab

REQUIREMENTS = (
    *(f"N{n}" for n in range(1, 19)),
    *(f"C{n}" for n in range(1, 10)),
    "U6",
)
PLAYED = tuple(f"U{n}" for n in range(1, 9))  # proved by `make examples` and `make paper`
ROOT_DIRECTORIES = {"kernel", "e2e", "vm"}

Figure = Callable[[str, float | str, str], None]
LabFactory = Callable[..., Lab]


class Record:
    """What this run has shown so far, by node id: told by the tests' reports, which also come from
    the processes that tests may be spread over (pytest-xdist)."""

    def __init__(self) -> None:
        self.requirements: dict[str, tuple[str, ...]] = {}
        self.outcomes: dict[str, str] = {}
        self.figures: dict[str, list[str]] = {}
        self.before: dict[str, set[str]] | None = None
        self.leaks: list[str] = []
        self.alone = True
        self.lock: TextIO | None = None

    def unproved(self) -> list[str]:
        """Requirements without a test that passed."""
        proved = {
            number
            for node, numbers in self.requirements.items()
            if self.outcomes.get(node) == "passed"
            for number in numbers
        }
        return [number for number in REQUIREMENTS if number not in proved]


RECORD = pytest.StashKey[Record]()

# A script's background job ignores SIGINT, and so would every program that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--acceptance",
        action="store_true",
        help="print requirement, tests, result and figures; fail if a requirement is not proved",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[RECORD] = Record()


def _is_worker(config: pytest.Config) -> bool:
    """Whether this process runs a part of the tests for another one, which sums up."""
    return hasattr(config, "workerinput")


def _area(item: pytest.Item) -> str:
    """What it needs: examples/ has directories of the same names."""
    return item.path.parent.name


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    record = config.stash[RECORD]
    for item in items:
        numbers = tuple(str(n) for mark in item.iter_markers("req") for n in mark.args)
        unknown = [n for n in numbers if n not in (*REQUIREMENTS, *PLAYED)]
        if unknown:
            raise pytest.UsageError(f"{item.nodeid}: no requirement {', '.join(unknown)}")
        record.requirements[item.nodeid] = numbers
        item.user_properties.append(("req", numbers))
        if _area(item) in ROOT_DIRECTORIES and os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="needs root"))


# --- skips --------------------------------------------------------------------------------------


def _count_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if os.environ.get("VISCUM_REQUIRE_ALL") == "1" and LACKS not in reason:
        report.outcome = "failed"
        report.longrepr = f"skipped, but VISCUM_REQUIRE_ALL=1: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _count_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _count_skip(report)
    return report


# --- leaks --------------------------------------------------------------------------------------


def _alone(lock: TextIO) -> bool:
    """Whether no other run of the tests is on; with one, whose leak it is can't be told."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def pytest_runtestloop(session: pytest.Session) -> None:
    """Remember the machine, if there are tests that may change it."""
    record = session.config.stash[RECORD]
    if session.config.option.collectonly or os.geteuid() != 0:
        return
    if _is_worker(session.config):
        return
    # With workers only they know the tests.
    spread = session.config.getoption("numprocesses", None)
    if spread or any(_area(item) != "unit" for item in session.items):
        record.lock = Path("/run/lock/viscum-tests").open("w")  # noqa: SIM115  held for the run
        record.alone = _alone(record.lock)
        fcntl.flock(record.lock, fcntl.LOCK_SH)
        record.before = machine_state()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    record = session.config.stash[RECORD]
    if record.before is not None and record.lock is not None:
        record.leaks = leaks(record.before)
        record.alone = record.alone and _alone(record.lock)
        record.lock.close()
    if session.exitstatus != pytest.ExitCode.OK or _is_worker(session.config):
        return
    if (record.leaks and record.alone) or (
        session.config.getoption("--acceptance") and record.unproved()
    ):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


# --- what was proved ----------------------------------------------------------------------------


@pytest.hookimpl(tryfirst=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    record = config.stash[RECORD]
    if config.getoption("--acceptance"):
        terminalreporter.section("acceptance: requirement, tests, result, figures")
        for line in _acceptance(record):
            terminalreporter.write_line(line)
    elif "VISCUM_VM" in os.environ:  # `make vm` proves a part, and what it measures is its own
        terminalreporter.section("figures")
        for node, texts in record.figures.items():
            for text in texts:
                terminalreporter.write_line(f"{node.removeprefix('tests/')}: {text}")
    if record.leaks:
        whose = "" if record.alone else " (perhaps by another run of the tests: not counted)"
        terminalreporter.section(f"the machine is not what it was{whose}", red=record.alone)
        for line in record.leaks:
            terminalreporter.write_line(line)


def _acceptance(record: Record) -> Iterator[str]:
    for number in REQUIREMENTS:
        nodes = [node for node, numbers in record.requirements.items() if number in numbers]
        outcomes = [record.outcomes.get(node, "not run") for node in nodes]
        words = ", ".join(f"{outcomes.count(o)} {o}" for o in sorted(set(outcomes)))
        yield f"{number:<4} {words or 'NO TEST'}"
        functions: dict[str, list[str]] = {}
        for node in nodes:
            functions.setdefault(node.partition("[")[0].removeprefix("tests/"), []).append(node)
        for name, cases in functions.items():
            results = [record.outcomes.get(node, "not run") for node in cases]
            result = ", ".join(
                f"{results.count(r)} {r}" if len(results) > 1 else r for r in sorted(set(results))
            )
            yield f"       {name}: {result}"
            for node in cases:
                for text in record.figures.get(node, ()):
                    yield f"           {text}"
    if record.unproved():
        yield f"not proved: {', '.join(record.unproved())}"


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Figure:
    """`figure(name, value, unit)`: something measured, for the acceptance table."""

    def record(name: str, value: float | str, unit: str = "") -> None:
        number = f"{value:.4g}" if isinstance(value, float) else str(value)
        request.node.user_properties.append(("figure", f"{name}: {number} {unit}".rstrip()))

    return record


class _Outcomes:
    """The plugin that hears of reports (a conftest's own hook has no config at hand)."""

    def __init__(self, record: Record) -> None:
        self.record = record

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        known = self.record.outcomes.get(report.nodeid)
        if report.when == "teardown":
            for kind, value in report.user_properties:
                if kind == "figure":
                    self.record.figures.setdefault(report.nodeid, []).append(str(value))
                elif isinstance(value, (tuple, list)):
                    self.record.requirements[report.nodeid] = tuple(value)
        if report.failed:
            self.record.outcomes[report.nodeid] = "failed"
        elif known is None and (report.when == "call" or report.skipped):
            self.record.outcomes[report.nodeid] = report.outcome


def pytest_sessionstart(session: pytest.Session) -> None:
    session.config.pluginmanager.register(_Outcomes(session.config.stash[RECORD]))


# --- files --------------------------------------------------------------------------------------


@pytest.fixture
def files() -> Iterator[Path]:
    """A directory for one test that services see (/tmp and /run are their own) and may read."""
    with tempfile.TemporaryDirectory(prefix="vt-", dir="/var/tmp") as path:
        os.chmod(path, 0o755)
        yield Path(path)


# --- the lab ------------------------------------------------------------------------------------

FAST: dict[str, Any] = {"wan_rtt": 0.0, "wan_rate": 0.0, "radio_rate": 0.0}


@pytest.fixture(scope="session")
def lab_factory() -> Iterator[LabFactory]:
    """`lab_factory(**settings)` brings up a lab of its own name, without rates or delay by default.

    It is taken down after the last test, or earlier by its own down().
    """
    labs: list[Lab] = []

    def make(**settings: Any) -> Lab:
        lab = Lab(f"vt-{os.getpid()}-{len(labs)}", **(FAST | settings))
        labs.append(lab)
        lab.up()
        return lab

    yield make
    for lab in labs:
        lab.down()


@pytest.fixture
def lab(request: pytest.FixtureRequest, lab_factory: LabFactory) -> Iterator[Lab]:
    """A lab for one test; settings by `@pytest.mark.parametrize("lab", [{…}], indirect=True)`."""
    made = lab_factory(**getattr(request, "param", {}))
    yield made
    made.down()
