"""The sections of an option file: known keys, numbers where numbers belong, arguments that fit what they are for."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Collection, Mapping
from functools import cache
from typing import Any

from .elsewhere import key_hint, type_hint
from .keys import KeysRead, Path, keys_read_by, uses
from .kinds import hints, unlike
from .partners import check_partners
from .report import Report, dotted
from .values import NUMBER, check_values, looks_like_number, values_at

Options = Mapping[str, Any]

OURS = ('vmambair_arch', 'realesrgan_pipeline')
"""Packages whose option files hold no key that nothing reads. Those of others do, BasicSR's and Real-ESRGAN's own among
them, and what a stranger's class reads may be hidden too well to refuse a key."""

SET_BY_BASICSR = {
    (): {'auto_resume', 'dist', 'is_train', 'manual_seed', 'rank', 'root_path', 'world_size'},
    ('path',): {'experiments_root', 'log', 'models', 'results_root', 'root', 'training_states', 'visualization'},
}
"""Keys that are read, but not of the file."""

READ_BY_LAUNCHER = {'import'}
"""Keys at the top of a file that are read before BasicSR reads it, by `plugin.imports`."""

READ_BY_NOBODY = {('datasets', '*'): {'use_shuffle', 'mode'}, ('train',): {'manual_seed'}}
"""Keys that BasicSR's own option files have and nothing reads."""


def check_sections(options: Options, training: bool, report: Report) -> tuple[KeysRead, bool]:
    """Every section but the data: keys, values, and what is named by `type`.

    Returns:
        The keys that pipeline and model read, and whether these are all of them.
    """
    _check_numbers(options, (), report)
    known, strict = _known_keys(options, training, report)
    check_values(options, report, known)
    _check_presence(options, training, known, report)
    check_keys(options, (), known, strict, report)
    for section in ('path', 'val', 'logger', 'dist_params', *(('train',) if training else ())):
        if isinstance(options.get(section), Mapping):
            check_keys(options[section], (section,), known, strict, report)
    for place, wandb in values_at(options, ('logger', 'wandb')):
        if isinstance(wandb, Mapping):
            check_keys(wandb, place, known, strict, report)
    _check_metrics(options, report)
    if training and isinstance(options.get('train'), Mapping):
        _check_losses(options, strict, report)
        _check_partners(options, report)
    return known, strict


def _check_partners(options: Options, report: Report) -> None:
    """Keys without effect, where it is a model of ours that reads them."""
    from basicsr.utils.registry import MODEL_REGISTRY

    from ..models.vmambair_model import VmambaIRModel

    kind = options.get('model_type')
    model = dict(iter(MODEL_REGISTRY)).get(kind) if isinstance(kind, str) else None
    if model is not None and is_ours(model) and issubclass(model, VmambaIRModel):
        check_partners(options, model.labels, report)


# ---------------------------------------------------------------- keys


def _known_keys(options: Options, training: bool, report: Report) -> tuple[KeysRead, bool]:
    """What the pipeline and the model of a file read of it, and whether a key beyond that is a fault."""
    import basicsr.test
    import basicsr.train
    from basicsr.utils import MessageLogger
    from basicsr.utils.options import parse_options
    from basicsr.utils.registry import MODEL_REGISTRY

    from ..models.vmambair_model import VmambaIRModel

    known = keys_read_by(parse_options, opt=()) | keys_read_by(basicsr.train.train_pipeline, opt=())
    known |= keys_read_by(MessageLogger, opt=())  # which the pipeline builds, and does not ask where it asked
    known.optional |= {(key,) for key in READ_BY_LAUNCHER}
    if not training:  # files for testing keep keys of training, as `path: resume_state`
        known = KeysRead(known.optional | known.required, set(), known.open)
        known |= keys_read_by(basicsr.test.test_pipeline, opt=())
    kind = options.get('model_type')
    if kind is None:
        return known | _any_model(), False
    model = look_up(MODEL_REGISTRY, kind, 'model_type', report)
    if model is None:
        return known | _any_model(), False
    read = keys_read_by(model, opt=())
    if issubclass(model, VmambaIRModel):  # works out these names, and writes images without a suffix too
        labelled: set[Path] = {
            path for label in model.labels for path in ((f'network_{label}',), ('train', f'optim_{label}'))
        }
        read = KeysRead(read.optional | {('val', 'suffix')}, read.required, read.open) | KeysRead(required=labelled)
    return known | read, is_ours(model)


