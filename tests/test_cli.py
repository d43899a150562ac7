"""The command line itself: what it lists, what it says to a typing error, and that each command explains itself."""

from __future__ import annotations

import subprocess
import sys

import pytest

from vmambair_arch import cli


def test_help_lists_every_command(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(['--help'])
    assert end.value.code == 0
    text = capsys.readouterr().out
    for name, line in cli.COMMANDS.items():
        assert f'  {name:<10} {line}' in text


@pytest.mark.parametrize('name', cli.COMMANDS)
def test_every_command_explains_itself_with_an_example_that_parses(name, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([name, '--help'])
    assert end.value.code == 0
    text = capsys.readouterr().out
    parser = cli.command_parser(name)
    module = __import__(f'vmambair_arch.commands.{name}', fromlist=['EXAMPLES'])
    for example in module.EXAMPLES:
        assert example in text
        program, command, *words = example.split()
        assert (program, command) == ('vmambair', name)
        parser.parse_args(words)


@pytest.mark.parametrize(
    ('words', 'hint'),
    [
        (['restor', 'a.png'], "unknown command 'restor' (did you mean 'restore'?)"),
        (['restore', 'a.png', '--tyle', '3'], "(did you mean '--tile'?)"),
        (['restore', 'a.png', '--task', 'derian'], "(did you mean 'derain'?)"),
        (['doctor', '--nonsense'], 'unrecognized arguments: --nonsense'),
        ([], 'which command?'),
    ],
)
def test_a_typing_error_is_one_line_with_a_guess(words, hint, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    assert end.value.code == 2
    errors = capsys.readouterr().err
    assert hint in errors
    assert errors.count('\n') == 1


def test_no_help_waits_for_numpy_or_torch():
    code = """
import sys
from vmambair_arch.cli import COMMANDS, command_parser
for name in COMMANDS:
    command_parser(name).format_help()
    slow = {'numpy', 'torch', 'cv2', 'PIL', 'basicsr'} & set(sys.modules)
    assert not slow, f'{name} imports {slow}'
"""
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, '')
