"""Speed of the real-world degradation against BasicSR's RealESRGANModel.feed_data: python -m benchmarks.degradation

Both start from a batch of photographs and end with what a training step takes: first everything (sharpening of the
ground truth before the degradation and after it, degradation, crop, pair pool), then without the sharpening, which
VmambaIR's release leaves out. BasicSR gets its blur kernels ready-made, as from its data set; ours are made here.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from realesrgan_pipeline import Degradation, DegradationConfig, image_generator
from realesrgan_pipeline.draws import draw
from realesrgan_pipeline.kernels import blur_kernels, sinc_kernels
from realesrgan_pipeline.sharpen import usm_sharpen
from vmambair_arch.data.photographs import photographs
from vmambair_arch.errors import guard
from vmambair_arch.files import replacing
from vmambair_arch.models.pair_pool import PairPool

from .arguments import positive

BATCH, SIZE, POOL = 9, 256, 180
RESULTS = Path(__file__).parent / 'results' / 'degradation.json'


def batch(device: torch.device) -> Tensor:
    """Crops of photographs, (9, 3, 256, 256)."""
    images = [photograph.image for photograph in photographs()]
    corners = [images[i % len(images)][i * 7 :, i * 11 :][:SIZE, :SIZE] for i in range(BATCH)]
    return torch.stack([torch.from_numpy(c.copy()).permute(2, 0, 1) for c in corners]).float().div(255).to(device)


def ours(gt: Tensor, sharpen: bool) -> Callable[[int], None]:
    """What the model does in iteration i."""
    degrade, pool = Degradation(), PairPool(POOL, BATCH)

    def feed_data(i: int) -> None:
        start = usm_sharpen(gt) if sharpen else gt
        lq, _ = degrade(start, [image_generator(0, i, place) for place in range(BATCH)])
        _, target = pool.exchange(lq, gt, image_generator(1, i))
        if sharpen:
            usm_sharpen(target)

    return feed_data


def basicsrs(gt: Tensor, sharpen: bool) -> Callable[[int], None]:
    """BasicSR's feed_data, fixed to run on any device, with kernels of the same distribution."""
    import basicsr  # noqa: F401 fixes it
    from basicsr.models.realesrgan_model import RealESRGANModel
    from basicsr.utils import DiffJPEG, USMSharp

    device = gt.device
    jpeger, sharpener = DiffJPEG(differentiable=False).to(device), USMSharp().to(device)
    model = RealESRGANModel.__new__(RealESRGANModel)
    model.device, model.is_train = device, True
    model.jpeger = lambda image, quality: jpeger(image, quality=quality).contiguous()
    model.usm_sharpener = sharpener if sharpen else lambda image: image
    config = DegradationConfig()
    model.opt = {'scale': config.scale, 'gt_size': SIZE, 'second_blur_prob': config.second.blur_prob}
    for suffix, order in (('', config.first), ('2', config.second)):
        for name in ('resize_prob', 'resize_range', 'gaussian_noise_prob', 'noise_range', 'poisson_scale_range',
                     'gray_noise_prob', 'jpeg_range'):  # fmt: skip
            model.opt[name + suffix] = getattr(order, name)
    model.queue_size, model.queue_ptr = POOL, 0
    model.queue_gt = torch.zeros(POOL, *gt.shape[1:], device=device)
    model.queue_lr = torch.zeros(POOL, 3, SIZE // config.scale, SIZE // config.scale, device=device)

    names = ('sigma_x', 'sigma_y', 'rotation', 'beta', 'cutoff')
    drawn = draw(config, [image_generator(2, place) for place in range(BATCH)])
    first, second = (
        blur_kernels(order.family, order.kernel_size, **{name: getattr(order, name) for name in names})
        for order in (drawn.first, drawn.second)
    )
    data = {'gt': gt, 'kernel1': first, 'kernel2': second}
    data['sinc_kernel'] = sinc_kernels(drawn.final_size, drawn.final_cutoff)

    def feed_data(i: int) -> None:
        np.random.seed(i)
        torch.manual_seed(i)
        model.feed_data(data)

    return feed_data


def in_turns(runs: dict[str, Callable[[int], None]], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of every run of each, one after the other in every round."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(-2, rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run(i + 2)
            if device.type == 'cuda':
                torch.cuda.synchronize(device)
            if i >= 0:
                times[name].append(time.perf_counter() - start)
    return times


def compare(gt: Tensor, sharpen: bool, rounds: int) -> dict[str, float]:
    runs = {'ours': ours(gt, sharpen), 'basicsr': basicsrs(gt, sharpen)}
    times = in_turns(runs, rounds, gt.device)
    figures: dict[str, float] = {'rounds': rounds}
    for name, seconds in times.items():
        figures[f'{name}_images_per_s'] = BATCH * rounds / sum(seconds)
        figures[f'{name}_median_s'] = statistics.median(seconds)
    # BasicSR's time depends on the one size it draws for a batch, so the throughput over all rounds is what counts.
    figures['throughput_x'] = sum(times['basicsr']) / sum(times['ours'])
    figures['median_x'] = figures['basicsr_median_s'] / figures['ours_median_s']
    return {name: round(value, 4) for name, value in figures.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--threads', type=positive, default=2)
    parser.add_argument('--rounds', type=positive, default=60)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    gt = batch(torch.device(args.device))
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    section = results[args.device] = {'batch': BATCH, 'gt': SIZE, 'threads': args.threads, 'torch': torch.__version__}
    for name, sharpen, rounds in (('feed_data', True, max(5, args.rounds // 6)), ('without_usm', False, args.rounds)):
        section[name] = figures = compare(gt, sharpen, rounds)
        rates = figures['ours_images_per_s'], figures['basicsr_images_per_s']
        print(
            f'{name:<12} ours {rates[0]:7.1f} images/s, BasicSR {rates[1]:7.1f} images/s: '
            f'{figures["throughput_x"]:.2f} x (medians {figures["median_x"]:.2f} x)'
        )
    with replacing(RESULTS) as temporary:
        temporary.write_text(json.dumps(results, indent=2) + '\n')
    print(f'wrote {RESULTS}')


if __name__ == '__main__':
    sys.exit(guard(main))
