"""The selective scan and nothing else: knows torch, not the networks above it."""

from .depthwise import choose_depthwise, depthwise_gelu_gate, depthwise_silu, settle_depthwise
from .products import linear, linear_add, linear_silu
from .reference import PLANE_DIRECTIONS, SEQUENCE_DIRECTIONS, ScanInputs, scan_order
from .selective_scan import BACKENDS, Choice, choose, forget, in_use, omni_scan, settle, using, using_now
from .torch_scan import without_autocast

__all__ = [
    'BACKENDS',
    'Choice',
    'PLANE_DIRECTIONS',
    'SEQUENCE_DIRECTIONS',
    'ScanInputs',
    'choose',
    'choose_depthwise',
    'depthwise_gelu_gate',
    'depthwise_silu',
    'forget',
    'in_use',
    'linear',
    'linear_add',
    'linear_silu',
    'omni_scan',
    'scan_order',
    'settle',
    'settle_depthwise',
    'using',
    'using_now',
    'without_autocast',
]
