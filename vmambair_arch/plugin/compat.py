"""What unmodified BasicSR 1.4.2 needs to run on today's stack: one function a fix.

Every fix says what breaks, where (paths are relative to the installed `basicsr/`), and when it can go. Those of
`BEFORE_IMPORT` make basicsr importable, those of `AFTER_IMPORT` replace names inside it; `registration` runs them
around the first import of basicsr, whoever makes it. They touch different names, so their order does not matter.
"""

from __future__ import annotations

import atexit
import functools
import importlib
import importlib.util
import itertools
import logging
import math
import multiprocessing
import re
import signal
import sys
import threading
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..errors import UserError, as_user_error

_MARK = '_vmambair_fixed'


def _everywhere(original: Any, replacement: Any) -> None:
    """Put `replacement` in the place of something of BasicSR's, under whatever name a module has it.

    Projects run copies of BasicSR's scripts, which have taken its names into modules of their own.
    """
    for name, module in list(sys.modules.items()):
        if not isinstance(module, types.ModuleType) or name.partition('.')[0] == 'vmambair_arch':
            continue
        for key, value in list(vars(module).items()):
            if value is original:
                setattr(module, key, replacement)


# ---------------------------------------------------------------- before basicsr is imported


def supply_functional_tensor() -> None:
    """`No module named 'torchvision.transforms.functional_tensor'` at data/degradations.py:8.

    torchvision 0.17 removed the module; the one function that BasicSR takes from it is now in `functional`.
    Can go with a BasicSR release that imports it from there.
    """
    name = 'torchvision.transforms.functional_tensor'
    if name in sys.modules or importlib.util.find_spec(name):
        return
    from torchvision.transforms.functional import rgb_to_grayscale

    module = types.ModuleType(name, 'What BasicSR 1.4.2 needs of a module that torchvision removed.')
    vars(module)['rgb_to_grayscale'] = rgb_to_grayscale
    sys.modules[name] = module


class _LooseVersion:
    """Versions ordered by their numbers, for `distutils.version.LooseVersion(...) >= ...`."""

    def __init__(self, version: str) -> None:
        self.numbers = [int(number) for number in re.findall(r'\d+', version.partition('+')[0])]

    def __ge__(self, other: _LooseVersion) -> bool:
        return self.numbers >= other.numbers


def supply_distutils() -> None:
    """`No module named 'distutils'` at archs/arch_util.py:6, Python 3.12 without setuptools.

    Can go with a BasicSR release that compares versions without distutils.
    """
    if importlib.util.find_spec('distutils'):
        return
    package, version = types.ModuleType('distutils'), types.ModuleType('distutils.version')
    vars(version)['LooseVersion'] = _LooseVersion
    vars(package)['version'] = version
    package.__path__ = []
    sys.modules.update({'distutils': package, 'distutils.version': version})


# ---------------------------------------------------------------- after basicsr is imported


def read_options_safely() -> None:
    """Option files can run code and hold a key twice (utils/options.py:27); `--force_yml lr=1e-4` becomes text (:70).

    Can go with a BasicSR release that reads YAML with a safe loader; duplicate keys stay a reason.
    """
    import yaml
    from basicsr.utils import options

    from ..options import OptionLoader, parse_value

    _everywhere(options.ordered_yaml, lambda: (OptionLoader, yaml.SafeDumper))
    _everywhere(options._postprocess_yml_value, parse_value)


def read_text_as_utf8() -> None:
    """Option files and lists are read, and logs written, in the encoding of the locale (utils/options.py:114, :205).

    Under LANG=C or a Windows code page that fails, or makes other letters of them. Can go with a BasicSR release that
    names the encoding.
    """
    from basicsr.data import data_util
    from basicsr.utils import logger, options

    def open_utf8(file: Any, mode: str = 'r', **more: Any) -> Any:
        # Names of files that are no UTF-8 are written as the bytes that they are.
        encoding = 'utf-8-sig' if mode == 'r' else 'utf-8'
        return Path(file).open(mode, encoding=encoding, errors='surrogateescape', **more)

    options.open = data_util.open = open_utf8
    for module in [m for name, m in list(sys.modules.items()) if name.startswith('basicsr.data.')]:
        module.__dict__.setdefault('open', open_utf8)
    handler = functools.partial(logging.FileHandler, encoding='utf-8', errors='surrogateescape')
    logger.logging = _Overlay(logger.logging, FileHandler=handler)


