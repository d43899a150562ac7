"""Keys that do nothing, because another key that gives them their meaning is missing or switches them off.

They are warnings: one key is changed for one run (`--force_yml train:ema_decay=0`), and what hangs on it stays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from .keys import Path
from .report import Report, dotted
from .values import values_at

Section = Mapping[str, Any]


class Partner(NamedTuple):
    """A key and what it needs.

    Attributes:
        path: of the key, or a pattern; the last entry is in the section that `there` is asked about.
        there: whether the section has what the key needs.
        needs: the same in words.
    """

    path: Path
    there: Callable[[Section], Any]
    needs: str


def _averaged(train: Section) -> bool:
    decay = train.get('ema_decay')
    return any(decay) if isinstance(decay, list) else bool(decay)


def _any_of(*keys: str) -> Callable[[Section], bool]:
    return lambda section: any(section.get(key) for key in keys)


_AVERAGE = 'train: ema_decay above 0'
_CODEC = 'codec_prob or codec_prob2 above 0'

PARTNERS: tuple[Partner, ...] = (
    Partner(('train', 'ema_power'), _averaged, _AVERAGE),
    Partner(('train', 'ema_update_after_step'), _averaged, _AVERAGE),
    Partner(('train', 'ema_gamma'), _averaged, _AVERAGE),
    Partner(('train', 'ema_gamma'), lambda train: train.get('ema_power') or not _averaged(train), 'train: ema_power'),
    Partner(('train', 'grad_clip'), lambda train: train.get('use_grad_clip', True), 'use_grad_clip: true'),
    Partner(('train', 'optim_*', 'decay_state_space'), lambda optim: optim.get('weight_decay', 1), 'weight_decay'),
    Partner(('val', 'tile_overlap'), _any_of('tile'), 'val: tile'),
    *(
        Partner((*place, f'{kind}_{setting}'), _any_of(f'{kind}_prob'), f'{kind}_prob above 0')
        for place in ((), ('datasets', 'train'))
        for kind, setting in (('screentone', 'range'), ('halo', 'range'), ('subsampling', 'list'))
    ),
    *(
        Partner((*place, key), _any_of('codec_prob', 'codec_prob2'), _CODEC)
        for place in ((), ('datasets', 'train'))
        for key in ('codec_list', 'codec_weights')
    ),
    Partner(('datasets', '*', 'enlarge'), _any_of('enlarge_probability'), 'enlarge_probability above 0'),
    Partner(
        ('datasets', '*', 'filename_tmpl'),
        lambda data: data['filename_tmpl'] == '{}' or data.get('dataroot_lq') or data.get('sources'),
        'dataroot_lq',
    ),
    *(Partner(('datasets', '*', name, '*'), lambda mixing: mixing.get('probability', 1), 'a probability above 0')
      for name in ('mixup', 'cutmix', 'cutblur')),
)  # fmt: skip
"""Of the models and data sets of this package; what a label needs is worked out by `_check_labels`."""

_LABELLED: tuple[tuple[Path, str], ...] = (
    ((), 'network_'), (('path',), 'pretrain_network_'), (('train',), 'optim_'), (('train',), 'scheduler_'),
)  # fmt: skip
"""Keys that end in the label of a network, by section."""


def check_partners(options: Section, labels: tuple[str, ...], report: Report) -> None:
    """A warning for every key that has a value and no effect.

    Args:
        options: of a training by a model of ours.
        labels: of the networks that the model has, as `g`.
        report: gets the warnings.
    """
    for path, there, needs in PARTNERS:
        for place, section in values_at(options, path[:-1]):
            if not isinstance(section, Mapping):
                continue
            for found, value in values_at(section, path[-1:]):
                if _says_something(found[-1], value) and not there(section):
                    report.warnings.append(f'{dotted(*place, *found)} does nothing without {needs}')
    _check_labels(options, labels, report)


def _says_something(key: str, value: Any) -> bool:
    """Whether a key stands for more than "none": also not the probability that switches the others off."""
    return value is not None and value is not False and value != 0 and key != 'probability'


def _check_labels(options: Section, labels: tuple[str, ...], report: Report) -> None:
    """Networks, and what is theirs, of which the model has none; a loss of a GAN as well."""
    has = ' and '.join(f'network_{label}' for label in labels)
    for path, prefix in _LABELLED:
        for _, section in values_at(options, path):
            for key in section if isinstance(section, Mapping) else ():
                label = str(key).removeprefix(prefix)
                if str(key).startswith(prefix) and label not in labels and section[key] is not None:
                    report.warnings.append(
                        f'{dotted(*path, key)} does nothing: {options["model_type"]} has {has} alone'
                    )
    train = options.get('train')
    if 'd' not in labels and isinstance(train, Mapping) and train.get('gan_opt'):
        report.warnings.append(f'train: gan_opt does nothing: {options["model_type"]} has {has} alone')
