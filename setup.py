"""Packaging of vmambair-arch: plain metadata, and a C kernel that is built where a compiler is at hand."""

from __future__ import annotations

import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).parent
OPENMP = '-fopenmp'


class BuildKernels(build_ext):
    """Builds the C kernels into `vmambair_arch/ops/_kernels.so`, a plain library that knows no Python.

    Nothing here may fail an install: without a compiler the torch version of the scan serves, and says so.
    """

    def get_ext_filename(self, fullname: str) -> str:
        return f'{fullname.replace(".", "/")}.so'

    def get_export_symbols(self, ext: Extension) -> list[str]:
        return []  # no module to initialise

    def build_extension(self, ext: Extension) -> None:
        try:
            super().build_extension(ext)
        except Exception:
            # Apple's clang has no OpenMP: the same kernel on one thread.
            ext.extra_compile_args.remove(OPENMP)
            ext.extra_link_args.remove(OPENMP)
            super().build_extension(ext)


CSRC = 'vmambair_arch/ops/csrc'
KERNELS = Extension(
    'vmambair_arch.ops._kernels',
    sources=[f'{CSRC}/{name}.c' for name in ('scan', 'depthwise', 'onnxruntime', 'avx512', 'avx2', 'neon', 'portable')],
    depends=[
        f'{CSRC}/{name}.h' for name in ('scan', 'scan_worker', 'depthwise', 'depthwise_worker', 'parallel', 'vec')
    ],
    # The kernels see the same memory as bytes, halves, floats and vectors.
    extra_compile_args=['-O3', '-g0', '-fno-strict-aliasing', '-fvisibility=hidden', OPENMP],
    extra_link_args=[OPENMP],
    optional=True,
)

BASE = [
    'torch>=2.4',
    'numpy',
    'opencv-python',
    'pillow>=11.3',  # with AVIF and XMP
    'pyyaml',
    'safetensors',
    'shtab',
    'tqdm',
]
# basicsr asks for torch while it is built: install torch, numpy and cython first and pass --no-build-isolation.
TRAIN = ['basicsr==1.4.2', 'torchvision', 'timm', 'lpips', 'dists-pytorch', 'scikit-image', 'matplotlib', 'setuptools']
# Optimisers that neither torch nor timm has: schedule-free, SOAP.
OPTIM = ['schedulefree', 'pytorch_optimizer']

setup(
    name='vmambair-arch',
    version='0.1.0',
    description='VmambaIR for BasicSR: image restoration with omni selective scans',
    long_description=(HERE / 'README.md').read_text(encoding='utf-8') if (HERE / 'README.md').exists() else '',
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.10',
    # The option files live at the top of the checkout, where people look for them, and travel inside the package.
    packages=[*find_packages(include=['vmambair_arch*', 'realesrgan_pipeline*']), 'vmambair_arch.options'],
    package_dir={'vmambair_arch.options': 'options'},
    package_data={'vmambair_arch': ['weights/*', 'ops/csrc/*'], 'vmambair_arch.options': ['*.yml', 'schema.json']},
    ext_modules=[] if sys.platform == 'win32' else [KERNELS],  # written for gcc and clang
    cmdclass={'build_ext': BuildKernels},
    options={'bdist_wheel': {'py_limited_api': 'cp310'}},  # the library knows no Python: one wheel for every version
    install_requires=BASE,
    extras_require={
        'train': TRAIN,
        'optim': OPTIM,
        'pyiqa': ['pyiqa'],
        'web': ['gradio>=6'],
        'video': ['av>=14'],
        'heic': ['pillow-heif>=0.18'],
        'hub': ['huggingface_hub>=0.30'],
        'export': ['onnx', 'onnxruntime'],
        'losses': ['piq'],
        'docs': ['mkdocs-material', 'mkdocstrings[python]'],
        'test': [
            *OPTIM,
            'pytest',
            'pytest-timeout',
            'hypothesis',
            'ruff',
            'jsonschema',
            'piq',
        ],
    },
    entry_points={'console_scripts': ['vmambair=vmambair_arch.cli:main']},
)
