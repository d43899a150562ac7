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

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode):
                key = self.construct_object(key_node)
                if key in seen:
                    mark = key_node.start_mark
                    fault = f"{mark.name}, line {mark.line + 1}: key '{key}' is there twice; keep one of them"
                    if self.faults is None:
                        raise UserError(fault)
                    self.faults.append(fault)
                seen.add(key)
        return super().construct_mapping(node, deep)


def load_options(path: str | Path, faults: list[str] | None = None) -> dict[str, Any]:
    """An option file as nested dicts.

    Args:
        path: the file.
        faults: where keys that are there twice are noted; None raises for the first.

    Raises:
        UserError: no such file, no YAML, a key that is there twice, no sections.
    """
    try:
        with Path(path).open(encoding='utf-8') as file:
            loader = OptionLoader(file)
            loader.faults = faults
            options = loader.get_single_data()
    except FileNotFoundError:
        raise UserError(f'no option file {path}') from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'option file {path} cannot be read: {error}') from None
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


def override(options: dict[str, Any], entries: list[str] | None) -> None:
    """Change `options` in place by entries `train:ema_decay=0.99` of `--force_yml`.

    Raises:
        UserError: an entry without `=`, or one whose section is not in the file.
    """
    for entry in entries or ():
        keys, equals, value = entry.partition('=')
        if not equals or '=' in value:
            raise UserError(f"--force_yml: '{entry}' is not of the form section:key=value")
        *sections, key = (part.strip() for part in keys.split(':'))
        place: Any = options
        for section in sections:
            place = place.get(section) if isinstance(place, dict) else None
        if not isinstance(place, dict):
            raise UserError(f"--force_yml: '{entry}' names a section that the option file does not have")
        place[key] = parse_value(value.strip())


def option_file(name: str) -> Path:
    """The path of an option file of this project, from a checkout or an installed package.

    Raises:
        UserError: there is none of that name.
    """
    here = Path(__file__).parent
    folders = (here / 'options', here.parent / 'options')
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    present = sorted({path.name for folder in folders for path in folder.glob('*.yml')})
    raise UserError(f"no option file '{name}'{nearest(name, present)}; there are {', '.join(present)}")


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
