"""The model, step by step, in this process."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from vmambair_arch.errors import UserError


def batch(count: int = 4, seed: int = 0) -> dict:
    generator = torch.Generator().manual_seed(seed)
    gt = torch.rand(count, 3, 16, 16, generator=generator)
    noise = 0.1 * torch.randn(gt.shape, generator=generator)
    return {'lq': gt + noise, 'gt': gt, 'lq_path': [f'lq/{i}.png' for i in range(count)]}


def train(model, iterations: int, data: dict | None = None, first: int = 1) -> list[float]:
    """Iterations as train_pipeline runs them; the losses."""
    losses = []
    for iteration in range(first, first + iterations):
        model.update_learning_rate(iteration)
        model.feed_data(data or batch(seed=iteration))
        model.optimize_parameters(iteration)
        losses.append(model.get_current_log()['l_pix'])
    model.stop.leave()
    return losses


def weights(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# ---------------------------------------------------------------- the step


def test_it_learns(build):
    losses = train(build(), 12, batch())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize('parts', [2, 3, 4, 9])
def test_accumulation_is_the_same_step(build, parts):
    """3 parts of 4 images are not equal, and of 9 only 4 have an image."""
    whole, split = build(), build(accumulate=parts)
    for model in (whole, split):
        # Adam divides by the size of the gradient, which would blow up the last digit of small ones.
        model.optimizer_g = model.optimizers[0] = torch.optim.SGD(model.net_g.parameters(), lr=0.01)
        train(model, 2)
    expected = weights(whole.net_g)
    for name, tensor in weights(split.net_g).items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-6)
    assert split.log_dict['l_pix'] == pytest.approx(whole.log_dict['l_pix'], rel=1e-5)


@pytest.mark.parametrize(
    ('train_options', 'norm'),
    [
        ({'use_grad_clip': True}, 0.01),
        ({'use_grad_clip': True, 'grad_clip': 0.5}, 0.5),
        ({'use_grad_clip': ..., 'grad_clip': 0.5}, 0.5),
        ({'use_grad_clip': False}, None),
    ],
)
def test_gradients_are_clipped(build, train_options, norm):
    model = build(**train_options)
    train(model, 1)
    found = torch.cat([p.grad.flatten() for p in model.net_g.parameters()]).norm().item()
    if norm is None:
        assert found > 0.5
    else:
        assert found == pytest.approx(norm, rel=1e-3)


def test_ema_averages_weights_and_copies_buffers(build):
    model = build(ema_decay=0.75)
    for net in (model.net_g, model.net_g_ema):
        net.register_buffer('seen', torch.zeros(1))
    before = weights(model.net_g_ema)
    train(model, 1)
    model.net_g.seen += 5
    train(model, 1, first=2)
    assert model.net_g_ema.seen.item() == 5
    name = 'output.weight'
    first = model.net_g_ema.get_parameter(name)
    assert not torch.equal(first, before[name])
    # One more step by hand.
    previous = first.detach().clone()
    train(model, 1, first=3)
    expected = 0.75 * previous + 0.25 * model.net_g.get_parameter(name).detach()
    torch.testing.assert_close(model.net_g_ema.get_parameter(name), expected)


@pytest.mark.parametrize('amp', ['bf16', 'fp16'])
def test_autocast_trains_float32_weights(build, amp):
    model = build(amp=amp)
    seen = []
    model.net_g.patch_embed.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    model.net_g.output.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    losses = train(model, 12, batch())
    assert seen[-1] == {'bf16': torch.bfloat16, 'fp16': torch.float16}[amp]
    assert all(p.dtype == torch.float32 for p in model.net_g.parameters())
    assert losses[-1] < 0.6 * losses[0]


def test_overflow_in_fp16_lowers_the_scale_and_is_no_bad_step(build):
    model = build(amp='fp16', max_bad_steps=1)
    model.scaler = torch.amp.GradScaler('cpu', init_scale=2.0**32)
    before = weights(model.net_g)
    train(model, 1)
    assert same(weights(model.net_g), before)
    assert model.scaler.get_scale() == 2.0**31
    train(model, 30, first=2)
    assert not same(weights(model.net_g), before)
    assert model.bad_steps.count == 0


def test_losses_are_those_that_the_options_name(build):
    train_options = {
        'pixel_opt': {'type': 'L1Loss', 'loss_weight': 1.0, 'reduction': 'mean'},
        'smooth_opt': {'type': 'MSELoss', 'loss_weight': 2.0, 'reduction': 'mean'},
    }
    model = build(**train_options)
    seen = {}
    model.net_g.register_forward_hook(lambda module, inputs, output: seen.update(output=output.detach()))
    data = batch()
    train(model, 1, data)
    difference = seen['output'] - data['gt']
    assert model.log_dict['l_pix'] == pytest.approx(difference.abs().mean().item(), rel=1e-5)
    assert model.log_dict['l_smooth'] == pytest.approx(2 * difference.square().mean().item(), rel=1e-5)


def test_perceptual_loss_has_a_style_term(build):
    model = build()

    class Perceptual(nn.Module):
        def forward(self, x, gt):
            return (x - gt).abs().mean(), None

    model.criteria['perceptual'] = Perceptual()
    train(model, 1)
    assert model.log_dict['l_percep'] == pytest.approx(model.log_dict['l_pix'])
    assert 'l_style' not in model.log_dict


def test_label_losses_are_against_the_label(build, options):
    options['datasets']['train']['dataroot_label'] = 'train/label'
    model = build(label_pixel_opt={'type': 'L1Loss', 'loss_weight': 2.0, 'reduction': 'mean'}, accumulate=2)
    seen = []
    model.net_g.register_forward_hook(lambda module, inputs, output: seen.append(output.detach()))
    data = batch()
    data['label'] = data['gt'].flip(0)
    train(model, 1, data)
    output = torch.cat(seen)
    assert model.log_dict['l_pix'] == pytest.approx((output - data['gt']).abs().mean().item(), rel=1e-5)
    assert model.log_dict['l_label_pix'] == pytest.approx(2 * (output - data['label']).abs().mean().item(), rel=1e-5)


def test_a_student_learns_from_labels_alone(build, options):
    options['datasets']['train']['dataroot_label'] = 'train/label'
    model = build(pixel_opt=None, label_pixel_opt={'type': 'L1Loss'})
    data = batch()
    data['label'] = data['gt'].flip(1)
    losses = []
    for iteration in range(1, 13):
        model.update_learning_rate(iteration)
        model.feed_data(data)
        model.optimize_parameters(iteration)
        losses.append(model.get_current_log()['l_label_pix'])
    model.stop.leave()
    assert losses[-1] < 0.9 * losses[0]


def test_labels_and_their_losses_come_together(build, options):
    with pytest.raises(UserError, match='label_pixel_opt needs labels.*dataroot_label'):
        build(label_pixel_opt={'type': 'L1Loss'})
    del options['train']['label_pixel_opt']
    options['datasets']['train']['dataroot_label'] = 'train/label'
    with pytest.raises(UserError, match='no loss looks at the labels'):
        build()


def test_no_loss_is_refused(build, options):
    del options['train']['pixel_opt']
    with pytest.raises(UserError, match='no loss'):
        build()


def test_warm_up_is_linear(build, options):
    options['train']['scheduler']['eta_mins'] = [0.001, 0.001]
    model = build()
    rates = []
    for iteration in range(1, 8):
        model.update_learning_rate(iteration, warmup_iter=5)
        model.feed_data(batch())
        model.optimize_parameters(iteration)
        rates.append(model.get_current_learning_rate()[0])
    model.stop.leave()
    assert rates == pytest.approx([0.0002, 0.0004, 0.0006, 0.0008, 0.001, 0.001, 0.001])


@pytest.mark.slow
def test_compiled_network_takes_the_same_step(build):
    plain, compiled = build(), build(compile=True)
    assert compiled.net_g.state_dict().keys() == plain.net_g.state_dict().keys()
    assert train(compiled, 2) == pytest.approx(train(plain, 2), rel=1e-4)


# ---------------------------------------------------------------- NaN and infinity


@pytest.fixture
def messages() -> Iterator[list[str]]:
    """What BasicSR's logger is told, which passes nothing on to pytest."""
    found: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: found.append(record.getMessage())
    logging.getLogger('basicsr').addHandler(handler)
    yield found
    logging.getLogger('basicsr').removeHandler(handler)


