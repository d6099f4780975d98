"""People as judges: the files that the rating page saves, read back as verdicts with the agreement of the raters."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from excise.concepts.concept import normalise_name
from excise.errors import JudgeError
from excise.judges.local import import_optional
from excise.metrics.estimate import Estimate
from excise.support.counts import counted

COLUMNS = ("page", "rater", "concept", "pair", "picture", "shows", "seconds")
ANSWERS = {"yes": True, "no": False}
RESAMPLES = 500


def picture_id(image: Image.Image) -> str:
    """Return what names a picture in a rating file: a digest of its pixels, which does not tell which model drew it."""
    plain = image.convert("RGB")
    return hashlib.sha256(repr(plain.size).encode() + plain.tobytes()).hexdigest()[:20]


@dataclass(frozen=True)
class Rating:
    """One answer of one person: whether a picture shows the concept."""

    rater: str
    concept: str
    pair: str
    picture: str
    shows: bool


class Raters:
    """People as an open judge: a picture shows the concept where at least half of the answers say so.

    Args:
        ratings: of all raters.

    Raises:
        JudgeError: they are of more than one concept.
    """

    def __init__(self, ratings: Sequence[Rating]) -> None:
        concepts = sorted({r.concept for r in ratings})
        if len(concepts) != 1:
            raise JudgeError(f"the ratings are of {' and '.join(concepts)}; give those of one concept at a time.")
        self.concept = concepts[0]
        self.raters = sorted({r.rater for r in ratings})
        self.answers: dict[str, dict[str, list[bool]]] = {}
        for r in ratings:
            self.answers.setdefault(r.picture, {}).setdefault(r.rater, []).append(r.shows)
        self.name = f"{counted(len(self.raters), 'rater')} ({', '.join(self.raters)})"

    def sees(self, images: Sequence[Image.Image], names: Sequence[str]) -> list[bool]:
        """Return for each image whether the raters see the concept in it; nobody was asked for other names.

        Raises:
            JudgeError: an image that was to be asked about was rated by nobody.
        """
        ids = [picture_id(image) if self.knows(name) else "" for image, name in zip(images, names, strict=True)]
        missing = [i for i in ids if i and i not in self.answers]
        if missing:
            raise JudgeError(
                f"{counted(len(missing), 'picture')} of {len(ids)} {'was' if len(missing) == 1 else 'were'} rated by "
                "nobody; make the page of these folders (--rate FILE), have all pairs rated, and give what it saves."
            )
        return [bool(i) and self._majority(i) for i in ids]

    @property
    def vocabulary(self) -> list[str]:
        """What the raters were asked for."""
        return [self.concept]

    def knows(self, name: str) -> bool:
        """Return whether the raters were asked for a name."""
        return normalise_name(name) == normalise_name(self.concept)

    def agreement(self) -> Estimate | None:
        """Return Krippendorff's alpha over the raters, with an interval from resampling pictures.

        None for one rater, or where all answers are the same, of which alpha says nothing.

        Raises:
            ModelError: its package is not installed.
        """
        several = [answers for answers in self.answers.values() if len(answers) > 1]
        if not several:
            return None
        package = import_optional("krippendorff", "ratings", "the agreement of raters")
        table = np.array([[self._one(rater, answers) for answers in several] for rater in self.raters], dtype=float)
        whole = _alpha(package, table)
        if whole is None:
            return None
        rng = np.random.default_rng(0)
        draws = (_alpha(package, table[:, rng.integers(table.shape[1], size=table.shape[1])]) for _ in range(RESAMPLES))
        low, high = np.quantile([d for d in draws if d is not None], [0.025, 0.975])
        return Estimate(whole, min(whole, float(low)), max(whole, float(high)), table.shape[1])

    def _majority(self, picture: str) -> bool:
        answers = [shows for one in self.answers[picture].values() for shows in one]
        return 2 * sum(answers) >= len(answers)

    @staticmethod
    def _one(rater: str, answers: Mapping[str, Sequence[bool]]) -> float:
        """A rater's answer on a picture that may have stood in several pairs; NaN without one."""
        own = answers.get(rater, ())
        return float(2 * sum(own) >= len(own)) if own else float("nan")


def _alpha(package: object, table: np.ndarray) -> float | None:
    """Krippendorff's alpha of answers (raters, pictures); None where it is undefined."""
    if len(np.unique(table[~np.isnan(table)])) < 2:
        return None
    return float(package.alpha(reliability_data=table, level_of_measurement="nominal"))  # type: ignore[attr-defined]


def read_ratings(files: Sequence[Path]) -> Raters:
    """Return the raters of some rating files.

    Raises:
        JudgeError: a file cannot be read, lacks a column, has an answer that is neither yes nor no, or a row twice.
    """
    ratings: list[Rating] = []
    seen: dict[tuple[str, str, str], str] = {}
    for file in files:
        for number, row in enumerate(_rows(file), 1):
            where = f"row {number} of {file}"
            if row["shows"] not in ANSWERS:
                raise JudgeError(f"{where} answers '{row['shows']}'; expected yes or no.")
            key = (row["rater"], row["pair"], row["picture"])
            if key in seen:
                raise JudgeError(
                    f"{where} and {seen[key]} rate the same picture by {row['rater']}; give each file once, and let "
                    "two people have two names."
                )
            seen[key] = where
            ratings.append(Rating(row["rater"], row["concept"], row["pair"], row["picture"], ANSWERS[row["shows"]]))
    if not ratings:
        raise JudgeError(f"there are no ratings in {', '.join(map(str, files))}.")
    return Raters(ratings)


def _rows(file: Path) -> list[dict[str, str]]:
    try:
        rows = list(csv.DictReader(io.StringIO(file.read_text(encoding="utf-8-sig"))))
    except (OSError, ValueError, csv.Error) as error:
        raise JudgeError(f"cannot read ratings from {file}: {error}. Expected a file that the page saved.") from error
    lacking = [c for c in COLUMNS[1:6] if rows and c not in rows[0]]
    if lacking or any(row[c] is None for row in rows for c in COLUMNS[1:6]):
        raise JudgeError(f"{file} is no rating file: expected the columns {', '.join(COLUMNS)}.")
    return rows
