"""BasicSR's test pipeline with everything of this package: `python -m vmambair_arch.test -opt FILE`."""

from __future__ import annotations

import sys

from vmambair_arch.plugin import launch  # absolute: this also runs as `basicsr.test`, see autoload_hook

if __name__ == '__main__':
    sys.exit(launch.main(launch.test))
