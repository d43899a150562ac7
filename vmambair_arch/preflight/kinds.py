"""What kind of value an argument takes: by its type where that is written down, or else by its default."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from collections.abc import Sequence as AbstractSequence
from pathlib import Path
from typing import Any

from .values import is_number

_WORDS = {bool: 'true or false', int: 'a whole number', float: 'a number', str: 'text', Path: 'text'}


def hints(code: Callable[..., Any]) -> dict[str, Any]:
    """The types of the arguments of a class or function by name; {} where they cannot be worked out."""
    try:
        return typing.get_type_hints(code.__init__ if inspect.isclass(code) else code)
    except (NameError, TypeError, AttributeError):  # names that are there for type checkers only
        return {}


def unlike(value: Any, default: Any, hint: Any = None) -> str:
    """What a value of an option file must be instead, in words; '' where it may stand.

    Args:
        value: as YAML gives it.
        default: of the argument, which tells its kind where `hint` does not.
        hint: the type of the argument, if it is known.
    """
    if wanted := _words(hint):
        return '' if _fits(value, hint) or (value is None and default is None) else wanted
    if type(default) is bool:
        return '' if isinstance(value, bool) else 'true or false'
    if type(default) in (int, float):
        return '' if is_number(value) else 'a number'
    if isinstance(default, (list, tuple)):
        return '' if isinstance(value, list) else 'a list'
    return ''


def _words(hint: Any) -> str:
    """A type in words, with what it may be besides; '' for one that option files cannot be held against."""
    if hint in _WORDS:
        return _WORDS[hint]
    origin, parts = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin is typing.Literal:
        return ' or '.join(map(str, parts))
    if origin in (typing.Union, types.UnionType):
        kinds = dict.fromkeys('~' if part is type(None) else _words(part) for part in parts)
        return '' if '' in kinds else ' or '.join(kinds)
    if origin in (list, tuple, AbstractSequence):
        kind = _words(parts[0]) if parts else ''
        return f'a list, each {kind}' if kind else 'a list'
    return 'a section' if origin in (dict, Mapping) else ''


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a type that `_words` has words for."""
    origin, parts = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin is typing.Literal:
        return value in parts
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if origin in (list, tuple, AbstractSequence):
        return isinstance(value, list) and (not parts or not _words(parts[0]) or all(_fits(v, parts[0]) for v in value))
    if origin in (dict, Mapping):
        return isinstance(value, Mapping)
    if hint is float:
        return is_number(value)
    return type(value) is int if hint is int else isinstance(value, str if hint is Path else hint)
