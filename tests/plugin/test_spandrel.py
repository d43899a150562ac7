"""spandrel, and with it ComfyUI, opens our checkpoints once vmambair_arch is imported."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vmambair_arch import OSSNet, VmambaIR
from vmambair_arch.checkpoints.convert import save_checkpoint

spandrel = pytest.importorskip('spandrel')

NETWORKS = {
    'derain': lambda: VmambaIR(dim=8, num_blocks=[1, 0, 0, 0], num_refinement_blocks=0, d_state=4),
    'x2': lambda: VmambaIR(
        dim=8, num_blocks=[0, 1, 0, 0], num_refinement_blocks=0, d_state=4, scale=2, channel_width=4
    ),
    'odd': lambda: VmambaIR(dim=8, num_blocks=[1, 0, 0, 0], num_refinement_blocks=0, channel_fusion='add'),
    'plain': lambda: OSSNet(dim=8, num_blocks=2, d_state=4),
}


def load(path):
    return spandrel.ModelLoader(device='cpu').load_from_file(path)


@pytest.mark.parametrize('suffix', ['.safetensors', '.pth'])
@pytest.mark.parametrize('name', NETWORKS)
def test_it_opens_what_we_save(tmp_path, name, suffix):
    torch.manual_seed(0)
    network = NETWORKS[name]().eval()
    save_checkpoint(tmp_path / f'a{suffix}', network)
    descriptor = load(tmp_path / f'a{suffix}')
    assert descriptor.architecture.id == network.arch
    assert descriptor.scale == network.scale
    assert descriptor.purpose == ('SR' if network.scale > 1 else 'Restoration')
    image = torch.rand(1, 3, 19, 13)
    with torch.no_grad():
        expected = network(image).clamp(0, 1)
    torch.testing.assert_close(descriptor(image), expected, atol=1e-5, rtol=0)


def test_the_authors_checkpoints_and_half_precision(tmp_path, shared):
    for fixture in sorted((shared / 'fixtures/official').glob('*.pt')):
        content = torch.load(fixture, weights_only=True)
        torch.save({'params': content['state_dict']}, tmp_path / 'theirs.pth')
        descriptor = load(tmp_path / 'theirs.pth')
        with torch.no_grad():
            output = descriptor.model(content['input'])
        assert (output - content['output']).abs().max() < 1e-4, fixture.name
        image = content['input'].clamp(0, 1)
        full = descriptor(image)
        for dtype in (torch.bfloat16, torch.float16):
            reduced = descriptor.to(dtype)(image.to(dtype))
            assert reduced.dtype == dtype
            assert (reduced.float() - full).abs().mean() < 0.03, (fixture.name, dtype)


def test_other_networks_stay_with_spandrel():
    from spandrel.architectures.SwinIR import SwinIR

    state_dict = SwinIR(embed_dim=12, depths=[1], num_heads=[2]).state_dict()
    assert spandrel.MAIN_REGISTRY.load(state_dict).architecture.id == 'SwinIR'


def of_others():
    """State dicts that have the names that ours are known by, and are not ours."""
    restormer = {
        'patch_embed.proj.weight': torch.zeros(48, 3, 3, 3),
        'reduce_chan_level3.weight': torch.zeros(4, 8, 1, 1),
        'output.weight': torch.zeros(3, 96, 3, 3),
        'encoder_level1.0.norm1.body.weight': torch.zeros(48),
        'encoder_level1.0.attn.A_logs': torch.zeros(3),
    }
    yield restormer
    yield {**restormer, 'output.weight': torch.tensor(1.0)}
    yield {**restormer, 'patch_embed.proj.weight': 3}
    yield {'conv_first.weight': torch.zeros(3), 'body.0.attn.x_proj_weight': torch.zeros(4, 4, 4)}
    yield {'conv_first.weight': torch.zeros(48, 3, 3, 3), 'body.0.attn.x_proj_weight': torch.zeros(4), 'tail': None}


@pytest.mark.parametrize('number', range(len(list(of_others()))))
def test_names_like_ours_are_left_to_other_architectures(number):
    with pytest.raises(spandrel.UnsupportedModelError):
        spandrel.ModelLoader(device='cpu').load_from_state_dict(list(of_others())[number])


def run(code, **environment):
    command = [sys.executable, '-c', code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})
    assert done.stdout == 'VmambaIR\n', done.stderr


def test_vmambair_arch_imported_first(checkpoint):
    run(f"""
