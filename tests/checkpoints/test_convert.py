"""Checkpoints say what they are, survive conversion, and are not believed where they lie."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from vmambair_arch import OSSNet, Restorer, VmambaIR, cli, load_model
from vmambair_arch.checkpoints import find as checkpoints
from vmambair_arch.checkpoints.convert import convert, save_checkpoint
from vmambair_arch.checkpoints.describe import describe, info
from vmambair_arch.checkpoints.find import find_checkpoint
from vmambair_arch.checkpoints.interpolate import interpolate
from vmambair_arch.checkpoints.load import digest
from vmambair_arch.errors import UserError

ABOUT = {'task': 'derain', 'training_data': 'Rain13K', 'metrics': {'psnr_y/Rain100L': 39.09}, 'license': 'Apache-2.0'}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize('suffix', ['.safetensors', '.pth'])
@pytest.mark.parametrize(
    'network',
    [
        lambda: VmambaIR(
            dim=8, num_blocks=[1, 0, 0, 1], num_refinement_blocks=0, d_state=4, scale=2, channel_fusion='add'
        ),
        lambda: OSSNet(dim=8, num_blocks=2, d_state=4),
    ],
)
def test_a_checkpoint_explains_itself(tmp_path, network, suffix):
    network = network()
    path = tmp_path / f'a{suffix}'
    save_checkpoint(path, network, **ABOUT)
    assert same(load_model(path).state_dict(), network.state_dict())
    about = describe(path)
    assert {key: about[key] for key in ABOUT} == ABOUT
    assert about['config'] == network.config
    assert about['arch'] == network.arch
    assert about['scale'] == network.scale
    assert about['parameters'] == sum(p.numel() for p in network.parameters())
    assert about['verified']
    text = '\n'.join(info(path))
    for expected in ('derain', 'Rain13K', '39.09', about['sha256'], 'as written', 'd_state: 4'):
        assert expected in text


@pytest.mark.parametrize('suffix', ['.safetensors', '.pth', 'nothing'])
def test_what_is_loaded_in_inference_mode_can_be_trained(tmp_path, tiny, suffix):
    save_checkpoint(tmp_path / 'a.pth', tiny)
    save_checkpoint(tmp_path / 'b.safetensors', tiny)
    with torch.inference_mode():
        if suffix == 'nothing':
            networks = [load_model(tiny.state_dict()), load_model({'params': tiny.state_dict()})]
            networks += [interpolate(tmp_path / 'a.pth', tmp_path / 'b.safetensors')[0]]
        else:
            save_checkpoint(tmp_path / f'c{suffix}', tiny)
            networks = [load_model(tmp_path / f'c{suffix}'), VmambaIR.from_pretrained(tmp_path / f'c{suffix}')]
    for network in networks:
        network(torch.rand(1, 3, 8, 8)).sum().backward()
        assert all(p.grad is not None for p in network.parameters())
        torch.optim.SGD(network.parameters(), 1.0).step()
    assert not any(p.requires_grad and p.grad is not None for p in tiny.parameters())


def test_the_metadata_is_plain_json(tmp_path, tiny):
    save_checkpoint(tmp_path / 'a.safetensors', tiny, **ABOUT)
    with safe_open(tmp_path / 'a.safetensors', 'pt') as file:
        about = json.loads(file.metadata()['vmambair'])
    assert about['arch'] == 'VmambaIR'
    assert about['config']['dim'] == 8
    assert about['sha256'] == digest(load_file(tmp_path / 'a.safetensors'))


def test_conversion_there_and_back(tmp_path, checkpoint, tiny):
    convert(checkpoint, tmp_path / 'a.safetensors', task='derain', metrics={'psnr': 30.5})
    convert(tmp_path / 'a.safetensors', tmp_path / 'b.pth', task='realsr')
    content = torch.load(tmp_path / 'b.pth', weights_only=True)
    assert same(content['params'], tiny.state_dict())  # where BasicSR's pretrain_network_g looks
    about = describe(tmp_path / 'b.pth')
    assert (about['task'], about['metrics']) == ('realsr', {'psnr': 30.5})
    source = np.random.default_rng(0).uniform(size=(8, 8, 3)).astype(np.float32)
    for path in ('a.safetensors', 'b.pth'):
        np.testing.assert_array_equal(Restorer.from_pretrained(tmp_path / path)(source), Restorer(tiny)(source))


def test_half_the_space(tmp_path, tiny):
    full, half = tmp_path / 'full.safetensors', tmp_path / 'half.safetensors'
    save_checkpoint(full, tiny, limits='none known')
    convert(full, half, half=True)
    assert half.stat().st_size < 0.6 * full.stat().st_size
    assert describe(half)['stored_as'] == 'float16'
    assert describe(half)['limits'] == 'none known'
    assert not load_model(half).upright
    network = load_model(half)
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    for name, parameter in tiny.state_dict().items():
        assert torch.equal(network.state_dict()[name], parameter.half().float())


def test_the_authors_checkpoints_convert(tmp_path, shared):
    for fixture in sorted((shared / 'fixtures/official').glob('*.pt')):
        content = torch.load(fixture, weights_only=True)
        torch.save({'params_ema': content['state_dict']}, tmp_path / 'theirs.pth')
        convert(tmp_path / 'theirs.pth', tmp_path / 'ours.safetensors')
        with torch.no_grad():
            output = load_model(tmp_path / 'ours.safetensors')(content['input'])
        assert (output - content['output']).abs().max() < 1e-4, fixture.name


def test_a_changed_parameter_is_noticed(tmp_path, tiny):
    path = tmp_path / 'a.safetensors'
    save_checkpoint(path, tiny)
    with safe_open(path, 'pt') as file:
        metadata = file.metadata()
    state = load_file(path)
    state['patch_embed.proj.weight'][0, 0, 0, 0] += 1
    save_file(state, path, metadata)
    for read in (describe, Restorer.from_pretrained):
        with pytest.raises(UserError, match='a.safetensors: the parameters are not those'):
            read(path)


@pytest.mark.parametrize(
    'metadata',
    [
        'not json',
        '[]',
        '"text"',
        '[' * 100_000,
        '{"arch": ["VmambaIR"], "config": {}}',
        '{"arch": "os.system", "config": {}}',
        '{"arch": "VmambaIR", "config": []}',
        '{"arch": "VmambaIR", "config": {"dim": 1000000000}}',
        '{"arch": "VmambaIR", "config": {"num_blocks": [1000000000, 1, 1, 1]}}',
        '{"arch": "VmambaIR", "config": {"num_refinement_blocks": 1000000000}}',
        '{"arch": "VmambaIR", "config": {"dim": "8"}}',
        '{"arch": "VmambaIR", "config": {"__class__": 1}}',
        '{"arch": "VmambaIR", "config": {"dim": NaN}}',
    ],
)
def test_malicious_metadata(tmp_path, tiny, metadata):
    save_file(tiny.state_dict(), tmp_path / 'a.safetensors', {'vmambair': metadata})
    for read in (load_model, describe):
        with pytest.raises(UserError, match='a.safetensors: '):
            read(tmp_path / 'a.safetensors')


def test_a_parameter_name_cannot_ask_for_a_huge_network(tmp_path, tiny):
    state = tiny.state_dict() | {'latent.1000000000.norm1.body.weight': torch.zeros(1)}
    torch.save(state, tmp_path / 'a.pth')
    with pytest.raises(UserError, match='a.pth: '):
        load_model(tmp_path / 'a.pth')


class Malicious:
    """A pickle that would write a file when it is opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), 'w'))


