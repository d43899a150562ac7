"""Pages of the site that are made from the code while it is built, so that they cannot fall behind."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
COPIED = {
    'profile.md': ('benchmarks/results/profile.md', 'Networks in numbers',
                   '`vmambair profile --sizes 64 32 128 -o benchmarks/results` wrote this.'),
    'metrics-agreement.md': ('benchmarks/results/metrics.md', 'Metrics in numbers',
                             '`python -m benchmarks.metrics` wrote this: our metrics beside other implementations.'),
    'shapes.md': ('benchmarks/results/shapes.md', 'Shapes of the light preset',
                  '`python -m benchmarks.shapes` wrote this.'),
    'paper.md': ('benchmarks/paper/README.md', '', ''),
    'contributing.md': ('CONTRIBUTING.md', '', ''),
    'changes.md': ('CHANGELOG.md', '', ''),
}  # fmt: skip
"""Pages that are files of the project: path, title and first line where the file has none."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    pages = {name: _copied(*source) for name, source in COPIED.items()}
    pages |= {'networks.md': networks(), 'commands.md': commands(), 'options.md': options()}
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links to what a page is made from, which lead somewhere in a checkout as well, as links to the page."""
    sources = {path: name for name, (path, *_) in COPIED.items()}
    sources |= {'vmambair_arch/weights': 'networks.md', 'options': 'options.md'}
    return re.sub(r'\]\(\.\./([^)#]+)', lambda found: f']({sources.get(found[1], "../" + found[1])}', markdown)


def _copied(path: str, title: str, line: str) -> str:
    text = (ROOT / path).read_text(encoding='utf-8')
    return f'# {title}\n\n{line}\n\n{text}' if title else text


# ---------------------------------------------------------------- networks


def networks() -> str:
    """Presets, and the networks that come with the package by their cards."""
    import torch

    from vmambair_arch import VmambaIR
    from vmambair_arch.archs import PRESETS
    from vmambair_arch.checkpoints.find import bundled

    def count(name: str) -> float:
        with torch.device('meta'):
            return sum(parameter.numel() for parameter in VmambaIR.from_preset(name).parameters()) / 1e6

    rows = [
        (f'`{name}`', f'{arguments["num_blocks"]} + {arguments["num_refinement_blocks"]}', arguments.get('dim', 48),
         f'{count(name):.3f} M')
        for name, arguments in PRESETS.items()
    ]  # fmt: skip
    cards = [_card(path.with_suffix('.md').read_text(encoding='utf-8')) for path in bundled().values()]
    text = (ROOT / 'docs' / '_networks.md').read_text(encoding='utf-8')
    table = _table(('preset', 'blocks + refinement', 'width', 'parameters'), rows)
    return text.replace('{presets}', table).replace('{cards}', '\n\n'.join(cards))


def _card(text: str) -> str:
    """A model card as a part of a page: no front matter, its network hidden, headings two levels down, no citation."""
    text = re.sub(r'\A---\n.*?\n---\n', '', text, flags=re.DOTALL)
    text = text.partition('\n## Network\n')[0]
    text = re.sub(r'^(#+) ', r'##\1 ', text, flags=re.MULTILINE)
    return text.strip()


# ---------------------------------------------------------------- commands


def commands() -> str:
    """What each command of `vmambair` says to --help."""
    import os

    from vmambair_arch import cli

    os.environ['COLUMNS'] = '100'
    parts = ['# Commands\n\n`vmambair COMMAND --help` prints what follows. Exit codes: 0 done, 1 a part failed, 2 bad '
             'input, 3 training gave up, 129 SIGHUP, 130 Ctrl-C, 141 a closed pipe, 143 SIGTERM.']  # fmt: skip
    for group, names in cli.GROUPS.items():
        parts.append(f'## {group.capitalize()}')
        for name in names:
            parts.append(f'### {name}\n\n```text\n{cli.command_parser(name).format_help().strip()}\n```')
    return '\n\n'.join(parts) + '\n'


# ---------------------------------------------------------------- option files


def options() -> str:
    """The keys of option files, from the schema that `vmambair check --schema` prints."""
    from vmambair_arch.plugin import compat

    compat.apply()
    from vmambair_arch.preflight import schema

    whole = schema.schema()
    known = schema.Knowledge()
    text = (ROOT / 'docs' / '_options.md').read_text(encoding='utf-8')
    parts = {name: _section(part) for name, part in whole['properties'].items() if 'properties' in part}
    degradation = set(schema.degradation_texts())
    top = {'properties': {key: value for key, value in whole['properties'].items() if key not in degradation}}
    parts['top'] = _section(top, whole['required'])
    parts['degradation'] = _section(
        {'properties': {key: value for key, value in whole['properties'].items() if key in degradation}}
    )
    parts['wandb'] = _section(whole['properties']['logger']['properties']['wandb'])
    definitions = whole['definitions']
    parts['dataset'] = _section(definitions['dataset'])
    parts['rain'] = _section(definitions['rain'])
    parts['optimizer'] = _section(definitions['optimizer'])
    parts['datasets'] = _kinds(known.datasets)
    parts['models'] = _kinds(known.models)
    ours = {'network': ('VmambaIR', 'OSSNet'), 'loss': (), 'metric': (), 'scheduler': ()}
    for name, only in ours.items():
        parts[name] = _named(definitions[name], only)
    return re.sub(r'\{(\w+)\}', lambda match: parts[match[1]], text)


def _kinds(classes: dict[str, type]) -> str:
    """Classes of ours with the first sentence of each."""
    rows = []
    for name, code in classes.items():
        first = (code.__doc__ or '').strip().partition('\n')[0]
        rows.append((f'`{name}`', first or "BasicSR's pairs of images."))
    return _table(('type', 'what it is'), rows)


def _named(definition: dict[str, Any], only: Iterable[str]) -> str:
    """A table of arguments for each class that a section may name."""
    parts = []
    for branch in definition['allOf']:
        name = branch['if']['properties']['type']['const']
        section = branch['then']
        if (only and name not in only) or (name, '') in parts:
            continue
        table = _section({'properties': {k: v for k, v in section['properties'].items() if k != 'type'}},
                         section.get('required', ()))  # fmt: skip
        parts.append(f'#### `{name}`\n\n{table}')
    return '\n\n'.join(parts)


def _section(section: dict[str, Any], required: Iterable[str] = ()) -> str:
    from vmambair_arch.preflight.schema import MEANINGS

    order = {path[-1]: number for number, path in reversed(list(enumerate(MEANINGS)))}  # that of people, not of letters
    rows = []
    for key, value in sorted(section['properties'].items(), key=lambda item: order.get(item[0], len(order))):
        described = value.get('description', '')
        if not described and key not in required and 'default' not in value:
            continue
        default = value.get('default', '')
        shown = '**required**' if key in required else f'`{_yaml(default)}`' if 'default' in value else ''
        rows.append((f'`{key}`', _type(value), shown, described))
    return _table(('key', 'value', 'default', 'what it does'), rows) if rows else 'No arguments.'


def _type(value: dict[str, Any]) -> str:
    if 'enum' in value and len(value['enum']) < 8:
        return ', '.join(f'`{_yaml(v)}`' for v in value['enum'])
    if 'anyOf' in value:
        kinds = [_type(kind) for kind in value['anyOf']]
        return ' or '.join(kind for kind in dict.fromkeys(kinds) if kind)
    if 'const' in value:
        return f'`{_yaml(value["const"])}`'
    if '$ref' in value or 'properties' in value:
        return 'section'
    names = {'integer': 'whole number', 'boolean': 'true, false', 'object': 'section', 'string': 'text',
             'array': 'list', 'null': '~'}  # fmt: skip
    kinds = value.get('type', [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    text = ' or '.join(names.get(kind, kind) for kind in kinds)
    if kinds == ['array'] and value.get('items', {}).get('type'):
        text += f' of {_type(value["items"])}s'
    least = value.get('minimum')
    return f'{text}, at least {least}' if least is not None else text


def _yaml(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=1000).strip().removesuffix('\n...')
    return {'null': '~'}.get(text, text)


def _table(heads: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    heads = list(heads)
    lines = [heads, ['---'] * len(heads), *rows]
    return '\n'.join('| ' + ' | '.join(str(cell).replace('|', '\\|').replace('<', '&lt;') for cell in line) + ' |'
                     for line in lines)  # fmt: skip
