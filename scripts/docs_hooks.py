"""MkDocs hooks: pages link to files of the repository as they lie there, the site has those that can be shown.

What must stay true: a link in docs/ is right in a checkout, where `../examples/x.py` is a file; on the site pictures
and results are files and pages of its own, and a link to any other file becomes its name.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
SHOWN = ("examples/RESULTS.md", "examples/results/history.md")
LINK = re.compile(r"(!?\[(?:[^\[\]]|\[[^\]]*\])*\])\(([^()\s]+)\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the results pages and pictures, which lie outside of docs/."""
    pictures = [path for kind in ("png", "svg") for path in sorted((ROOT / "examples/results").glob(f"*.{kind}"))]
    for path in [*(ROOT / name for name in SHOWN), *pictures]:
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


_told: dict[str, tuple[str, str]] = {}
"""By address: a page's title and the first sentence of it, for `llms.txt`."""


def on_page_content(html: str, page: Any, config: Any, files: Files) -> None:
    """Note what the page is about."""
    first = re.search(r"<p>(.*?)</p>", html, re.DOTALL)
    words = " ".join(re.sub(r"<[^>]+>", "", first[1]).split()) if first else ""
    _told[page.url] = (page.title, re.split(r"(?<=[.:]) ", words)[0])


def on_post_build(config: Any) -> None:
    """Write `llms.txt` (llmstxt.org): the pages and what each is about."""
    lines = [f"- [{title}]({url.removeprefix('./')}): {about}" for url, (title, about) in _told.items()]
    text = "\n".join([f"# {config.site_name}", "", f"> {config.site_description}", "", "## Pages", "", *lines, ""])
    Path(config.site_dir, "llms.txt").write_text(text)


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turn links to files of the repository into the site's, or into plain names."""
    source = page.file.src_uri
    here = PurePosixPath(source if source in SHOWN else f"docs/{source}").parent

    def link(match: re.Match[str]) -> str:
        said, target = match.groups()
        path, mark, anchor = target.partition("#")
        if "://" in target or not path:
            return match[0]
        there = normpath(str(here / path))
        on_site = there.removeprefix("docs/")
        if files.get_file_from_path(on_site) is not None:
            return f"{said}({relpath(on_site, str(PurePosixPath(source).parent))}{mark}{anchor})"
        if not (ROOT / there).exists():
            return match[0]  # the build says what is wrong with it
        return said.removeprefix("!")[1:-1]

    return LINK.sub(link, markdown)
