"""`vmambair profile`: counts that can be done by hand, the published ones, and any arch of BasicSR."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from vmambair_arch.archs import PRESETS, OSSNet, VmambaIR
from vmambair_arch.cli import main
from vmambair_arch.errors import UserError
from vmambair_arch.evaluation import complexity
from vmambair_arch.evaluation.complexity import Complexity, count, find_network, measure, profile, table

CPU = torch.device('cpu')


def test_the_published_network() -> None:
    """10.498 M; 14.53 G in convolutions, 1.13 G in projections, 3.78 G in scans at a 64 x 64 input."""
    counted = count(VmambaIR.from_preset('realsr_x4'))
    assert round(counted.parameters / 1e6, 3) == 10.498
    assert [round(n / 1e9, 2) for n in (counted.dense, counted.projection, counted.scan)] == [14.53, 1.13, 3.78]
    assert counted.attention == 0
    assert round(counted.total / 1e9, 2) == 19.44
    assert round((counted.total + counted.projection) / 1e9, 1) == 20.6


def test_a_network_by_hand() -> None:
    """One OSS block of OSSNet on 8 x 8 pixels, every term written out."""
    d, N, R, K, dc, L = 16, 4, 1, 4, 1, 64
    network = OSSNet(dim=d, num_blocks=1, d_state=N, channel_width=dc)
    hidden = int(2.66 * d)
    convolutions = L * (
        3 * 9 * d  # conv_first
        + d * 2 * d + 9 * d + d * d  # in_conv, depthwise, out_conv
        + d * 2 * hidden + 9 * 2 * hidden + hidden * d  # EFFN
        + 9 * d * d + 9 * d * 3  # conv_after_body, output
    )  # fmt: skip
    plane = L * K * (d * (R + 2 * N) + d * R)
    channel = d * 2 * (dc * (R + 2 * N) + dc * R)
    steps = L * K * d + d * 2 * dc
    assert count(network, 8, 8) == Complexity(
        parameters=sum(p.numel() for p in network.parameters()),
        dense=convolutions,
        projection=plane + channel,
        scan=9 * N * steps + steps,
        scan_multiply_adds=4 * N * steps + 2 * steps,
    )


def test_attention_is_told_from_linear_layers() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv = nn.Linear(3, 12)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q, k, v = self.qkv(x.flatten(2).transpose(1, 2)).chunk(3, -1)
            return (q @ k.transpose(1, 2)).softmax(-1) @ v

    counted = count(Attention(), 4, 5)
    assert (counted.dense, counted.attention) == (20 * 3 * 12, 2 * 20 * 20 * 4)


def test_counts_grow_with_pixels_and_change_nothing() -> None:
    network = VmambaIR(dim=8, num_blocks=[1, 1, 1, 1], num_refinement_blocks=1, d_state=4, channel_width=1)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    small, large = count(network, 16, 16), count(network, 32, 16)
    assert large.dense == 2 * small.dense
    assert 1.9 * small.scan < large.scan < 2 * small.scan  # the channel scan stays
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert network(torch.rand(1, 3, 16, 16)).shape == (1, 3, 16, 16)  # the real scan is back


@pytest.mark.parametrize(
    ('arch', 'millions', 'giga'),
    [('RRDBNet', 16.698, 73.4), ('EDSR', 43.090, 205.8), ('SRVGGNetCompact', None, None)],
)
def test_archs_of_basicsr(arch: str, millions: float | None, giga: float | None) -> None:
    """Parameters and cost as their papers and successors quote them."""
    pytest.importorskip('basicsr')
    counted = count(find_network(arch)[1]())
    assert counted.scan == 0
    if millions:
        assert round(counted.parameters / 1e6, 3) == millions
        assert round(counted.total / 1e9, 1) == giga
    else:
        assert counted.total > 0


def test_option_file(tmp_path: Path) -> None:
    path = tmp_path / 'mine.yml'
    path.write_text('network_g:\n  type: OSSNet\n  dim: 8\n  num_blocks: 1\n')
    name, build = find_network(str(path))
    assert name == 'mine'
    assert build().config['dim'] == 8
    path.write_text('network_g:\n  type: OSSNet\n  dims: 8\n')
    with pytest.raises(UserError, match="mine.yml: OSSNet cannot be built .*'dims'"):
        find_network(str(path))[1]()
    path.write_text('network_d:\n  type: OSSNet\n')
    with pytest.raises(UserError, match='no section network_g'):
        find_network(str(path))


def test_unknown_names() -> None:
    with pytest.raises(UserError, match=r"no preset or arch 'realsr_x3' \(did you mean 'realsr_x4'"):
        find_network('realsr_x3')
    pytest.importorskip('basicsr')
    with pytest.raises(UserError, match='give an option file'):
        find_network('StyleGAN2Generator')[1]()
    with pytest.raises(UserError, match='takes no'):
        count(nn.Linear(7, 7))


def test_measure_sees_memory_grow() -> None:
    network = OSSNet(dim=8, num_blocks=1, d_state=4)
    small, large = (measure(network, size, size, CPU, repeats=1) for size in (16, 32))
    assert small.seconds > 0
    assert 3 < large.memory / small.memory < 5
    wide = measure(OSSNet(dim=64, num_blocks=1), 8, 8, CPU, repeats=1)
    assert wide.memory < 64 * 64 * 20 * 4  # some maps of 64 channels, not the parameters


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / 'tiny.yml'
    path.write_text('network_g:\n  type: OSSNet\n  dim: 8\n  num_blocks: 1\n  d_state: 4\n')
    output = tmp_path / 'profile'
    assert main(['profile', str(path), '--sizes', '16', '24x16', '--repeats', '1', '-o', str(output)]) == 0
    printed = capsys.readouterr().out
    assert '| tiny | 0.00' in printed
    assert 'Input 16 x 16' in printed
    assert (output / 'profile.md').read_text() in printed
    assert (output / 'profile.png').read_bytes().startswith(b'\x89PNG')
    assert main(['profile', str(path), '--sizes', '16xx']) == 2
    assert "'16xx'" in capsys.readouterr().err
    assert main(['profile', str(path), '--device', 'cuda:99']) == 2
    assert "device 'cuda:99' is not there" in capsys.readouterr().err
    assert main(['profile', str(path), '--repeats', '0']) == 2
    assert '--repeats must be 1 or more' in capsys.readouterr().err


def test_table_quotes_the_published_beside_the_measured() -> None:
    rows = profile(['light'], [(64, 64)], device=CPU, repeats=1)
    text = table(rows, CPU)
    assert '| MM-RealSR (published) |' in text
    assert '| light | ' in text
    assert set(PRESETS) >= {row.name for row in rows}


PROFILE = Path(__file__).resolve().parents[2] / 'benchmarks' / 'results' / 'profile.md'


def _profiled() -> dict[str, dict[str, str]]:
    """The cells of the published profile by network and heading."""
    lines = PROFILE.read_text(encoding='utf-8').splitlines()
    head, _, *rows = ([cell.strip() for cell in line.strip('|').split('|')] for line in lines if line.startswith('|'))
    return {row[0]: dict(zip(head, row, strict=True)) for row in rows}


@pytest.mark.parametrize('preset', PRESETS)
def test_the_published_profile_is_of_the_presets_as_they_are(preset: str) -> None:
    row, counted = _profiled()[preset], count(VmambaIR.from_preset(preset))
    assert row['parameters, M'] == f'{counted.parameters / 1e6:.3f}'
    assert row['total, G'] == f'{counted.total / 1e9:.2f}'


def test_the_gpu_that_is_timed_is_the_one_that_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waited = []
    monkeypatch.setattr(torch.cuda, 'synchronize', waited.append)
    complexity._wait_for(torch.device('cuda:1'))
    complexity._wait_for(CPU)
    assert waited == [torch.device('cuda:1')]