def test_a_bad_image_is_named_and_skipped(build, messages):
    model = build()
    train(model, 2)
    before, average = weights(model.net_g), weights(model.net_g_ema)
    moments = [state['exp_avg'].clone() for state in model.optimizer_g.state.values()]
    data = batch()
    data['lq'][2, 1, 3, 3] = math.nan
    train(model, 1, data, first=3)
    assert any('Iteration 3: lq of lq/2.png is NaN or infinite' in message for message in messages)
    assert same(weights(model.net_g), before)
    assert same(weights(model.net_g_ema), average)
    assert all(
        torch.equal(a, state['exp_avg']) for a, state in zip(moments, model.optimizer_g.state.values(), strict=True)
    )
    assert model.log_dict['bad_steps'] == 1
    assert math.isfinite(train(model, 1, first=4)[0])
    assert not same(weights(model.net_g), before)


def test_the_image_is_found_in_any_part_of_the_batch(build, messages):
    data = batch()
    data['gt'][3] = math.inf
    train(build(accumulate=2), 1, data)
    assert 'gt of lq/3.png is NaN or infinite' in messages[-1]


def test_a_bad_gradient_is_named(build, messages):
    """A finite loss with an infinite gradient: the square root at zero."""
    model = build()

    class Root(nn.Module):
        def forward(self, x, gt):
            return (x.mean() - x.mean().detach()).abs().sqrt()

    model.criteria = {'pixel': Root()}
    before = weights(model.net_g)
    train(model, 1)
    assert model.log_dict['l_pix'] == 0
    assert 'gradient of patch_embed.proj.weight of net_g is NaN or infinite' in messages[-1]
    assert same(weights(model.net_g), before)


