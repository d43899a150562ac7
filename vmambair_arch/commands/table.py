"""The commands of `vmambair` in groups, and each one's parser: a module with `EXAMPLES`, `add_arguments`, `run`."""

from __future__ import annotations

import argparse
import importlib
import re
import sys

from ..errors import nearest

GROUPS = {
    'restore': {
        'restore': 'restore an image, a video, or a folder of them',
        'web': 'restore photographs in the browser',
        'demo': 'train on photographs, restore some it has never seen, show it',
    },
    'train': {
        'prepare': 'lay out downloaded data sets as the option files read them',
        'check': 'find what is wrong with an option file and its data before a run',
        'train': 'train with BasicSR',
        'test': 'test with BasicSR',
        'plot': 'draw loss, learning rate, patch size, metrics and images of a training',
        'compare': 'trainings side by side: losses, metrics and speed in a table and a picture',
        'degrade': 'a sheet that shows what the real-world degradation does to a photo',
    },
    'measure': {
        'evaluate': 'metrics, tables and plots of restored images or checkpoints',
        'profile': 'parameters, multiply-adds, memory and time of networks',
        'explain': 'what a checkpoint looks at: receptive field and local attribution',
    },
    'checkpoints': {
        'info': 'what a checkpoint is: network, task, data, figures, checksum',
        'convert': 'write a checkpoint that explains itself, or a .pth for BasicSR',
        'interpolate': 'a network between two others',
        'card': 'write the model card of a checkpoint',
        'export': 'write a network as ONNX or for torch.export',
    },
    'environment': {
        'doctor': 'what is installed, which scan is used, and what would make it faster',
        'autoload': 'let plain `python -m basicsr.train` see this package, or no longer',
        'completion': 'print the script that lets bash, zsh or fish complete commands and options',
    },
}
"""Commands with a line each; nothing of a command is imported before it is asked for."""
COMMANDS = {name: text for group in GROUPS.values() for name, text in group.items()}


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are the package's one line, with a guess for a mistyped option or choice."""

    def error(self, message: str) -> None:  # type: ignore[override]
        _, _, unknown = message.partition('unrecognized arguments: ')
        options = [option for action in self._actions for option in action.option_strings]
        wrong = next((word for word in unknown.split() if word.startswith('-')), '')
        hint = nearest(wrong.partition('=')[0], options) if wrong else ''
        if choice := re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message):
            hint = nearest(choice[1], re.findall(r'[\w-]+', choice[2]))
        sys.stderr.write(f'{self.prog}: error: {message}{hint}; see {self.prog} --help\n')
        self.exit(2)


def command_parser(name: str) -> Parser:
    """The parser of one command, its examples below the options."""
    module = importlib.import_module(f'.{name}', __package__)
    examples = '\n'.join(f'  {line}' for line in module.EXAMPLES)
    parser = Parser(
        prog=f'vmambair {name}',
        description=COMMANDS[name][0].upper() + COMMANDS[name][1:] + '.',
        epilog=f'examples:\n{examples}',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    parser.set_defaults(run=module.run)
    return parser