@pytest.mark.parametrize('name', ['a.pth', 'a.safetensors', 'a.pt'])
def test_malicious_pickles_do_nothing(tmp_path, name):
    trap = tmp_path / 'trap'
    for number, save in enumerate((torch.save, lambda value, path: path.write_bytes(pickle.dumps(value)))):
        path = tmp_path / f'{number}{name}'
        save({'params': {'patch_embed.proj.weight': Malicious(trap)}}, path)
        for read in (load_model, describe, Restorer.from_pretrained):
            with pytest.raises(UserError, match=path.name):
                read(path)
        assert not trap.exists()


def test_damaged_files(tmp_path, tiny):
    save_checkpoint(tmp_path / 'a.safetensors', tiny)
    save_checkpoint(tmp_path / 'a.pth', tiny)
    for name in ('a.safetensors', 'a.pth'):
        data = (tmp_path / name).read_bytes()
        for keep in (0, 5, 100, len(data) // 2, len(data) - 1):
            (tmp_path / f'cut{name}').write_bytes(data[:keep])
            with pytest.raises(UserError, match=f'cut{name}'):
                describe(tmp_path / f'cut{name}')


def test_nothing_half_written(tmp_path, tiny, monkeypatch):
    save_checkpoint(tmp_path / 'a.pth', tiny)
    before = (tmp_path / 'a.pth').read_bytes()
    write = Path.write_bytes

    def stop(path, content):
        write(path, content[: len(content) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, 'write_bytes', stop)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path / 'a.pth', tiny)
    assert [path.name for path in tmp_path.iterdir()] == ['a.pth']
    assert (tmp_path / 'a.pth').read_bytes() == before


def test_bundled_names(tmp_path, tiny, monkeypatch):
    monkeypatch.setattr(checkpoints, 'WEIGHTS', tmp_path)
    save_checkpoint(tmp_path / 'derain_light.safetensors', tiny)
    assert find_checkpoint('derain_light') == tmp_path / 'derain_light.safetensors'
    with pytest.raises(UserError, match="derain_lihgt: .*did you mean 'derain_light'"):
        find_checkpoint('derain_lihgt')


def test_escape_sequences_reach_no_terminal(tmp_path, tiny):
    save_checkpoint(tmp_path / 'a.safetensors', tiny, task='\x1b[2Jfake\nsha256: fine')
    assert '\x1b' not in '\n'.join(info(tmp_path / 'a.safetensors'))
    assert not any(line.startswith('sha256: fine') for line in info(tmp_path / 'a.safetensors'))


def test_the_commands(tmp_path, checkpoint, capsys):
    target = tmp_path / 'out' / 'derain.safetensors'
    arguments = ['--task', 'derain', '--training-data', 'Rain13K', '--metric', 'psnr_y/Rain100L=39.09']
    assert cli.main(['convert', str(checkpoint), str(target), *arguments]) == 0
    assert cli.main(['info', str(target)]) == 0
    out = capsys.readouterr().out
    assert 'Rain13K' in out
    assert '39.09' in out
    for bad in (
        ['info', 'gone.pth'],
        ['convert', str(checkpoint), 'x.zip'],
        ['convert', str(checkpoint), str(target), '--metric', 'x'],
    ):
        assert cli.main(bad) == 2
        assert capsys.readouterr().err.count('\n') == 1


WRITERS = {
    'convert': ['convert', 'a', 'TARGET'],
    'interpolate, the first': ['interpolate', 'a', 'b.pth', '-o', 'TARGET'],
    'interpolate, the second': ['interpolate', 'b.pth', 'a', '-o', 'TARGET'],
    'card': ['card', 'a', '-o', 'TARGET'],
    'entry': ['card', 'a', '--openmodeldb', '-o', 'TARGET'],
    'export': ['export', 'a', 'TARGET'],
}


@pytest.mark.parametrize('arguments', WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize('name', ['same', 'absolute', 'symlink', 'hard link'])
def test_a_checkpoint_is_not_replaced_by_what_is_made_of_it(tmp_path, tiny, monkeypatch, capsys, arguments, name):
    monkeypatch.chdir(tmp_path)
    suffix = '.onnx' if arguments[0] == 'export' else '.pth'
    source = Path(f'a{suffix}')
    for path in ('b.pth', 'c.pth'):
        save_checkpoint(path, tiny, license='Apache-2.0')
    Path('c.pth').rename(source)
    target = source
    if name == 'absolute':
        target = tmp_path / source
    elif name != 'same':
        target = Path(f'link{suffix}')
        target.symlink_to(source) if name == 'symlink' else target.hardlink_to(source)
    before = source.read_bytes()
    words = {'a': str(source), 'TARGET': str(target)}
    assert cli.main([words.get(word, word) for word in arguments]) == 2
    assert capsys.readouterr().err == (
        f'vmambair: error: {target}: is the file that is read, and would be overwritten; name another one\n'
    )
    assert source.read_bytes() == before
    assert target.samefile(source)


@pytest.mark.parametrize('metric', ['psnr=nan', 'a/b=inf', 'a=-inf', 'a=1e999', '=3', ' =3', '=', 'a=', 'a=x', 'a=1=2'])
def test_a_figure_has_a_name_and_is_finite(tmp_path, checkpoint, capsys, metric):
    target = tmp_path / 'a.safetensors'
    assert cli.main(['convert', str(checkpoint), str(target), '--metric', 'psnr=3', '--metric', metric]) == 2
    assert capsys.readouterr().err == (
        f"vmambair: error: metric '{metric}' must be NAME=NUMBER, such as psnr_y/Rain100L=39.09\n"
    )
    assert not target.exists()


def test_networks_for_upright_pictures_say_so_through_every_file(tiny, tmp_path):
    for suffix in ('.safetensors', '.pth'):
        first, second = tmp_path / f'a{suffix}', tmp_path / f'b{suffix}'
        save_checkpoint(first, tiny, upright=True)
        convert(first, second)
        assert load_model(second).upright is True
        assert describe(second)['upright'] is True
        save_checkpoint(second, tiny)
        assert load_model(second).upright is False
