"""The versions that a read looks through."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, eq=False)
class Line:
    """A version and its ancestors along first parents, nearest first: where a read looks for a tree.

    What is known of who owns trees in it is true for one epoch: until an administrator gives a locked version a tree.
    """

    versions: tuple[str, ...]
    is_locked: bool
    epoch: int = 0

    @property
    def version(self) -> str:
        """The version itself."""
        return self.versions[0]
