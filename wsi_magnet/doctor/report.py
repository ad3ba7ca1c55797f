"""What an examination has found so far, and says as it finds it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from wsi_magnet.doctor.lines import Line

Notify = Callable[[Line], None]


@dataclass(slots=True)
class Report:
    """Lines and facts so far."""

    tell: Notify
    """Is told each line as it is found."""
    lines: list[Line] = field(default_factory=list)
    facts: list[Any] = field(default_factory=list)

    def add(self, fact: Any, lines: Iterable[Line]) -> None:
        """A fact and what is to be said of it."""
        self.facts.append(fact)
        for line in lines:
            self.lines.append(line)
            self.tell(line)

    def found(self, kind: type[Any]) -> Any:
        """The first fact of a kind, or None."""
        return next((fact for fact in self.facts if isinstance(fact, kind)), None)

    @property
    def problems(self) -> int:
        """Lines that say that a run will not work."""
        return sum(line.state == "PROBLEM" for line in self.lines)

    @property
    def warnings(self) -> int:
        """Lines that say that it will work less well."""
        return sum(line.state == "warning" for line in self.lines)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        facts = [{"kind": type(fact).__name__, **asdict(fact)} for fact in self.facts]
        lines = [asdict(line) for line in self.lines]
        return {"problems": self.problems, "warnings": self.warnings, "lines": lines, "facts": facts}
