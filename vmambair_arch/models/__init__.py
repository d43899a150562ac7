"""Models: what BasicSR trains, validates and saves."""

from ..registration import import_basicsr

import_basicsr()
