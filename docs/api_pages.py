"""MkDocs hook: writes one API page for each room of the package, from the modules that there are."""

import pathlib

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PACKAGE = pathlib.Path(__file__).parents[1] / "his4mae_jax"


def rooms() -> dict[str, list[str]]:
    """Names of the modules in each folder of the package, such as "data.known"; "" holds those of the package."""
    found: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        *folders, name = path.relative_to(PACKAGE).with_suffix("").parts
        if name != "__init__" and not name.startswith("_") and path.read_text(encoding="utf-8").strip():
            found.setdefault(".".join(folders), []).append(name)
    return found


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Adds the API pages to the navigation."""
    pages = [{room or "his4mae_jax": f"api/{room or 'package'}.md"} for room in rooms()]
    config.nav = [*config.nav, {"API": ["api/index.md", *pages]}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the API pages themselves."""
    index = "# API\n\nThe library's public names:\n\n::: his4mae_jax\n\n## Modules by room\n\n"
    for room, modules in rooms().items():
        title, prefix = room or "his4mae_jax", ".".join(part for part in ("his4mae_jax", room) if part)
        text = f"# {title}\n\n" + "".join(f"::: {prefix}.{module}\n\n" for module in modules)
        page = f"{room or 'package'}.md"
        files.append(File.generated(config, f"api/{page}", content=text))
        index += f"- [`{title}`]({page}): {', '.join(f'`{module}`' for module in modules)}\n"
    files.append(File.generated(config, "api/index.md", content=index))
    return files
