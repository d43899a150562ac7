"""Packaging of vmambair-arch: plain metadata, and a C kernel that is built where a compiler is at hand."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).parent
OPENMP = '-fopenmp'


class BuildKernels(build_ext):
    """Builds the C kernels into `vmambair_arch/ops/_kernels.so`, a plain library that knows no Python.

    Nothing here may fail an install: without a compiler the torch version of the scan is used, and says so.
    """

    def finalize_options(self) -> None:
        super().finalize_options()
        # By default times decide what is built again, and contents what is loaded.
        self.force = True

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


def sources() -> str:
    """A hash of the C sources, as `ops/c_library.py` makes it: a library of other sources is not loaded."""
    files = sorted((HERE / CSRC).glob('[!.]*.[ch]'))
    return hashlib.sha256(b''.join(file.read_bytes() for file in files)).hexdigest()[:16]


KERNELS = Extension(
    'vmambair_arch.ops._kernels',
    sources=[f'{CSRC}/{name}.c' for name in ('scan', 'depthwise', 'onnxruntime', 'avx512', 'avx2', 'neon', 'portable')],
    depends=[
        f'{CSRC}/{name}.h' for name in ('scan', 'scan_worker', 'depthwise', 'depthwise_worker', 'parallel', 'vec')
    ],
    define_macros=[('VMAMBAIR_SOURCES', f'"{sources()}"')],
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
    'simplejpeg',  # hands on what libjpeg notices
    'shtab',
    'tqdm',
]
# basicsr asks for torch while it is built: install torch, numpy and cython first and pass --no-build-isolation.
TRAIN = ['basicsr==1.4.2', 'torchvision', 'timm', 'lpips', 'dists-pytorch', 'scikit-image', 'matplotlib', 'setuptools']
# Optimisers that neither torch nor timm has: schedule-free, SOAP.
OPTIM = ['schedulefree', 'pytorch_optimizer']

EXTRAS = {
    'train': TRAIN,
    'optim': OPTIM,
    'pyiqa': ['pyiqa'],
    'web': ['gradio>=6'],
    'video': ['av>=14'],
    'heic': ['pillow-heif>=0.18'],
    'hub': ['huggingface_hub>=0.30'],
    'export': ['onnx', 'onnxruntime'],
    'losses': ['piq'],
    'mamba': ['mamba-ssm', 'causal-conv1d'],  # built with nvcc: see docs/gpu.md
    'docs': ['mkdocs-material', 'mkdocstrings[python]'],
}
TOOLS = ['pytest', 'pytest-timeout', 'pytest-xdist', 'hypothesis', 'jsonschema']
TOOLS += ['ruff', 'mypy', 'types-PyYAML', 'types-tqdm']
TRIED = ('optim', 'video', 'heic', 'hub', 'export', 'losses')
"""What the tests try beside `train`; without it they skip."""
EXTRAS['test'] = [*TOOLS, *(name for extra in TRIED for name in EXTRAS[extra]), 'spandrel', 'openvino']

REPOSITORY = os.environ.get('VMAMBAIR_REPOSITORY', '').rstrip('/')
"""Address of the repository where it is known: the workflow that builds the wheels sets it."""


def long_description() -> str:
    """The README for an index page, where links within the checkout lead nowhere: absolute, or their text alone."""
    path = HERE / 'README.md'
    text = path.read_text(encoding='utf-8') if path.exists() else ''

    def image(match: re.Match[str]) -> str:
        return f'![{match[1]}]({REPOSITORY}/raw/HEAD/{match[2]})' if REPOSITORY else ''

    def link(match: re.Match[str]) -> str:
        return f'[{match[1]}]({REPOSITORY}/blob/HEAD/{match[2]})' if REPOSITORY else match[1]

    text = re.sub(r'!\[([^]]*)\]\((?!https?:)([^)]*)\)', image, text)
    return re.sub(r'(?<!!)\[([^]]*)\]\((?!https?:)([^)]*)\)', link, text)


URLS = {'Paper': 'https://doi.org/10.1109/TCSVT.2025.3530090', 'Preprint': 'https://arxiv.org/abs/2403.11423'}
if REPOSITORY:
    URLS |= {
        'Source': REPOSITORY,
        'Documentation': f'{REPOSITORY}/blob/HEAD/docs/index.md',
        'Changes': f'{REPOSITORY}/blob/HEAD/CHANGELOG.md',
        'Issues': f'{REPOSITORY}/issues',
    }

setup(
    name='vmambair-arch',
    version='0.1.0',
    description='VmambaIR for BasicSR: image restoration with omni selective scans',
    long_description=long_description(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    project_urls=URLS,
    keywords='image restoration, super-resolution, deraining, state space model, mamba, vmamba, basicsr, real-esrgan',
    classifiers=[
        'Development Status :: 4 - Beta',
        'Environment :: Console',
        'Environment :: GPU',
        'Intended Audience :: Developers',
        'Intended Audience :: End Users/Desktop',
        'Intended Audience :: Science/Research',
        'Operating System :: MacOS',
        'Operating System :: Microsoft :: Windows',
        'Operating System :: POSIX :: Linux',
        'Programming Language :: C',
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Topic :: Multimedia :: Graphics',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
        'Topic :: Scientific/Engineering :: Image Processing',
        'Typing :: Typed',
    ],
    python_requires='>=3.10,<3.13',  # basicsr 1.4.2 cannot be built on 3.13
    # The option files live at the top of the checkout, where people look for them, and travel inside the package.
    packages=[*find_packages(include=['vmambair_arch*', 'realesrgan_pipeline*']), 'vmambair_arch.options'],
    package_dir={'vmambair_arch.options': 'options'},
    package_data={
        'vmambair_arch': ['py.typed', 'weights/*', 'ops/csrc/*', 'inference/*.html'],
        'vmambair_arch.options': ['*.yml', 'schema.json'],
    },
    ext_modules=[] if sys.platform == 'win32' else [KERNELS],  # written for gcc and clang
    cmdclass={'build_ext': BuildKernels},
    options={'bdist_wheel': {'py_limited_api': 'cp310'}},  # the library knows no Python: one wheel for every version
    install_requires=BASE,
    extras_require=EXTRAS,
    entry_points={'console_scripts': ['vmambair=vmambair_arch.cli:main']},
)
