"""Option files: read safely, changed from the command line."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import yaml

from .errors import UserError, nearest


class OptionLoader(yaml.SafeLoader):
    """YAML's safe loader, which runs no code, and which takes no key twice.

    Attributes:
        faults: where keys that are there twice are noted; None raises a UserError for the first.
    """

    faults: list[str] | None = None

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Here and not where values are made: merge keys put the keys of others into a mapping on the way there.
        node = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode):
                key = (key_node.tag, key_node.value)
                if key in seen:
                    mark = key_node.start_mark
                    fault = (
                        f"{mark.name}, line {mark.line + 1}: key '{key_node.value}' is there twice; keep one of them"
                    )
                    if self.faults is None:
                        raise UserError(fault)
                    self.faults.append(fault)
                seen.add(key)
        return node

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None:
            _expanded(node, {}, set())
        return node


MOST_VALUES = 100_000
"""Values that an option file may come to once its aliases are written out."""


def _expanded(node: yaml.Node, known: dict[int, int], above: set[int]) -> int:
    """How many values a node comes to.

    Raises:
        UserError: more than anybody means, or an alias of what it stands in.
    """
    place = f'{node.start_mark.name}, line {node.start_mark.line + 1}'
    if id(node) in above:
        raise UserError(f'{place}: an alias (*name) stands inside of what it means; write it out')
    if id(node) not in known:
        inner: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            inner = node.value
        elif isinstance(node, yaml.MappingNode):
            inner = [value for pair in node.value for value in pair]
        known[id(node)] = 1 + sum(_expanded(part, known, above | {id(node)}) for part in inner)
        if known[id(node)] > MOST_VALUES:
            raise UserError(f'{place}: aliases (*name) make more than {MOST_VALUES} values of this; write less')
    return known[id(node)]


def load_options(path: str | Path, faults: list[str] | None = None) -> dict[str, Any]:
    """An option file as nested dicts.

    Args:
        path: the file.
        faults: where keys that are there twice are noted; None raises for the first.

    Raises:
        UserError: no such file, no YAML, a key that is there twice, no sections.
    """
    try:
        with Path(path).open(encoding='utf-8-sig') as file:
            loader = OptionLoader(file)
            loader.faults = faults
            options = loader.get_single_data()
    except FileNotFoundError:
        raise UserError(f'no option file {path}{_ours(Path(path).name)}') from None
    except RecursionError:
        raise UserError(f'option file {path} is nested too deeply to be one') from None
    except UnicodeDecodeError as error:
        raise UserError(f'option file {path} is no UTF-8 text (byte {error.start}); save it as UTF-8') from None
    except OSError as error:
        raise UserError(f'option file {path} cannot be read: {error.strerror or error}') from None
    except yaml.YAMLError as error:
        mark = getattr(error, 'problem_mark', None)
        where = f', line {mark.line + 1}' if mark else ''
        problem = getattr(error, 'problem', None) or str(error).replace('\n', ' ')
        raise UserError(f'{path}{where} is not valid YAML: {problem}') from None
    if not isinstance(options, dict):
        raise UserError(f'option file {path} holds no sections')
    return options


def parse_value(text: str) -> Any:
    """The value of `--force_yml key=text`, read as YAML reads it; `none` and `1e-4` too."""
    if text.lower() == 'none':
        return None
    text = text.removeprefix('!!float ')
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    try:
        return yaml.load(text, Loader=OptionLoader)
    except yaml.YAMLError:
        return text


def _key_and_value(entry: str) -> tuple[list[str], str]:
    keys, equals, value = entry.partition('=')
    parts = [part.strip() for part in keys.split(':')]
    # BasicSR makes a line of Python of the keys.
    if not equals or '=' in value or not all(parts) or any(letter in keys for letter in '"\\\n\r'):
        raise UserError(f'--force_yml: {entry!r} is not of the form section:key=value')
    return parts, value.strip()


def written_plainly(entry: str) -> str:
    """An entry of `--force_yml` without the blanks around its keys, which BasicSR would take for letters of them.

    Raises:
        UserError: as `override`.
    """
    keys, value = _key_and_value(entry)
    return f'{":".join(keys)}={value}'


def override(options: dict[str, Any], entries: list[str] | None) -> None:
    """Change `options` in place by entries `train:ema_decay=0.99` of `--force_yml`.

    Raises:
        UserError: an entry without `=`, or one whose section is not in the file.
    """
    for entry in entries or ():
        keys, value = _key_and_value(entry)
        *sections, key = keys
        place: Any = options
        for section in sections:
            place = place.get(section) if isinstance(place, dict) else None
        if not isinstance(place, dict):
            raise UserError(f"--force_yml: '{entry}' names a section that the option file does not have")
        place[key] = parse_value(value)


_FOLDERS = (Path(__file__).parent / 'options', Path(__file__).parents[1] / 'options')  # installed, or a checkout


def option_file(name: str) -> Path:
    """The path of an option file of this project, from a checkout or an installed package.

    Raises:
        UserError: there is none of that name.
    """
    for folder in _FOLDERS:
        if (folder / name).is_file():
            return folder / name
    present = sorted({path.name for folder in _FOLDERS for path in folder.glob('*.yml')})
    raise UserError(f"no option file '{name}'{nearest(name, present)}; there are {', '.join(present)}")


def option_folder() -> Path:
    """Where the option files of this project are."""
    return option_file('train_derain.yml').parent


def _ours(name: str) -> str:
    """For a message: where this project has an option file of that name."""
    there = next((folder / name for folder in _FOLDERS if (folder / name).is_file()), None)
    return f'; {there} is of that name: give that, or a copy' if there else ''


def read_options(arguments: argparse.Namespace, faults: list[str] | None = None) -> dict[str, Any]:
    """The option file as a pipeline sees it: with `--force_yml` and under the name of `--debug`.

    Args:
        arguments: of `launch.add_arguments`.
        faults: as in `load_options`.

    Raises:
        UserError: as in `load_options` and `override`.
    """
    options = load_options(arguments.opt, faults)
    override(options, arguments.force_yml)
    if arguments.debug and not str(options.get('name', '')).startswith('debug'):
        options['name'] = f'debug_{options.get("name", "")}'
    return options
