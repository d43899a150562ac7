"""Data sets, synthetic rain, and the preparation of downloaded archives."""

from ..host import import_basicsr

import_basicsr()