def test_a_bad_weight_is_named_and_not_saved(build, options, messages):
    model = build()
    with torch.no_grad():
        model.net_g.output.weight[0, 0] = math.inf
    train(model, 1)
    assert 'weight output.weight of net_g is NaN or infinite' in messages[-1]
    with pytest.raises(
        UserError, match=r'not saved: net_g\.params\.output\.weight .* there is no checkpoint'
    ) as caught:
        model.save(0, 1)
    assert caught.value.exit_code == 3
    assert not list(Path(options['path']['models']).iterdir())


def test_too_many_bad_steps_end_the_run(build):
    model = build(max_bad_steps=3)
    data = batch()
    data['gt'][0, 0, 0, 0] = math.nan
    train(model, 1, data)
    train(model, 1, first=2)
    train(model, 1, data, first=3)
    with pytest.raises(UserError, match='stopped at iteration 4 after 3 steps with NaN .* gt of lq/0.png') as caught:
        train(model, 1, data, first=4)
    assert caught.value.exit_code == 3


# ---------------------------------------------------------------- validation


class Images(torch.utils.data.Dataset):
    """Images of several sizes, noisy and clean."""

    opt = {'name': 'three'}

    def __init__(self, *sizes: tuple[int, int]) -> None:
        generator = torch.Generator().manual_seed(0)
        self.images = [torch.rand(3, *size, generator=generator) for size in sizes]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict:
        gt = self.images[index]
        return {'lq': gt * 0.9, 'gt': gt, 'lq_path': f'lq/{index}.png', 'gt_path': f'gt/{index}.png'}


def loader(*sizes: tuple[int, int]) -> torch.utils.data.DataLoader:
    return torch.utils.data.DataLoader(Images(*sizes))


def test_images_of_any_size_are_validated_with_the_averaged_weights(build, options):
    from basicsr.metrics import calculate_psnr
    from basicsr.utils import tensor2img

    model = build()
    train(model, 3)
    data = loader((5, 9), (17, 8), (1, 1))
    model.validation(data, 3, None, True)
    expected = []
    for item in data:
        with torch.no_grad():
            restored = tensor2img([model.net_g_ema(item['lq'])])
        expected.append(calculate_psnr(restored, tensor2img([item['gt']]), 0))
    best = model.best_metric_results['three']['psnr']
    assert best == {'better': 'higher', 'val': pytest.approx(sum(expected) / 3), 'iter': 3}
    assert model.net_g.training
    assert (Path(options['path']['visualization']) / '1' / '1_3.png').is_file()


