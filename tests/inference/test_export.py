"""Exported networks give what torch gives, at any size."""

from __future__ import annotations

import functools
import json

import numpy as np
import pytest
import torch

from vmambair_arch import OSSNet, VmambaIR, cli
from vmambair_arch.checkpoints.convert import save_checkpoint
from vmambair_arch.errors import UserError
from vmambair_arch.inference.export import SMALLEST, export
from vmambair_arch.inference.onnx_graph import NEWEST_OPSET, OLDEST_OPSET, Graph
from vmambair_arch.ops import c_library, loop_scan

SIZES = ((SMALLEST, SMALLEST), (27, 40), (64, 33))
FORMS = {
    'OSSNet': (OSSNet, {'dim': 8, 'num_blocks': 1, 'd_state': 4}),
    'scale 1': (VmambaIR, {'scale': 1, 'channel_width': 2}),
    'added channels': (VmambaIR, {'channel_width': 4, 'channel_fusion': 'add'}),
    # Beyond the closed form of the channel scan, and wide enough to go from u to delta through dt.
    'long channels': (VmambaIR, {'dim': 32, 'd_state': 8, 'channel_width': 4}),
    'scale 2': (VmambaIR, {'scale': 2, 'channel_width': 1, 'd_state': 16, 'bias': True}),
    'scale 3, one direction': (
        VmambaIR, {'scale': 3, 'plane_directions': 1, 'channel_directions': 0, 'effn': False},
    ),
    'three directions': (VmambaIR, {'plane_directions': 3, 'channel_directions': 1, 'LayerNorm_type': 'BiasFree'}),
    'scale 4, channels of pixels': (
        VmambaIR, {'scale': 4, 'channel_width': 4, 'channel_pool': False, 'pointwise': 'linear'},
    ),
    'no image': (VmambaIR, {'inp_channels': 4, 'out_channels': 1, 'dual_pixel_task': True, 'bias': True}),
}  # fmt: skip


@pytest.fixture
def onnx():
    return pytest.importorskip('onnx')


def of_form(name):
    """A small network whose parameters are all drawn, none left at 0 or 1, with what it restores about in 0..1."""
    torch.manual_seed(0)
    arch, config = FORMS[name]
    if arch is VmambaIR:
        config = {'dim': 8, 'num_blocks': [1, 1, 0, 1], 'num_refinement_blocks': 1, 'd_state': 4, **config}
    network = arch(**config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        last = network.output if network.scale == 1 else network.tail[-1]
        last.weight.div_(4 * network(torch.rand(1, network.config['inp_channels'], 32, 32)).std())
    return network


def opened(path, with_kernel=False, threads=0):
    onnxruntime = pytest.importorskip('onnxruntime')
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    if with_kernel:
        if why := c_library.why_not():
            pytest.skip(why)
        options.register_custom_ops_library(str(c_library.path()))
    return onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])


def restored_by_torch(network, image):
    with torch.no_grad():
        return network(image).clamp(0, 1).numpy()


def check_onnx(network, path, sizes=SIZES, batches=(1,), limit=1e-4, with_kernel=False):
    session = opened(path, with_kernel)
    for size in sizes:
        for batch in batches:
            image = torch.rand(batch, network.config['inp_channels'], *size)
            (restored,) = session.run(['restored'], {'image': image.numpy()})
            expected = restored_by_torch(network, image)
            assert restored.shape == expected.shape
            assert np.abs(restored - expected).max() < limit
    return session


def test_onnx_of_any_size_by_the_command(tmp_path, onnx):
    network = of_form('OSSNet')
    save_checkpoint(tmp_path / 'a.pth', network)
    assert cli.main(['export', str(tmp_path / 'a.pth'), str(tmp_path / 'a.onnx')]) == 0
    session = check_onnx(network, tmp_path / 'a.onnx')
    about = json.loads(session.get_modelmeta().custom_metadata_map['vmambair'])
    assert about['arch'] == 'OSSNet'
    assert about['config'] == network.config
    with pytest.raises(Exception, match='invalid dimensions'):
        session.run(None, {'image': np.zeros((1, 1, 16, 16), np.float32)})


