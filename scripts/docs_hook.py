"""What mkdocs needs to know of this repository: pages of docs/ link to files beside docs/, as GitHub shows them.

What must stay true: a link means the same file in the repository and on the built pages. A file that a page links
outside docs/ is taken along under its path in the repository (`examples/RESULTS.md` is a page then, and so is what it
links); the links to it are turned accordingly.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)")
PAGES_BESIDE = ("examples/RESULTS.md", "CHANGELOG.md", "CONTRIBUTING.md")


def in_repository(page: str, link: str) -> str:
    """The path in the repository of what `link` in `page` (both in slashes) means."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), link))


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Takes along what pages link outside docs/."""
    waiting = [f"docs/{file.src_uri}" for file in files.documentation_pages()] + list(PAGES_BESIDE)
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen or not (ROOT / name).is_file():
            continue
        seen.add(name)
        if not name.startswith("docs/"):
            files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
        if name.endswith(".md"):
            waiting += [in_repository(name, link) for link in LINK.findall((ROOT / name).read_text())]
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links by their place on the built pages."""
    ours = page.file.src_uri
    beside = page.file.generated_by is not None
    name = ours if beside else f"docs/{ours}"

    def turned(match: re.Match[str]) -> str:
        target = in_repository(name, match[1]).removeprefix("docs/")
        return posixpath.relpath(target, posixpath.dirname(ours) or ".")

    return LINK.sub(turned, markdown)
