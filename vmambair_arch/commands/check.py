"""`vmambair check`."""

from __future__ import annotations

import argparse

from ..plugin import launch

EXAMPLES = ('vmambair check -opt options/train_derain.yml',)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    launch.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    report = launch.check(args)
    print('\n'.join(report.lines()))
    return 2 if report.faults else 0
