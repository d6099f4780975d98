"""What judges say of the images of a protocol."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from excise.evaluation.scoring import Shown
from excise.families.drawing import Images
from excise.judges.base import CHUNK, Detecting, Judge, Measuring, MultiLabelJudge, OpenJudge
from excise.metrics.unlearning import NONE
from excise.protocols.base import Item
from excise.protocols.concept import ATTRIBUTE
from excise.support.progress import Report, silent


def judged(
    items: Sequence[Item],
    requests: Sequence[tuple[str, int]],
    images: Images,
    judges: Sequence[Judge | OpenJudge],
    say: Report = silent,
) -> list[Shown]:
    """Return, for each image, what its prompt asks for and what one or two judges saw."""
    shown: list[Shown] = []
    for rows in parts_of(len(items)):
        say("judging", rows.start, len(items))
        part = slice(rows.start, rows.stop)
        shown += _judged(items[part], requests[part], images[part], judges)  # opened once for all that is asked of them
    say("judging", len(items), len(items))
    return shown


def parts_of(count: int) -> list[range]:
    """Consecutive rows in parts of as many images as judges look at together."""
    return [range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]


def _judged(
    items: Sequence[Item],
    requests: Sequence[tuple[str, int]],
    images: Sequence[Image.Image],
    judges: Sequence[Judge | OpenJudge],
) -> list[Shown]:
    """Judge a part of the images; the verdict on an image depends on that image alone."""
    verdicts = [verdicts_of(judge, items, images) for judge in judges] if any(i.asked for i in items) else []
    by_image = [[{a: v[a][i] for a in v} for v in verdicts] for i in range(len(items))]
    numbers: dict[str, list[float]] = {}
    for judge in judges:
        if isinstance(judge, Measuring):
            numbers |= judge.values(images, [i.prompt for i in items])
    detected = next((judge.part_scores(images) for judge in judges if isinstance(judge, Detecting)), None)
    return [
        Shown(
            group=item.group,
            prompt=item.prompt,
            seed=seed,
            asked=dict(item.asked),
            saw=views[0] if views and item.asked else {},
            second=views[1] if len(views) > 1 and item.asked else {},
            values={name: column[i] for name, column in numbers.items()},
            parts=detected[i] if detected is not None else None,
            target=item.target,
        )
        for i, (item, (_, seed), views) in enumerate(zip(items, requests, by_image, strict=True))
    ]


def verdicts_of(judge: Judge | OpenJudge, items: Sequence[Item], images: Sequence[Image.Image]) -> dict[str, list[str]]:
    """By attribute, what a judge sees in each image.

    An open judge is asked for the name that the prompt asks for; of several labels that an image shows the one that the
    prompt asks for counts, where it is among them, else the surest.
    """
    if isinstance(judge, OpenJudge) and any(ATTRIBUTE in item.asked for item in items):
        asking = [i for i, item in enumerate(items) if ATTRIBUTE in item.asked]
        names = [items[i].asked[ATTRIBUTE] for i in asking]
        shows = dict(zip(asking, judge.sees([images[i] for i in asking], names), strict=True))
        return {ATTRIBUTE: [item.asked[ATTRIBUTE] if shows.get(i) else NONE for i, item in enumerate(items)]}
    if isinstance(judge, MultiLabelJudge):
        rows = judge.all_verdicts(images)
        return {
            a: [_of_several(i.asked.get(a), labels) for i, labels in zip(items, rows[a], strict=True)] for a in rows
        }
    return judge.verdicts(images) if isinstance(judge, Judge) else {}


def _of_several(asked: str | None, labels: Sequence[str]) -> str:
    """The label that is asked for where an image shows it among others, else the surest."""
    return asked if asked in labels and asked is not None else next(iter(labels), NONE)
