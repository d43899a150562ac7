"""BasicSR's train pipeline with everything of this package: `python -m vmambair_arch.train -opt FILE`."""

from __future__ import annotations

import sys

from vmambair_arch.plugin import launch  # absolute: this also runs as `basicsr.train`, see autoload_hook

if __name__ == '__main__':
    sys.exit(launch.main(launch.train))
