"""The README's example config is valid, and the keys, configs and files it names exist."""

import pathlib
import re

from his4mae_jax import config as configs
from his4mae_jax.main import MODES

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_example_config_is_valid():
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    space = {}
    exec(example, space)
    configs.validate(space["get_config"]())


def test_keys_and_modes_exist():
    keys = set(configs.flat_keys(configs.get_default()))
    sections = "|".join({key.split(".")[0] for key in keys if "." in key})
    files = {"train.jsonl", "segment.json", "segment.partial"}
    named = set(re.findall(rf"(?:--config\.|`)((?:{sections})\.\w+)", README)) - files
    assert len(named) > 10 and named <= keys
    assert set(re.findall(r"--mode=(\w+)", README)) <= set(MODES)
    assert all(f"| `{mode}` |" in README for mode in MODES)


def test_configs_and_files_exist():
    for path in set(re.findall(r"--config=(configs/\w+\.py)", README)) - {"configs/mycell.py"}:
        assert (ROOT / path).is_file(), path
    for path in re.findall(r"`((?:data|models|pretext|segmentation)/\w+\.py)`", README):
        assert (ROOT / "his4mae_jax" / path).is_file(), path
    for path in re.findall(r"(?:launch|benchmarks)/\w+\.\w+", README):
        assert (ROOT / path).is_file(), path