import sys, vmambair_arch
assert 'spandrel' not in sys.modules
import spandrel
vmambair_arch.plugin.registration.install()
print(spandrel.ModelLoader().load_from_file({str(checkpoint)!r}).architecture.id)
""")


def test_plain_spandrel_opens_our_checkpoints_where_autoload_is_on(checkpoint, tmp_path):
    """The hook as a `.pth` file runs it at the start of Python."""
    hook = importlib.util.find_spec('vmambair_arch.plugin.autoload_hook').origin
    run(f"""
import sys
exec(open({hook!r}).read())
import spandrel
print(spandrel.ModelLoader().load_from_file({str(checkpoint)!r}).architecture.id)
""")


@pytest.fixture(scope='module')
def dropped_in(root, tmp_path_factory):
    """A copy of the installed spandrel with the folder for its upstream repository in it."""
    folder = tmp_path_factory.mktemp('site')
    shutil.copytree(Path(spandrel.__file__).parent, folder / 'spandrel', ignore=shutil.ignore_patterns('__pycache__'))
    spec = importlib.util.spec_from_file_location('make', root / 'integrations/spandrel/make.py')
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    make.write(folder / 'spandrel/architectures')
    make.register(folder / 'spandrel/__helpers/main_registry.py')
    return folder


def test_the_folder_for_spandrels_own_repository_works_without_this_package(dropped_in, tmp_path):
    torch.manual_seed(0)
    image = torch.rand(1, 3, 19, 13)
    expected = {}
    for name, make in NETWORKS.items():
        network = make().eval()
        torch.save(network.state_dict(), tmp_path / f'{name}.pth')
        with torch.no_grad():
            expected[name] = network(image).clamp(0, 1)
    torch.save((image, expected), tmp_path / 'expected.pt')
    run(
        f"""
import sys, torch, spandrel
assert spandrel.__file__.startswith({str(dropped_in)!r})
image, expected = torch.load({str(tmp_path / 'expected.pt')!r})
for name, wanted in expected.items():
    descriptor = spandrel.ModelLoader(device='cpu').load_from_file({str(tmp_path)!r} + '/' + name + '.pth')
    assert (descriptor(image) - wanted).abs().max() < 1e-5, name
assert not [name for name in sys.modules if name.startswith('vmambair_arch')]
print('VmambaIR')
""",
        PYTHONPATH=str(dropped_in),
    )


def test_its_test_for_upstream_passes(dropped_in, root):
    command = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', '--rootdir', str(dropped_in)]
    done = subprocess.run(
        [*command, str(root / 'integrations/spandrel/test_VmambaIR.py')],
        capture_output=True, text=True, check=False, cwd=dropped_in,
        env={**os.environ, 'PYTHONPATH': str(dropped_in)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith('...')


def test_the_comfyui_folder_imported_after_spandrel(root, checkpoint):
    """ComfyUI imports a custom node by its path, looks for its mappings, and loads upscale models with spandrel."""
    run(f"""
import importlib.util, spandrel
spec = importlib.util.spec_from_file_location('custom', {str(root / 'integrations/comfyui_vmambair/__init__.py')!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
assert module.NODE_CLASS_MAPPINGS == {{}}
print(spandrel.ModelLoader().load_from_file({str(checkpoint)!r}).architecture.id)
""")


def test_the_comfyui_folder_says_what_its_registry_asks_for(root):
    tomllib = pytest.importorskip('tomllib')
    about = tomllib.loads((root / 'integrations/comfyui_vmambair/pyproject.toml').read_text(encoding='utf-8'))
    assert about['project']['dependencies'] == ['vmambair-arch']
    assert set(about['tool']['comfy']) >= {'PublisherId', 'DisplayName'}
