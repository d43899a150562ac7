"""What unmodified BasicSR 1.4.2 needs to run on today's stack: one function a mend.

Every mend says what breaks, where (paths are relative to the installed `basicsr/`), and when it can go. Those of
`BEFORE_IMPORT` make basicsr importable, those of `AFTER_IMPORT` replace names inside it; `vmambair_arch.registration`
runs them around the first import of basicsr, whoever makes it.
"""

from __future__ import annotations

import atexit
import functools
import importlib
import importlib.util
import math
import multiprocessing
import os
import re
import sys
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import UserError

_MARK = '_vmambair_mended'


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
    module.rgb_to_grayscale = rgb_to_grayscale
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
    version.LooseVersion = _LooseVersion
    package.version = version
    package.__path__ = []
    sys.modules.update({'distutils': package, 'distutils.version': version})


# ---------------------------------------------------------------- after basicsr is imported


def read_options_safely() -> None:
    """Option files can run code and hold a key twice (utils/options.py:27); `--force_yml lr=1e-4` becomes text (:70).

    Can go with a BasicSR release that reads YAML with a safe loader; duplicate keys stay a reason.
    """
    import yaml
    from basicsr.utils import options

    from .options import OptionLoader, parse_value

    options.ordered_yaml = lambda: (OptionLoader, yaml.SafeDumper)
    options._postprocess_yml_value = parse_value


def start_ranks_anywhere() -> None:
    """torchrun without a GPU: `ZeroDivisionError` at utils/dist_util.py:24; the rank on a machine is guessed there.

    Can go with a BasicSR release that starts gloo without CUDA and reads LOCAL_RANK.
    """
    from basicsr.utils import dist_util, options

    dist_util.init_dist = options.init_dist = init_dist


def init_dist(launcher: str, backend: str | None = None, port: int | None = None) -> None:
    """Join the process group of `torchrun` (launcher 'pytorch') or `srun` ('slurm').

    Args:
        launcher: 'pytorch' or 'slurm'.
        backend: of torch.distributed; default nccl with CUDA, gloo without.
        port: of the machine of rank 0, slurm only; default `MASTER_PORT`, then 29500.

    Raises:
        UserError: the launcher did not start this process.
    """
    import torch
    import torch.distributed as dist
    import torch.multiprocessing as mp

    if mp.get_start_method(allow_none=True) is None:
        mp.set_start_method('spawn')
    if launcher == 'slurm':
        _slurm_environment(port)
    missing = [name for name in ('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT') if name not in os.environ]
    if missing:
        raise UserError(
            f'--launcher {launcher}: {", ".join(missing)} not set; start with '
            'torchrun --nproc_per_node N -m vmambair_arch.train -opt FILE --launcher pytorch'
        )
    if torch.cuda.is_available():
        local_rank = int(os.environ.get('LOCAL_RANK', os.environ['RANK']))
        torch.cuda.set_device(local_rank % torch.cuda.device_count())
        dist.init_process_group(backend or 'nccl')
    else:
        dist.init_process_group('gloo')


def _slurm_environment(port: int | None) -> None:
    """Say in torchrun's variables what srun says in its own."""
    import subprocess

    try:
        os.environ['RANK'] = os.environ['SLURM_PROCID']
        os.environ['WORLD_SIZE'] = os.environ['SLURM_NTASKS']
        os.environ['LOCAL_RANK'] = os.environ['SLURM_LOCALID']
        hosts = ['scontrol', 'show', 'hostnames', os.environ['SLURM_NODELIST']]
    except KeyError as error:
        raise UserError(f'--launcher slurm: {error.args[0]} is not set; start with srun') from None
    if 'MASTER_ADDR' not in os.environ:
        os.environ['MASTER_ADDR'] = subprocess.check_output(hosts, text=True).split()[0]
    if port is not None:
        os.environ['MASTER_PORT'] = str(port)
    os.environ.setdefault('MASTER_PORT', '29500')


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


