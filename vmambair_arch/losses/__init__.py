"""Losses that BasicSR does not have."""

from ..host import import_basicsr

import_basicsr()
