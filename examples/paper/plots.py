"""The report's plots: matplotlib, as SVG that is the same for the same figures."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot as plt

from paper.measured import Measured, Missing

plt.rcParams.update({
    "svg.hashsalt": "viscum", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 10,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3,
    "figure.figsize": (7.2, 3.2), "figure.constrained_layout.use": True,
})  # fmt: skip
# of Okabe and Ito, told apart by the colour-blind
EDGE, CLOUD, BOX, OTHER = "#0072B2", "#D55E00", "#009E73", "#555555"


def save(path: Path) -> None:
    plt.savefig(path, metadata={"Date": None, "Creator": None})
    plt.close()


def distribution(path: Path, lines: Sequence[tuple[str, Sequence[float], str]], label: str) -> None:
    """Cumulative, on a logarithmic axis. lines: name, samples, colour."""
    for name, samples, colour in lines:
        ordered = sorted(samples)
        share = [(place + 1) / len(ordered) for place in range(len(ordered))]
        plt.step(ordered, share, colour, where="post", label=f"{name} (n={len(ordered)})")
    plt.xscale("log")
    plt.xlabel(label)
    plt.ylabel("share of them")
    plt.ylim(0, 1)
    plt.legend(loc="best", frameon=False)
    save(path)


def rows(path: Path) -> list[dict[str, str]]:
    """Raises Missing."""
    try:
        with path.open(newline="") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        raise Missing(path.name) from None


def over_time(series: Path, events: Path, path: Path) -> None:
    """What the client gets and what crosses the WAN, while the operator switches."""
    looks, happened = rows(series), rows(events)
    at = [float(row["seconds"]) for row in looks]
    for column, name, colour in (("client bytes", "the client gets", EDGE),
                                 ("WAN bytes", "crosses the WAN", CLOUD)):  # fmt: skip
        seen = [float(row[column]) for row in looks]
        rate = [8e-6 * (seen[n] - seen[n - 1]) / (at[n] - at[n - 1]) for n in range(1, len(at))]
        plt.plot(at[1:], rate, colour, label=name)
    for row in happened:
        plt.axvline(float(row["seconds"]), color=OTHER, lw=0.8, ls=":")
        plt.text(float(row["seconds"]) + 0.3, 318, row["event"], fontsize=9, color=OTHER)
    plt.ylim(0, 340)
    plt.xlabel("seconds")
    plt.ylabel("Mbit/s")
    plt.legend(loc="center right", frameon=True, framealpha=0.9)
    save(path)


def added_up(series: Path, events: Path, path: Path) -> None:
    """Bytes of the same run, added up."""
    looks, happened = rows(series), rows(events)
    at = [float(row["seconds"]) for row in looks]
    for column, name, colour in (("client bytes", "the client has got", EDGE),
                                 ("WAN bytes", "has crossed the WAN", CLOUD)):  # fmt: skip
        first = float(looks[0][column])
        plt.plot(at, [(float(row[column]) - first) / 1e6 for row in looks], colour, label=name)
    for row in happened:
        plt.axvline(float(row["seconds"]), color=OTHER, lw=0.8, ls=":")
    plt.xlabel("seconds")
    plt.ylabel("MB")
    plt.legend(loc="upper left", frameon=False)
    save(path)


def share(path_of_rows: Path, path: Path) -> None:
    """The guard's share of new flows, and how busy the processor is."""
    points = rows(path_of_rows)
    at = [float(row["seconds"]) for row in points]
    plt.step(at, [float(row["share"]) for row in points], EDGE, where="post",
             label="share of new flows that go to the edge")  # fmt: skip
    plt.plot(at, [float(row["cpu"]) for row in points], CLOUD, lw=1, label="processor busy")
    plt.axhline(70, color=OTHER, lw=0.8, ls="--")
    plt.xlabel("seconds since the overload began (it lasts 60)")
    plt.ylabel("%")
    plt.ylim(0, 105)
    plt.legend(loc="upper right", frameon=True, framealpha=0.9)
    save(path)


def bars(path: Path, measured: Measured, part: str, what: str, names: Sequence[str],
         label: str) -> None:  # fmt: skip
    """Medians with the spread of their samples."""
    colours = {"Viscum": EDGE, "Docker": CLOUD}
    for place, name in enumerate(names):
        row = measured.row(part, f"{what}, {name}")
        low, high = min(row.samples), max(row.samples)
        options: dict[str, Any] = {"color": colours.get(name, BOX), "height": 0.6, "capsize": 3}
        plt.barh(place, row.value, xerr=[[row.value - low], [high - row.value]], **options)
    plt.yticks(range(len(names)), names)
    plt.gca().invert_yaxis()
    plt.gcf().set_size_inches(7.2, 0.6 + 0.5 * len(names))
    plt.xlabel(label)
    save(path)