class _Overlay(types.ModuleType):
    """A module with some names replaced, for one reader of it."""

    def __init__(self, module: types.ModuleType, **replaced: Any) -> None:
        super().__init__(module.__name__)
        self._module = module
        self.__dict__.update(replaced)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def start_ranks_anywhere() -> None:
    """torchrun without a GPU: `ZeroDivisionError` at utils/dist_util.py:24; the rank on a machine is guessed there.

    Can go with a BasicSR release that starts gloo without CUDA and reads LOCAL_RANK.
    """
    from basicsr.utils import dist_util

    from ..ranks.start import init_dist

    _everywhere(dist_util.init_dist, init_dist)


def wrap_networks_on_cpu() -> None:
    """Two ranks without a GPU: "Found no NVIDIA driver" at models/base_model.py:98, which asks CUDA for the device.

    Can go with a BasicSR release that passes device_ids on CUDA only.
    """
    from basicsr.models.base_model import BaseModel
    from torch.nn.parallel import DistributedDataParallel

    original = BaseModel.model_to_device

    @functools.wraps(original)
    def model_to_device(self: BaseModel, net: Any) -> Any:
        if self.opt['dist'] and self.device.type == 'cpu':
            unused = self.opt.get('find_unused_parameters', False)
            return DistributedDataParallel(net.to(self.device), find_unused_parameters=unused)
        return original(self, net)

    BaseModel.model_to_device = model_to_device


def load_weights_safely() -> None:
    """`pretrain_network_g` must hold the key `params`, be no safetensors, and may run code (models/base_model.py:275).

    The package's one reader of checkpoints in its place: bare state dicts, `params_ema` alone, wrappers' prefixes,
    safetensors, half precision, names and addresses. Of several sets of parameters it takes the averaged one unless
    `param_key_g` names another; a resumed network is always `params`. `strict_load_g: false` that leaves out nearly
    everything is an error, and what it left out one warning with counts.

    Can go with a BasicSR release that opens these with weights_only.
    """
    from basicsr.models.base_model import BaseModel
    from basicsr.utils import get_root_logger

    from ..checkpoints.load import fill

    original = BaseModel.load_network

    @functools.wraps(original)
    def load_network(self: BaseModel, net: Any, load_path: str, strict: bool = True, param_key: str = 'params') -> None:
        paths = self.opt['path']
        # Models hand on 'params' where the option file says nothing.
        named = any(str(key).startswith('param_key') for key in paths)
        default = param_key == 'params' and not named and not paths.get('resume_state')
        net = self.get_bare_model(net)
        said = fill(net, load_path, strict=strict, key=None if default else param_key)
        note = f'Loading {type(net).__name__} from {load_path}{": " * bool(said)}{said}'
        (get_root_logger().warning if 'left out' in said else get_root_logger().info)(note)

    BaseModel.load_network = load_network


def refuse_states_of_other_runs() -> None:
    """A state of another network or optimiser ends in an AssertionError, or trains on (models/base_model.py:375).

    Torch compares how many parameters there are, and nothing else. Can go with a BasicSR release that compares shapes
    and what an optimiser keeps, too.
    """
    from basicsr.models.base_model import BaseModel

    from ..data.iteration_sampler import begin_at_epoch
    from ..models.states import state_misfit

    original = BaseModel.resume_training

    @functools.wraps(original)
    def resume_training(self: BaseModel, resume_state: dict[str, Any]) -> None:
        begin_at_epoch(self.opt, resume_state)
        labels = getattr(self, 'labels', ('g', 'd'))
        names = [f'optim_{label}' for label in labels] + [f'optimiser {n}' for n in range(3, 3 + len(self.optimizers))]
        optimizers = dict(zip(names, self.optimizers, strict=False))
        if fault := state_misfit(self.opt['path'].get('resume_state'), resume_state, optimizers):
            raise UserError(fault)
        original(self, resume_state)

    BaseModel.resume_training = resume_training


class _Read(bytes):
    """The bytes of a file, with its name for messages."""

    name: str = 'image'


