"""Which keys code reads of an option file, found in its source."""

from __future__ import annotations

import copy
import linecache

import pytest

from vmambair_arch.preflight.keys import keys_read_by

NAMES = ('sigma', 'beta')


def helper(section, noise):
    return section.get('width'), noise['level']


class Base:
    label = 'g'

    def __init__(self, opt):
        self.opt = opt
        self.folder = opt['path']['folder']
        self.build()

    def build(self):
        return self.opt['only_in_base']

    def both(self):
        return self.opt['both_base']


class Child(Base):
    def __init__(self, opt):
        super().__init__(opt)
        self.train_opt = copy.deepcopy(opt['train'])

    def build(self):  # does not call Base.build
        train = self.opt['train']
        if train.get('decay', 0) > 0 and 'clip' in train:
            self.rate = train['clip']
        weight, bias = self.train_opt.pop('weight', 1), train['bias']
        return weight, bias

    def both(self):
        return super().both(), self.opt['both_child']

    def loops(self):
        for name in ('alpha', *['x']):
            self.opt['val'].get(name)
        given = {name: self.opt[name] for name in NAMES if name in self.opt}
        for key in ('first', 'second'):
            given[key] = self.opt['loop'].get(key)
        losses = [value['type'] for key, value in self.opt['losses'].items() if key.endswith('_opt')]
        everything = {key: value.get('kind') for key, value in self.opt['metrics'].items()}
        return given, losses, everything

    def patterns(self):
        return self.opt[f'network_{self.label}'], self.opt['sizes'][0], self.opt['sizes'][1:]

    def hands_over(self):
        self._own(self.opt['own'])
        helper(self.opt['helped'], noise=self.opt['noise'])
        return dict(**self.opt['kwargs']), self.opt.get('maybe') or {}

    def _own(self, section):
        return section['inner']


@pytest.fixture(scope='module')
def known():
    return keys_read_by(Child, opt=())


def test_subscripts_gets_and_memberships(known):
    assert known.keys(('train',)) == {'decay', 'clip', 'weight', 'bias'}
    assert known.demands(('train',)) == {'bias'}


def test_attributes_and_bases(known):
    assert known.keys(('path',)) == {'folder'}
    assert {'both_base', 'both_child', 'maybe', 'loop', 'losses'} <= known.keys(())
    assert 'only_in_base' not in known.keys(())


def test_loops_over_names(known):
    assert {'sigma', 'beta'} <= known.keys(())
    assert known.keys(('loop',)) == {'first', 'second'}


def test_loops_over_sections(known):
    assert known.knows(('losses',), 'pixel_opt')
    assert not known.knows(('losses',), 'pixel_op')
    assert not known.is_open(('losses',))
    assert known.knows(('losses', 'pixel_opt'), 'type')
    assert known.is_open(('metrics',))
    assert known.knows(('metrics', 'psnr'), 'kind')


def test_patterns_and_indices(known):
    assert known.knows((), 'network_g')
    assert known.keys(('sizes',)) == set()


def test_sections_that_are_handed_over(known):
    assert known.keys(('own',)) == {'inner'}
    assert known.keys(('helped',)) == {'width'}
    assert known.keys(('noise',)) == {'level'}


def test_basicsr_pipeline():
    from vmambair_arch.plugin import compat

    compat.apply()
    import basicsr.train

    known = keys_read_by(basicsr.train.train_pipeline, opt=())
    assert {'total_iter', 'warmup_iter'} <= known.keys(('train',))
    assert {'print_freq', 'save_checkpoint_freq', 'use_tb_logger', 'wandb'} <= known.keys(('logger',))
    assert known.demands(('val',)) >= {'val_freq', 'save_img'}
    assert 'batch_size_per_gpu' in known.keys(('datasets', 'train'))
    assert not known.is_open(())


# ---------------------------------------------------------------- code that hands sections to itself


def walk(section):
    for value in section.values():
        if isinstance(value, dict):
            walk(value)
    return section['leaf']


def walk_names(section):
    return [walk_names(section[name]) for name in NAMES if name in section]


def there(section):
    return section['there'] and back(section['more'])


def back(section):
    return section['back'] and there(section['more'])


class Walker:
    def __init__(self, opt):
        self.opt = opt

    def merge(self):
        return self._merge(self.opt['own']), self.opt['beside']

    def _merge(self, section):
        return {key: self._merge(value) for key, value in section.items()}, self._other(section['other'])

    def _other(self, section):
        return self._merge(section['again'])


class Tree:
    def __init__(self, opt):
        self.name = opt['name']
        self.children = [Tree(child) for child in opt['children'].values()]
        self.left = Tree(opt['left'])


class Grower:
    """An attribute that grows with every call."""

    def __init__(self, opt):
        self.opt = opt
        self.place = opt['root']
        self.descend(self.place)

    def descend(self, section):
        self.place = section['next']
        self.descend(self.place)


def crowd(size):
    """Functions that all call each other."""
    functions = {'__name__': 'crowd'}
    calls = ', '.join(f'f{i}(section["k{i}"])' for i in range(size))
    for i in range(size):
        name = f'crowd_{i}'
        source = f'def f{i}(section):\n    return section["own{i}"], {calls}\n'
        linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
        exec(compile(source, name, 'exec'), functions)
    return functions['f0']


@pytest.mark.parametrize(
    ('code', 'section', 'known'),
    [
        (walk, (), 'leaf'),
        (walk_names, (), 'sigma'),
        (there, (), 'there'),
        (there, ('more',), 'back'),
        (Walker, (), 'beside'),
        (Walker, ('own',), 'other'),
        (Tree, (), 'name'),
        (Tree, ('left',), 'name'),
        (Grower, ('root',), 'next'),
    ],
)
def test_code_that_recurses_over_a_section(code, section, known):
    name = 'opt' if isinstance(code, type) else 'section'
    found = keys_read_by(code, **{name: ()})
    assert found.knows(section, known)


def test_what_recursion_hides_is_open():
    found = keys_read_by(there, section=())
    assert not found.is_open(())
    assert not found.is_open(('more',))
    assert found.is_open(('more',) * 4)
    assert len(found.required) < 12


def test_a_crowd_of_functions_that_all_call_each_other():
    found = keys_read_by(crowd(6), section=())
    assert found.knows((), 'own0')
    for i in range(6):  # no key of theirs is called unknown
        assert found.is_open((f'k{i}',)) or found.knows((f'k{i}',), f'own{i}')


def _asks(opt):
    return opt.get('rate'), 'clip' in opt, opt['train'].get('steps')


def _takes(opt):
    return opt['rate'], opt['train']['steps']


def _asks_and_takes(opt):
    return 'clip' in opt and opt['clip']


def test_what_one_asks_for_another_may_not_do_without():
    asks, takes, both = (keys_read_by(code, opt=()) for code in (_asks, _takes, _asks_and_takes))
    for joined in (asks | takes | both, both | (takes | asks), (asks | both) | takes, takes | takes | asks):
        assert joined.demands(()) == {'rate', 'train'}
        assert joined.demands(('train',)) == {'steps'}
        assert {'rate', 'clip', 'train'} <= joined.keys(())
    assert (asks | both).demands(()) == {'train'}
    assert (asks | both).demands(('train',)) == set()