@pytest.mark.parametrize('form', FORMS)
def test_onnx_of_every_form_and_batch(tmp_path, onnx, form):
    network = of_form(form)
    export(network, tmp_path / 'a.onnx')
    check_onnx(network, tmp_path / 'a.onnx', sizes=SIZES[:2], batches=(1, 3))


def test_onnx_takes_images_smaller_than_their_padding(tmp_path, onnx):
    network = of_form('scale 1')
    export(network, tmp_path / 'a.onnx')
    check_onnx(network, tmp_path / 'a.onnx', sizes=((1, 1), (2, 30), (17, 5)))


@pytest.mark.parametrize('scale', [2, 3, 4])
def test_onnx_enlarges_images_of_one_pixel(tmp_path, onnx, scale):
    torch.manual_seed(0)
    network = OSSNet(dim=8, num_blocks=1, d_state=4, scale=scale).eval()
    export(network, tmp_path / 'a.onnx')
    check_onnx(network, tmp_path / 'a.onnx', sizes=((1, 1), (1, 6), (2, 5), (20, 17)), batches=(2,))


def test_axes_of_onnx_have_names(tmp_path, onnx):
    export(of_form('scale 2'), tmp_path / 'a.onnx')
    session = opened(tmp_path / 'a.onnx')
    assert session.get_inputs()[0].shape == ['batch', 3, 'height', 'width']
    assert session.get_outputs()[0].shape == ['batch', 3, '2*height', '2*width']


def test_the_size_of_an_onnx_file_can_be_fixed(tmp_path, onnx):
    network = of_form('scale 2')
    export(network, tmp_path / 'a.onnx', (20, 31))
    session = check_onnx(network, tmp_path / 'a.onnx', sizes=((20, 31),), batches=(2,))
    assert session.get_outputs()[0].shape == ['batch', 3, 40, 62]


@pytest.mark.parametrize('opset', [OLDEST_OPSET, 18, 20, 21, 23, NEWEST_OPSET])
def test_onnx_of_other_opsets(tmp_path, onnx, opset):
    network = of_form('scale 1')
    export(network, tmp_path / 'a.onnx', opset=opset)
    assert onnx.load(tmp_path / 'a.onnx').opset_import[0].version == opset
    check_onnx(network, tmp_path / 'a.onnx', sizes=SIZES[1:2])


def test_half_halves_the_file_and_rounds_the_weights_only(tmp_path, onnx):
    torch.manual_seed(0)
    network = VmambaIR.from_preset('light').eval()
    export(network, tmp_path / 'full.onnx')
    export(network, tmp_path / 'half.onnx', half=True)
    full, half = ((tmp_path / name).stat().st_size for name in ('full.onnx', 'half.onnx'))
    assert half < 0.65 * full
    image = torch.rand(1, 3, 24, 24)
    results = [opened(tmp_path / n).run(None, {'image': image.numpy()})[0] for n in ('full.onnx', 'half.onnx')]
    assert results[1].dtype == np.float32
    assert 0 < np.abs(results[0] - results[1]).max() < 5e-3


def test_softplus_is_accurate_where_it_is_small_and_where_it_is_large(onnx):
    graph = Graph()
    y = graph.softplus('x')
    helper, FLOAT = onnx.helper, onnx.TensorProto.FLOAT
    values = [[helper.make_tensor_value_info(name, FLOAT, [None])] for name in ('x', y)]
    model = helper.make_model(
        helper.make_graph(graph.nodes, 'softplus', *values, graph.initializers),
        opset_imports=[helper.make_opsetid('', graph.opset)], ir_version=8,
    )  # fmt: skip
    x = np.linspace(-80, 80, 100001, dtype=np.float32)
    (found,) = opened(model.SerializeToString()).run(None, {'x': x})
    assert np.abs(found / np.logaddexp(0, x.astype(np.float64)) - 1).max() < 5e-7


def test_steps_large_enough_to_forget_do_not_overflow(tmp_path, onnx):
    """Decays to nothing, and sums of steps far beyond the largest exponent of float32."""
    network = of_form('scale 1')
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if 'projs_bias' in name:
                parameter.add_(40 * torch.rand_like(parameter))
            elif 'A' in name:
                parameter.add_(3)
    export(network, tmp_path / 'a.onnx')
    check_onnx(network, tmp_path / 'a.onnx', sizes=SIZES[1:2])


