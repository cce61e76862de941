"""On which images a table is made, at which size, and where what was done is kept."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from apd_train import Animals28, DataSource, source_of

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Setting:
    """What every job of a table is told.

    Args:
        quick: a small version, which shows that all works and says nothing of quality.
        work: folder of models and results of jobs, which tables share.
        data: images; those embedded in the package by default.
        size, patch: sides of an image and of a token, in pixels.
        digest: of the images, so that what is kept of some is not taken for others; none of the embedded ones.
    """

    quick: bool
    work: Path
    data: Path | None = None
    size: int = 28
    patch: int = 4
    digest: str = ""

    def at(self, full: T, quick: T) -> T:
        """One or the other, as this setting is."""
        return quick if self.quick else full

    @property
    def name(self) -> str:
        """Of the images."""
        return "animals28" if self.data is None else f"{self.data.stem}-{self.size}"

    @property
    def folder(self) -> Path:
        return self.work / "-".join([self.name, *([self.digest] if self.digest else []), *["quick"] * self.quick])

    @property
    def source(self) -> DataSource:
        return Animals28() if self.data is None else source_of(self.data)

    @property
    def flip(self) -> bool:
        """Whether training may mirror: animals look either way, other images may not."""
        return self.data is None

    @property
    def grid(self) -> tuple[int, int]:
        return self.size // self.patch, self.size // self.patch
