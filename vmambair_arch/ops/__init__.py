"""The selective scan and nothing else: knows torch, not the networks above it."""

from .reference import PLANE_DIRECTIONS, SEQUENCE_DIRECTIONS, scan_order
from .selective_scan import BACKENDS, Choice, choose, omni_scan

__all__ = ['BACKENDS', 'Choice', 'PLANE_DIRECTIONS', 'SEQUENCE_DIRECTIONS', 'choose', 'omni_scan', 'scan_order']
