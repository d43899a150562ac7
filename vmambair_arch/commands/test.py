"""`vmambair test`."""

from __future__ import annotations

import argparse

from ..plugin import launch

EXAMPLES = ('vmambair test -opt options/test_derain.yml',)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    launch.add_arguments(parser)


def run(args: argparse.Namespace) -> None:
    launch.test(args)
