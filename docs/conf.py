"""Settings of the documentation; pages of code, theorems, notebooks and experiments are made from these."""

import importlib
import inspect
import pkgutil
import shutil
from pathlib import Path

import jaxreg
from jaxreg import theory
from jaxreg.theory import report

project, author = "jaxreg", "the authors of jaxreg"
version = release = jaxreg.__version__
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax", "myst_nb"]
html_theme, html_title = "sphinx_book_theme", f"jaxreg {version}"
exclude_patterns = ["_build"]
templates_path: list[str] = []

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say more: shapes, dtypes and ranges
# Sections that the docstrings have beside those of the convention.
napoleon_custom_sections = [("References", "notes_style"), ("Example", "example_style")]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the tests run them
suppress_warnings = ["myst.xref_missing"]  # links out of this folder work where the repository is shown

DOCS = Path(__file__).parent
MADE = DOCS / "_made"
"""Pages that are made anew by every build."""


def write(path: str, text: str) -> None:
    """Write a page, in the folders that it needs."""
    page = MADE / path
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(text, encoding="utf-8")


def of_module(name: str, level: int = 1) -> str:
    """A heading, and all that a module makes public; for a package, what ``__all__`` lists."""
    module = importlib.import_module(name)
    imported = "   :imported-members:\n" if hasattr(module, "__all__") else ""
    directive = f".. automodule:: {name}\n   :members:\n{imported}"
    return f"{'#' * level} {name}\n\n```{{eval-rst}}\n{directive}```\n\n"


def index(path: str, title: str, introduction: str, pages: list[str]) -> None:
    """A page that leads to others."""
    write(
        path,
        f"# {title}\n\n{introduction}\n\n```{{toctree}}\n:maxdepth: 1\n\n" + "\n".join(pages) + "\n```\n",
    )


def make_api() -> None:
    """One page for each family that users import."""
    families = [*jaxreg.__all__, "layers", "simplex"]
    for family in families:
        module = importlib.import_module(f"jaxreg.{family}")
        listed = [getattr(module, name) for name in getattr(module, "__all__", [])]
        parts = [of_module(part.__name__, 2) for part in listed if inspect.ismodule(part)]
        write(f"api/{family}.md", "".join([of_module(f"jaxreg.{family}"), *parts]))
    index("api/index.md", "Reference", "Everything public, by family.", families)


def make_theorems() -> None:
    """One page for each family of statements, and one for the tools that evaluate them."""
    families = sorted(report.families())
    for family in families:
        package = importlib.import_module(f"jaxreg.theory.{family}")
        topics = [topic.name for topic in pkgutil.iter_modules(getattr(package, "__path__", []))]
        parts = [of_module(f"jaxreg.theory.{family}.{topic}", 2) for topic in topics]
        write(f"theorems/{family}.md", "".join([of_module(f"jaxreg.theory.{family}"), *parts]))
    tools = [found.name for found in pkgutil.iter_modules(theory.__path__) if found.name not in families]
    pages = [of_module(f"jaxreg.theory.{name}", 2) for name in tools if name != "__main__"]
    write("theorems/tools.md", "# Tools\n\n" + "".join(pages))
    introduction = (
        "What the papers state, as functions of arrays that return a check each. `python -m jaxreg.theory` "
        "evaluates them against independent oracles and prints one row a statement."
    )
    index("theorems/index.md", "Theorems", introduction, [*families, "tools"])


def make_gallery() -> None:
    """The notebooks, and what each experiment found."""
    notebooks = sorted((DOCS.parent / "colab").glob("*.ipynb"))
    experiments = sorted((DOCS.parent / "experiments").glob("*/README.md"))
    for notebook in notebooks:
        write(f"gallery/{notebook.name}", notebook.read_text(encoding="utf-8"))
    for page in experiments:
        write(f"gallery/{page.parent.name}_experiment.md", page.read_text(encoding="utf-8"))
    pages = [page.stem for page in notebooks] + [f"{page.parent.name}_experiment" for page in experiments]
    index("gallery/index.md", "Gallery", "Notebooks, then experiments with their results.", pages)


shutil.rmtree(MADE, ignore_errors=True)
make_api()
make_theorems()
make_gallery()
