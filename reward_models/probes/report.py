"""What a check found: one finding a probe, as a table to read and as JSON to keep."""

import json
import math
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

Verdict = Literal["pass", "fail", "not applicable"]
MARGIN = " " * 4
WIDTH = 110
"""Characters in a line of the table."""


class ProbeError(Exception):
    """Raised inside a probe whose reward cannot even be measured; its text is what the finding says."""


@dataclass(frozen=True)
class Finding:
    """One probe's verdict. `figure` passes when it is `bound` ("at most", "at least") `threshold`; without numbers both
    are None. `says`: what that means and, where it failed, what to do. `details`: further figures."""

    verdict: Verdict
    says: str
    figure: float | None = None
    bound: Literal["at most", "at least", ""] = ""
    threshold: float | None = None
    details: dict[str, float] = field(default_factory=dict)
    name: str = ""


def at_most(figure: float, threshold: float, good: str, bad: str, **details: float) -> Finding:
    """A finding that passes when figure <= threshold. NaN fails: what could not be measured was not shown."""
    passed = figure <= threshold
    return Finding("pass" if passed else "fail", good if passed else bad, figure, "at most", threshold, details)


def at_least(figure: float, threshold: float, good: str, bad: str, **details: float) -> Finding:
    """A finding that passes when figure >= threshold. NaN fails."""
    passed = figure >= threshold
    return Finding("pass" if passed else "fail", good if passed else bad, figure, "at least", threshold, details)


def not_applicable(why: str) -> Finding:
    """A finding of a probe that cannot say anything about this reward, with the reason."""
    return Finding("not applicable", why)


@dataclass(frozen=True)
class Report:
    """All findings about one reward on items of one kind. `str()` of it is the table."""

    kind: str
    items: int
    findings: Sequence[Finding]

    @property
    def failed(self) -> list[str]:
        """Names of the probes that failed."""
        return [finding.name for finding in self.findings if finding.verdict == "fail"]

    @property
    def exit_code(self) -> int:
        """0 where nothing failed, else 1."""
        return int(bool(self.failed))

    def __getitem__(self, name: str) -> Finding:
        """The finding of a probe. Raises KeyError for a probe that did not run."""
        return {finding.name: finding for finding in self.findings}[name]

    def to_json(self) -> str:
        """One JSON object: kind, items, failed, findings. A figure that is no number or infinite becomes null."""
        rows = [asdict(finding) for finding in self.findings]
        for row in rows:
            row["figure"] = _number(row["figure"])
            row["details"] = {name: _number(value) for name, value in row["details"].items()}
        whole = {"kind": self.kind, "items": self.items, "failed": self.failed, "findings": rows}
        return json.dumps(whole, ensure_ascii=False, indent=1, allow_nan=False)

    def __str__(self) -> str:
        passed = sum(finding.verdict == "pass" for finding in self.findings)
        unasked = len(self.findings) - passed - len(self.failed)
        head = f"{self.items} items ({self.kind}): {passed} pass, {len(self.failed)} fail, {unasked} not applicable"
        order = {"fail": 0, "pass": 1, "not applicable": 2}
        rows = sorted(self.findings, key=lambda finding: order[finding.verdict])
        return "\n".join([head, *(_row(finding) for finding in rows)])


def _row(finding: Finding) -> str:
    wanted = ""
    if finding.figure is not None and finding.threshold is not None:
        wanted = f"{finding.figure:.3g} ({finding.bound} {finding.threshold:g})"
    first = f"{finding.verdict:<14}  {finding.name:<16}  {wanted}".rstrip()
    return "\n".join([first, *textwrap.wrap(finding.says, WIDTH, initial_indent=MARGIN, subsequent_indent=MARGIN)])


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)
