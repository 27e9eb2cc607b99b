"""What setup.cfg cannot say: the configs lie beside the package in the repository, and within it once installed."""

from setuptools import find_packages, setup

CONFIGS = "his4mae_jax.configs"

setup(
    packages=[*find_packages(include=["his4mae_jax*"]), CONFIGS, f"{CONFIGS}.compare"],
    package_dir={CONFIGS: "configs"},
)
