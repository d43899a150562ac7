"""The perceptual loss on networks with random weights, and on real ones where they are at hand."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import cv2
import pytest
import torch

import vmambair_arch  # noqa: F401 before basicsr, which it fixes
from vmambair_arch import UserError


@pytest.fixture(scope='module')
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of random convolutions in the form of torchvision's VGG19."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('vgg') / 'vgg19.pth'
    torch.save({f'features.{k}': v.half() for k, v in vgg19_features().state_dict().items()}, path)
    return path


def vgg19_features() -> torch.nn.Sequential:
    from torchvision.models.vgg import cfgs, make_layers

    return make_layers(cfgs['E'])


def build(**options):
    from basicsr.losses import build_loss

    return build_loss({'type': 'VGGPerceptualLoss', **options})


PUBLISHED = {'conv1_2': 0.1, 'conv2_2': 0.1, 'conv3_4': 1, 'conv4_4': 1, 'conv5_4': 1}


@pytest.mark.parametrize(
    'options',
    [
        {},
        {'style_weight': 2.0, 'perceptual_weight': 0.5},
        {'criterion': 'fro', 'style_weight': 1.0},
        {'use_input_norm': False},
        {'range_norm': True},
        {'layer_weights': {'relu2_1': 1, 'pool3': 2}},
        {'perceptual_weight': 0},
    ],
)
def test_values_and_gradients_are_basicsrs(weights, monkeypatch, options):
    from basicsr.archs import vgg_arch
    from basicsr.losses.basic_loss import PerceptualLoss

    def with_weights(pretrained: bool) -> SimpleNamespace:
        features = vgg19_features()
        state = torch.load(weights, weights_only=True)
        features.load_state_dict({k.removeprefix('features.'): v.float() for k, v in state.items()})
        return SimpleNamespace(features=features)

    monkeypatch.setattr(vgg_arch.vgg, 'vgg19', with_weights)
    options = {'layer_weights': PUBLISHED} | options
    theirs = PerceptualLoss(**options)
    ours = build(vgg_path=str(weights), **options)
    generator = torch.Generator().manual_seed(1)
    target = torch.rand(2, 3, 32, 32, generator=generator)
    results = []
    for loss in (ours, theirs):
        output = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(2), requires_grad=True)
        terms = loss(output, target)
        total = sum(term for term in terms if term is not None)
        if isinstance(total, torch.Tensor):
            total.backward()
        results.append((terms, output.grad))
    for our_term, their_term in zip(results[0][0], results[1][0], strict=True):
        assert (our_term is None) == (their_term is None)
        if our_term is not None:
            torch.testing.assert_close(our_term, their_term, rtol=1e-4, atol=0)
    if results[0][1] is not None:
        torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-3, atol=1e-8)


def test_l2_works(weights):
    loss = build(layer_weights={'conv1_1': 1}, vgg_path=str(weights), criterion='l2')
    a, b = torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16)
    expected = (loss.features(a)['conv1_1'] - loss.features(b)['conv1_1']).square().mean()
    torch.testing.assert_close(loss(a, b)[0], expected)


def test_the_network_is_not_trained(weights):
    loss = build(layer_weights={'conv1_1': 1}, vgg_path=str(weights))
    assert not [p for p in loss.parameters() if p.requires_grad]


def test_missing_weights_are_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))

    def offline(*args, **kwargs):
        raise OSError('no route to host')

    monkeypatch.setattr(torch.hub, 'load_state_dict_from_url', offline)
    with pytest.raises(UserError, match='vgg19-dcbb9e9d.pth is neither in .*, and the download failed') as error:
        build(layer_weights=PUBLISHED)
    assert '\n' not in str(error.value)
    with pytest.raises(UserError, match='nowhere.pth'):
        build(layer_weights=PUBLISHED, vgg_path='nowhere.pth')


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'layer_weights': {'conv5_5': 1}}, r"vgg19 has no layer 'conv5_5' \(did you mean 'conv5_4'\?\)"),
        ({'layer_weights': {}}, 'layer_weights names no layer'),
        ({'vgg_type': 'vgg18'}, "vgg_type 'vgg18' is not one of vgg11, vgg13, vgg16, vgg19"),
        ({'criterion': 'l3'}, "criterion must be l1, l2, fro, not 'l3'"),
        ({'vgg_type': 'vgg11', 'layer_weights': {'conv1_1': 1}}, 'do not fit vgg11'),
    ],
)
def test_bad_options_are_one_line(weights, options, message):
    with pytest.raises(UserError, match=message) as error:
        build(**{'layer_weights': PUBLISHED, 'vgg_path': str(weights)} | options)
    assert '\n' not in str(error.value)


def test_real_weights_prefer_what_people_prefer(shared):
    """The example of the lpips repository: people find p1 nearer to the reference than p0."""
    layers = {'conv1_2': 0.1, 'conv2_2': 0.1, 'conv3_3': 1, 'conv4_3': 1, 'conv5_3': 1}
    path = shared / 'weights' / 'vgg16_features_fp16.pth'
    loss = build(layer_weights=layers, vgg_type='vgg16', vgg_path=str(path))

    def read(name):
        image = cv2.imread(str(shared / 'data' / 'lpips_example' / f'{name}.png'))[..., ::-1].copy()
        return torch.from_numpy(image).permute(2, 0, 1)[None] / 255

    reference, p0, p1 = read('ex_ref'), read('ex_p0'), read('ex_p1')
    assert loss(p1, reference)[0] < 0.9 * loss(p0, reference)[0]
    assert loss(reference, reference)[0] == 0
