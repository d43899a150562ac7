"""Which keys code reads of an option file, found in its source."""

from __future__ import annotations

import copy

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