def read_images_at_one_door() -> None:
    """A damaged image trains on as what libpng had made of it so far, or ends a run without its name (img_util.py:114).

    BasicSR's data sets get the pixels that the package's own get, from the same decoder: EXIF orientation applied, 8
    bits a channel, damage refused by name; and those of OpenCV where it alone knows the format, as of PPM. A read that
    fails is tried again first.

    Can go with a BasicSR release that tests what OpenCV hands it, and names it.
    """
    import cv2
    import numpy as np
    from basicsr.utils import file_client, img_util

    from ..files import read_patiently
    from ..images.fast import decode_pixels, opencv_pixels

    original = img_util.imfrombytes
    flags = {'color': cv2.IMREAD_COLOR, 'grayscale': cv2.IMREAD_GRAYSCALE, 'unchanged': cv2.IMREAD_UNCHANGED}
    get = file_client.FileClient.get

    @functools.wraps(get)
    def get_named(self: Any, filepath: Any, client_key: str = 'default') -> _Read | None:
        data = read_patiently(str(filepath), lambda: get(self, filepath, client_key))
        if data is None:
            raise UserError(f"the database '{client_key}' has no image '{filepath}'; make it anew")
        read = _Read(data)
        read.name = str(filepath)
        return read

    @functools.wraps(original)
    def imfrombytes(content: bytes, flag: str = 'color', float32: bool = False) -> Any:
        name = getattr(content, 'name', 'image')
        image = opencv_pixels(content, name, flags[flag])
        if image is None:
            pixels = decode_pixels(bytes(content), name)  # also to refuse what is damaged
            if flag != 'color':
                return original(content, flag, float32)
            if pixels.dtype != np.uint8:
                pixels = np.rint(pixels * 255).astype(np.uint8)
            image = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
        return image.astype(np.float32) / np.float32(255) if float32 else image

    file_client.FileClient.get = get_named
    _everywhere(original, imfrombytes)


def leave_names_to_others() -> None:
    """Of two classes of one name the second to be registered is an error (utils/registry.py:42).

    Where one of them is ours it is the other that the name stands for, whoever comes first: so it does not matter in
    which order packages are imported, and the authors' own code can stand beside ours.

    Can go with a BasicSR release that lets a plugin yield.
    """
    from basicsr.utils.registry import Registry

    original = Registry._do_register

    @functools.wraps(original)
    def _do_register(self: Any, name: str, obj: Any, suffix: str | None = None) -> None:
        full = f'{name}_{suffix}' if isinstance(suffix, str) else name
        there = self._obj_map.get(full)
        if there is None or there is obj or _is_ours(there) == _is_ours(obj):
            original(self, name, obj, suffix)
            return
        theirs = there if _is_ours(obj) else obj
        self._obj_map[full] = theirs
        note = "'%s' is that of %s, not of vmambair_arch, which has one of this name too"
        logging.getLogger('vmambair_arch').warning(note, full, theirs.__module__)

    Registry._do_register = _do_register


def _is_ours(code: Any) -> bool:
    return (getattr(code, '__module__', None) or '').partition('.')[0] == 'vmambair_arch'


def read_lists_and_databases_from_the_right() -> None:
    """`photo (1).png` in a list is read as `photo`, `a.b.png` in a database as `a` (data/data_util.py:142, :186).

    BasicSR's data sets read lists by the package's one reader: names from the right, duplicates, images that are not
    there and databases that are cut off refused in one line, keys in any letters. A list that reaches into folders
    finds its inputs in the folders of that name (BasicSR looks for all of them in `dataroot_lq` itself; so does this,
    where they are there).

    Can go with a BasicSR release that reads names from the right, and tests what it has read.
    """
    from basicsr.data import data_util
    from basicsr.utils import file_client

    from ..data import pairs

    def paired_paths(found: list[Any], keys: list[str]) -> list[dict[str, str]]:
        return [{f'{keys[0]}_path': pair.lq, f'{keys[1]}_path': pair.gt} for pair in found]

    def paired_paths_from_lmdb(folders: list[str], keys: list[str]) -> list[dict[str, str]]:
        section = {'dataroot_lq': folders[0], 'dataroot_gt': folders[1], 'io_backend': {'type': 'lmdb'}}
        return paired_paths(pairs.list_pairs(section), keys)

    def paired_paths_from_meta_info_file(
        folders: list[str], keys: list[str], meta_info_file: str, filename_tmpl: str
    ) -> list[dict[str, str]]:
        section = {'dataroot_lq': folders[0], 'dataroot_gt': folders[1], 'meta_info_file': meta_info_file}
        return paired_paths(pairs.pairs_as_basicsr_lists_them(section | {'filename_tmpl': filename_tmpl}), keys)

    for function in (paired_paths_from_lmdb, paired_paths_from_meta_info_file, pairs.lmdb_keys):
        name = 'paths_from_lmdb' if function is pairs.lmdb_keys else function.__name__
        _everywhere(getattr(data_util, name), function)
    _read_lists_of_data_sets()
    file_client.LmdbBackend.__init__ = _open_databases
    file_client.LmdbBackend.get = _read_from_database


