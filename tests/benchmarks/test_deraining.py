"""The benchmark of deraining: what it calls kept and removed, and which network may replace which."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks import deraining, shipped
from vmambair_arch.archs import VmambaIR
from vmambair_arch.checkpoints.convert import save_checkpoint
from vmambair_arch.errors import UserError

pytest.importorskip('skimage')


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two pairs and a clean picture, smooth, inputs 10 levels darker."""
    rng = np.random.default_rng(0)
    for i in range(2):
        target = cv2.resize(rng.integers(40, 216, (6, 6, 3), dtype=np.uint8), (40, 32))
        for folder, image in (('target', target), ('input', target - 10), ('clean', target)):
            (tmp_path / folder).mkdir(exist_ok=True)
            cv2.imwrite(str(tmp_path / folder / f'{i}.png'), image)
    return tmp_path


def test_doing_nothing_keeps_everything_and_removes_nothing(data: Path) -> None:
    pairs = deraining.pairs_of(data / 'target', data / 'input')
    rows = deraining.measure(deraining.Unchanged(), pairs, [gt for _, gt in pairs])
    ten_levels = 20 * np.log10(255 / 10)
    assert rows['pairs'] == pytest.approx(ten_levels, abs=1.5)  # Y spans 219 levels of 255
    for factor in deraining.FACTORS:
        assert rows[f'rain x{factor}, crops'] == pytest.approx(rows['pairs'], abs=0.2)
    assert rows['clean: worst'] == rows['clean, demo: worst'] == deraining.CEILING
    assert rows['lines without rain'] == deraining.UNSEEN


def test_what_removes_thin_things_is_told_from_what_keeps_them(data: Path) -> None:
    def opening(image: np.ndarray) -> np.ndarray:
        return cv2.medianBlur(image, 7)

    targets = [gt for _, gt in deraining.pairs_of(data / 'target', data / 'input')] * 4
    assert deraining.kept_lines(opening, targets) < 25 < deraining.kept_lines(deraining.Unchanged(), targets)


def test_enlarged_crops_are_the_middle(data: Path) -> None:
    image = np.zeros((200, 300, 3), np.uint8)
    image[52:148, 102:198] = 255
    assert deraining.enlarged(image, 2).shape == (192, 192, 3)
    assert (deraining.enlarged(image, 2) == 255).all()


def test_a_table_with_a_column_for_each_network(
    data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = data / 'small.safetensors'
    save_checkpoint(checkpoint, VmambaIR.from_preset('light', dim=8, num_blocks=[1, 1, 1, 1]))
    monkeypatch.setattr(deraining, 'photographs', lambda split: [])
    folders = [str(data / 'target'), str(data / 'input')]
    monkeypatch.setattr('sys.argv', ['deraining', str(checkpoint), '--pairs', *folders, '--clean', str(data / 'clean')])
    assert deraining.main() == 0
    assert 'small.safetensors' in capsys.readouterr().out.splitlines()[0]
    monkeypatch.setattr('sys.argv', ['deraining', 'nothing.pth', '--pairs', *folders])
    assert deraining.main() == 2
    assert 'nothing.pth: no such file' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('new', 'verdict'),
    [
        ({'rain': 34.0, 'dry': 40.0}, True),
        ({'rain': 33.9, 'dry': 45.0}, True),  # a little less removed, much more left alone
        ({'rain': 31.5, 'dry': 45.0}, False),  # one thing lost
        ({'rain': 33.8, 'dry': 40.0}, False),
        ({'rain': 34.0, 'dry': 40.0, 'more': 0.0}, True),  # the old one was not measured by it
    ],
)
def test_better_on_the_whole(new: dict[str, float], verdict: bool) -> None:
    assert shipped.better(new, {'rain': 34.0 - 1e-6, 'dry': 40.0}) is verdict


def test_a_worse_network_does_not_replace_the_one_in_the_package(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vmambair_arch.inference.restorer import Restorer

    package = data / 'package'
    package.mkdir()
    monkeypatch.setattr(shipped, 'WEIGHTS', package)
    monkeypatch.setattr(shipped, 'photographs', lambda split: [])
    monkeypatch.setattr(shipped, 'figures', lambda task, restorer, *rest: {'psnr_y/x': level(restorer)})
    monkeypatch.setattr(shipped, 'write_card', lambda source, target: target.write_text('card'))

    def level(restorer: Restorer) -> float:
        # In steps that rounding to fp16 cannot cross: an untrained network does anything.
        return 10.0 * round(float(np.mean(restorer(np.full((16, 16, 3), 128, np.uint8)))) / 1000)

    checkpoint = data / 'candidate.safetensors'
    save_checkpoint(checkpoint, VmambaIR.from_preset('light', dim=8, num_blocks=[1, 1, 1, 1]))
    lines: list[str] = []
    assert shipped.ship('derain', str(checkpoint), [], 'an hour', say=lines.append)
    before = (package / 'derain.safetensors').read_bytes()
    # What fp16 leaves of it is as good or worse, and the same network is no better than itself.
    assert not shipped.ship('derain', str(package / 'derain.safetensors'), [], 'an hour', say=lines.append)
    assert (package / 'derain.safetensors').read_bytes() == before
    with pytest.raises(UserError):
        shipped.ship('derain', str(data / 'missing.pth'), [], 'an hour', say=lines.append)
