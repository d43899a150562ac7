"""Which keys of an option file somebody reads: found in the source of BasicSR's pipeline and of the classes it names.

BasicSR has no list of its options. A key is known where code reads it, as `opt['train']['total_iter']`,
`self.opt.get('ema_decay')` or `'mean' in opt`. The source is followed through assignments, loops and the functions
that a section is handed to, so that the keys of somebody's own data set or model are known as well.

Paths are tuples of keys from the root of the file; an entry may be a pattern (`network_*`).
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

Path = tuple[str, ...]
_READERS = ('get', 'pop', 'setdefault')
_STANDARD = ('torch', 'builtins', 'collections', 'numpy')
_PRINTERS = ('dict2str',)  # show every key and read none
_DEPTH = 2
"""How many times code is followed into itself; what it reads further down cannot be told."""
_MOST = 1000
"""Pairs of a function and its sections that are followed at most, where many functions call each other."""


@dataclass
class KeysRead:
    """What code reads of an option file.

    Attributes:
        optional: read by `get`, `pop` or after `in`.
        required: read by subscript.
        open: sections that are read whole; their keys cannot be told.
        readers: what each of several pieces of code reads, where these are joined.
    """

    optional: set[Path] = field(default_factory=set)
    required: set[Path] = field(default_factory=set)
    open: set[Path] = field(default_factory=set)
    readers: tuple[KeysRead, ...] = ()

    def __or__(self, other: KeysRead) -> KeysRead:
        return KeysRead(
            self.optional | other.optional,
            self.required | other.required,
            self.open | other.open,
            (self.readers or (self,)) + (other.readers or (other,)),
        )

    def keys(self, section: Path) -> set[str]:
        """Keys and patterns that are read of a section."""
        depth = len(section)
        paths = (path for path in self.optional | self.required if len(path) > depth)
        return {path[depth] for path in paths if _fits(section, path[:depth])}

    def knows(self, section: Path, key: str) -> bool:
        return any(fnmatchcase(key, known) for known in self.keys(section))

    def is_open(self, section: Path) -> bool:
        return any(len(path) == len(section) and _fits(section, path) for path in self.open)

    def demands(self, section: Path) -> set[str]:
        """Keys of a section that a reader reads and never asks for, whatever the others do."""
        if self.readers:
            return set().union(*(reader.demands(section) for reader in self.readers))
        asked = {path[-1] for path in self.optional if _fits(section, path[:-1])}
        wanted = {path[-1] for path in self.required if _fits(section, path[:-1])}
        return {key for key in wanted if '*' not in key and not any(fnmatchcase(key, known) for known in asked)}


def _fits(path: Path, pattern: Path) -> bool:
    return len(path) == len(pattern) and all(fnmatchcase(a, b) for a, b in zip(path, pattern, strict=True))


@cache
def keys_read_by(code: Callable[..., Any] | type, **sections: Path) -> KeysRead:
    """The keys that a function or a class with its bases reads.

    Args:
        code: a function, whose parameters or variables hold sections, or a class that keeps its options in `self.opt`.
        sections: the names that hold sections, and which: `opt=()`.
    """
    found = KeysRead()
    _follow(code, {name: (path,) for name, path in sections.items()}, found, set(), ())
    return found


def _follow(
    code: Any, sections: dict[str, tuple[Path, ...]], found: KeysRead, seen: set, within: tuple[Any, ...]
) -> None:
    mark = (code, tuple(sorted(sections.items())))
    if mark in seen or _too_deep(code, sections, found, seen, within):
        return
    seen.add(mark)
    within = (*within, code)
    if inspect.isclass(code):
        attributes: dict[str, tuple[Path, ...]] = {'opt': sections.get('opt', ())}
        functions = list(_methods(code))
        for _ in range(2):  # attributes that one method sets are known to the others
            for function in functions:
                own = sections if function.__name__ == '__init__' else {}
                _Reader(function, {'opt': attributes['opt'], **own}, found, seen, within, code, attributes).read()
    elif inspect.isfunction(code):
        _Reader(code, sections, found, seen, within).read()


def _too_deep(
    code: Any, sections: dict[str, tuple[Path, ...]], found: KeysRead, seen: set, within: tuple[Any, ...]
) -> bool:
    """Whether code hands sections on to itself without end; then their keys cannot be told."""
    if within.count(code) < _DEPTH and len(seen) < _MOST:
        return False
    found.open.update(path for paths in sections.values() for path in paths)
    return True


def _methods(cls: type) -> Iterator[Callable[..., Any]]:
    """The methods that an object of a class runs: those of its bases as far as `super()` leads to them."""
    reached: dict[str, bool] = {}
    for base in cls.__mro__:
        for name, function in vars(base).items():
            if inspect.isfunction(function) and not _standard(base) and reached.get(name, True):
                yield function
                tree = _tree(function)
                reached[name] = tree is not None and f'super().{name}(' in ast.unparse(tree).replace(
                    f'super({base.__name__}, self)', 'super()'
                )


def _standard(code: Any) -> bool:
    return (getattr(code, '__module__', None) or 'builtins').partition('.')[0] in _STANDARD


@cache
def _tree(function: Callable[..., Any]) -> ast.FunctionDef | None:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function)))).body[0]
    except (OSError, TypeError, SyntaxError):
        return None
    return tree if isinstance(tree, ast.FunctionDef) else None  # a lambda's line is whatever it stands in


def uses(code: Callable[..., Any] | type, name: str) -> bool:
    """Whether a function, or the constructor of a class, does something with a name; yes where that cannot be told."""
    tree = _tree(code.__init__ if inspect.isclass(code) else code)
    return tree is None or any(isinstance(node, ast.Name) and node.id == name for node in ast.walk(tree))


class _Reader(ast.NodeVisitor):
    """Walks through one function with what its names hold: sections (`paths`) or texts (`texts`)."""

    def __init__(
        self,
        function: Callable[..., Any],
        sections: dict[str, tuple[Path, ...]],
        found: KeysRead,
        seen: set,
        within: tuple[Any, ...] = (),
        owner: type | None = None,
        attributes: dict[str, tuple[Path, ...]] | None = None,
    ) -> None:
        self.function = inspect.unwrap(function)
        self.paths = dict(sections)
        self.texts: dict[str, list[str]] = {}
        self.found, self.seen, self.within, self.owner = found, seen, within, owner
        self.attributes = attributes if attributes is not None else {}

    def read(self) -> None:
        tree = _tree(self.function)
        if tree is not None:
            self.tree = tree
            for statement in tree.body:
                self.visit(statement)

    # what an expression is

    def sections(self, node: ast.AST) -> tuple[Path, ...]:
        """The sections that an expression can be."""
        if isinstance(node, ast.Name):
            return self.paths.get(node.id, ())
        if isinstance(node, ast.Attribute):
            if isinstance(node.value, ast.Name) and node.value.id == 'self':
                return self.attributes.get(node.attr, ())
            return self.attributes.get('opt', ()) if node.attr == 'opt' else ()  # model.opt
        if isinstance(node, ast.Subscript):
            return self._below(self.sections(node.value), node.slice)
        if isinstance(node, ast.BoolOp):
            return sum((self.sections(value) for value in node.values), ())
        if isinstance(node, ast.IfExp):
            return self.sections(node.body) + self.sections(node.orelse)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in _READERS and node.args:
                return self._below(self.sections(node.func.value), node.args[0])
            if node.func.attr == 'copy' and not node.args:
                return self.sections(node.func.value)
        if isinstance(node, ast.Call) and node.args and ast.unparse(node.func) in ('dict', 'copy.deepcopy', 'deepcopy'):
            return self.sections(node.args[0])
        return ()

    def _below(self, sections: tuple[Path, ...], key: ast.AST) -> tuple[Path, ...]:
        return tuple((*section, text) for section in sections for text in self.strings(key) or ())

    def strings(self, node: ast.AST) -> list[str] | None:
        """The texts or patterns that an expression can be, or runs through; None where that cannot be told."""
        if isinstance(node, ast.Constant):
            return [node.value] if isinstance(node.value, str) else None
        if isinstance(node, ast.JoinedStr):
            return [''.join(str(part.value) if isinstance(part, ast.Constant) else '*' for part in node.values)]
        if isinstance(node, (ast.Tuple, ast.List, ast.Set)):
            parts = [self.strings(part) for part in node.elts]
            known = [part for part in parts if part is not None]
            return sum(known, []) if len(known) == len(parts) else None
        if isinstance(node, ast.Name) and node.id in self.texts:
            return self.texts[node.id]
        return _texts(self._value(node))

    def _value(self, node: ast.AST) -> Any:
        """The object that a dotted name stands for outside the function, as far as that is written down."""
        if isinstance(node, ast.Name):
            return self.function.__globals__.get(node.id)
        if isinstance(node, ast.Attribute):
            if isinstance(node.value, ast.Name) and node.value.id in ('self', 'cls'):
                return getattr(self.owner, node.attr, None)
            base = self._value(node.value)
            return None if base is None else getattr(base, node.attr, None)
        return None

    # what a statement does

    def _note(self, sections: Iterable[Path], key: ast.AST, into: set[Path]) -> None:
        if isinstance(key, (ast.Slice, ast.Constant)) and not isinstance(getattr(key, 'value', None), str):
            return  # an index
        texts = self.strings(key)
        if texts is None:  # a key that is worked out: any text in this function may be it
            texts = [n.value for n in ast.walk(self.tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
            texts = [text for text in texts if text.isidentifier()]
            into = self.found.optional
        into.update((*section, text) for section in sections for text in texts)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if isinstance(node.ctx, ast.Load):
            self._note(self.sections(node.value), node.slice, self.found.required)
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        if isinstance(node.ops[0], (ast.In, ast.NotIn)):
            self._note(self.sections(node.comparators[0]), node.left, self.found.optional)
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        for target in node.targets:
            pairs = [(target, node.value)]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(target.elts, node.value.elts, strict=False))
            for name, value in pairs:
                self._bind(name, self.sections(value), self.strings(value))

    def visit_For(self, node: ast.For) -> None:
        self._loop(node.target, node.iter, node)
        self.generic_visit(node)

    def visit_ListComp(self, node: ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp) -> None:
        for generator in node.generators:
            self._loop(generator.target, generator.iter, node)
        self.generic_visit(node)

    visit_SetComp = visit_DictComp = visit_GeneratorExp = visit_ListComp  # noqa: N815

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Attribute) and node.func.attr in _READERS and node.args:
            self._note(self.sections(node.func.value), node.args[0], self.found.optional)
        self._hand_over(node)
        self.generic_visit(node)

    def _bind(self, target: ast.AST, sections: tuple[Path, ...], texts: list[str] | None) -> None:
        if isinstance(target, ast.Name):
            self.paths[target.id] = sections or self.paths.get(target.id, ()) if target.id == 'opt' else sections
            self.texts.pop(target.id, None)
            if texts is not None:
                self.texts[target.id] = texts
        elif isinstance(target, ast.Attribute) and sections and target.attr != 'opt':
            self.attributes[target.attr] = sections

    def _loop(self, target: ast.AST, over: ast.AST, loop: ast.AST) -> None:
        """Bind what a loop runs through: the items of a section, several sections, or texts."""
        if isinstance(over, ast.Call) and isinstance(over.func, ast.Name) and over.func.id == 'sorted' and over.args:
            over = over.args[0]
        method, items = '', over
        if isinstance(over, ast.Call) and isinstance(over.func, ast.Attribute):
            method = over.func.attr
            items = over.func.value if method in ('items', 'keys', 'values') else over
        if sections := self.sections(items):
            key: ast.AST | None = target
            value: ast.AST | None = None
            if method == 'values':
                key, value = None, target
            elif isinstance(target, ast.Tuple):
                key, value = target.elts
            patterns = _filters(key, loop)
            if patterns is None:
                self.found.open.update(sections)
                patterns = ['*']
            within = tuple((*section, pattern) for section in sections for pattern in patterns)
            self.found.optional.update(within)
            if value is not None:
                self._bind(value, within, None)
            if key is not None:
                self._bind(key, (), patterns)
        elif isinstance(over, (ast.Tuple, ast.List)) and any(self.sections(part) for part in over.elts):
            self._bind(target, sum((self.sections(part) for part in over.elts), ()), None)
        else:
            self._bind(target, (), self.strings(over))

    def _hand_over(self, call: ast.Call) -> None:
        """Follow a section into the function or class that it is given to."""
        places: list[tuple[int | str | None, ast.expr]] = [*enumerate(call.args)]
        places += [(keyword.arg, keyword.value) for keyword in call.keywords]
        given = [(place, paths) for place, value in places if (paths := self.sections(value))]
        if not given:
            return
        callee = self._value(call.func)
        callee = inspect.unwrap(callee) if callable(callee) else None
        if callee is None or _standard(callee) or getattr(callee, '__name__', None) in _PRINTERS:
            return
        try:
            parameters = list(inspect.signature(callee).parameters.values())
        except (TypeError, ValueError):
            return
        names = [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        owner = call.func.value if isinstance(call.func, ast.Attribute) else None
        own = isinstance(owner, ast.Name) and owner.id == 'self'
        if own and names[:1] == ['self']:
            names = names[1:]
        if inspect.ismethod(callee):
            callee = callee.__func__
        sections: dict[str, tuple[Path, ...]] = {}
        for place, paths in given:
            if place is None:  # **section: its keys are the arguments
                self.found.optional.update((*path, name) for path in paths for name in names)
                if any(p.kind == p.VAR_KEYWORD for p in parameters):
                    self.found.open.update(paths)
            elif isinstance(place, str) or place < len(names):
                sections[place if isinstance(place, str) else names[place]] = paths
        if not sections:
            return
        if not own:
            _follow(callee, sections, self.found, self.seen, self.within)
            return
        mark = (callee, *(tuple(sorted(known.items())) for known in (sections, self.attributes)))
        if mark in self.seen or _too_deep(callee, sections, self.found, self.seen, self.within):
            return
        self.seen.add(mark)
        within = (*self.within, callee)
        _Reader(callee, sections, self.found, self.seen, within, self.owner, self.attributes).read()


def _texts(value: Any) -> list[str] | None:
    """A text, or a collection of texts, as a list."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, (tuple, list, set, frozenset)) and value and all(isinstance(part, str) for part in value):
        return list(value)
    return None


def _filters(key: ast.AST | None, loop: ast.AST) -> list[str] | None:
    """The patterns of the keys that a loop over a section acts on, as `key.endswith('_opt')`; None if it takes all.

    A loop that looks into its keys (`'resume' in key`) does something to keys that are read elsewhere.
    """
    patterns, chooses = [], False
    for node in ast.walk(loop):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _same(node.func.value, key):
            if node.func.attr in ('startswith', 'endswith') and isinstance(node.args[0], ast.Constant):
                text = str(node.args[0].value)
                patterns.append(f'{text}*' if node.func.attr == 'startswith' else f'*{text}')
        elif isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In):
            chooses = chooses or _same(node.comparators[0], key)
    return patterns if patterns or chooses else None


def _same(node: ast.AST, name: ast.AST | None) -> bool:
    return isinstance(node, ast.Name) and isinstance(name, ast.Name) and node.id == name.id
