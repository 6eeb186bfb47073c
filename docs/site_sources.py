"""Puts the sources of the site together, for `make docs`: README, tutorial, reference from docstrings, and all pages.

    python docs/site_sources.py FOLDER

Links between pages become links of the site; those to other files of the repository, which the site has not, become their
text. One that leads nowhere ends it.
"""

import re
import shutil
import sys
from pathlib import Path

DOCS = Path(__file__).parent
ROOT = DOCS.parent

PAGES = {
    "index.md": ROOT / "README.md",
    **{page.name: page for page in sorted(DOCS.glob("*.md"))},
    **{f"{name.lower()}.md": ROOT / f"{name}.md" for name in ("CONTRIBUTING", "SECURITY", "CHANGELOG")},
}
"""The Markdown of the repository, by its name on the site."""

CONTENTS = """
```{toctree}
:hidden:

tutorial
reference
%s
```
"""

PUBLIC = ("rekd", "analysis")
"""Packages whose public names the reference lists."""


def write_sources(folder: Path) -> None:
    """Writes the sources. Raises ValueError where a link leads nowhere."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, page in PAGES.items():
        text = linked(page.read_text(encoding="utf-8"), page)
        if name == "index.md":
            text += CONTENTS % "\n".join(other.removesuffix(".md") for other in PAGES if other != name)
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "tutorial.md").write_text(
        as_markdown((DOCS / "tutorial.py").read_text(encoding="utf-8")), encoding="utf-8"
    )
    (folder / "reference.md").write_text(reference(), encoding="utf-8")
    for picture in DOCS.glob("*.png"):
        shutil.copy(picture, folder)


def linked(text: str, page: Path) -> str:
    """A page's text with links that lead somewhere on the site."""
    on_site = {source.resolve(): name for name, source in PAGES.items()}
    on_site[(DOCS / "tutorial.py").resolve()] = "tutorial.md"

    def link(match: re.Match[str]) -> str:
        label, target, anchor = match[1], match[2], match[3] or ""
        file = (page.parent / target).resolve()
        if not file.exists():
            raise ValueError(f"{page.relative_to(ROOT)}: the link to {target} leads nowhere.")
        if file.suffix == ".png":
            return f"[{label}]({file.name})"
        return f"[{label}]({on_site[file]}{anchor})" if file in on_site else label

    return re.sub(r"\[([^\]]*)\]\((?!https?://|#)([^)#\s]+)(#[^)]*)?\)", link, text)


def as_markdown(program: str) -> str:
    """A program of percent cells as a page: text as it is, code in frames."""
    parts = []
    for cell in re.split(r"^# %%", program, flags=re.MULTILINE)[1:]:
        kind, _, body = cell.partition("\n")
        if "[markdown]" in kind:
            parts.append(re.sub(r"^# ?", "", body.strip(), flags=re.MULTILINE))
        else:
            parts.append(f"```python\n{body.strip()}\n```")
    return "\n\n".join(parts) + "\n"


def reference() -> str:
    """The page that lists public names with their docstrings."""
    import importlib

    parts = ["# Reference"]
    for name in PUBLIC:
        package = importlib.import_module(name)
        parts.append(f"## {name}")
        for public in package.__all__:
            home = f"{name}.{public}"
            kind = "autoclass" if isinstance(getattr(package, public), type) else "autofunction"
            members = "\n   :members:" if kind == "autoclass" else ""
            parts.append(f"```{{eval-rst}}\n.. {kind}:: {home}{members}\n```")
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    try:
        write_sources(Path(sys.argv[1]))
    except ValueError as error:
        sys.exit(f"Error: {error}")
