"""Networks between two others."""

from __future__ import annotations

import re

import pytest
import torch

from vmambair_arch import OSSNet, VmambaIR, cli, load_model
from vmambair_arch.checkpoints.convert import save_checkpoint
from vmambair_arch.checkpoints.load import read_checkpoint


def network(seed, **options):
    torch.manual_seed(seed)
    return VmambaIR(**{'dim': 8, 'num_blocks': [1, 0, 0, 0], 'num_refinement_blocks': 0, 'd_state': 4, **options})


@pytest.fixture
def pair(tmp_path):
    save_checkpoint(tmp_path / 'a.safetensors', network(0), task='sr', license='Apache-2.0', upright=True)
    save_checkpoint(tmp_path / 'b.pth', network(1), task='realsr', license='Apache-2.0')
    return tmp_path


@pytest.mark.parametrize('alpha', [0, 0.25, 1, 1.5])
def test_parameters_are_averaged(pair, alpha):
    files = [str(pair / name) for name in ('a.safetensors', 'b.pth')]
    assert cli.main(['interpolate', *files, '-o', str(pair / 'c.safetensors'), '--alpha', str(alpha)]) == 0
    a, b, c = (load_model(path).state_dict() for path in (*files, pair / 'c.safetensors'))
    for name, tensor in c.items():
        torch.testing.assert_close(tensor, (1 - alpha) * a[name] + alpha * b[name], atol=1e-6, rtol=1e-5)
    about = read_checkpoint(pair / 'c.safetensors').about
    assert about['task'] == ('realsr' if alpha >= 0.5 else 'sr')
    assert about['recipe'] == f'{1 - alpha:g} of a.safetensors and {alpha:g} of b.pth'
    assert about['license'] == 'Apache-2.0'
    assert about['upright'] is True  # neither may be shown what the other does not know


@pytest.mark.parametrize('factor', [1, 1.5, 2, 2.66, 3, 2.875])
@pytest.mark.parametrize('blocks', [0, 2])
@pytest.mark.parametrize('order', [1, -1])
def test_a_file_without_a_description_is_the_same_network_whatever_makes_its_widths(tmp_path, factor, blocks, order):
    one, other = (network(seed, ffn_expansion_factor=factor, num_refinement_blocks=blocks * seed) for seed in (0, 1))
    save_checkpoint(tmp_path / 'ours.safetensors', one)
    torch.save({'params': other.state_dict()}, tmp_path / 'basicsr.pth')
    files = [str(tmp_path / name) for name in ('ours.safetensors', 'basicsr.pth')][::order]
    assert cli.main(['interpolate', *files, '-o', str(tmp_path / 'c.pth')]) == 0
    mixed, a, b = load_model(tmp_path / 'c.pth').state_dict(), one.state_dict(), other.state_dict()
    for name, tensor in a.items():
        if tensor.is_floating_point():
            torch.testing.assert_close(mixed[name], (tensor + b[name]) / 2, atol=1e-6, rtol=1e-5)


def test_widths_that_differ_are_of_different_networks(tmp_path, capsys):
    for factor in (2, 3):
        save_checkpoint(tmp_path / f'{factor}.pth', network(0, ffn_expansion_factor=factor))
    assert (
        cli.main(['interpolate', str(tmp_path / '2.pth'), str(tmp_path / '3.pth'), '-o', str(tmp_path / 'c.pth')]) == 2
    )
    assert re.search(r'are of different networks: \S+ffn\S+ \(.*\) and \(.*\)\n$', capsys.readouterr().err)


def test_what_cannot_be_averaged(pair, capsys):
    save_checkpoint(pair / 'wide.safetensors', network(0, dim=16))
    save_checkpoint(pair / 'other.safetensors', OSSNet(dim=8, num_blocks=2, d_state=4))
    first = str(pair / 'a.safetensors')
    for second, message in [
        (pair / 'wide.safetensors', 'are of different networks: dim 8 and 16'),
        (pair / 'other.safetensors', 'are of different networks: arch VmambaIR and OSSNet'),
        (pair / 'gone.pth', 'no such checkpoint'),
    ]:
        assert cli.main(['interpolate', first, str(second), '-o', str(pair / 'c.pth')]) == 2
        assert message in capsys.readouterr().err
    assert cli.main(['interpolate', first, str(pair / 'b.pth'), '-o', str(pair / 'c.pth'), '--alpha', '3']) == 2
    assert 'alpha must be' in capsys.readouterr().err
    assert not (pair / 'c.pth').exists()


@pytest.mark.parametrize('order', [1, -1])
def test_a_network_of_fewer_refinement_blocks_gets_them_without_effect(tmp_path, order):
    torch.manual_seed(3)
    shallow, deep = network(0, num_refinement_blocks=1, scale=2), network(1, num_refinement_blocks=3, scale=2)
    files = [str(tmp_path / name) for name in ('shallow.pth', 'deep.pth')][::order]
    for file, one in zip(files, (shallow, deep)[::order], strict=True):
        save_checkpoint(file, one)
    x = torch.rand(1, 3, 16, 24)
    outputs = []
    for alpha in (0, 0.5, 1):
        assert cli.main(['interpolate', *files, '-o', str(tmp_path / 'c.pth'), '--alpha', str(alpha)]) == 0
        between = load_model(tmp_path / 'c.pth').eval()
        assert between.config['num_refinement_blocks'] == 3
        with torch.no_grad():
            outputs.append(between(x))
    with torch.no_grad():
        ends = [one.eval()(x) for one in (shallow, deep)[::order]]
    for output, end in zip((outputs[0], outputs[2]), ends, strict=True):
        torch.testing.assert_close(output, end, atol=1e-5, rtol=0)
    assert not torch.allclose(outputs[1], ends[0], atol=1e-3)
