"""`VmambaIRModel`: training on pairs with BasicSR, in steps that can be trusted and runs that cannot be lost.

BasicSR's train_pipeline calls, in every iteration: `update_learning_rate`, `feed_data`, `optimize_parameters`, and when
they are due `get_current_log`, `save` and `validation`. Networks, optimisers and options are found by their label:
`net_g`, `optimizer_g`, `network_g`, `optim_g`; a model with more networks names them in `labels`.
"""

from __future__ import annotations

import copy
import math
import signal
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from functools import reduce
from operator import add
from typing import Any

import torch
from basicsr.archs import build_network
from basicsr.losses import build_loss
from basicsr.models.sr_model import SRModel
from basicsr.utils import get_root_logger
from basicsr.utils.registry import MODEL_REGISTRY
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_

from ..checkpoints.find import find_checkpoint
from ..checkpoints.load import SETS, digest
from ..errors import UserError
from ..host import keep_freed_memory
from ..inference.tiles import run_in_tiles
from ..ranks.distributed import barrier, gather
from ..ranks.signals import StopRequest
from . import scan_choice
from .bad_steps import BadSteps, suspects
from .checkpointing import CheckpointFolder, load_averages, network_content, on_cpu
from .ema import FIRST, Averages, decays, follow, key_of
from .loss_schedules import loss_schedules
from .lr_schedulers import build_scheduler
from .optimizers import build_optimizer, evaluated, settings, training
from .progress import ProgressBar
from .rng import rng_state, set_rng_state, unchanged_rng
from .validation import Schedule, log_scores, validate

RESTORMER_CLIP = 0.01
"""Largest gradient norm under Restormer's `use_grad_clip: true`."""

SHORT = {'pixel': 'pix', 'perceptual': 'percep'}
"""What the log calls losses, as BasicSR does."""

AMP = {'bf16': torch.bfloat16, 'fp16': torch.float16}

Batch = dict[str, Tensor]
"""Tensors of one micro-batch by name, `lq` and `gt` (b, 3, h, w) in 0..1; what a step adds is there for the next."""

Losses = Callable[[Batch], Iterator[dict[str, Tensor]]]
"""Yields terms by name, one dict for each backward pass. Those that begin with l_ are summed, all are logged."""