def test_ranks_share_the_images_and_the_average_is_exact(build, monkeypatch):
    from vmambair_arch.models import validation

    model = build()
    train(model, 2)
    images = Images((8, 8), (9, 17), (16, 12), (8, 15), (13, 8))
    whole = validation.validate(model, images, 2, False)
    shares = []
    for rank in (1, 0):
        model.opt |= {'rank': rank, 'world_size': 2}
        monkeypatch.setattr(validation, 'gather', lambda scores: shares.insert(0, scores) or shares)
        shared = validation.validate(model, images, 2, False)
    assert [sorted(share) for share in shares] == [[0, 2, 4], [1, 3]]
    assert shared == whole


def test_lower_may_be_better(build, options):
    options['val']['metrics'] = {'psnr': {'type': 'calculate_psnr', 'crop_border': 0, 'better': 'lower'}}
    model = build()
    results = []
    for iteration in (1, 2, 3):
        train(model, 1, first=iteration)
        model.validation(loader((8, 8)), iteration, None)
        results.append(model.best_metric_results['three']['psnr']['val'])
    assert results == sorted(results, reverse=True)
    assert math.isfinite(results[0])


def test_large_images_are_validated_in_tiles(build):
    model = build()
    train(model, 2)
    shapes = []
    original = model.net_g_ema.forward
    model.net_g_ema.forward = lambda x: shapes.append(tuple(x.shape[-2:])) or original(x)
    model.opt['val'] |= {'tile': 32, 'tile_overlap': 8}
    model.validation(loader((64, 40)), 2, None)
    assert len(shapes) > 1
    assert max(max(shape) for shape in shapes) <= 32


def test_validation_leaves_no_trace_in_training(build):
    plain, validated = build(), build()
    torch.manual_seed(5)
    train(plain, 2)
    expected = torch.rand(1)
    torch.manual_seed(5)
    train(validated, 1)
    validated.validation(loader((8, 8)), 1, None)
    train(validated, 1, first=2)
    assert torch.equal(torch.rand(1), expected)
    assert same(weights(plain.net_g), weights(validated.net_g))


def test_an_image_that_cannot_be_scored_is_named(build, options):
    options['val']['metrics'] = {'niqe': {'type': 'calculate_niqe', 'crop_border': 0}}
    with pytest.raises(UserError, match='validation of lq/0.png: NIQE needs two blocks'):
        build().validation(loader((8, 8)), 1, None)


@pytest.mark.parametrize('error', [ValueError('no\nsense'), np.linalg.LinAlgError(), KeyError('x'), None])
def test_a_metric_that_fails_over_an_image_is_named_and_the_run_goes_on(build, options, monkeypatch, caplog, error):
    """`None`: it says NaN."""
    from basicsr.utils.registry import METRIC_REGISTRY

    def fails(img, img2):
        if error:
            raise error
        return math.nan

    monkeypatch.setitem(METRIC_REGISTRY._obj_map, 'fails', fails)
    options['val']['metrics'] = {'odd': {'type': 'fails'}, 'psnr': {'type': 'calculate_psnr', 'crop_border': 0}}
    model = build()
    train(model, 1)
    monkeypatch.setattr(logging.getLogger('basicsr'), 'propagate', True)
    model.validation(loader((8, 8)), 1, None)
    said = [record.getMessage() for record in caplog.records if record.levelname == 'WARNING']
    assert {text.partition(': ')[2].partition(':')[0] for text in said if 'lq/0.png' in text} == {'odd'}
    records = next(iter(model.best_metric_results.values()))
    assert math.isfinite(records['psnr']['val'])
    assert not math.isfinite(records['odd']['val'])
    train(model, 1, first=2)


# ---------------------------------------------------------------- saving


def test_a_checkpoint_says_what_network_it_is(build, options):
    from vmambair_arch.checkpoints.load import load_model

    model = build()
    train(model, 1)
    model.save(0, 1)
    path = Path(options['path']['models']) / 'net_g_1.pth'
    assert same(weights(load_model(path)), weights(model.net_g_ema))
    assert torch.load(path, weights_only=True)['vmambair']['config']['dim'] == 8


