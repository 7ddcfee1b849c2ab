"""`python -m semblant.bench.explained docs/explained`: run the code of the pages there, and renew what it makes.

A page is Markdown. Its Python blocks run from top to bottom in one namespace, in the folder of the page, so pictures
they save lie beside it; a `text` block right after a Python block holds what that block printed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
from pathlib import Path

from semblant.bench.results import write_text

FENCED = re.compile(r"^```python\n(?P<code>.*?)^```\n(?P<printed>\n```text\n.*?^```\n)?", re.MULTILINE | re.DOTALL)


def run_page(page: str, folder: Path, name: str = "page") -> str:
    """The page with what its blocks print now; their pictures lie in `folder` afterwards.

    Whatever a block raises goes through, and its traceback names the line of the page.
    """
    known: dict[str, object] = {"__name__": name}
    parts, at = [], 0
    with contextlib.chdir(folder):
        for block in FENCED.finditer(page):
            heard = io.StringIO()
            above = page.count("\n", 0, block.start("code"))
            with contextlib.redirect_stdout(heard):
                exec(compile("\n" * above + block["code"], name, "exec"), known)
            parts.append(page[at : block.start()] + f"```python\n{block['code']}```\n")
            if said := heard.getvalue():
                parts.append(f"\n```text\n{said.rstrip()}\n```\n")
            at = block.end()
    return "".join(parts) + page[at:]


def main(arguments: list[str] | None = None) -> None:
    """Renew the pages of a folder, or those named."""
    parser = argparse.ArgumentParser(prog="semblant.bench.explained", description=__doc__)
    parser.add_argument("paths", nargs="+", type=Path, help="pages, or folders of them")
    given = parser.parse_args(arguments).paths
    for path in given:
        for page in sorted(path.glob("[0-9]*.md")) if path.is_dir() else [path]:
            made = run_page(page.read_text(), page.resolve().parent, page.name)
            write_text(page, made)


if __name__ == "__main__":
    main()
