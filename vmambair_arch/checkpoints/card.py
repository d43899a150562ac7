"""A model card in the form of the Hugging Face Hub: YAML for machines, then text for people."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import yaml

from ..errors import UserError
from ..files import check_apart, replacing
from .describe import describe, meanings
from .find import find_checkpoint
from .hub import hub_module

TITLES = {'derain': 'Single-image deraining', 'realsr': 'Real-world super-resolution', 'sr': 'Super-resolution'}

TEMPLATE = """# {name}

{title} with {arch} ({paper}): {parameters:.2f} M parameters, {size}.

| | |
| --- | --- |
| trained on | {training_data} |
| recipe | {recipe} |
| compute | {compute} |
| input and output | RGB images of any size, 8 or 16 bits a channel |
| file | `{file}`, {megabytes:.1f} MB |
| sha256 of the parameters | `{sha256}` |

## Figures

{figures}

## Use

```
pip install .   # in a checkout of vmambair-arch
vmambair restore photos -o restored -m {file}
```

```python
from vmambair_arch import Restorer

restorer = Restorer.from_pretrained('{file}')
restored = restorer(image)  # array, tensor or Pillow image; the result is of the same kind
```

## Limits

{limits}It removes what it was trained to remove. Pictures unlike its training data may be left as they are or changed
for the worse, and detail that is not in the input is a guess: do not use the output as evidence.

## Network

```yaml
{config}```

## Citation

```bibtex
@article{{shi2025vmambair,
  title={{VmambaIR: Visual State Space Model for Image Restoration}},
  author={{Shi, Yuan and Xia, Bin and Jin, Xiaoyu and Wang, Xing and Zhao, Tianyu and Xia, Xin and Xiao, Xuefeng
          and Yang, Wenming}},
  journal={{IEEE Transactions on Circuits and Systems for Video Technology}},
  year={{2025}},
  doi={{10.1109/TCSVT.2025.3530090}},
  note={{arXiv:2403.11423}}
}}
```
"""


def card(source: str | Path) -> str:
    """The model card of a checkpoint, in Markdown.

    Args:
        source: anything that `find_checkpoint` finds.

    Raises:
        UserError: not a checkpoint of ours or the authors', or damaged; huggingface_hub is not installed.
    """
    hub = hub_module()
    about = describe(source)
    file = Path(about['file'])
    task = _line(about['task'] or 'restoration')
    metrics = about['metrics'] if isinstance(about['metrics'], dict) else {}
    metrics = {_line(name): value for name, value in metrics.items() if isinstance(value, (int, float))}
    text = TEMPLATE.format(
        name=file.stem,
        file=file.name,
        title=TITLES.get(task, 'Image restoration'),
        arch=about['arch'],
        paper='[arXiv 2403.11423](https://arxiv.org/abs/2403.11423)',
        parameters=about['parameters'] / 1e6,
        size='output as large as the input' if about['scale'] == 1 else f'output {about["scale"]} times as large',
        training_data=_line(about['training_data'] or 'not stated'),
        recipe=_line(about['recipe'] or 'not stated'),
        compute=_line(about['compute'] or 'not stated'),
        limits=f'Known: {_line(about["limits"])}\n\n' if about['limits'] else '',
        megabytes=about['bytes'] / 2**20,
        sha256=about['sha256'],
        figures=_figures(metrics) or 'None are stated in the file.',
        config=yaml.safe_dump(about['config'], sort_keys=False),
    )
    front = hub.ModelCardData(
        license=_line(about['license'] or 'unknown').lower(),
        library_name='vmambair-arch',
        pipeline_tag='image-to-image',
        tags=['image-restoration', 'vmambair', task],
        model_name=file.stem if metrics else None,
        eval_results=[_result(hub, task, *item) for item in metrics.items()] or None,
    )
    return str(hub.ModelCard(f'---\n{front.to_yaml()}\n---\n\n{text}'))


def openmodeldb(source: str | Path) -> dict[str, Any]:
    """An entry for OpenModelDB, by its schema; what it asks for and the file does not say is empty.

    Args:
        source: anything that `find_checkpoint` finds.

    Raises:
        UserError: as `card`.
    """
    about = describe(source)
    file = Path(about['file'])
    content = file.read_bytes()
    written = datetime.fromtimestamp(file.stat().st_mtime, timezone.utc)
    limits = f' {about["limits"]}' if about['limits'] else ''
    return {
        'name': file.stem,
        'author': '',
        'license': about['license'],
        'tags': [{'derain': 'derain', 'sr': 'photo', 'realsr': 'photo'}.get(str(about['task']), 'restoration')],
        'description': f'{TITLES.get(str(about["task"]), "Image restoration")} with {about["arch"]}.{limits}',
        'date': written.date().isoformat(),
        'architecture': str(about['arch']).lower(),
        'size': [f'{about["config"]["dim"]}dim', f'{about["config"]["d_state"]}state'],
        'scale': about['scale'],
        'inputChannels': about['config']['inp_channels'],
        'outputChannels': about['config']['out_channels'],
        'resources': [
            {
                'platform': 'pytorch',
                'type': file.suffix[1:],
                'size': len(content),
                'sha256': hashlib.sha256(content).hexdigest(),
                'urls': [],
            }
        ],
        'dataset': about['training_data'],
        'images': [],
    }


def write_openmodeldb(source: str | Path, target: str | Path | None = None) -> Path:
    """Write `openmodeldb(source)` as JSON; the default name is that of the checkpoint.

    Raises:
        UserError: as `card`, or the file cannot be written.
    """
    entry = openmodeldb(source)
    path = Path(target or f'{entry["name"]}.json')
    check_apart(path, map(find_checkpoint, [source]))
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(entry, indent=2) + '\n', encoding='utf-8')
    return path


def write_card(source: str | Path, target: str | Path | None = None) -> Path:
    """Write `card(source)` to a file, whole or not at all, and return its path.

    Args:
        source: anything that `find_checkpoint` finds.
        target: default: README.md in the current folder, where there is none yet.

    Raises:
        UserError: as `card`; no target was named and there is a README.md, which may be of a project.
    """
    text = card(source)
    if target is None and Path('README.md').exists():
        raise UserError('README.md is there already; name the file with -o, README.md too if it may be replaced')
    path = Path(target or 'README.md')
    check_apart(path, map(find_checkpoint, [source]))
    with replacing(path) as temporary:
        temporary.write_text(text, encoding='utf-8')
    return path


def _result(hub: Any, task: str, name: str, value: float) -> Any:
    """One figure in the form of the Hub; it is named 'metric/data set'."""
    metric, _, data = name.partition('/')
    return hub.EvalResult(
        task_type='image-to-image',
        task_name=task,
        dataset_type=data or 'unknown',
        dataset_name=data or 'unknown',
        metric_type=metric,
        metric_value=value,
    )


def _figures(metrics: dict[str, Any]) -> str:
    """The table, and what its data sets are, as far as they are known."""
    known = [f'- `{name}`: {text}' for name, text in meanings(metrics).items()]
    return '\n'.join([_table(metrics), '', *known]) if known else _table(metrics)


def _table(metrics: dict[str, float]) -> str:
    rows = [f'| {name} | {value} |' for name, value in metrics.items()]
    return '\n'.join(['| metric | value |', '| --- | --- |', *rows]) if rows else ''


def _line(value: object) -> str:
    """Text from a file as one line that cannot end a table or open a tag."""
    return ' '.join(str(value).split()).replace('|', '/').replace('<', '&lt;')