@pytest.mark.parametrize('form', FORMS)
def test_onnx_with_the_kernel_restores_the_same(tmp_path, onnx, form):
    network = of_form(form)
    export(network, tmp_path / 'a.onnx', kernel=True)
    check_onnx(network, tmp_path / 'a.onnx', sizes=((1, 1), *SIZES[:2]), batches=(1, 3), with_kernel=True)


def test_the_kernel_gives_the_same_bits_on_any_number_of_threads(tmp_path, onnx):
    torch.manual_seed(0)
    export(VmambaIR.from_preset('light').eval(), tmp_path / 'a.onnx', kernel=True)
    image = np.random.default_rng(0).random((2, 3, 64, 72), np.float32)
    one, two = (opened(tmp_path / 'a.onnx', True, threads).run(None, {'image': image})[0] for threads in (1, 2))
    assert np.array_equal(one, two)


def test_onnx_with_the_kernel_needs_its_library_and_says_so(tmp_path, onnx, capsys):
    save_checkpoint(tmp_path / 'a.pth', of_form('scale 2'))
    assert cli.main(['export', str(tmp_path / 'a.pth'), str(tmp_path / 'a.onnx'), '--kernel']) == 0
    library = c_library.LIBRARY if c_library.why_not() else c_library.path()
    assert f'register_custom_ops_library({str(library)!r})' in capsys.readouterr().out
    with pytest.raises(Exception, match='OmniScan'):
        opened(tmp_path / 'a.onnx')
    opened(tmp_path / 'a.onnx', with_kernel=True)