@MODEL_REGISTRY.register()
class VmambaIRModel(SRModel):
    """Restoration trained on pairs: deraining, deblurring, and classical super-resolution with pixel losses.

    Options of section `train` beyond BasicSR's:
        `<name>_opt`: any loss of LOSS_REGISTRY, as many as wanted; logged as `l_<name>`. One whose name begins with
            `label_`, such as `label_pixel_opt`, holds the output against what a teacher network made of the input
            (`dataroot_label` of the training data) instead of the truth: distillation.
        `loss_schedules`: factors on losses over the run, `{perceptual: [[0, 0], [5000, 1]]}`, see `loss_schedules`.
        `optim_g`: any of `optimizers.OPTIMIZERS`; `decay_state_space: true` lets A and D of the scans decay as well.
        `scheduler_<label>`: a scheduler for one network in place of `scheduler`.
        `use_grad_clip`: clip the norm of the gradients to `grad_clip`, 0.01 where that is not given (Restormer's).
        `amp`: 'bf16' or 'fp16', networks run under autocast; losses, weights and optimisers stay in float32.
        `accumulate`: n parts of each batch are run one after the other: the same step in 1/n of the memory.
        `ema_decay`: one decay as BasicSR has it, or a list: the first is `params_ema`, others `params_ema_<decay>`.
        `ema_power`, `ema_gamma`, `ema_update_after_step`: warm-up of the averages, see `ema.Averages`.
        `compile`: torch.compile the networks for training.
        `deterministic`: on a GPU, the same bits in every run with the same seed: cuDNN's deterministic algorithms,
            chosen without trials, and a scan that repeats itself. What resumes exactly does so under this option.
        `tf32`: true for matrix products and convolutions of float32 in TF32 on a GPU, false for neither; torch's own
            setting, convolutions alone, where it is not given.
        `max_bad_steps`: stop after so many steps with a NaN or infinite loss or gradient, 100 by default. Each is
            skipped and named.
    Of section `val`: `tile` and `tile_overlap` for images that do not fit in memory; `param_key`, the weights that are
    validated: `params`, `params_ema` (default where weights are averaged) or a further average. Of section `logger`:
    `keep_last: N` keeps the newest N checkpoints, and the networks with the best metrics, saved when they are found.

    An error that ends a run saves the last complete iteration first (`rescue`).

    Raises:
        UserError: options that cannot be met; a checkpoint that cannot be written (exit code 1); too many bad steps, or
            weights that are not finite (exit code 3).
    """

    labels: tuple[str, ...] = ('g',)
    batch_keys: tuple[str, ...] = ('lq', 'gt')
    reads: tuple[str, ...] = ('lq', 'gt')
    """What every sample of the training data must have."""
    takes_labels = True
    """Whether batches may have a `label`."""

    # ------------------------------------------------------------ setting up

    @classmethod
    def check_options(cls, opt: dict[str, Any]) -> None:
        """Raise a UserError for training options that cannot be met; asked before anything is built or written."""
        train = opt['train']
        cls._build_averages(train)
        losses = [k.removesuffix('_opt') for k in train if k.endswith('_opt') and train[k] and k != 'gan_opt']
        loss_schedules(train.get('loss_schedules') or {}, losses)
        cls._check_validated(train, opt.get('val') or {})
        if missing := [
            label for label in cls.labels if not (train.get(f'scheduler_{label}') or train.get('scheduler'))
        ]:
            raise UserError(f'train: scheduler is missing, or scheduler_{missing[0]}')
        of_labels = [key for key, options in train.items() if key.endswith('_opt') and options and _of_label(key)]
        data = opt['datasets']['train']
        folders = data.get('sources') if isinstance(data.get('sources'), list) else []
        labels = any(isinstance(one, dict) and one.get('dataroot_label') for one in (data, *folders))
        if of_labels and not cls.takes_labels:
            raise UserError(
                f'train: {of_labels[0]}: {cls.__name__} has no labels, as it makes its inputs while training'
            )
        if of_labels and not labels:
            raise UserError(
                f'train: {of_labels[0]} needs labels: name their folder as dataroot_label in datasets: train, beside '
                'dataroot_lq'
            )
        if labels and not of_labels:
            raise UserError('datasets: train: dataroot_label: no loss looks at the labels; name one, label_pixel_opt')

    @classmethod
    def left_of_state(cls, opt: dict[str, Any], state: Mapping[str, Any]) -> str:
        """What of a training state a run with these options cannot go on with, though it goes on; '' for nothing."""
        return ''

    @staticmethod
    def _build_averages(train: dict[str, Any]) -> Averages:
        return Averages(
            decays(train.get('ema_decay', 0)),
            train.get('ema_power', 0),
            train.get('ema_gamma', 1),
            train.get('ema_update_after_step', 0),
        )

    @staticmethod
    def _check_validated(train: dict[str, Any], val: dict[str, Any]) -> None:
        """Raise a UserError where `val: param_key` names weights that the run will not have."""
        key = val.get('param_key', 'params')
        averages = decays(train.get('ema_decay', 0))
        known = ['params', *(key_of(decay, averages[0]) for decay in averages)]
        if key not in known:
            more = '' if averages else '; without train: ema_decay nothing is averaged'
            raise UserError(f"val: param_key: there is no '{key}'; there are {', '.join(known)}{more}")

    def init_training_settings(self) -> None:
        self.check_options(self.opt)
        if self.device.type == 'cpu':
            keep_freed_memory()
        train = self.opt['train']
        for label in self.labels:
            if not hasattr(self, f'net_{label}'):
                self._build_network(label)
            self.net(label).train()
        self.averages = self._build_averages(train)
        self.ema_decay = self.averages.decays[0] if self.averages.decays else 0
        if self.ema_decay > 0:
            self._build_ema()
        self._settle_numerics()
        self.criteria = self.build_criteria()
        self.loss_schedules = loss_schedules(train.get('loss_schedules') or {}, self.criteria)
        if any(map(_of_label, self.criteria)):
            self.batch_keys = (*self.batch_keys, 'label')
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.amp == torch.float16)
        clips = train.get('use_grad_clip', 'grad_clip' in train)
        self.max_norm = train.get('grad_clip', RESTORMER_CLIP) if clips else math.inf
        self.bad_steps = BadSteps(train.get('max_bad_steps', 100))
        self.best_metric_results: dict[str, dict] = {}
        self.current_iter = 0
        self.stop = StopRequest()
        self.schedule = Schedule(self.opt)
        path = self.opt['path']
        keep_last = self.opt['logger'].get('keep_last') or 0
        self.checkpoints = CheckpointFolder(path['models'], path['training_states'], keep_last)
        self._epoch = 0
        self._last_saved: tuple[int, list[str]] = (-1, [])
        self._networks_at = -1  # the iteration whose networks are on the disk
        self._complete = 0  # the last iteration that nothing is missing of
        self._finished = False
        self._before: dict[str, Any] = {}
        self.steps_taken = 0
        self._log_values: dict[str, float] = {}
        self._saved_rng: dict[str, Any] | None = None
        self._bar = ProgressBar(int(train['total_iter']), self.opt['rank'])
        self.setup_optimizers()
        self.setup_schedulers()

    def _settle_numerics(self) -> None:
        """What decides the last bits: precision, algorithms, and the kernels, which all ranks have in common."""
        train = self.opt['train']
        self.amp = self._amp_type(train.get('amp'))
        if train.get('deterministic'):
            torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
        if train.get('tf32') is not None:
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = bool(train['tf32'])
        dtypes = [torch.float32, *([self.amp] if self.amp else [])]
        repeatable, rank = bool(train.get('deterministic')), self.opt['rank']
        self.scans = scan_choice.agree(self.device, dtypes, rank, repeatable)
        self.convolutions = scan_choice.agree(self.device, dtypes, rank, repeatable, scan_choice.CONVOLUTIONS)

    def net(self, label: str) -> nn.Module:
        """The network of a label as it is trained, with its wrapper."""
        return getattr(self, f'net_{label}')

    def _build_network(self, label: str) -> None:
        path = self.opt['path']
        net = self.model_to_device(build_network(self.opt[f'network_{label}']))
        setattr(self, f'net_{label}', net)
        self.print_network(net)
        if path.get(f'pretrain_network_{label}'):
            strict, key = path.get(f'strict_load_{label}', True), path.get(f'param_key_{label}', 'params')
            self.load_network(net, path[f'pretrain_network_{label}'], strict, key)

    def _build_ema(self) -> None:
        get_root_logger().info(f'Use Exponential Moving Average with decay: {self.ema_decay}')
        self.net_g_ema = build_network(self.opt['network_g']).to(self.device).eval().requires_grad_(False)
        path = self.opt['path']
        self.model_ema(0)  # what the file lacks begins as in the network, whose own draws these are
        if path.get('pretrain_network_g'):
            asked = path.get('param_key_g')
            # A set that the user named is where averages begin as well; 'params' is what goes with `params_ema`.
            key = FIRST if asked in (None, *SETS) else asked
            self.load_network(self.net_g_ema, path['pretrain_network_g'], path.get('strict_load_g', True), key)
        if len(self.averages.decays) > 1:
            source = path.get('pretrain_network_g')
            stored = load_averages(find_checkpoint(source)) if source else None
            self.averages.begin(self.get_bare_model(self.net_g), stored)

    def model_to_device(self, net: nn.Module) -> nn.Module:
        net = super().model_to_device(net)
        if self.is_train and self.opt['train'].get('compile'):
            # In place: names of parameters and `forward`, which validation uses, stay as they are. One program for each
            # patch size, of which a schedule has few: with sizes left open torch 2.14 cannot order the strides.
            net.compile(dynamic=False)
        return net

    def build_criteria(self) -> dict[str, nn.Module]:
        """The losses between output and target, by the name of their option without `_opt`."""
        train = self.opt['train']
        criteria = {
            key.removesuffix('_opt'): build_loss(options).to(self.device)
            for key, options in train.items()
            if key.endswith('_opt') and options and key != 'gan_opt'
        }
        if not criteria:
            raise UserError('train: no loss; name one, as pixel_opt: {type: L1Loss}')
        return criteria

    def _amp_type(self, name: str | None) -> torch.dtype | None:
        if name is not None and name not in AMP:
            raise UserError(f"train: amp must be {' or '.join(AMP)}, got '{name}'")
        return None if name is None else AMP[name]

    def setup_optimizers(self) -> None:
        for label in self.labels:
            parameters = [(name, p) for name, p in self.net(label).named_parameters() if p.requires_grad]
            optimizer = build_optimizer(parameters, self.opt['train'][f'optim_{label}'])
            setattr(self, f'optimizer_{label}', optimizer)
            self.optimizers.append(optimizer)
        training(self.optimizers)

    def setup_schedulers(self) -> None:
        train = self.opt['train']
        for label, optimizer in zip(self.labels, self.optimizers, strict=True):
            self.schedulers.append(
                build_scheduler(optimizer, train.get(f'scheduler_{label}') or train.get('scheduler'))
            )

    # ------------------------------------------------------------ one iteration

    def update_learning_rate(self, current_iter: int, warmup_iter: int = -1) -> None:
        """Begins an iteration, the one place where the one before is complete, validation included: stops here."""
        self.stop.listen()
        for loader in self.schedule.loaders_to_make_up():  # the weights are still those of the resumed iteration
            self.validation(loader, current_iter - 1, None, self.opt['val'].get('save_img', False))
        if self.stop.agreed:
            self._save_and_exit(current_iter - 1)
        if self._saved_rng is not None:
            # Only now: building the data loaders drew numbers that the uninterrupted run did not.
            set_rng_state(self._saved_rng)
            self._saved_rng = None
        self.current_iter = current_iter
        self._before = self._place_in_run()
        super().update_learning_rate(current_iter, warmup_iter)

    def get_current_learning_rate(self) -> list[float]:
        """One for each optimiser, in the order of `labels`: what the log shows."""
        return [optimizer.param_groups[0]['lr'] for optimizer in self.optimizers]

    def feed_data(self, data: dict[str, Any]) -> None:
        super().feed_data(data)
        if 'label' in data:
            self.label = data['label'].to(self.device)
        self.paths = data.get('lq_path')

    def optimize_parameters(self, current_iter: int) -> None:
        good = self.step('g', self.compute_losses, self.micro_batches())
        self.end_iteration(good)

    def compute_losses(self, batch: Batch) -> Iterator[dict[str, Tensor]]:
        """The losses of the generator on one micro-batch; leaves its `output` in it."""
        output = self.run('g', batch['lq'])
        batch['output'] = output.detach()
        yield self.restoration_losses(output, batch)

    def restoration_losses(self, output: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Every criterion of the options on (b, 3, h, w) images; of a perceptual loss also its style term."""
        terms: dict[str, Tensor] = {}
        for name, criterion in self.criteria.items():
            label, kind = ('label_', name.removeprefix('label_')) if _of_label(name) else ('', name)
            values = criterion(output, batch['label'] if label else self.target(name, batch))
            short = f'l_{label}{SHORT.get(kind, kind)}'
            if isinstance(values, tuple):  # BasicSR's perceptual losses: features and style
                names = [short, f'l_{label}style' if kind == 'perceptual' else f'{short}_style']
            else:
                names, values = [short], (values,)
            names = [f'{n}_2' if n in terms else n for n in names]  # pixel_opt beside pix_opt
            factor = self.loss_schedules[name](self.current_iter) if name in self.loss_schedules else 1
            terms |= {n: value * factor for n, value in zip(names, values, strict=True) if value is not None}
        return terms

    def target(self, criterion: str, batch: Batch) -> Tensor:
        """What a criterion, or `gan`, holds the output against."""
        return batch['gt']

    def run(self, label: str, *inputs: Tensor) -> Tensor:
        """A network in training, under autocast where the options want it; the result is float32."""
        with torch.autocast(self.device.type, dtype=self.amp, enabled=self.amp is not None):
            return self.net(label)(*inputs).float()

    def micro_batches(self) -> list[Batch]:
        """The batch, cut into `accumulate` parts as equal as can be; fewer where it has fewer images."""
        count = min(self.opt['train'].get('accumulate', 1), len(self.lq))
        parts = {key: getattr(self, key).tensor_split(count) for key in self.batch_keys}
        return [{key: parts[key][i] for key in self.batch_keys} for i in range(count)]

    def step(self, label: str, compute_losses: Losses, batches: list[Batch]) -> bool:
        """One step of the optimiser of `label`, or none where a loss or gradient is not finite.

        Args:
            label: of the network that is trained. No other may need gradients.
            compute_losses: called once for each micro-batch.
            batches: the micro-batches, weighted by their number of images.

        Returns:
            Whether the step was taken.
        """
        net, optimizer = self.net(label), getattr(self, f'optimizer_{label}')
        optimizer.zero_grad(set_to_none=True)
        images = sum(len(batch['lq']) for batch in batches)
        logged: dict[str, Tensor] = {}
        for i, batch in enumerate(batches):
            share = len(batch['lq']) / images
            # Ranks exchange gradients once, after the last part.
            last = i + 1 == len(batches)
            with net.no_sync() if isinstance(net, DistributedDataParallel) and not last else nullcontext():
                for terms in compute_losses(batch):
                    total = reduce(add, [value for name, value in terms.items() if name.startswith('l_')])
                    self.scaler.scale(total * share).backward()
                    for name, value in terms.items():
                        logged[name] = logged.get(name, 0) + value.detach().mean() * share
        self.scaler.unscale_(optimizer)
        finite_gradients = self._clip_gradients(net)
        values, gradients_good = self._share(logged, finite_gradients)
        losses_good = all(math.isfinite(value) for value in values.values())
        self._log_values |= values
        if losses_good and gradients_good:
            self.scaler.step(optimizer)
            self.steps_taken += 1
            return True
        # Overflow at a large scale is how the scaler finds the right one.
        if not losses_good or self.scaler.get_scale() <= 1:
            self.bad_steps.add(
                self.current_iter,
                suspects(label, self.get_bare_model(net), batches, self.batch_keys, self.paths, logged),
            )
        optimizer.zero_grad(set_to_none=True)
        return False

    def end_iteration(self, good: bool) -> None:
        """What follows the steps of an iteration.

        Args:
            good: all steps were taken; else the average of the weights is not moved either.
        """
        self.scaler.update()
        if good and self.ema_decay > 0:
            self.model_ema(self.averages.decay_at(self.current_iter, self.ema_decay))
            self.averages.update(self.get_bare_model(self.net_g), self.current_iter)
        self.log_dict, self._log_values = OrderedDict(self._log_values), {}
        self.log_dict['patch'] = float(self.gt.shape[-1])
        self.log_dict['images'] = float(len(self.gt) * self.opt['world_size'])
        if self.bad_steps.count:
            self.log_dict['bad_steps'] = float(self.bad_steps.count)
        self._complete = self.current_iter
        self._bar.advance(self.current_iter, next(iter(self.log_dict.values())))

    def model_ema(self, decay: float = 0.999) -> None:
        """BasicSR's average of the parameters, in one launch on a GPU; buffers are copied as well."""
        averaged = dict(self.net_g_ema.named_parameters())
        trained = dict(self.get_bare_model(self.net_g).named_parameters())
        ours, theirs = [averaged[name] for name in trained], list(trained.values())
        with torch.no_grad():
            follow(ours, theirs, 1 - decay)
        buffers = dict(self.get_bare_model(self.net_g).named_buffers())
        for name, buffer in self.net_g_ema.named_buffers():
            buffer.copy_(buffers[name])

    # ------------------------------------------------------------ what can go wrong in a step

    def _clip_gradients(self, net: nn.Module) -> bool:
        """Whether all gradients are finite; they are clipped then, and left as they are otherwise."""
        try:
            clip_grad_norm_(net.parameters(), self.max_norm, error_if_nonfinite=True)
        except RuntimeError as error:
            if 'non-finite' not in str(error):
                raise
            return False
        return True

    def _share(self, logged: dict[str, Tensor], gradients_good: bool) -> tuple[dict[str, float], bool]:
        """The logged values averaged over the ranks, and whether the gradients are finite on all of them.

        Also finds out whether a rank has been asked to stop: all must save together.
        """
        flags = [float(not gradients_good), float(self.stop.signal > 0)]
        shared = torch.cat([torch.stack(list(logged.values())).float(), torch.tensor(flags, device=self.device)])
        if self.opt['dist']:
            torch.distributed.all_reduce(shared)
            shared[:-2] /= self.opt['world_size']
        *values, bad_ranks, stopped_ranks = shared.tolist()
        if stopped_ranks:
            self.stop.agree()
        return dict(zip(logged, values, strict=True)), not bad_ranks

    # ------------------------------------------------------------ validation

    def validation(self, dataloader: Any, current_iter: int | str, tb_logger: Any, save_img: bool = False) -> None:
        """Every rank takes its part of the images; training goes on as if there had been no validation."""
        name = dataloader.dataset.opt['name']
        if self.is_train and isinstance(current_iter, int):  # the pipeline counts one further where epochs end
            current_iter = min(current_iter, int(self.opt['train']['total_iter']))
        with unchanged_rng(), evaluated(self.optimizers):
            scores = validate(self, dataloader.dataset, current_iter, save_img)
        if scores is None:
            get_root_logger().warning(f'Validation {name} at {current_iter} is put off until the run goes on')
            self.stop.agree()
            return
        if self.is_train:
            self.schedule.done(name, current_iter)
        if self.is_train and scores:
            self._settle_best(name)
            for metric, value in scores.items():
                self._update_best_metric_result(name, metric, value, current_iter)
            if any(record['iter'] == current_iter for record in self.best_metric_results[name].values()):
                self._keep_networks(current_iter)
        if scores and self.opt['rank'] == 0:
            log_scores(self, scores, name, current_iter, tb_logger)
        barrier()

    def _settle_best(self, name: str) -> None:
        """Make the records of the best those of the metrics that the options name: a resume may name others."""
        before = self.best_metric_results.pop(name, {})
        self._initialize_best_metric_results(name)
        for metric, record in self.best_metric_results[name].items():
            if metric in before and before[metric]['better'] == record['better']:
                record |= before[metric]

    @torch.no_grad()
    def test(self) -> None:
        """`output` (1, 3, h, w) of `lq` in float32, by the averaged weights where there are some, in tiles if asked."""
        net = self._network_to_test()
        was_training = net.training
        net.eval()
        options = self.opt['val']
        output = run_in_tiles(
            net.forward,  # past torch.compile, which would compile again for every size of image
            self.lq[0].cpu(),
            scale=self.opt.get('scale', 1),
            tile=options.get('tile') or None,
            overlap=options.get('tile_overlap', 32),
            device=self.device,
        )
        self.output = output[None].contiguous()  # metrics sum in this order
        net.train(was_training)

    def _network_to_test(self) -> nn.Module:
        """What `val: param_key` names: the averaged weights where there are some, the trained ones for `params`."""
        bare = self.get_bare_model(self.net_g)
        key = self.opt['val'].get('param_key', FIRST)
        if key == 'params' or not hasattr(self, 'net_g_ema'):
            return bare
        if key == FIRST:
            return self.net_g_ema
        if key not in self.averages.states:
            known = ', '.join(['params', FIRST, *self.averages.states])
            raise UserError(f"val: param_key: there is no '{key}'; there are {known}")
        averaged = copy.deepcopy(bare)
        averaged.load_state_dict(self.averages.states[key])
        return averaged

    # ------------------------------------------------------------ saving and resuming

    def networks_to_save(self) -> dict[str, dict[str, Any]]:
        """The content of `net_<label>_<iteration>.pth` by label: `params`, and what else belongs to it."""
        content = {label: network_content(self.get_bare_model(self.net(label))) for label in self.labels}
        if self.ema_decay > 0:
            content['g'][FIRST] = on_cpu(self.net_g_ema.state_dict())
            content['g'] |= {key: on_cpu(state) for key, state in self.averages.states.items()}
        return content

    def rank_state(self) -> dict[str, Any]:
        """What of the training state is each rank's own, in tensors and plain values: its random numbers."""
        return {'rng': rng_state()}

    def load_rank_state(self, state: dict[str, Any]) -> None:
        """Continue from what `rank_state` returned."""
        self._saved_rng = state['rng']

    def save(self, epoch: int, current_iter: int) -> None:
        """Networks first and the state last: where there is a state, its networks are whole.

        Args:
            epoch: of the data loader.
            current_iter: -1 at the end of the run: networks only, named `latest`.

        Raises:
            UserError: something cannot be written, or a weight is not finite; earlier checkpoints are as they were.
        """
        if current_iter == -1:
            self._finished = True
            self._bar.close()
            self.stop.leave()
            self._write('latest')
        else:
            self._epoch = epoch
            self._note_saved(current_iter)
            self._write(current_iter, gather(self.rank_state()))

    def _note_saved(self, iteration: int) -> None:
        self._last_saved, self._networks_at = (iteration, self.schedule.owed(iteration)), iteration

    def _write(self, name: int | str, ranks: list[dict[str, Any]] | None = None) -> None:
        """The networks, and with `ranks` a state: all ranks together, of which the first writes."""
        if self.opt['rank'] == 0:
            with evaluated(self.optimizers) as points:
                networks = self.networks_to_save()
                state = self._state(int(name), ranks, networks, points) if ranks is not None else None
                self.checkpoints.write(name, networks, state, self._best())

    def _best(self) -> set[int]:
        """The iterations with the best metrics."""
        return {record['iter'] for records in self.best_metric_results.values() for record in records.values()}

    def _keep_networks(self, iteration: int | str) -> None:
        """The networks of the best validation so far, where `keep_last` is to keep them and none fell on a save."""
        if self.checkpoints.keep_last and not self._finished and iteration != self._networks_at:
            self._networks_at = int(iteration)
            self._write(self._networks_at)

    # ------------------------------------------------------------ after an error

    def _place_in_run(self) -> dict[str, Any]:
        """What an iteration changes before its step, and `_step_back` puts back."""
        return {
            'schedulers': [copy.deepcopy(scheduler.state_dict()) for scheduler in self.schedulers],
            'rates': [[group['lr'] for group in optimizer.param_groups] for optimizer in self.optimizers],
            'rng': rng_state(),
            'steps': self.steps_taken,
        }

    def _step_back(self) -> bool:
        """Be again where the last complete iteration ended; False where a step of the next was taken already."""
        before, self._before = self._before, {}
        for scheduler, state in zip(self.schedulers, before['schedulers'], strict=True):
            scheduler.load_state_dict(state)
        for optimizer, rates in zip(self.optimizers, before['rates'], strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group['lr'] = rate
        set_rng_state(before['rng'])
        return bool(before['steps'] == self.steps_taken)

    def rescue(self) -> str:
        """Save the last complete iteration after an error that ends the run.

        Of several ranks the first does it alone, since another may be gone: a resume is not exact then.

        Returns:
            What was saved, in words; empty where nothing had been done since the last save.

        Raises:
            UserError: as `save`.
        """
        self._bar.close()
        iteration = self._complete
        saved = (iteration, self.schedule.owed(iteration)) == self._last_saved
        if not iteration or saved or self.opt['rank'] != 0:
            self.stop.leave()
            return ''
        exact = self.current_iter == iteration or self._step_back()
        self._note_saved(iteration)
        self._write(iteration, [self.rank_state()] if self.opt['world_size'] == 1 else [])
        self.stop.leave()
        half = '' if exact else ' (with one step of the next in its weights)'
        return f'saved iteration {iteration}{half}; go on with --auto_resume'

    def _state(
        self,
        current_iter: int,
        ranks: list[dict[str, Any]],
        networks: dict[str, dict[str, Any]],
        points: list[list[Tensor]],
    ) -> dict[str, Any]:
        return {
            'epoch': self._epoch,
            'iter': current_iter,
            'networks': {label: digest(content['params']) for label, content in networks.items()},
            'kinds': [type(optimizer).__name__ for optimizer in self.optimizers],
            'optimizers': [optimizer.state_dict() for optimizer in self.optimizers],
            'points': points,  # of schedule-free optimisers: the networks that are saved are averages
            'schedulers': [scheduler.state_dict() for scheduler in self.schedulers],
            'scaler': self.scaler.state_dict(),
            'best_metric_results': self.best_metric_results,
            'bad_steps': self.bad_steps.count,
            'owed': self.schedule.owed(current_iter),
            'ranks': ranks,
            'scans': self.scans,
            'convolutions': self.convolutions,
        }

    def resume_training(self, resume_state: dict[str, Any]) -> None:
        """Continue exactly where the state was saved; a state of plain BasicSR has no random numbers, which is said.

        Rates, decay and the like are those of the options, changed ones included, not those of the state.

        Raises:
            UserError: the state is of other networks or optimisers.
        """
        groups = [settings(optimizer) for optimizer in self.optimizers]
        super().resume_training(resume_state)
        for optimizer, wanted in zip(self.optimizers, groups, strict=True):
            for group, values in zip(optimizer.param_groups, wanted, strict=True):
                group.update(values)
        # States are saved at the average of a schedule-free optimiser. One of an older version has no points, and the
        # point of a network that starts afresh is another.
        fresh = self.opt['path'].get('ignore_resume_networks') or ()
        points = zip(self.labels, resume_state.get('points') or [], strict=False)
        training(self.optimizers, [[] if f'network_{label}' in fresh else point for label, point in points])
        self.current_iter, self._epoch = resume_state['iter'], resume_state['epoch']
        self._networks_at = self.current_iter
        if resume_state.get('scaler'):  # empty where it was saved without fp16
            self.scaler.load_state_dict(resume_state['scaler'])
        self.best_metric_results = resume_state.get('best_metric_results', {})
        self.bad_steps.count = resume_state.get('bad_steps', 0)
        self.schedule.resumed = resume_state.get('owed', [])
        kept = {kind: name for kind, name in resume_state.get('scans', {}).items() if kind in self.scans}
        self.scans |= scan_choice.use(kept, self.device, 'that of the training state')
        kept = {kind: name for kind, name in resume_state.get('convolutions', {}).items() if kind in self.convolutions}
        self.convolutions |= scan_choice.use(kept, self.device, 'that of the training state', scan_choice.CONVOLUTIONS)
        ranks = resume_state.get('ranks', [])
        if left := self.left_of_state(self.opt, resume_state):
            get_root_logger().warning(f'{left}: training goes on, but not as the uninterrupted run would have.')
        if len(ranks) == self.opt['world_size']:
            self.load_rank_state(ranks[self.opt['rank']])
        else:
            get_root_logger().warning(
                f'The state holds the random numbers of {len(ranks)} processes, there are {self.opt["world_size"]} '
                'now: training goes on, but not as the uninterrupted run would have.'
            )

    def _save_and_exit(self, iteration: int) -> None:
        name = signal.Signals(self.stop.agreed).name
        if (iteration, self.schedule.owed(iteration)) != self._last_saved:
            self.save(self._epoch, iteration)
        get_root_logger().info(f'{name}: saved iteration {iteration}; go on with --auto_resume')
        self._bar.close()
        barrier()  # a launcher ends all ranks as soon as one has gone, even one that is still saving
        raise SystemExit(128 + self.stop.agreed)


def _of_label(loss: str) -> bool:
    """Whether the loss of this name or option is between the output and the teacher's label."""
    return loss.startswith('label_')