def test_everything_is_in_the_state(build, options):
    """Weights come back by `pretrain_network_g`, which BasicSR's resume sets."""
    model = build(amp='fp16', ema_decay=0.9)
    train(model, 3)
    model.validation(loader((8, 8)), 3, None)
    model.bad_steps.count = 4
    model.save(0, 3)
    expected = train(model, 3, first=4)
    state = torch.load(Path(options['path']['training_states']) / '3.state', weights_only=True)
    options['path']['pretrain_network_g'] = str(Path(options['path']['models']) / 'net_g_3.pth')
    options['path']['resume_state'] = str(Path(options['path']['training_states']) / '3.state')
    resumed = build()
    resumed.resume_training(state)
    assert resumed.best_metric_results == model.best_metric_results
    assert resumed.bad_steps.count == 4
    assert resumed.scaler.state_dict() == state['scaler']
    assert train(resumed, 3, first=4) == expected
    assert same(weights(resumed.net_g), weights(model.net_g))
    assert same(weights(resumed.net_g_ema), weights(model.net_g_ema))


def test_a_resume_makes_up_for_the_validation_that_follows_a_save(build, options, monkeypatch):
    """BasicSR saves and then validates: the state of the best iteration does not know yet that it is the best."""
    monkeypatch.setattr('vmambair_arch.models.validation.build_dataset', lambda section: Images((8, 8), (9, 9)))
    model = build()
    train(model, 4)  # val_freq is 4
    model.save(0, 4)
    model.validation(loader((8, 8), (9, 9)), 4, None)
    best = model.best_metric_results
    state = torch.load(Path(options['path']['training_states']) / '4.state', weights_only=True)
    options['path']['pretrain_network_g'] = str(Path(options['path']['models']) / 'net_g_4.pth')
    options['path']['resume_state'] = str(Path(options['path']['training_states']) / '4.state')
    resumed = build()
    resumed.resume_training(state)
    assert resumed.best_metric_results == {}
    assert train(resumed, 1, first=5) == train(model, 1, first=5)
    assert resumed.best_metric_results == best
    assert resumed.best_metric_results['three']['psnr']['iter'] == 4


def test_a_state_of_plain_basicsr_resumes_with_a_word(build, options, messages):
    from basicsr.models.base_model import BaseModel

    model = build(use_grad_clip=False)
    train(model, 2)
    BaseModel.save_training_state(model, 0, 2)
    state = torch.load(Path(options['path']['training_states']) / '2.state', weights_only=True)
    resumed = build(amp='fp16')
    resumed.resume_training(state)
    assert any('random numbers of 0 processes' in message for message in messages)
    assert resumed.schedulers[0].last_epoch == model.schedulers[0].last_epoch


def test_changed_options_count_after_a_resume(build, options):
    model = build()
    train(model, 6)
    model.save(0, 6)
    state = torch.load(Path(options['path']['training_states']) / '6.state', weights_only=True)
    options['train']['optim_g'] |= {'lr': 0.0005, 'weight_decay': 0.5}
    options['train']['scheduler']['eta_mins'] = [0.0005, 0.0005]
    resumed = build()
    resumed.resume_training(state)
    resumed.update_learning_rate(7)
    resumed.stop.leave()
    assert resumed.get_current_learning_rate() == [0.0005]
    assert resumed.optimizer_g.param_groups[0]['weight_decay'] == 0.5


def test_a_state_of_another_optimiser_is_refused(build, options):
    model = build()
    train(model, 1)
    model.save(0, 1)
    state = torch.load(Path(options['path']['training_states']) / '1.state', weights_only=True)
    options['path']['resume_state'] = '1.state'
    options['train']['optim_g']['decay_state_space'] = True
    with pytest.raises(UserError, match=r'1\.state is of another network_\* or optim_\* than the options name'):
        build().resume_training(state)


def test_keep_last(build, options):
    options['logger']['keep_last'] = 2
    model = build()
    for iteration in range(1, 6):
        train(model, 1, first=iteration)
        if iteration == 2:
            model.validation(loader((8, 8)), 2, None)
        model.save(0, iteration)
    assert {path.name for path in Path(options['path']['training_states']).iterdir()} == {'4.state', '5.state'}
    networks = {path.name for path in Path(options['path']['models']).iterdir()}
    assert networks == {'net_g_2.pth', 'net_g_4.pth', 'net_g_5.pth'}  # 2 has the best PSNR


def test_keep_last_left_empty_keeps_all(build, options):
    options['logger']['keep_last'] = None
    model = build()
    for iteration in range(1, 4):
        train(model, 1, first=iteration)
        model.save(0, iteration)
    assert len(list(Path(options['path']['models']).iterdir())) == 3


