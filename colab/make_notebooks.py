"""Make the notebooks from their percent scripts, with the repository's address from ``pyproject.toml``.

``python colab/make_notebooks.py`` writes ``colab/*.ipynb`` and puts the address into the badges and links of
``README.md`` and ``CITATION.cff``. With ``--check`` it writes nothing and exits 1 if a file would change. The
same script always gives the same bytes: no outputs are stored, and cells are numbered.
"""

import argparse
import re
import sys
import tomllib
from pathlib import Path

import jupytext
import nbformat

ROOT = Path(__file__).resolve().parent.parent
BADGE = "https://colab.research.google.com/assets/colab-badge.svg"
COLAB = "https://colab.research.google.com/github/"


def repository() -> str:
    """The public address of the repository, without a slash at its end: ``pyproject.toml`` alone has it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project["urls"]["Repository"].rstrip("/")


def colab_address(address: str, name: str) -> str:
    """Where Colab opens the notebook ``name`` of the repository at ``address``."""
    return f"{COLAB}{address.removeprefix('https://github.com/')}/blob/main/colab/{name}.ipynb"


def notebook_text(script: Path, address: str) -> str:
    """The notebook of a percent script, as the text of its file."""
    badge = f"[![Open in Colab]({BADGE})]({colab_address(address, script.stem)})"
    source = script.read_text(encoding="utf-8").replace("{{badge}}", badge).replace("{{repository}}", address)
    notebook = jupytext.reads(source, fmt="py:percent")
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    nbformat.validate(notebook)
    return nbformat.writes(notebook, indent=1) + "\n"


def readme_text(text: str, address: str) -> str:
    """The README with every Colab link pointing into the repository at ``address``."""
    link = re.compile(re.escape(COLAB) + r"[^)\s]*?/blob/main/colab/(\w+)\.ipynb")
    text = link.sub(lambda match: colab_address(address, match[1]), text)
    return re.sub(r"git clone \S+", f"git clone {address}", text)


def citation_text(text: str, address: str) -> str:
    """``CITATION.cff`` with the repository's address."""
    return re.sub(r"(?m)^repository-code: .*$", f'repository-code: "{address}"', text)


def products() -> dict[Path, str]:
    """Every file made here with the text that it should have."""
    address = repository()
    texts = {path.with_suffix(".ipynb"): notebook_text(path, address) for path in percent_scripts()}
    readme, citation = ROOT / "README.md", ROOT / "CITATION.cff"
    texts[readme] = readme_text(readme.read_text(encoding="utf-8"), address)
    texts[citation] = citation_text(citation.read_text(encoding="utf-8"), address)
    return texts


def percent_scripts() -> list[Path]:
    """The notebooks' sources: the scripts beside this file that begin with a cell."""
    return [path for path in sorted((ROOT / "colab").glob("*.py")) if path.read_text().startswith("# %%")]


def main() -> int:
    """Write or check all products; the exit code."""
    parser = argparse.ArgumentParser(description="Make the notebooks from their percent scripts.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file would change")
    check = parser.parse_args().check
    texts = products()
    stale = [path for path, text in texts.items() if not path.exists() or path.read_text("utf-8") != text]
    for path in stale:
        if not check:
            path.write_text(texts[path], encoding="utf-8")
        print(f"{path.relative_to(ROOT)}: {'out of date; run `make notebooks`' if check else 'written'}")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
