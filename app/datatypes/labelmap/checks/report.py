"""What a check found: each difference goes to whoever listens, the report itself keeps counts and a few examples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

#: Differences of a kind that a report keeps.
EXAMPLES = 20

Difference = dict[str, Any]


@dataclass
class Found:
    """The differences of one kind: how many, and the first of them."""

    count: int = 0
    examples: list[Difference] = field(default_factory=list)


class Report:
    """Differences by kind. Faults make data wrong; notes may be meant so, such as coarser scales written apart.

    `listener` is told every difference as it is found: its kind and its fields, JSON values all.
    """

    def __init__(self, listener: Callable[[str, Difference], None] = lambda kind, difference: None) -> None:
        self._listener = listener
        self.faults: dict[str, Found] = {}
        self.notes: dict[str, Found] = {}
        #: What was looked at: blocks, entries, supervoxels, groups.
        self.seen: dict[str, int] = {}

    def fault(self, kind: str, **difference: Any) -> None:
        """Report something that is wrong."""
        self._add(self.faults, kind, difference)

    def note(self, kind: str, **difference: Any) -> None:
        """Report something that may be meant so."""
        self._add(self.notes, kind, difference)

    def saw(self, what: str, count: int) -> None:
        """Count what was looked at."""
        self.seen[what] = self.seen.get(what, 0) + count

    @property
    def is_clean(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults

    def summary(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {
            "seen": self.seen,
            "faults": {kind: found.count for kind, found in self.faults.items()},
            "notes": {kind: found.count for kind, found in self.notes.items()},
        }

    def _add(self, table: dict[str, Found], kind: str, difference: Difference) -> None:
        found = table.setdefault(kind, Found())
        found.count += 1
        if len(found.examples) < EXAMPLES:
            found.examples.append(difference)
        self._listener(kind, difference)