def _read_lists_of_data_sets() -> None:
    """Of the data sets that read their lists in the constructor."""
    from basicsr.data.ffhq_dataset import FFHQDataset
    from basicsr.data.realesrgan_dataset import RealESRGANDataset
    from basicsr.data.realesrgan_paired_dataset import RealESRGANPairedDataset
    from basicsr.data.single_image_dataset import SingleImageDataset

    from ..data import pairs

    def listed(opt: dict[str, Any], root: str, key: str) -> list[str] | None:
        if opt['io_backend']['type'] == 'lmdb':
            return pairs.lmdb_keys(opt[root])
        return pairs.listed_images(opt[root], opt[key]) if opt.get(key) else None

    def real_pairs(opt: dict[str, Any]) -> list[dict[str, str]] | None:
        if opt['io_backend']['type'] == 'lmdb' or not opt.get('meta_info'):
            return None  # as functions list them
        return [{'gt_path': pair.gt, 'lq_path': str(pair.lq)} for pair in pairs.listed_real_pairs(opt)]

    _list_by(SingleImageDataset, lambda opt: listed(opt, 'dataroot_lq', 'meta_info_file'), 'meta_info_file')
    _list_by(RealESRGANDataset, lambda opt: listed(opt, 'dataroot_gt', 'meta_info'))
    _list_by(FFHQDataset, lambda opt: listed(opt, 'dataroot_gt', ''))
    _list_by(RealESRGANPairedDataset, real_pairs)


def _list_by(kind: type, paths_of: Callable[[dict[str, Any]], list[Any] | None], without: str = '') -> None:
    """Let `paths_of` say what a data set lists; None leaves it to the data set, `without` a key that it cannot read."""
    original = kind.__init__  # type: ignore[misc]

    @functools.wraps(original)
    def construct(self: Any, opt: dict[str, Any]) -> None:
        paths = paths_of(opt)
        if without in opt:
            original(self, {key: value for key, value in opt.items() if key != without})
            self.opt = opt
        else:
            original(self, opt)
        if paths is not None:
            self.paths = paths

    kind.__init__ = construct  # type: ignore[misc]


def _open_databases(self: Any, db_paths: Any, client_keys: Any = 'default', **unused: Any) -> None:
    from realesrgan_pipeline.database import database

    self.db_paths = [str(path) for path in (db_paths if isinstance(db_paths, list) else [db_paths])]
    names = [client_keys] if isinstance(client_keys, str) else client_keys
    self._client = dict(zip(names, self.db_paths, strict=True))
    with as_user_error():
        for path in self.db_paths:
            database(path)


def _read_from_database(self: Any, filepath: Any, client_key: str) -> bytes | None:
    from realesrgan_pipeline.database import value

    with as_user_error():
        return value(self._client[client_key], str(filepath))


def archive_under_a_free_name() -> None:
    """A second run of one name in the same second fails: its archive has the name of the first's (utils/misc.py:35).

    Can go with a BasicSR release that looks for a free name.
    """
    from basicsr.utils import get_time_str, misc

    def mkdir_and_rename(path: str) -> None:
        folder, now = Path(path), get_time_str()
        if folder.exists():
            names = (folder.with_name(f'{folder.name}_archived_{now}{suffix}') for suffix in _suffixes())
            archive = next(name for name in names if not name.exists())
            sys.stdout.write(f'Path already exists. Rename it to {archive}\n')
            folder.rename(archive)
        folder.mkdir(parents=True, exist_ok=True)

    _everywhere(misc.mkdir_and_rename, mkdir_and_rename)


def _suffixes() -> Iterator[str]:
    yield ''
    yield from (f'_{number}' for number in itertools.count(2))