def resume_anywhere() -> None:
    """Any resume needs CUDA (train.py:85); auto-resume looks below the current folder, not the root (train.py:74).

    Can go with a BasicSR release that loads states on the CPU, from `path: training_states`, and skips broken ones.
    """
    import basicsr.train

    basicsr.train.load_resume_state = load_resume_state


def load_resume_state(opt: dict[str, Any]) -> dict[str, Any] | None:
    """The state to resume from, on the CPU; None starts from scratch.

    With `--auto_resume` the newest state of the experiment that can be read and whose networks are there; one that was
    cut off while it was written is passed over with a word. Otherwise `path: resume_state`.

    Raises:
        UserError: no state can be read.
    """
    from basicsr.utils import check_resume

    folder = Path(opt['path']['training_states'])
    if opt['auto_resume']:
        candidates = sorted(folder.glob('[!.]*.state'), key=_iteration, reverse=True) if folder.is_dir() else []
    else:
        named = opt['path'].get('resume_state')
        candidates = [Path(named)] if named else []
    if not candidates:
        return None
    for path in candidates:
        try:
            state = _load_state(path, opt)
        except UserError as error:
            if not opt['auto_resume']:
                raise
            _say(opt, f'{error}; trying the state before it')
            continue
        opt['path']['resume_state'] = str(path)
        check_resume(opt, state['iter'])
        return state
    raise UserError(f'--auto_resume: no state in {folder} can be read; delete the folder to start from scratch')


def _iteration(path: Path) -> float:
    try:
        return float(path.stem)
    except ValueError:
        return -1


def _load_state(path: Path, opt: dict[str, Any]) -> dict[str, Any]:
    """One training state, known to be whole together with the networks of its iteration."""
    from .inference.load import read_pickle

    state = read_pickle(path)
    if not isinstance(state, dict) or 'iter' not in state:
        raise UserError(f'{path} is no training state')
    fresh = opt['path'].get('ignore_resume_networks') or ()
    for network in (key for key in opt if key.startswith('network_') and key not in fresh):
        weights = Path(opt['path']['models']) / f'net_{network.removeprefix("network_")}_{state["iter"]}.pth'
        if not zipfile.is_zipfile(weights):
            raise UserError(f'{path} needs {weights}, which is {"broken" if weights.exists() else "missing"}')
    return state


def _say(opt: dict[str, Any], message: str) -> None:
    """To stderr, once: BasicSR's logger must not be used before its log file exists."""
    if opt['rank'] == 0:
        sys.stderr.write(f'vmambair: {message}\n')


def load_weights_safely() -> None:
    """`pretrain_network_g` knows no safetensors, and runs code in a file on torch < 2.6 (models/base_model.py:290).

    Can go with a BasicSR release that reads both kinds of file with weights_only.
    """
    from basicsr.models import base_model

    from .inference.load import read_checkpoint, read_pickle

    def load(path: str, map_location: object = None) -> Any:
        if str(path).endswith('.safetensors'):
            return {'params': read_checkpoint(path).state_dict}
        return read_pickle(path)

    base_model.torch = _Overlay(base_model.torch, load=load)


