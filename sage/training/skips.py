"""Counts what a data set had to leave out, and names it."""

from collections import defaultdict

NAMES_KEPT = 10  # of each reason; the count goes on


class Skips:
    """Things that were skipped, by reason."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = defaultdict(int)
        self.names: dict[str, list[str]] = defaultdict(list)

    def add(self, reason: str, name: str) -> None:
        """Count one more thing under a reason such as "picture is missing"."""
        # A file's name may be no text at all: bytes that are no UTF-8.
        name = name.encode("utf-8", "replace").decode()
        self.counts[reason] += 1
        if len(self.names[reason]) < NAMES_KEPT:
            self.names[reason].append(name)

    def sentences(self) -> list[str]:
        """One for each reason: how many, and the first names."""
        return [
            f"Skipped, {reason}: {count} ({', '.join(self.names[reason])}"
            f"{', ...' if count > len(self.names[reason]) else ''})"
            for reason, count in self.counts.items()
        ]

    def record(self) -> dict[str, dict]:
        """The same as plain values, ready for JSON."""
        return {r: {"count": c, "names": self.names[r]} for r, c in self.counts.items()}
