"""What is measured of a stream, and of what was found."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from faces.accuracy import Score, score
from faces.scene import URL, Scene, Told
from kit import Figures
from viscum.lab import CLOUD4

POSTS = 20


def rate(answers: list[Told]) -> float:
    """Answers a second."""
    return (len(answers) - 1) / (answers[-1]["at"] - answers[0]["at"]) if len(answers) > 1 else 0.0


def ms(answers: list[Told], without_looking: bool = False) -> list[float]:
    return [a["ms"] - (a["processing_time_ms"] if without_looking else 0) for a in answers]


def passed_over(answers: list[Told]) -> int:
    return sum(answer["dropped"] for answer in answers)


def sizes(figures: Figures, claim: str, frames: Path) -> None:
    """Of a directory's; a video's frames become JPEGs in the camera."""
    if frames.is_dir():
        found = [float(path.stat().st_size) for path in frames.glob("*.jp*g")]
        figures.add(claim, found, "B", given=True)


def stream(made: Scene, figures: Figures, frames: Path, where: str, fps: int, seconds: int) -> None:
    """A camera's frames, wherever they are looked at. where: edge or cloud, maybe with more after
    a comma."""
    before = made.stage.wan_bytes()
    camera = made.camera(frames, fps, fps * seconds)
    end = camera.end()
    crossed = made.stage.wan_bytes() - before
    answers = camera.answers
    assert {answer["site"] for answer in answers} == {where.partition(",")[0]}, answers[:1]
    command = f"camera.py {URL} frames --fps {fps}"
    add = figures.add
    add(f"frame to answer, {where}", ms(answers), "ms", command=command)
    add(f"… of that, without looking, {where}", ms(answers, True), "ms")
    add(f"frames/s, {where}", rate(answers), "/s", command=command)
    add(f"frames the server passed over, {where}", passed_over(answers), f"of {end['sent']}")
    add(f"frames the network had no room for, {where}", end["skipped"], f"of {fps * seconds}")
    add(f"WAN bytes per frame, {where}", crossed / end["sent"], "B")


def each(made: Scene, figures: Figures, frames: Path, where: str) -> dict[str, list[Told]]:
    """Every frame once, the next when the last was answered; the faces by the frame's name."""
    camera = made.camera(frames, 0)
    camera.end()
    answers = camera.answers
    assert {answer["site"] for answer in answers} == {where}
    figures.add(f"one after the other: frame to answer, {where}", ms(answers), "ms")
    figures.add(f"one after the other: frames/s, {where}", rate(answers), "/s")
    return {answer["picture"]: answer["faces"] for answer in answers}


def posts(made: Scene, figures: Figures, picture: Path, where: str) -> None:
    """One picture, each time by a new connection."""
    words = ["curl", "-sS", "-m", "20", "-o", "/dev/null", "-w", "%{time_total}", "-H",
             "Content-Type: image/jpeg", "--data-binary", f"@{picture}",
             f"http://{CLOUD4}/detect"]  # fmt: skip
    took = [float(made.lab.run("ue", words, check=True).stdout) * 1000 for _ in range(POSTS)]
    figures.add(f"a picture by POST, {where}", took, "ms", command="curl --data-binary @frame.jpg")


def too_many(made: Scene, figures: Figures, frames: Path, fps: int, seconds: int) -> None:
    """More frames than can be looked at: the newest are, and answers do not get late."""
    camera = made.camera(frames, fps, fps * seconds)
    sent = camera.end()["sent"]
    answers = camera.answers
    told, passed = len(answers), passed_over(answers)
    what = f"{fps} frames/s sent"
    figures.add(f"{what}: answered", rate(answers), "/s")
    figures.add(f"{what}: passed over", passed, f"of {sent}")
    figures.add(f"{what}: neither answered nor passed over", sent - told - passed, f"of {sent}")
    figures.add(f"{what}: frame to answer", ms(answers), "ms")


def accuracy(figures: Figures, told: dict[str, list[Told]], truth: dict[str, Told]) -> None:
    """By what makes it hard. told: faces, and truth, by the frame's name."""
    scores: dict[str, Score] = {}
    frames: Counter[str] = Counter()
    alarms: Counter[str] = Counter()
    for name, there in truth.items():
        kind = there["kind"]
        one = score(told[name], there)
        scores[kind] = scores.get(kind, Score()) + one
        frames[kind] += 1
        alarms[kind] += one.wrong > 0
    for kind, total in scores.items():
        if total.faces:
            figures.add(f"faces found: {kind}", total.found, f"of {total.faces}")
            figures.add(f"found where none is: {kind}", total.wrong, f"of {total.found}")
        else:
            claim = f"frames with a face found where none is: {kind}"
            figures.add(claim, alarms[kind], f"of {frames[kind]}")
