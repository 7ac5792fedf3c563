"""What was done to a run, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field, fields


@dataclass
class Tally:
    """Counts of one run or of several."""

    trial_kills: int = 0
    manager_kills: int = 0
    resumes: int = 0
    tasks: int = 0
    lost: int = 0
    """Tasks of the undisturbed run without a result."""
    doubled: int = 0
    """Results too many."""
    mismatched: int = 0
    """Trials that worked with other parameters than NNI shows for them."""
    differing: int = 0
    """Results that are not those of the undisturbed run, bit for bit."""
    notes: list[str] = field(default_factory=list)

    def note_differences(self, key: str, names: list[str]) -> None:
        """Count a result that differs, and say in what."""
        if names:
            self.differing += 1
            self.notes.append(f"{key} differs in {', '.join(names)}")

    @property
    def is_good(self) -> bool:
        """Whether nothing happened that must not."""
        return not (self.lost or self.doubled or self.mismatched or self.differing)

    def __add__(self, other: Tally) -> Tally:
        return Tally(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))
