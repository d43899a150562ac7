"""`import vmambair_arch` registers with BasicSR where that is installed, and needs none of it."""

from __future__ import annotations

import pytest
from experiment import run

NAMES = {'VmambaIR', 'OSSNet', 'MambaRealSR11', 'MambaSISR6', 'Mamber32', 'Mamber33'}

LIST = """
from basicsr.utils.registry import ARCH_REGISTRY, MODEL_REGISTRY
print('archs', *ARCH_REGISTRY.keys())
print('models', *MODEL_REGISTRY.keys())
import basicsr.train
print('resume', basicsr.train.load_resume_state.__wrapped__.__module__)
"""

# basicsr of its own accord imports on no current torchvision: whoever imports it first has fixed that.
STUB = """
import sys, types
import torchvision.transforms.functional as functional
stub = types.ModuleType('torchvision.transforms.functional_tensor')
stub.rgb_to_grayscale = functional.rgb_to_grayscale
sys.modules.setdefault(stub.__name__, stub)
"""


@pytest.mark.parametrize(
    'program',
    [
        'import vmambair_arch\n' + LIST,
        STUB + 'import basicsr\nimport vmambair_arch\n' + LIST,
        'import vmambair_arch.models.vmambair_model\n' + LIST,
    ],
    ids=['before basicsr', 'after basicsr', 'a registered module first'],
)
def test_everything_is_registered(program, tmp_path):
    done = run('-c', program, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = dict(line.split(' ', 1) for line in done.stdout.splitlines())
    assert set(lines['archs'].split()) >= NAMES | {'RRDBNet'}
    assert set(lines['models'].split()) >= {'VmambaIRModel', 'SRModel'}
    assert lines['resume'] == 'vmambair_arch.plugin.resume'


def test_a_name_that_another_plugin_took_is_left_to_it(tmp_path):
    program = (
        STUB + 'from basicsr.utils.registry import ARCH_REGISTRY\n'
        'class Mamber32: pass\n'
        'ARCH_REGISTRY.register(Mamber32)\n'
        'import vmambair_arch\n'
        "print(ARCH_REGISTRY.get('Mamber32') is Mamber32, 'Mamber33' in ARCH_REGISTRY)"
    )
    done = run('-c', program, cwd=tmp_path)
    assert done.stdout.split() == ['True', 'True'], done.stderr


def test_networks_run_without_basicsr_and_opencv(tmp_path):
    program = """
import sys
for name in ('basicsr', 'cv2', 'torchvision', 'timm'):
    sys.modules[name] = None
import torch
import vmambair_arch
net = vmambair_arch.VmambaIR(dim=8, num_blocks=(1, 1, 1, 1), num_refinement_blocks=1)
y = net(torch.rand(1, 3, 9, 7))
y.sum().backward()
print(tuple(y.shape), all(p.grad is not None for p in net.parameters()))
"""
    done = run('-c', program, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == '(1, 3, 9, 7) True'


def test_the_import_is_light(tmp_path):
    heavy = "print([n for n in ('torch', 'basicsr', 'cv2', 'numpy') if n in sys.modules])"
    done = run('-c', f'import sys, vmambair_arch; {heavy}', cwd=tmp_path)
    assert done.stdout.strip() == '[]', done.stderr


def test_an_unknown_name_is_an_attribute_error():
    import vmambair_arch

    with pytest.raises(AttributeError, match='no_such_thing'):
        _ = vmambair_arch.no_such_thing
    assert {'load_model', 'VmambaIR', 'Restorer'} <= set(dir(vmambair_arch))
