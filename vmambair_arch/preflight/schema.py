"""The JSON schema of option files, which editors complete and check by, made of what the check knows.

The keys are those that BasicSR's pipelines, the models and the data sets read (`keys`), arguments are those of what a
section names by `type`, values are the rules of `sections`, and the texts come from the docstrings of the classes and,
for keys of BasicSR's own, from `MEANINGS`. `vmambair check --schema` prints it.
"""

from __future__ import annotations

import inspect
import json
import re
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from collections.abc import Sequence as AbstractSequence
from fnmatch import fnmatchcase
from typing import Any

from realesrgan_pipeline.realesrgan_dataset import SOURCE_KEYS as SINGLE_KEYS

from ..data.pairs import SOURCE_KEYS as PAIRED_KEYS
from .keys import KeysRead, Path, keys_read_by
from .kinds import hints
from .sections import OURS, READ_BY_LAUNCHER, READ_BY_NOBODY, SET_BY_BASICSR
from .values import VALUES

Schema = dict[str, Any]

SECTIONS: tuple[Path, ...] = (
    (), ('path',), ('train',), ('val',), ('logger',), ('logger', 'wandb'), ('dist_params',), ('datasets', '*'),
)  # fmt: skip
"""The sections whose keys are found in source code; what is named by `type` has arguments instead."""