@pytest.mark.parametrize(
    ('wrong', 'shape'),
    [('x_dbl', (1, 5, 4, 21)), ('D', (2, 7)), ('A', (3, 8, 4)), ('x', (1, 5, 4, 8, 1)), ('dt_bias', (2,))],
)
def test_the_operator_of_the_kernel_refuses_shapes_that_do_not_fit(onnx, wrong, shape):
    """Sizes are K = 2, d = 8, R = 2, N = 4; the kernel would read past the end of what it is given."""
    fit = {'x': (1, 5, 4, 8), 'x_dbl': (1, 5, 4, 20), 'dt_weight': (2, 8, 2), 'dt_bias': (2, 8), 'A': (2, 8, 4)}
    shapes = {**fit, 'D': (2, 8), wrong: shape}
    helper, FLOAT = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node('OmniScan', list(shapes), ['y'], domain='vmambair')],
        'scan',
        [helper.make_tensor_value_info(name, FLOAT, [None] * len(shape)) for name, shape in shapes.items()],
        [helper.make_tensor_value_info('y', FLOAT, None)],
    )
    opsets = [helper.make_opsetid('', 17), helper.make_opsetid('vmambair', 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    session = opened(model.SerializeToString(), with_kernel=True)
    with pytest.raises(Exception, match='OmniScan: '):
        session.run(None, {name: np.zeros(shape, np.float32) for name, shape in shapes.items()})


def test_openvino_restores_the_same_in_float32(tmp_path, onnx):
    openvino = pytest.importorskip('openvino')
    network = of_form('scale 2')
    export(network, tmp_path / 'a.onnx')
    # Where the processor has bfloat16, OpenVINO takes it unless told otherwise.
    model = openvino.Core().compile_model(tmp_path / 'a.onnx', 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})
    for size in SIZES[1:]:
        image = torch.rand(2, 3, *size)
        restored = model(image.numpy())['restored']
        assert np.abs(restored - restored_by_torch(network, image)).max() < 1e-4


needs_loop = pytest.mark.skipif(bool(why := loop_scan.unavailable()), reason=why or '')


def test_a_program_needs_a_newer_torch_and_says_so_before_the_work(tmp_path, checkpoint, tiny, capsys, monkeypatch):
    monkeypatch.setattr(torch.export, 'export', lambda mod, args, *, dynamic_shapes=None, strict=True: None)
    monkeypatch.setattr('vmambair_arch.inference.export.export_program', lambda *args: pytest.fail('it was tried'))
    assert cli.main(['export', str(checkpoint), str(tmp_path / 'a.pt2')]) == 2
    line = capsys.readouterr().err
    assert 'a.pt2: the loop of torch.export needs torch 2.9 or newer, and this is' in line
    assert line.endswith("; pip install -U 'torch>=2.9', or export as .onnx\n")
    assert not list(tmp_path.glob('a.*'))


@needs_loop
@pytest.mark.slow
def test_programs_of_torch_export(tmp_path):
    torch.manual_seed(0)
    network = VmambaIR(dim=8, num_blocks=[1, 0, 0, 0], num_refinement_blocks=0, d_state=4, scale=2).eval()
    export(network, tmp_path / 'a.pt2')
    program = torch.export.load(tmp_path / 'a.pt2').module()
    for size in SIZES:
        image = torch.rand(1, 3, *size)
        with torch.no_grad():
            torch.testing.assert_close(program(image), network(image).clamp(0, 1), atol=1e-4, rtol=0)


@pytest.mark.skipif(torch.__version__ < '2.14', reason='AOTInductor of older torch has no nested loops')
@pytest.mark.slow
def test_aot_inductor(tmp_path, checkpoint, tiny):
    target = tmp_path / 'a.pt2'
    assert cli.main(['export', str(checkpoint), str(target), '--size', '40', '24']) == 0
    package = torch._inductor.aoti_compile_and_package(torch.export.load(target), package_path=str(tmp_path / 'b.pt2'))
    image = torch.rand(1, 3, 24, 40)
    with torch.no_grad():
        expected = tiny(image).clamp(0, 1)
    torch.testing.assert_close(torch._inductor.aoti_load_package(package)(image), expected, atol=1e-4, rtol=0)


def test_bad_targets(tmp_path, tiny, capsys, checkpoint):
    with pytest.raises(UserError, match=r'a.tflite: a network is exported as .onnx, .pt2 or .html'):
        export(tiny, tmp_path / 'a.tflite')
    assert cli.main(['export', str(checkpoint), str(tmp_path / 'a.xyz')]) == 2
    assert cli.main(['export', str(checkpoint), str(tmp_path / 'a.pt2'), '--size', '8', '100']) == 2
    assert 'sides of 9 to 16384 pixels, got 8x100' in capsys.readouterr().err
    assert cli.main(['export', str(checkpoint), str(tmp_path / 'a.onnx'), '--size', '0', '100']) == 2
    assert 'sides of 1 to 16384 pixels, got 0x100' in capsys.readouterr().err
    assert cli.main(['export', str(checkpoint), str(tmp_path / 'a.onnx'), '--opset', '12']) == 2
    assert 'opset 12: networks are written for the ONNX opsets 13 to 25' in capsys.readouterr().err
    assert cli.main(['export', str(checkpoint), str(tmp_path / 'a.pt2'), '--half']) == 2
    assert 'a.pt2: float16 weights, an opset and the kernel are options of .onnx files' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_export_that_fails_leaves_nothing(tmp_path, tiny, monkeypatch):
    from vmambair_arch.inference import export as module

    def fail(network, size):
        assert len(list(tmp_path.iterdir())) == 0
        raise KeyboardInterrupt

    monkeypatch.setattr(module, 'export_program', fail)
    with pytest.raises(KeyboardInterrupt):
        export(tiny, tmp_path / 'a.pt2')
    assert not list(tmp_path.iterdir())


def test_the_scan_is_given_back(tiny, monkeypatch):
    """After an export, failed or not, networks run on the kernels again."""
    from vmambair_arch import ops
    from vmambair_arch.inference import export as module

    before = ops.in_use('cpu', torch.float32)
    fails = functools.wraps(torch.export.export)(lambda *a, **k: 1 / 0)  # of the same options
    monkeypatch.setattr(module.torch.export, 'export', fails)
    with pytest.raises(ZeroDivisionError):
        module.export_program(tiny)
    assert ops.in_use('cpu', torch.float32) == before
