"""The command `vmambair`: its commands in groups; each is a module of `commands` with `add_arguments` and `run`."""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from collections.abc import Sequence

from . import __version__
from .errors import guard, nearest

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
    module = importlib.import_module(f'.commands.{name}', __package__)
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


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code: 0, that of a UserError (2 for bad input), 130 after Ctrl-C."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in COMMANDS:
        args = command_parser(words[0]).parse_args(words[1:])
        return guard(lambda: args.run(args))
    lines = [f'\n{group}:\n' + ''.join(f'  {n:<10} {t}\n' for n, t in names.items()) for group, names in GROUPS.items()]
    parser = Parser(
        prog='vmambair',
        usage='vmambair COMMAND [options]',
        description='VmambaIR for BasicSR: image restoration.\n' + ''.join(lines),
        epilog='vmambair COMMAND --help shows the options of a command, with examples.',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--version', action='version', version=f'vmambair {__version__}')
    parser.add_argument('command', nargs='?', metavar='COMMAND', help=argparse.SUPPRESS)
    name = parser.parse_known_args(words)[0].command
    if name is None:
        parser.error('which command?')
    parser.error(f"unknown command '{name}'{nearest(name, list(COMMANDS))}")
    return 2