@cache
def _any_model() -> KeysRead:
    """What any of the registered models reads, and none of it required: for a file whose model is not known."""
    from basicsr.utils.registry import MODEL_REGISTRY

    known = KeysRead()
    for _, model in MODEL_REGISTRY:
        known |= keys_read_by(model, opt=())
    return KeysRead(known.optional | known.required, set(), known.open)


def is_ours(code: Any) -> bool:
    return (getattr(code, '__module__', '') or '').partition('.')[0] in OURS


def look_up(registry: Any, name: Any, where: str, report: Report) -> Any:
    """What a registry of BasicSR has under a name, or None and a fault that names the nearest."""
    if not isinstance(name, str):
        report.faults.append(f'{where} must be a name, not {name!r}')
        return None
    for candidate in (name, f'{name}_basicsr'):
        if candidate in registry:
            return dict(iter(registry))[candidate]
    names = [key.removesuffix('_basicsr') for key in registry.keys()]  # noqa: SIM118 not a mapping
    remedy = (
        type_hint(registry._name, name, names)
        + '; a package of your own that registers it is named by import: [package]'
    )
    report.faults.append(f"{where}: there is no '{name}'{remedy}, or by --import package")
    return None


def _check_presence(options: Options, training: bool, known: KeysRead, report: Report) -> None:
    """Sections and keys that the pipeline or the model reads without asking."""
    sections = ['path', 'datasets', *(['train', 'logger'] if training else ['val'])]
    wanted = known.demands(()) - SET_BY_BASICSR[()] - {'val'} if training else {'num_gpu'}  # val: not without it
    for key in sorted(wanted | {'name', 'model_type', 'network_g', *sections}):
        if key not in options:
            kind = 'section' if key in sections or key.startswith('network_') else 'key'
            report.faults.append(f"{kind} '{key}' is missing")
    for key in ('datasets', 'path', 'train', 'val', 'logger', *(k for k in options if str(k).startswith('network_'))):
        if key in options and not isinstance(options[key], Mapping) and (key != 'val' or options[key] is not None):
            what = 'is empty' if options[key] is None else f'must be a section, not {options[key]!r}'
            report.faults.append(f"section '{key}' {what}")
    sets = options.get('datasets')
    validates = not training or any(str(phase).startswith('val') for phase in sets or ())
    for section in ('train', 'logger', 'val'):
        if isinstance(options.get(section), Mapping) and (training or section == 'val'):
            # The suffix of saved images, which training does not have.
            unread = set() if not training and options[section].get('save_img') else {'suffix'}
            unread |= set() if validates else {'save_img', 'metrics'}
            for key in sorted(known.demands((section,)) - unread):
                empty = options[section].get(key) is None if section == 'train' else key not in options[section]
                if empty and not report.has(f'{section}: {key}'):
                    report.faults.append(f'{dotted(section, key)} is missing')


def check_keys(section: Options, path: Path, known: KeysRead, strict: bool, report: Report) -> None:
    if known.is_open(path):
        return
    silent = READ_BY_NOBODY.get(path, set())
    for key in map(str, section):
        if not known.knows(path, key) and key not in silent:
            names = [name for name in known.keys(path) if '*' not in name]
            text = f"{dotted(*path) + ': ' if path else ''}nothing reads '{key}'{key_hint((*path, key), names)}"
            (report.faults if strict else report.warnings).append(text)


# ---------------------------------------------------------------- values


