"""`vmambair completion`: scripts that the shells understand, and that complete what there is."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from vmambair_arch import cli
from vmambair_arch.commands import completion
from vmambair_arch.commands.arguments import TASKS

pytest.importorskip('shtab')


@pytest.mark.parametrize('shell', completion.SHELLS)
def test_the_script_names_every_command(shell, capsys):
    assert cli.main(['completion', shell]) == 0
    text = capsys.readouterr().out
    assert [name for name in cli.COMMANDS if name not in text] == []


@pytest.mark.parametrize('shell', completion.SHELLS)
def test_the_shell_reads_the_script(shell, tmp_path):
    if not shutil.which(shell):
        pytest.skip(f'no {shell} here')
    path = tmp_path / f'completion.{shell}'
    path.write_text(completion.script(shell), encoding='utf-8')
    found = subprocess.run([shell, '-n', path], capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (0, '')


@pytest.mark.parametrize(
    ('words', 'expected'),
    [
        (['vmambair', 'rest'], ['restore']),
        (['vmambair', 'restore', '--self'], ['--self-ensemble']),
        (['vmambair', 'restore', '--task', ''], list(TASKS)),
        (['vmambair', 'autoload', ''], ['on', 'off']),
    ],
)
def test_bash_completes_commands_options_and_choices(words, expected, tmp_path):
    path = tmp_path / 'completion.bash'
    path.write_text(completion.script('bash'), encoding='utf-8')
    line = ' '.join(f"'{word}'" for word in words)
    commands = f"""
        source '{path}'
        COMP_WORDS=({line}) COMP_CWORD={len(words) - 1}
        _shtab_vmambair vmambair '{words[-1]}' '{words[-2]}'
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    found = subprocess.run(['bash', '-c', commands], capture_output=True, text=True, check=True)
    assert found.stdout.split() == expected