def resume_exactly() -> None:
    """Where a run starts, what seeds it, and how many epochs it has: one function each, see `resume`.

    - Any resume needs CUDA (train.py:85); auto-resume looks below the current folder, not the root (train.py:74).
    - Training ends early where the batch does not divide the data (train.py:42 rounds up, the loader drops the rest),
      and trains 0 iterations where the batch is larger than the data set or the data have grown since the state.
    - A data set whose items are iterations would be shuffled, and start anew at a resume (train.py:40).
    - Any other data set starts its epoch anew at a resume, and draws other crops (train.py:163, data/__init__.py:96).
    - `--force_yml manual_seed=N` comes after the generators were seeded (utils/options.py:127).

    A project's own copy of train.py gets all of it when it reads its options.

    Can go with a BasicSR release that loads states on the CPU from `path: training_states`, skips broken ones, counts
    batches, seeds last, and lets a data set name its sampler and learn where a run stands.
    """
    import basicsr.data
    import basicsr.train
    from basicsr.data.data_sampler import EnlargedSampler
    from basicsr.utils import misc, options

    from ..data.iteration_sampler import IterationSampler, refuse_other_orders
    from .resume import Resume

    build, load_all = basicsr.data.build_dataset, basicsr.data.build_dataloader
    parse, check = options.parse_options, misc.check_resume
    resume = Resume(basicsr.train.load_resume_state, build)

    @functools.wraps(build)  # the check follows `__wrapped__` to the keys that BasicSR reads
    def build_dataset(dataset_opt: dict[str, Any]) -> Any:
        return resume.build_dataset(dataset_opt)

    @functools.wraps(load_all)
    def build_dataloader(dataset: Any, dataset_opt: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        loader = load_all(dataset, dataset_opt, *args, **kwargs)
        if dataset_opt['phase'] == 'train':
            refuse_other_orders(loader)
        return loader

    @functools.wraps(parse)
    def parse_options(root_path: str, is_train: bool = True) -> tuple:
        opt, args = parse(root_path, is_train)
        resume.begin(opt)
        if is_train:
            resume.join(sys._getframe(1).f_globals)  # the module of the train_pipeline that asks
        return opt, args

    @functools.wraps(check)
    def check_resume(opt: dict[str, Any], resume_iter: int) -> None:
        check(opt, resume_iter)
        resume.stand_at(opt, resume_iter)

    for original, replacement in (
        *resume.replacements(vars(basicsr.train)),
        (build, build_dataset),
        (load_all, build_dataloader),
        (parse, parse_options),
        (check, check_resume),
        (EnlargedSampler, IterationSampler),
    ):
        _everywhere(original, replacement)


def let_workers_outlive_signals() -> None:
    """Ctrl-C in a terminal, or SIGTERM to a group, ends the loader's workers before their process can save.

    Can go with a BasicSR release that saves when it is asked to stop.
    """
    import basicsr.data

    vars(start_worker)['original'] = basicsr.data.worker_init_fn
    _everywhere(basicsr.data.worker_init_fn, start_worker)
    atexit.register(end_workers)


def end_workers() -> None:
    """At exit, multiprocessing sends SIGTERM to workers that an error left behind and waits for them: for ever here.

    Torch, which listens to the ends of workers, would raise an error at the first, and the others would stay.
    """
    if hasattr(signal, 'SIGCHLD') and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for worker in multiprocessing.active_children():
        if worker.daemon:
            worker.kill()


def start_worker(*args: Any, **kwargs: Any) -> None:
    """BasicSR's `worker_init_fn` in a process that ignores Ctrl-C; found by its name in a spawned one."""
    from ..ranks.signals import ignore_stop_signals

    ignore_stop_signals()
    vars(start_worker)['original'](*args, **kwargs)


def read_ahead_by_workers() -> None:
    """`prefetch_mode: cpu`: a run waits for ever for an image that cannot be read (data/prefetch_dataloader.py:27).

    The thread that reads ahead ends with the error and hands nothing on. That of the loader's first pass, which BasicSR
    begins and never ends, keeps its workers as long as the run; without workers it draws from the generators that the
    training draws from. The workers read `num_prefetch_queue` batches further ahead in its place.

    Can go with a BasicSR release that hands errors on, and ends its threads.
    """
    from basicsr.data.prefetch_dataloader import PrefetchDataLoader
    from torch.utils.data import DataLoader

    def construct(self: Any, num_prefetch_queue: int | None, **kwargs: Any) -> None:
        self.num_prefetch_queue = num_prefetch_queue or 1
        if workers := kwargs.get('num_workers'):  # of which each reads two ahead anyway
            kwargs.setdefault('prefetch_factor', 2 + math.ceil(self.num_prefetch_queue / workers))
        DataLoader.__init__(self, **kwargs)

    PrefetchDataLoader.__init__, PrefetchDataLoader.__iter__ = construct, DataLoader.__iter__


def record_figures() -> None:
    """The figures of a run are in its log alone, as text (utils/logger.py:75).

    Can go with a BasicSR release that writes them as data.
    """
    from basicsr.utils import logger

    from .records import RecordingLogger, init_tb_logger

    _everywhere(logger.MessageLogger, RecordingLogger)
    _everywhere(logger.init_tb_logger, init_tb_logger)


def find_vgg_weights() -> None:
    """VGG weights are downloaded when the loss is built, by arguments torchvision gives up (archs/vgg_arch.py:103).

    `pretrained.pretrained_state` says where they are looked for first. Can go with a BasicSR release that says so too.
    """
    from basicsr.archs import vgg_arch

    names = [f'vgg{depth}{norm}' for depth in (11, 13, 16, 19) for norm in ('', '_bn')]
    vgg_arch.VGG_PRETRAIN_PATH = ''
    vgg_arch.vgg = types.SimpleNamespace(**{name: functools.partial(_build_vgg, name) for name in names})


def _build_vgg(name: str, pretrained: bool) -> Any:
    """torchvision's network `name` with ImageNet weights in its `features`, all that BasicSR takes of it."""
    from torchvision.models import get_model

    from ..checkpoints.backbones import imagenet_features

    network = get_model(name, weights=None)
    network.features.load_state_dict(imagenet_features(name))
    return network


def refuse_small_images_in_niqe() -> None:
    """NIQE on an image without two blocks of 96 x 96 pixels, or of one colour: an error inside numpy (niqe.py:122).

    Blocks of one colour have no statistics: where fewer than two others are left there is no figure, which is NaN.

    Can go with a BasicSR release that says so itself.
    """
    import numpy as np
    from basicsr.metrics import niqe as module

    original = module.niqe

    @functools.wraps(original)
    def niqe(img: Any, *args: Any, block_size_h: int = 96, block_size_w: int = 96, **kwargs: Any) -> float:
        h, w = img.shape[:2]
        if (h // block_size_h) * (w // block_size_w) < 2:
            raise UserError(
                f'NIQE needs two blocks of {block_size_h} x {block_size_w} pixels after the crop, the image has {h} x '
                f'{w}; leave calculate_niqe out for this data set'
            )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore', RuntimeWarning)  # of means of nothing
                return original(img, *args, block_size_h=block_size_h, block_size_w=block_size_w, **kwargs)
        except np.linalg.LinAlgError:
            return math.nan

    module.niqe = niqe


def round_jpeg_quality() -> None:
    """OpenCV refuses the fractional quality that `random_add_jpg_compression` draws (data/degradations.py:746).

    Can go with a BasicSR release that rounds it.
    """
    from basicsr.data import degradations

    original = degradations.add_jpg_compression

    @functools.wraps(original)
    def add_jpg_compression(img: Any, quality: float = 90) -> Any:
        return original(img, int(quality))

    _everywhere(original, add_jpg_compression)


BEFORE_IMPORT: tuple[Callable[[], None], ...] = (supply_functional_tensor, supply_distutils)
AFTER_IMPORT: tuple[Callable[[], None], ...] = (
    leave_names_to_others,
    read_options_safely,
    read_text_as_utf8,
    start_ranks_anywhere,
    wrap_networks_on_cpu,
    load_weights_safely,
    refuse_states_of_other_runs,
    read_images_at_one_door,
    read_lists_and_databases_from_the_right,
    archive_under_a_free_name,
    resume_exactly,
    record_figures,
    let_workers_outlive_signals,
    read_ahead_by_workers,
    find_vgg_weights,
    refuse_small_images_in_niqe,
    round_jpeg_quality,
)


def prepare() -> None:
    """Make basicsr importable. Does nothing where it is."""
    for fix in BEFORE_IMPORT:
        fix()


def apply() -> None:
    """Fix basicsr, which is imported for it. Twice is as good as once."""
    prepare()
    basicsr = importlib.import_module('basicsr')
    if not hasattr(basicsr, _MARK):
        for fix in AFTER_IMPORT:
            fix()
        setattr(basicsr, _MARK, True)
