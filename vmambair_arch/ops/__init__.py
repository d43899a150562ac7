"""The selective scan and nothing else: knows torch, not the networks above it."""

from .depthwise import depthwise_gelu_gate, depthwise_silu
from .reference import PLANE_DIRECTIONS, SEQUENCE_DIRECTIONS, scan_order
from .selective_scan import BACKENDS, Choice, choose, omni_scan

__all__ = [
    'BACKENDS',
    'Choice',
    'PLANE_DIRECTIONS',
    'SEQUENCE_DIRECTIONS',
    'choose',
    'depthwise_gelu_gate',
    'depthwise_silu',
    'omni_scan',
    'scan_order',
]