@pytest.mark.parametrize(('better', 'best'), [('higher', 3), ('lower', 2)])
def test_keep_last_keeps_the_best_network_where_validation_falls_between_saves(
    build, options, monkeypatch, better, best
):
    options['logger']['keep_last'] = 1
    options['val']['metrics']['psnr']['better'] = better
    scores = {2: 20.0, 3: 40.0, 4: 30.0, 6: 30.0}
    monkeypatch.setattr('vmambair_arch.models.vmambair_model.validate', lambda m, d, i, save_img: {'psnr': scores[i]})
    model = build()
    for iteration in range(1, 7):
        train(model, 1, first=iteration)
        if iteration in (1, 5):
            model.save(0, iteration)
        if iteration in scores:
            model.validation(loader((8, 8)), iteration, None)
    networks = {path.name for path in Path(options['path']['models']).iterdir()}
    assert networks == {f'net_g_{best}.pth', 'net_g_5.pth'}
    assert model.best_metric_results['three']['psnr']['iter'] == best


# ---------------------------------------------------------------- after an error


def fail(*args: object, **kwargs: object) -> None:
    raise RuntimeError('the test lets this fail')


def break_after(model, place: str) -> None:
    """Iteration 4, which fails at a place; 1 to 3 are complete."""
    model.update_learning_rate(4)
    if place == 'before the data':
        raise RuntimeError('the test lets this fail')
    data = batch(seed=4)
    if place == 'in the data':
        data['lq'] = None
    model.feed_data(data)
    if place == 'in the loss':
        model.criteria['pixel'].forward = fail
    if place == 'in the backward pass':
        model.scaler.scale = fail
    if place == 'in the step':
        model.optimizer_g.step = fail
    if place == 'at the limit of bad steps':
        model.bad_steps.limit = 1
        model.gt[0, 0, 0, 0] = math.nan
    torch.rand(7)  # what a step may draw
    model.optimize_parameters(4)


PLACES = ('before the data', 'in the data', 'in the loss', 'in the backward pass', 'in the step')


@pytest.mark.parametrize('place', [*PLACES, 'at the limit of bad steps', 'in the validation'])
def test_an_error_anywhere_loses_nothing(build, options, monkeypatch, place):
    """What is saved is what an undisturbed run saves after iteration 3."""
    undisturbed = build()
    train(undisturbed, 3)
    undisturbed.save(0, 3)
    files = [Path(options['path']['training_states']) / '3.state', Path(options['path']['models']) / 'net_g_3.pth']
    wanted = [file.read_bytes() for file in files]
    for file in files:
        file.unlink()

    model = build()
    train(model, 3)
    if place == 'in the validation':
        monkeypatch.setattr('vmambair_arch.models.vmambair_model.validate', fail)
        with pytest.raises(RuntimeError):
            model.validation(loader((8, 8)), 3, None)
    else:
        with pytest.raises(Exception):  # noqa: B017 of whatever kind
            break_after(model, place)
    assert model.bad_steps.count == (place == 'at the limit of bad steps')
    model.bad_steps.count = 0
    assert model.rescue() == 'saved iteration 3; go on with --auto_resume'
    assert [file.read_bytes() for file in files] == wanted
    assert model.rescue() == '', 'it is saved already'


def test_weights_that_are_not_finite_are_not_saved_after_an_error(build, options):
    model = build()
    train(model, 2)
    next(model.net_g.parameters()).data[0] = math.nan
    with pytest.raises(UserError, match='not saved: '):
        model.rescue()
    assert not list(Path(options['path']['training_states']).iterdir())


def test_nothing_is_saved_where_nothing_was_done(build, options):
    model = build()
    model.criteria['pixel'].forward = fail
    with pytest.raises(RuntimeError):
        train(model, 1)
    assert model.rescue() == ''
    assert not list(Path(options['path']['models']).iterdir())


# ---------------------------------------------------------------- models with more networks