MEANINGS: dict[Path, str] = {
    ('name',): 'Name of the experiment: the folder below experiments/ or results/. Names with debug log and validate '
    'in every few iterations.',
    ('model_type',): 'The model: what is trained, on what, by which losses.',
    ('gt_size',): 'Side of the patches after the degradation, in pixels of the target.',
    ('queue_size',): 'Pairs in the pool that batches are mixed from; a multiple of the batch.',
    ('import',): 'Packages of your own to import first, by name: what they register can be named by `type`.',
    ('scale',): 'How many times larger the output is; 1 for deraining and deblurring.',
    ('num_gpu',): 'GPUs of one process: auto takes all there are, 0 is the CPU.',
    ('manual_seed',): 'Seed of every random number of the run; without it one is drawn.',
    ('datasets',): 'The data: sections train and val (val_1, val_2, ...) to train, test_1, test_2, ... to test.',
    ('network_*',): 'A network: type, and the arguments of that class.',
    ('network_g',): 'The network that restores: type, and the arguments of that class.',
    ('network_d',): 'The discriminator of a GAN.',
    ('path',): 'Checkpoints to start from.',
    ('train',): 'Length, losses, optimisers and learning rate of a training.',
    ('val',): 'When to validate, and by which metrics.',
    ('logger',): 'What is written while training, and how often.',
    ('dist_params',): 'How several processes find each other.',
    ('find_unused_parameters',): 'Of DistributedDataParallel: for networks that leave parameters unused.',
    ('path', 'pretrain_network_*'): 'Checkpoint that the network starts from, a file; ~ for none.',
    ('path', 'param_key_*'): 'Weights to take from that checkpoint: params, or params_ema for the averaged ones.',
    ('path', 'strict_load_*'): 'true: all parameters must be there and fit.',
    ('path', 'resume_state'): 'Training state (.state) to go on from. --auto_resume finds the newest by itself.',
    ('path', 'ignore_resume_networks'): 'Networks that a resume leaves as path names them.',
    ('train', 'total_iter'): 'Iterations of the whole training.',
    ('train', 'warmup_iter'): 'Iterations in which the learning rate rises from 0; -1 for none.',
    ('train', 'ema_decay'): 'Decay of the average over the weights (EMA), which validates and is saved as params_ema; '
    '0 for none.',
    ('train', 'optim_*'): 'An optimiser: type, and the arguments of that class.',
    ('train', 'scheduler'): 'The course of the learning rate.',
    ('train', 'scheduler_*'): 'The course of the learning rate of one network in place of `scheduler`.',
    ('train', '*_opt'): 'A loss: type, and the arguments of that class.',
    ('train', 'gan_opt'): 'The adversarial loss; its weight is that of the generator only.',
    ('train', 'pixel_opt'): 'The loss between the pixels of output and target.',
    ('train', 'perceptual_opt'): 'The loss between features of a VGG network.',
    ('train', 'grad_clip'): 'Largest norm of the gradients; larger ones are scaled down.',
    ('val', 'val_freq'): 'Validate after so many iterations.',
    ('val', 'param_key'): 'The weights that are validated: params, params_ema (the default where weights are averaged) '
    'or a further average, as params_ema_0.9999.',
    ('val', 'save_img'): 'Save the restored images.',
    ('val', 'suffix'): 'Added to the names of saved images; ~ adds the name of the experiment.',
    ('val', 'pbar'): 'Show progress.',
    ('val', 'metrics'): 'Metrics by a name of your choice: type, and the arguments of that metric.',
    ('val', 'tile'): 'Largest side of a tile, for images that do not fit in memory; without it whole images.',
    ('val', 'tile_overlap'): 'Pixels that neighbouring tiles share.',
    ('logger', 'print_freq'): 'Write a line of the log after so many iterations.',
    ('logger', 'save_checkpoint_freq'): 'Save a checkpoint and a training state after so many iterations.',
    ('logger', 'use_tb_logger'): 'Write TensorBoard files to tb_logger/.',
    ('logger', 'keep_last'): 'Keep the newest N checkpoints, and the networks with the best metrics; ~ keeps all.',
    ('logger', 'wandb'): 'Weights & Biases, which reads what TensorBoard gets.',
    ('logger', 'wandb', 'project'): 'Name of the project; ~ for none.',
    ('logger', 'wandb', 'resume_id'): 'Run of Weights & Biases to go on with.',
    ('dist_params', 'backend'): 'nccl for GPUs; gloo is taken where there are none.',
    ('dist_params', 'port'): 'Port of the first process, where Slurm starts the run.',
    ('dist_params', 'launcher'): 'Set by --launcher.',
    ('datasets', '*', 'name'): 'Name of the data set, for logs and results.',
    ('datasets', '*', 'type'): 'The class that reads it.',
    ('datasets', '*', 'dataroot_gt'): 'Folder of the clean images (ground truth), or an LMDB.',
    (
        'datasets',
        '*',
        'dataroot_label',
    ): 'Folder or LMDB of what a teacher network makes of the inputs, under the names of '
    'the targets; losses `label_..._opt` look at it.',
    ('datasets', '*', 'dataroot_lq'): 'Folder of the degraded images (low quality), or an LMDB; the names are those of '
    'the clean ones.',
    ('datasets', '*', 'filename_tmpl'): "Name of an input by the name of its target, such as '{}x4'.",
    ('datasets', '*', 'io_backend'): 'Where images are read from.',
    ('datasets', '*', 'io_backend', 'type'): 'disk: image files; lmdb: a database of BasicSR.',
    ('datasets', '*', 'pairs_file'): 'List of the pairs, `input target` a line, below dataroot_lq and dataroot_gt.',
    ('datasets', '*', 'meta_info_file'): 'List of the images to take, names relative to dataroot_gt, one a line.',
    ('datasets', '*', 'gt_size'): 'Side of the patches, in pixels of the target.',
    ('datasets', '*', 'batch_size_per_gpu'): 'Images in a batch, for each process.',
    ('datasets', '*', 'num_worker_per_gpu'): 'Processes that read images, for each process that trains.',
    ('datasets', '*', 'dataset_enlarge_ratio'): 'Count the data so many times over in an epoch.',
    ('datasets', '*', 'persistent_workers'): 'Keep the reading processes from epoch to epoch.',
    ('datasets', '*', 'pin_memory'): 'Read into memory that a GPU copies from faster.',
    (
        'datasets',
        '*',
        'prefetch_mode',
    ): '~, cpu to read further ahead, or cuda to copy the next batch to the GPU early.',
    (
        'datasets',
        '*',
        'num_prefetch_queue',
    ): 'Batches that the workers read further ahead under prefetch_mode cpu; 1 unless said.',
    ('datasets', '*', 'manual_seed'): 'Seed of the data alone, in place of the seed of the run.',
    ('datasets', '*', 'color'): 'y: images of luma alone.',
    ('datasets', '*', 'mean'): 'Subtracted from the images, one number a channel.',
    ('datasets', '*', 'std'): 'The images are divided by it, one number a channel.',
    ('datasets', '*', 'use_shuffle'): "Of BasicSR's option files; nothing reads it.",
    ('datasets', '*', 'mode'): "Of BasicSR's option files; nothing reads it.",
    ('train', 'manual_seed'): "Of BasicSR's option files; nothing reads it.",
    ('datasets', '*', 'sources'): 'Several folders instead of one, a list: each with its roots, lists and backend, and '
    'any weight.',
    ('datasets', '*', 'sources', 'weight'): "The folder's share of the draws, of the sum of all weights.",
    ('datasets', '*', 'recursive'): 'Folders below the folders count as well; a/001.png belongs to a/001.png.',
    ('datasets', '*', 'rain'): 'Let synthetic rain fall on the targets instead of reading inputs; {} for its defaults.',
}
"""Keys that no docstring of ours explains."""

