"""The tutorial runs, and the site of the documentation is whole."""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TUTORIAL = ROOT / "docs/tutorial.py"


@pytest.fixture(scope="module")
def site():
    spec = importlib.util.spec_from_file_location("site_sources", ROOT / "docs/site_sources.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_of_the_repository_is_on_the_site(site, tmp_path):
    site.write_sources(tmp_path / "site")
    pages = {page.name for page in (tmp_path / "site").glob("*.md")}
    assert {page.name for page in (ROOT / "docs").glob("*.md")} | {"index.md", "tutorial.md", "reference.md"} <= pages
    contents = (tmp_path / "site/index.md").read_text().partition("{toctree}")[2]
    assert all(f"\n{name.removesuffix('.md')}\n" in contents for name in pages - {"index.md"})


def test_links_lead_to_pages_and_one_that_leads_nowhere_is_refused(site):
    page = ROOT / "README.md"
    text = "[a](docs/digits.md) [b](sweeps/alpha_sweep.py) [c](https://x.org) ![d](docs/alpha-digits.png) [e](SECURITY.md#x)"
    expected = "[a](digits.md) b [c](https://x.org) ![d](alpha-digits.png) [e](security.md#x)"
    assert site.linked(text, page) == expected
    with pytest.raises(ValueError, match=r"README\.md: the link to docs/nowhere\.md leads nowhere"):
        site.linked("[a](docs/nowhere.md)", page)


def test_the_tutorial_opens_as_a_notebook(site):
    """Every line is in a cell; the cells of text are text, the others a program."""
    text = TUTORIAL.read_text()
    assert text.startswith("# %% [markdown]\n# # ")
    page = site.as_markdown(text)
    code = "\n".join(part.partition("\n```")[0] for part in page.split("```python\n")[1:])
    assert ast.dump(ast.parse(code)) == ast.dump(ast.parse(text))


def test_the_reference_names_what_is_public(site):
    import rekd

    assert all(f":: rekd.{name}" in site.reference() for name in rekd.__all__)


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(site, tmp_path):
    site.write_sources(tmp_path / "sources")
    build = [
        "--quiet",
        "--fail-on-warning",
        "-c",
        str(ROOT / "docs"),
        str(tmp_path / "sources"),
        str(tmp_path / "site"),
    ]
    done = subprocess.run([sys.executable, "-m", "sphinx", *build], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "Explainer" in (tmp_path / "site/reference.html").read_text()


@pytest.mark.slow
def test_the_tutorial_runs_from_its_csv_to_its_page(tmp_path):
    """As it is, but for fewer texts and epochs."""
    text = TUTORIAL.read_text()
    for was, becomes in (("rows[:1200]", "rows[:120]"), ("epochs = 20", "epochs = 1")):
        assert was in text
        text = text.replace(was, becomes)
    (tmp_path / "tutorial.py").write_text(text)
    done = subprocess.run([sys.executable, "tutorial.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "120 reviews are on page.html." in done.stdout
    assert (tmp_path / "exported/modeling_rekd.py").exists()
