"""A hook of mkdocs: README, results and pictures of each recipe are on the site, under ``recipes``."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

EGS = Path(__file__).resolve().parents[1] / "egs"
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds files of ``egs/NAME``, with links to each other and to the pages of docs."""
    for readme in sorted(EGS.glob("*/README.md")):
        folder = readme.parent
        for path in (readme, folder / "RESULTS.md"):
            if path.is_file():
                text = _LINK.sub(partial(_on_the_site, path=path), path.read_text(encoding="utf-8"))
                files.append(File.generated(config, page_of(path), content=text))
        for picture in sorted(folder.glob("*.png")):
            files.append(File.generated(config, page_of(picture), abs_src_path=str(picture)))
    return files


def page_of(path: Path) -> str:
    """Where a file of a recipe is on the site."""
    name = path.parent.name
    names = {"README.md": f"{name}.md", "RESULTS.md": f"{name}_results.md"}
    return f"recipes/{names.get(path.name, f'{name}_{path.name}')}"


def _on_the_site(link: re.Match[str], path: Path) -> str:
    """A link as it is on the site; the text alone if its target is not there."""
    picture, text, target = link.groups()
    if "://" in target:
        return link[0]
    name, _, place = target.partition("#")
    file = (path.parent / name).resolve() if name else path
    if file.parent.parent == EGS and (file.name in ("README.md", "RESULTS.md") or file.suffix == ".png"):
        address = page_of(file).removeprefix("recipes/")
    elif file.suffix == ".md" and file.is_relative_to(EGS.parent / "docs"):
        address = f"../{file.relative_to(EGS.parent / 'docs').as_posix()}"
    else:
        return text
    return f"{picture}[{text}]({address}{'#' + place if place else ''})"