def adversarial_model() -> type:
    """What a GAN model has to add to `VmambaIRModel`."""
    from vmambair_arch.models.vmambair_model import VmambaIRModel

    class AdversarialModel(VmambaIRModel):
        labels = ('g', 'd')

        def optimize_parameters(self, current_iter):
            batches = self.micro_batches()
            self.net_d.requires_grad_(False)
            good = self.step('g', self.generator_losses, batches)
            self.net_d.requires_grad_(True)
            good = good and self.step('d', self.discriminator_losses, batches)
            self.end_iteration(good)

        def generator_losses(self, batch):
            output = self.run('g', batch['lq'])
            batch['output'] = output.detach()
            realness = self.run('d', output).mean()
            yield self.restoration_losses(output, batch) | {'l_g_gan': 0.1 * nn.functional.softplus(-realness)}

        def discriminator_losses(self, batch):
            for name, sign in (('gt', -1), ('output', 1)):
                realness = self.run('d', batch[name]).mean()
                yield {f'l_d_{name}': nn.functional.softplus(sign * realness), f'out_d_{name}': realness}

    return AdversarialModel


@pytest.fixture
def build_adversarial(options):
    options['network_d'] = {'type': 'UNetDiscriminatorSN', 'num_in_ch': 3, 'num_feat': 4}
    options['train'] |= {
        'optim_d': {'type': 'Adam', 'lr': 0.002},
        'scheduler_d': {'type': 'MultiStepLR', 'milestones': [2], 'gamma': 0.5},
        'gan_opt': {'type': 'GANLoss', 'gan_type': 'vanilla', 'loss_weight': 0.1},
    }

    def build_model():
        torch.manual_seed(0)
        return adversarial_model()(options)

    return build_model


def test_a_gan_trains_both_networks_each_at_its_own_rate(build_adversarial):
    model = build_adversarial()
    before = weights(model.net_g), weights(model.net_d)
    train(model, 3)
    assert not same(weights(model.net_g), before[0])
    assert not same(weights(model.net_d), before[1])
    assert set(model.log_dict) >= {'l_pix', 'l_g_gan', 'l_d_gt', 'l_d_output', 'out_d_gt', 'out_d_output'}
    assert model.get_current_learning_rate() == [0.001, 0.001]


def test_a_gan_skips_both_steps_and_resumes_exactly(build_adversarial, options, messages):
    model = build_adversarial()
    train(model, 2)
    model.save(0, 2)
    before = weights(model.net_d)['conv0.weight']
    data = batch()
    data['lq'][1] = math.nan
    train(model, 1, data, first=3)
    assert 'lq of lq/1.png' in messages[-1]
    assert torch.equal(weights(model.net_d)['conv0.weight'], before)

    models = Path(options['path']['models'])
    assert {path.name for path in models.iterdir()} == {'net_g_2.pth', 'net_d_2.pth'}
    for label in ('g', 'd'):
        options['path'][f'pretrain_network_{label}'] = str(models / f'net_{label}_2.pth')
    state = torch.load(Path(options['path']['training_states']) / '2.state', weights_only=True)
    options['path']['resume_state'] = str(Path(options['path']['training_states']) / '2.state')
    resumed = build_adversarial()
    resumed.resume_training(state)
    train(resumed, 3, first=3)
    for label in ('g', 'd'):
        options['path'][f'pretrain_network_{label}'] = None
    uninterrupted = build_adversarial()
    train(uninterrupted, 5)
    assert uninterrupted.log_dict == resumed.log_dict


@pytest.mark.parametrize('decays', [0.999, [0.999, 0.9999]])
@pytest.mark.parametrize('key', ['params', 'params_ema'])
def test_what_a_checkpoint_lacks_begins_alike_in_the_network_and_its_averages(build, options, tmp_path, decays, key):
    """The average had draws of its own there, which stood in its weights for thousands of iterations."""
    state = {
        name: torch.randn_like(value) for name, value in build().get_bare_model(build().net_g).state_dict().items()
    }
    given = {name: value for name, value in state.items() if name.startswith('encoder')}
    assert given
    assert len(given) < len(state)
    torch.save({'params': given, 'params_ema': given}, tmp_path / 'part.pth')
    options['path'] |= {
        'pretrain_network_g': str(tmp_path / 'part.pth'), 'strict_load_g': False, 'param_key_g': key
    }  # fmt: skip
    model = build(ema_decay=decays)
    network = model.get_bare_model(model.net_g).state_dict()
    averages = [model.net_g_ema.state_dict(), *model.averages.states.values()]
    assert len(averages) == (2 if isinstance(decays, list) else 1)
    for average in averages:
        for name, value in network.items():
            assert torch.equal(value, average[name]), name
            if name in given:
                assert torch.equal(value, given[name])
