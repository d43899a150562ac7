"""`vmambair train`."""

from __future__ import annotations

import argparse

from ..plugin import launch

EXAMPLES = ('vmambair train -opt options/train_derain_light.yml --auto_resume',)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    launch.add_arguments(parser)


def run(args: argparse.Namespace) -> None:
    launch.train(args)
