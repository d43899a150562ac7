"""What a check finds: all of it, not the first only."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

from ..errors import UserError

SHOWN = 5
"""Names that a line lists before it counts the rest."""


@dataclass
class Report:
    """The findings about one option file.

    Attributes:
        file: the option file.
        faults: what keeps a run from starting, one line each, naming the key or file.
        warnings: what a run should not be started without knowing.
        facts: what the run will be, for those who look.
    """

    file: str
    faults: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)

    def has(self, where: str) -> bool:
        """Whether a fault was found at a place: `datasets: train`."""
        return any(fault.startswith((f'{where}: ', f'{where} ')) for fault in self.faults)

    def lines(self) -> list[str]:
        """The report as it is printed: faults, warnings, and facts where there is no fault."""
        counted = f'{len(self.faults)} fault{"s" * (len(self.faults) != 1)}' if self.faults else 'no fault'
        return [
            f'{self.file}: {counted}',
            *(f'  {number:2d}. {fault}' for number, fault in enumerate(self.faults, 1)),
            *(f'  warning: {warning}' for warning in self.warnings),
            *(f'  {fact}' for fact in self.facts if not self.faults),
        ]

    def refuse(self) -> None:
        """Say the warnings, and refuse where there are faults.

        Raises:
            UserError: for one fault it is the fault itself, several are printed to stderr before it.
        """
        if len(self.faults) > 1:
            sys.stderr.write('\n'.join(self.lines()) + '\n')
            raise UserError(f'{self.file} has {len(self.faults)} faults, listed above; nothing was started')
        for warning in self.warnings:
            sys.stderr.write(f'vmambair: warning: {warning}\n')
        if self.faults:
            raise UserError(self.faults[0])


def dotted(*keys: object) -> str:
    """How messages name a place in an option file: `train: optim_g: lr`."""
    return ': '.join(str(key) for key in keys)


def some(names: list[str]) -> str:
    """A list for one line: the first names, and how many more."""
    more = f' and {len(names) - SHOWN} more' if len(names) > SHOWN else ''
    return ', '.join(names[:SHOWN]) + more