_FROM_RUN = {'phase', 'scale', 'total_iter', 'start_iter', 'num_replicas'}
"""Keys of a data section that the run sets."""

_ENTRY = re.compile(r'^( +)(`?[\w<>*]+`?(?:, `?[\w<>*]+`?)*): (.+)$')


def described(code: Any) -> dict[str, str]:
    """Names that a docstring explains, in lines `name, other: text` or `` `name`: text``, with their texts."""
    found: dict[str, str] = {}
    lines = (inspect.getdoc(code) or '').splitlines()
    for number, line in enumerate(lines):
        entry = _ENTRY.match(line)
        if not entry:
            continue
        text = [entry[3]]
        for following in lines[number + 1 :]:
            if not following.startswith(entry[1] + ' '):
                break
            text.append(following.strip())
        sentence = ' '.join(text).replace('`', '')
        for name in entry[2].split(', '):
            key = re.sub(r'<\w+>', '*', name.strip('`'))
            found.setdefault(key, sentence[0].upper() + sentence[1:])
    return found


# ---------------------------------------------------------------- arguments


def argument_schemas(code: Callable[..., Any], supplied: Collection[str] = ()) -> Schema:
    """The section that holds the arguments of a class or function: properties, those without default required."""
    parameters = inspect.signature(code).parameters
    texts = described(code)
    for base in getattr(code, '__mro__', ())[1:]:
        texts = described(base) | texts if _of(base) in ('basicsr', *OURS) else texts
    of = hints(code)
    properties: Schema = {'type': True}
    required, free = ['type'], False
    for name, parameter in parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            free = True
        if name in (*supplied, 'type') or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        properties[name] = _value_schema(of.get(name), parameter.default)
        if name in texts:
            properties[name]['description'] = texts[name]
        if parameter.default is parameter.empty:
            required.append(name)
    section: Schema = {'properties': properties, 'required': required}
    return section if free else section | {'additionalProperties': False}


def _value_schema(hint: Any, default: Any) -> Schema:
    """What an argument may be, by its type or else by its default."""
    schema = _type_schema(hint)
    plain = default is None or isinstance(default, (bool, int, float, str))
    if not schema and plain and default is not None and default is not inspect.Parameter.empty:
        schema = _type_schema(type(default))
    if default is inspect.Parameter.empty:
        return schema
    if plain:
        schema['default'] = default
    elif isinstance(default, (list, tuple)) and all(isinstance(part, (bool, int, float, str)) for part in default):
        schema['default'] = list(default)
    return schema


_JSON_TYPES = {bool: 'boolean', int: 'integer', float: 'number', str: 'string', type(None): 'null', dict: 'object'}


def _type_schema(hint: Any) -> Schema:
    if hint in _JSON_TYPES:
        return {'type': _JSON_TYPES[hint]}
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return {'enum': list(parts)}
    if origin in (typing.Union, types.UnionType):
        kinds = [_type_schema(part) for part in parts]
        return {} if {} in kinds else {'anyOf': kinds}
    if origin in (list, tuple, AbstractSequence):
        kind = _type_schema(parts[0]) if parts and parts[0] is not Ellipsis else {}
        return {'type': 'array', 'items': kind} if kind else {'type': 'array'}
    if origin in (dict, Mapping):
        return {'type': 'object'}
    return {}


