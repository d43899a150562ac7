"""Losses that BasicSR does not have."""

from ..registration import import_basicsr

import_basicsr()
