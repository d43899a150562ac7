"""For the `tests` folder of spandrel's repository; it downloads no model, which the others there do."""

from __future__ import annotations

import pytest
import torch
from spandrel import MAIN_REGISTRY
from spandrel.architectures.VmambaIR import OSSNet, VmambaIR


@pytest.mark.parametrize(
    ('network', 'id', 'scale'),
    [
        (lambda: VmambaIR(dim=8, num_blocks=[1, 0, 0, 0], num_refinement_blocks=0, d_state=4), 'VmambaIR', 1),
        (
            lambda: VmambaIR(
                dim=8, num_blocks=[0, 1, 0, 0], num_refinement_blocks=0, d_state=4, scale=2, channel_width=4
            ),
            'VmambaIR',
            2,
        ),
        (lambda: OSSNet(dim=8, num_blocks=2, d_state=4), 'OSSNet', 1),
    ],
)
def test_load(network, id, scale):
    torch.manual_seed(0)
    model = network().eval()
    descriptor = MAIN_REGISTRY.load(dict(model.state_dict()))
    assert descriptor.architecture.id == id
    assert descriptor.scale == scale
    image = torch.rand(1, 3, 19, 13)
    with torch.no_grad():
        torch.testing.assert_close(descriptor(image), model(image).clamp(0, 1))
