"""Data sets, synthetic rain, and the preparation of downloaded archives."""

from ..registration import import_basicsr

import_basicsr()
