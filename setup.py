"""Packaging of vmambair-arch: plain metadata, and a C kernel that is built where a compiler is at hand."""

from __future__ import annotations

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

BASE = [
    'torch>=2.4',
    'numpy',
    'opencv-python',
    'pillow',
    'pyyaml',
    'safetensors',
    'tqdm',
]
# basicsr asks for torch while it is built: install torch, numpy and cython first and pass --no-build-isolation.
TRAIN = ['basicsr==1.4.2', 'torchvision', 'timm', 'lpips', 'scikit-image', 'matplotlib', 'setuptools']

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
    package_data={'vmambair_arch': ['weights/*', 'ops/csrc/*'], 'vmambair_arch.options': ['*.yml']},
    install_requires=BASE,
    extras_require={
        'train': TRAIN,
        'test': ['pytest', 'pytest-timeout', 'hypothesis', 'ruff'],
    },
    entry_points={'console_scripts': ['vmambair=vmambair_arch.cli:main']},
)