class _Overlay(types.ModuleType):
    """A module with some names replaced, for one reader of it."""

    def __init__(self, module: types.ModuleType, **replaced: Any) -> None:
        super().__init__(module.__name__)
        self._module = module
        self.__dict__.update(replaced)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def count_epochs_by_batches() -> None:
    """Training ends early where the batch does not divide the data (train.py:42 rounds up, the loader drops the rest).

    A batch larger than the data set trains 0 iterations, and so does a resume with more data than the state has seen,
    because its epoch is then behind the last one. Can go with a BasicSR release that counts batches.
    """
    import basicsr.train

    load, create = basicsr.train.load_resume_state, basicsr.train.create_train_val_dataloader
    state: dict[str, Any] | None = None

    @functools.wraps(load)
    def load_resume_state(opt: dict[str, Any]) -> dict[str, Any] | None:
        nonlocal state
        state = load(opt)
        return state

    @functools.wraps(create)
    def create_train_val_dataloader(opt: dict[str, Any], logger: Any) -> tuple:
        train_loader, train_sampler, val_loaders, _, iterations = create(opt, logger)
        batches = len(train_loader)
        if batches == 0:
            raise UserError(
                f'datasets: train: {len(train_sampler)} images a rank and epoch do not fill one batch of '
                f'{train_loader.batch_size}; lower batch_size_per_gpu or raise dataset_enlarge_ratio'
            )
        if state:
            state['epoch'] = min(state['epoch'], state['iter'] // batches)
        # The pipeline runs one epoch more than this; every epoch beyond the last iteration only starts the workers.
        return train_loader, train_sampler, val_loaders, math.ceil(iterations / batches) - 1, iterations

    basicsr.train.load_resume_state = load_resume_state
    basicsr.train.create_train_val_dataloader = create_train_val_dataloader


def let_workers_outlive_signals() -> None:
    """Ctrl-C in a terminal, or SIGTERM to a group, ends the loader's workers before their process can save.

    Can go with a BasicSR release that saves when it is asked to stop.
    """
    import basicsr.data

    start_worker.original = basicsr.data.worker_init_fn
    basicsr.data.worker_init_fn = start_worker
    atexit.register(end_workers)


def end_workers() -> None:
    """At exit, multiprocessing sends SIGTERM to workers that an error left behind and waits for them: for ever here."""
    for worker in multiprocessing.active_children():
        if worker.daemon:
            worker.kill()


def start_worker(*args: Any, **kwargs: Any) -> None:
    """BasicSR's `worker_init_fn` in a process that ignores Ctrl-C; found by its name in a spawned one."""
    from .models.signals import ignore_stop_signals

    ignore_stop_signals()
    start_worker.original(*args, **kwargs)


def ask_for_iterations_in_order() -> None:
    """A data set whose items are iterations would be shuffled, and start anew at a resume (train.py:40).

    Can go with a BasicSR release in which a data set names its sampler and learns where a run stands.
    """
    import basicsr.train

    from .data.iteration_sampler import IterationSampler, number_by_iteration

    load = basicsr.train.load_resume_state

    @functools.wraps(load)
    def load_resume_state(opt: dict[str, Any]) -> dict[str, Any] | None:
        state = load(opt)
        number_by_iteration(opt, state)
        return state

    basicsr.train.EnlargedSampler = IterationSampler
    basicsr.train.load_resume_state = load_resume_state


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

    from .pretrained import imagenet_features

    network = get_model(name, weights=None)
    network.features.load_state_dict(imagenet_features(name))
    return network


def refuse_small_images_in_niqe() -> None:
    """NIQE on an image without two blocks of 96 x 96 pixels: an error inside numpy (metrics/niqe.py:122).

    Can go with a BasicSR release that says so itself.
    """
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
        return original(img, *args, block_size_h=block_size_h, block_size_w=block_size_w, **kwargs)

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

    degradations.add_jpg_compression = add_jpg_compression


BEFORE_IMPORT: tuple[Callable[[], None], ...] = (supply_functional_tensor, supply_distutils)
AFTER_IMPORT: tuple[Callable[[], None], ...] = (
    read_options_safely,
    start_ranks_anywhere,
    wrap_networks_on_cpu,
    resume_anywhere,
    load_weights_safely,
    count_epochs_by_batches,
    ask_for_iterations_in_order,
    let_workers_outlive_signals,
    find_vgg_weights,
    refuse_small_images_in_niqe,
    round_jpeg_quality,
)


def prepare() -> None:
    """Make basicsr importable. Does nothing where it is."""
    for mend in BEFORE_IMPORT:
        mend()


def apply() -> None:
    """Mend basicsr, which is imported for it. Twice is as good as once."""
    prepare()
    basicsr = importlib.import_module('basicsr')
    if not hasattr(basicsr, _MARK):
        for mend in AFTER_IMPORT:
            mend()
        setattr(basicsr, _MARK, True)
