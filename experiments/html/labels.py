"""What the classes are called."""

from collections.abc import Mapping
from typing import Any


class Labels:
    """Class names by number, where `environment.json` of the run has `class_names`; the numbers elsewhere."""

    def __init__(self, environment: Mapping[str, Any]) -> None:
        names = environment.get("class_names")
        self.names = [str(name) for name in names] if isinstance(names, list) else []

    def name(self, label: int) -> str:
        """`7`, or `7 truck` where the class has a name of its own."""
        known = self.names[label] if 0 <= label < len(self.names) else str(label)
        return known if known == str(label) else f"{label} {known}"

    def pair(self, pair: tuple[int, int]) -> str:
        """`4 → 9`."""
        return f"{self.name(pair[0])} → {self.name(pair[1])}"
