"""Models: what BasicSR trains, validates and saves."""

from ..host import import_basicsr

import_basicsr()
