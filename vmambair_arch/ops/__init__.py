"""The selective scan and nothing else: knows torch, not the networks above it."""

from .depthwise import depthwise_gelu_gate, depthwise_silu
from .reference import PLANE_DIRECTIONS, SEQUENCE_DIRECTIONS, ScanInputs, scan_order
from .selective_scan import BACKENDS, Choice, choose, in_use, omni_scan, using

__all__ = [
    'BACKENDS',
    'Choice',
    'PLANE_DIRECTIONS',
    'SEQUENCE_DIRECTIONS',
    'ScanInputs',
    'choose',
    'depthwise_gelu_gate',
    'depthwise_silu',
    'in_use',
    'omni_scan',
    'scan_order',
    'using',
]