def _check_numbers(value: Any, path: Path, report: Report) -> None:
    """Text where a number is meant: YAML reads `1e-3` as text."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _check_numbers(inner, (*path, str(key)), report)
    elif isinstance(value, list):
        for inner in value:
            _check_numbers(inner, path, report)
    elif path and looks_like_number(path[-1], value):
        report.faults.append(f"{dotted(*path)}: '{value}' is text to YAML; write {_as_yaml(value)}")


def _as_yaml(text: str) -> str:
    match = NUMBER.fullmatch(text)
    assert match, text
    sign, digits, exponent = match.groups()
    if exponent is None:
        return sign + digits
    return f'{sign}{digits if "." in digits else digits + ".0"}e{int(exponent):+d}'


def check_arguments(
    code: Callable[..., Any], given: Options, where: str, report: Report, *, supplied: Collection[str] = ()
) -> bool:
    """The keys of a section against the arguments of what it is for; `**kwargs` that it ignores take nothing.

    Args:
        code: the class or function.
        given: the section without `type`.
        where: its place, for messages.
        supplied: arguments that do not come from the section.

    Returns:
        Whether nothing is wrong with the section, other findings included.
    """
    parameters = inspect.signature(code).parameters
    names = [name for name, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    free = any(p.kind == p.VAR_KEYWORD and uses(code, name) for name, p in parameters.items())
    takes = [name for name in names if name not in supplied]
    types = hints(code) if is_ours(code) else {}  # those of others may be wrong
    for key in map(str, given):
        if key not in takes and not free:
            hint = key_hint((*where.split(': '), key), takes) or '; it takes ' + ', '.join(takes)
            report.faults.append(f"{where}: {code.__name__} has no '{key}'{hint}")
    for name in takes:
        default = parameters[name].default
        if name not in given:
            if default is inspect.Parameter.empty:
                report.faults.append(f"{where}: '{name}' is missing, which {code.__name__} needs")
            continue
        said = looks_like_number(name, given[name]) or report.has(f'{where}: {name}')
        if not said and (kind := unlike(given[name], default, types.get(name))):
            report.faults.append(f'{where}: {name} must be {kind}, not {given[name]!r}')
    return not report.has(where)


# ---------------------------------------------------------------- what is named by type


def typed_section(section: Any, registry: Any, where: str, report: Report) -> tuple[Any, dict[str, Any]] | None:
    """What a section names by `type`, and the rest of it; None and a fault where that cannot be."""
    if not isinstance(section, Mapping) or 'type' not in section:
        report.faults.append(f'{where}: type is missing')
        return None
    code = look_up(registry, section['type'], f'{where}: type', report)
    return None if code is None else (code, {key: value for key, value in section.items() if key != 'type'})


def _check_losses(options: Options, tried: bool, report: Report) -> None:
    """Build every loss; `tried`: call it as our models do (others' models may call theirs in other ways)."""
    from basicsr.utils.registry import LOSS_REGISTRY

    train = options['train']
    losses = {key: section for key, section in train.items() if str(key).endswith('_opt') and section}
    if not losses:
        report.faults.append('train: no loss; name one, as pixel_opt: {type: L1Loss}')
    live = 0
    for key, section in losses.items():
        where = f'train: {key}'
        named = typed_section(section, LOSS_REGISTRY, where, report)
        if named and check_arguments(*named, where, report) and not report.has(where):
            loss, given = named
            criterion, complaint = errors_of(loss, **given)
            if tried and not complaint and key != 'gan_opt':
                parts = train.get('accumulate')
                said, complaint = errors_of(_try_loss, criterion, smallest_patch(options), parts)
                live += bool(said)
            elif tried and not complaint:
                _, complaint = errors_of(_try_adversarial, criterion)
            if complaint:
                report.faults.append(f'{where}: {complaint}')
    if tried and losses and not live and not any(report.has(f'train: {key}') for key in losses):
        report.faults.append('train: no loss says anything: all are switched off by their weights; name pixel_opt')


LARGEST_TRIED = 256
"""Side of the largest patch that a loss is tried on: features of more pixels take seconds."""


def smallest_patch(options: Options) -> int:
    """Side in pixels of the smallest patch of the targets that a training will see; 64 where that cannot be told."""
    sets = options.get('datasets')
    section = sets.get('train') if isinstance(sets, Mapping) else None
    data: Options = section if isinstance(section, Mapping) else {}
    given = [options.get('gt_size'), data.get('gt_size')]
    stages = data.get('gt_sizes')
    given += stages if isinstance(stages, list) else []
    sides = [side for side in given if type(side) is int and side > 0]
    return min([*sides, LARGEST_TRIED]) if sides else 64


def _try_loss(criterion: Callable[..., Any], side: int, parts: object = None) -> bool:
    """One value and its gradient on a patch of the run's size: what the first iteration would end with shows now.

    Args:
        criterion: the loss.
        side: of the patch, pixels.
        parts: `train: accumulate`.

    Returns:
        Whether the loss says anything: not where all its terms are switched off.

    Raises:
        ValueError: no single finite number, or no gradient; whatever the loss itself raises.
    """
    import torch

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        torch.manual_seed(0)
        pred, target = torch.rand(2, 1, 3, side, side)
        values = criterion(pred.requires_grad_(), target)
        several = values if isinstance(values, (tuple, list)) else (values,)
        terms = [value for value in several if value is not None]
        if not all(isinstance(value, torch.Tensor) and value.numel() == 1 for value in terms):
            raise ValueError('its value is not one number, which a step needs (reduction: mean)')
        if not terms:
            return False
        total = torch.stack([value.reshape(()) for value in terms]).sum()
        on = f'on a patch of {side} x {side} pixels'
        if not total.requires_grad:
            raise ValueError('it has no gradient: nothing can be trained by it')
        total.backward()
        if not math.isfinite(float(total)) or pred.grad is None or not bool(pred.grad.isfinite().all()):
            raise ValueError(f'its value or gradient {on} is not finite')
        if type(parts) is int and parts > 1:
            _try_on_parts(criterion, pred.detach(), target, parts)
        return True


def _try_adversarial(criterion: Callable[..., Any]) -> None:
    """What the generator and the discriminator ask of `gan_opt`.

    Raises:
        ValueError: it gives no number; whatever the loss itself raises.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        logits = torch.rand(1, 1, 4, 4)
        for real, of_discriminator in ((True, False), (True, True), (False, True)):
            value = criterion(logits, real, is_disc=of_discriminator)
            if not isinstance(value, torch.Tensor) or value.numel() != 1:
                raise ValueError('it gives no single number for logits and whether they should be real; name GANLoss')


def _try_on_parts(criterion: Callable[..., Any], pred: Any, target: Any, parts: int) -> None:
    """Whether a batch of two images that are alike costs what one of them does: a step of parts takes their mean.

    Raises:
        ValueError: it does not.
    """
    import torch

    costs = []
    for images in (1, 2):
        torch.manual_seed(0)
        values = criterion(pred.repeat(images, 1, 1, 1), target.repeat(images, 1, 1, 1))
        several = values if isinstance(values, (tuple, list)) else (values,)
        costs.append(sum(float(value) for value in several if value is not None))
    if abs(costs[1] - costs[0]) > 0.01 * abs(costs[0]):
        raise ValueError(
            f'it grows with the number of images (reduction: sum, or a norm of all): with accumulate: {parts} a step '
            'would be another one; take a mean, or take accumulate out'
        )


def _check_metrics(options: Options, report: Report) -> None:
    from basicsr.utils.registry import METRIC_REGISTRY

    val = options.get('val')
    metrics = val.get('metrics') if isinstance(val, Mapping) else None
    if metrics is None:
        return
    if not isinstance(metrics, Mapping):
        report.faults.append(f'val: metrics must be a section, not {metrics!r}')
        return
    for name, section in metrics.items():
        where = f'val: metrics: {name}'
        named = typed_section(section, METRIC_REGISTRY, where, report)
        if not named:
            continue
        metric, given = named
        better = given.pop('better', None)
        if better not in (None, 'higher', 'lower'):
            report.faults.append(f"{where}: better must be 'higher' or 'lower', not {better!r}")
        check_arguments(metric, given, where, report, supplied=('img', 'img2'))
        default = inspect.signature(metric).parameters.get('better')
        lower = default.default == 'lower' if default else metric.__name__ == 'calculate_niqe'
        if lower and better is None:
            report.warnings.append(f"{where}: lower is better here; without 'better: lower' BasicSR keeps the worst")
        if not report.has(where):
            _try_metric(section, where, report)


def _try_metric(section: Options, where: str, report: Report) -> None:
    """Score a small picture: a package or a file of weights that is missing shows now, not at the first validation."""
    import numpy as np
    from basicsr.metrics import calculate_metric

    picture = np.random.default_rng(0).integers(0, 256, (96, 192, 3), dtype=np.uint8)
    with warnings.catch_warnings(), np.errstate(all='ignore'):
        warnings.simplefilter('ignore')
        pictures = {'img': picture, 'img2': 255 - picture}
        score, complaint = errors_of(lambda: float(calculate_metric(pictures, dict(section))))
    if complaint or not math.isfinite(score):
        report.faults.append(f'{where}: {complaint or f"scores a picture with {score}"}')
        return
    flat = np.full_like(picture, 128)
    with warnings.catch_warnings(), np.errstate(all='ignore'):
        warnings.simplefilter('ignore')
        _, complaint = errors_of(lambda: float(calculate_metric({'img': flat, 'img2': flat}, dict(section))))
    if complaint:
        report.warnings.append(f'{where}: cannot score a picture of one colour: {complaint}')


def errors_of(build: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[Any, str]:
    """What `build` returns, and '' — or None and its complaint. It is what the run would meet, whatever it is."""
    try:
        return build(*args, **kwargs), ''
    except Exception as error:
        text = (str(error).strip() or 'failed').splitlines()[0]
        plain = isinstance(error, (ValueError, NotImplementedError))
        return None, text if plain else f'{text} ({type(error).__name__})'
