"""Write the table of the package's networks into the README, from what their files say of themselves.

python -m benchmarks.readme
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from vmambair_arch.checkpoints.describe import describe
from vmambair_arch.checkpoints.find import bundled
from vmambair_arch.errors import guard
from vmambair_arch.files import replacing

README = Path(__file__).resolve().parents[1] / 'README.md'
BEGIN, END = '<!-- networks -->\n', '<!-- networks end -->\n'
WHAT = {
    'derain': 'removes rain streaks',
    'realsr': 'enlarges photographs with noise, blur or JPEG blocks four times',
    'sr': 'enlarges clean pictures four times',
}
NAMES = {'psnr_y': ('PSNR (Y)', '{:.2f} dB'), 'lpips': ('LPIPS', '{:.3f}'), 'ssim_y': ('SSIM (Y)', '{:.3f}')}


def table() -> str:
    """A row for each network: what it does, its figures on data sets that others have, its limits."""
    lines = ['| network | what it does | figures | limits |', '| --- | --- | --- | --- |']
    for task, path in sorted(bundled().items()):
        about = describe(path)
        figures: dict[str, list[str]] = {}
        for key, value in about['metrics'].items():
            metric, _, data = key.partition('/')
            if not data.startswith('photographs'):
                name, form = NAMES.get(metric, (metric, '{:.3f}'))
                figures.setdefault(data, []).append(f'{name} {form.format(value)}')
        said = '; '.join(f'{data}: {", ".join(values)}' for data, values in figures.items())
        card = f'[`{task}`](vmambair_arch/weights/{path.stem}.md), {about["parameters"] / 1e6:.2f} M'
        lines.append(f'| {card} | {WHAT.get(task, task)} | {said} | {about["limits"]} |')
    return '\n'.join(lines) + '\n'


def rewritten(text: str) -> str:
    """The README with the table of today."""
    return re.sub(f'(?<={re.escape(BEGIN)}).*?(?={re.escape(END)})', lambda _: table(), text, flags=re.DOTALL)


def main() -> None:
    argparse.ArgumentParser(description=__doc__.partition('\n')[0]).parse_args()
    text = rewritten(README.read_text(encoding='utf-8'))
    with replacing(README) as temporary:
        temporary.write_text(text, encoding='utf-8')
    print('wrote', README)


if __name__ == '__main__':
    sys.exit(guard(main))