def _named_by_type(registry: Iterable[tuple[str, Any]], supplied: Collection[str] = ()) -> Schema:
    """A section whose `type` names one of a registry, and which has the arguments of that."""
    entries = [(name.removesuffix('_basicsr'), code) for name, code in registry]
    return {
        'type': 'object',
        'required': ['type'],
        'properties': {'type': {'enum': sorted({name for name, _ in entries})}},
        'allOf': [_if('type', name, argument_schemas(code, supplied)) for name, code in entries],
    }


def _if(key: str, value: str, then: Schema) -> Schema:
    return {'if': {'properties': {key: {'const': value}}, 'required': [key]}, 'then': then}


# ---------------------------------------------------------------- keys


def _pattern(keys: Iterable[str]) -> Schema:
    """The names that a section may have; `*` in a key stands for anything."""
    names = sorted(set(keys))
    globs = [key for key in names if '*' in key]
    plain = [key for key in names if not any(fnmatchcase(key, glob) for glob in globs)]
    regex = [re.escape(key).replace(r'\*', '.*') for key in (*globs, *plain)]
    return {'pattern': f'^({"|".join(regex)})$'}


def _texts_of(codes: Iterable[type]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for code in codes:
        for base in code.__mro__:
            if _of(base) in OURS:
                texts = described(base) | texts
    return texts


def _of(code: Any) -> str:
    """The package that holds a class."""
    return (getattr(code, '__module__', None) or '').partition('.')[0]


class Knowledge:
    """What the check knows of option files, gathered once: keys of each section for each model and data set.

    Attributes:
        models, datasets: those of ours, by name.
        keys: by section, what the pipelines and each of these models read, `''` standing for all together.
    """

    def __init__(self) -> None:
        import basicsr.data
        import basicsr.test
        import basicsr.train
        from basicsr.utils.options import parse_options
        from basicsr.utils.registry import DATASET_REGISTRY, MODEL_REGISTRY

        self.models = {name: model for name, model in MODEL_REGISTRY if _of(model) in OURS}
        own = {name: kind for name, kind in DATASET_REGISTRY if _of(kind) in OURS}
        self.datasets: dict[str, type] = {'PairedImageDataset': DATASET_REGISTRY.get('PairedImageDataset'), **own}
        pipeline = keys_read_by(parse_options, opt=()) | keys_read_by(basicsr.train.train_pipeline, opt=())
        pipeline |= keys_read_by(basicsr.test.test_pipeline, opt=())
        self._loader = keys_read_by(basicsr.data.build_dataloader, dataset_opt=('datasets', '*'))
        self._pipeline = pipeline
        self._model_keys = {name: pipeline | keys_read_by(model, opt=()) for name, model in self.models.items()}
        self._texts = _texts_of(self.models.values())

    def keys(self, section: Path, model: str) -> set[str]:
        """Keys that a section may have under a model."""
        found = self._model_keys[model].keys(section) | READ_BY_NOBODY.get(section, set())
        if section == ('val',):
            found.add('suffix')
        if section == ():
            found |= READ_BY_LAUNCHER
        return found - (SET_BY_BASICSR.get(section, set()) - {'manual_seed'})

    def all_keys(self, section: Path) -> set[str]:
        return {key for model in self.models for key in self.keys(section, model)}

    def dataset_keys(self, kind: str) -> set[str]:
        """Keys that a data section of a type may have, whatever the model."""
        return self._dataset(kind).keys(('datasets', '*')) - _FROM_RUN | READ_BY_NOBODY['datasets', '*'] | {
            key for known in self._model_keys.values() for key in known.keys(('datasets', 'train'))
        } - _FROM_RUN  # fmt: skip

    def dataset_demands(self, kind: str) -> set[str]:
        from .data import TRAINING_ONLY

        wanted = keys_read_by(self.datasets[kind], opt=('datasets', '*')).demands(('datasets', '*'))
        return (wanted | {'name', 'type'}) - _FROM_RUN - TRAINING_ONLY

    def _dataset(self, kind: str) -> KeysRead:
        return keys_read_by(self.datasets[kind], opt=('datasets', '*')) | self._loader | self._pipeline

    def text(self, path: Path) -> str:
        """What a key means; '' where nobody says."""
        texts = self._texts
        if path[:1] == ('datasets',):
            texts = _texts_of(self.datasets.values()) | degradation_texts()
        elif len(path) == 1:
            texts = texts | degradation_texts()
        # A line of MEANINGS for this very key, then the docstrings, then a line for keys of its kind.
        if path in MEANINGS:
            return MEANINGS[path]
        if path[-1] in texts:
            return texts[path[-1]]
        fitting = (text for known, text in MEANINGS.items() if len(known) == len(path) and _all_fit(path, known))
        return next(fitting, '')


def _all_fit(path: Path, known: Path) -> bool:
    return all(fnmatchcase(a, b) for a, b in zip(path, known, strict=True))


def degradation_texts() -> dict[str, str]:
    """The keys of the real-world degradation, at the top of a file or in `datasets: train`, with their texts."""
    from realesrgan_pipeline.config import OPTION_NAMES, DegradationConfig, ExtraConfig, OrderConfig

    first = described(DegradationConfig) | described(OrderConfig) | described(ExtraConfig)
    texts = {}
    for name in OPTION_NAMES:
        field = name if name in first else name.removesuffix('2')
        text = first.get(field) or first.get(field.removeprefix('second_'), '')
        second = name != field or name.startswith('second_')
        texts[name] = text + (' Of the second order.' if second else '')
    return {name: text for name, text in texts.items() if text and name != 'scale'}


# ---------------------------------------------------------------- the whole


def schema() -> Schema:
    """The JSON schema (draft 7, which editors know) of the option files of the models of this package.

    What a model of somebody else's reads cannot be told, so its keys are not restricted.
    """
    from basicsr.utils.registry import ARCH_REGISTRY, LOSS_REGISTRY, METRIC_REGISTRY, MODEL_REGISTRY

    from ..models.lr_schedulers import SCHEDULERS

    known = Knowledge()
    definitions = {
        'network': _named_by_type(ARCH_REGISTRY),
        'loss': _or_nothing(_named_by_type(LOSS_REGISTRY)),
        'metric': _named_by_type(METRIC_REGISTRY, ('img', 'img2')),
        'scheduler': _named_by_type(SCHEDULERS.items(), ('optimizer', 'last_epoch')),
        'optimizer': _optimizer(),
        'dataset': _dataset(known),
        'rain': _rain(),
    }
    for part in definitions['metric']['allOf']:  # BasicSR reads it of every metric
        part['then']['properties'].setdefault('better', {}).update(
            enum=['higher', 'lower'], description='Which results are the best, as BasicSR keeps them.'
        )
    root = _section(known, ())
    root['properties']['model_type']['enum'] = sorted(name.removesuffix('_basicsr') for name, _ in MODEL_REGISTRY)
    root['properties']['datasets'] |= {
        'type': 'object',
        'patternProperties': {'^(train|val|test)(_.*)?$': {'$ref': '#/definitions/dataset'}},
        'additionalProperties': False,
    }
    for name in ('path', 'train', 'val', 'logger', 'dist_params'):
        part = _section(known, (name,))
        part['type'] = ['object', 'null'] if name in ('val', 'dist_params') else 'object'
        root['properties'][name] |= part
    train, val, logger = (root['properties'][name] for name in ('train', 'val', 'logger'))
    train['properties']['scheduler'] |= {'$ref': '#/definitions/scheduler'}
    train['patternProperties'] = {
        '^optim_': {'$ref': '#/definitions/optimizer'},
        '^scheduler_': {'$ref': '#/definitions/scheduler'},
        '_opt$': {'$ref': '#/definitions/loss'},
    }
    val['properties']['metrics'] |= {
        'type': ['object', 'null'],
        'additionalProperties': {'$ref': '#/definitions/metric'},
    }
    logger['properties']['wandb'] |= _section(known, ('logger', 'wandb')) | {'type': ['object', 'null']}
    return {
        '$schema': 'http://json-schema.org/draft-07/schema#',
        'title': 'Option file of vmambair-arch',
        'description': 'Written by: vmambair check --schema',
        'type': 'object',
        'required': ['name', 'model_type', 'num_gpu', 'datasets', 'network_g', 'path'],
        **root,
        'patternProperties': {'^network_': {'$ref': '#/definitions/network'}},
        'allOf': [_if('model_type', name, _keys_under(known, name)) for name in sorted(known.models)],
        'definitions': definitions,
    }


def _section(known: Knowledge, section: Path) -> Schema:
    """A section with all keys that it may have, their values and their texts."""
    properties = {}
    for key in sorted(known.all_keys(section)):
        if '*' in key:
            continue
        properties[key] = _key_schema(known, (*section, key))
    for path, text in MEANINGS.items():  # keys that are read by pattern, as network_g
        if path[:-1] == section and '*' not in path[-1] and path[-1] not in properties:
            properties[path[-1]] = {'description': text}
    return {'properties': properties}


def _key_schema(known: Knowledge, path: Path) -> Schema:
    rule = VALUES.get(path)
    schema: Schema = dict(rule.schema) if rule else {}
    text = known.text(path)
    return schema | {'description': text} if text else schema


def _keys_under(known: Knowledge, model: str) -> Schema:
    """What sections may be called under one model."""
    inner = {
        section[0]: {'propertyNames': _pattern(known.keys(section, model))}
        for section in SECTIONS
        if len(section) == 1 and section != ('datasets',)
    }
    return {'propertyNames': _pattern(known.keys((), model)), 'properties': inner}


def _dataset(known: Knowledge) -> Schema:
    keys = {key for kind in known.datasets for key in known.dataset_keys(kind)}
    properties = {key: _key_schema(known, ('datasets', '*', key)) for key in sorted(keys) if '*' not in key}
    names = {name.removesuffix('_basicsr') for name in _dataset_names()}
    properties['type'] |= {'enum': sorted(names)}
    properties['io_backend'] |= {
        'properties': {
            'type': {'enum': ['disk', 'lmdb'], 'description': MEANINGS['datasets', '*', 'io_backend', 'type']}
        }
    }
    entry = {key: properties[key] for key in sorted({*PAIRED_KEYS, *SINGLE_KEYS})}
    entry['weight'] = {
        'type': 'number',
        'exclusiveMinimum': 0,
        'description': MEANINGS['datasets', '*', 'sources', 'weight'],
    }
    properties['sources']['items'] = {
        'type': 'object',
        'required': ['dataroot_gt'],
        'properties': entry,
        'additionalProperties': False,
    }
    properties['rain'] |= {'anyOf': [{'$ref': '#/definitions/rain'}, {'type': 'null'}]}
    kinds = [
        _if('type', kind, {
            'propertyNames': _pattern(known.dataset_keys(kind)), 'required': sorted(known.dataset_demands(kind)),
        })
        for kind in known.datasets
    ]  # fmt: skip
    return {'type': 'object', 'required': ['name', 'type'], 'properties': properties, 'allOf': kinds}


def _dataset_names() -> list[str]:
    from basicsr.utils.registry import DATASET_REGISTRY

    return [name for name, _ in DATASET_REGISTRY]


def _rain() -> Schema:
    from ..data.rain import RainConfig

    section = argument_schemas(RainConfig)
    section['properties'].pop('type')
    return {'type': 'object', **section, 'required': []}


def _optimizer() -> Schema:
    """The arguments that most optimisers share; the others differ between them and between releases."""
    return {
        'type': ['object', 'null'],
        'required': ['type'],
        'properties': {
            'type': {
                'type': 'string',
                'description': 'Class of torch.optim or timm.optim, such as AdamW, Adan, Lion or Muon (matrices '
                'by Muon, the rest by AdamW); with schedulefree and pytorch_optimizer also AdamWScheduleFree and SOAP.',
            },
            'lr': {'type': 'number', 'minimum': 0, 'description': 'Learning rate.'},
            'weight_decay': {'type': 'number', 'minimum': 0, 'description': 'Pull of the weights towards 0.'},
            'betas': {'type': 'array', 'items': {'type': 'number'}, 'minItems': 2, 'maxItems': 3,
                      'description': 'Decay of the averages over gradients and over their squares; Adan has three.'},
            'decay_state_space': {'type': 'boolean', 'description': 'Let A and D of the scans decay as well.'},
        },
    }  # fmt: skip


def _or_nothing(section: Schema) -> Schema:
    return section | {'type': ['object', 'null']}


def text() -> str:
    """The schema as a file."""
    return json.dumps(schema(), indent=1, ensure_ascii=False) + '\n'
