"""Build the book: ``python book/build.py [REPOSITORY]``.

With the address of the repository that holds the book, https://HOST/OWNER/NAME, the pages get buttons that lead there
and that open a chapter on Binder and Colab, and the notebooks to download know where to get the package from. If the
host publishes pages, they get their address there, and what sites that link to them show: a description and a picture.
"""

import copy
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from resnet56.errors import InputError
from resnet56.records.files import check_writable, write_file

ROOT = Path(__file__).resolve().parent.parent
BUILT = ROOT / "_build"
BRANCH = "main"
NOTEBOOKS = "notebooks"  # the branch where .github/workflows/book.yml puts notebooks that know their repository
BINDER = {"notebook_interface": "jupyterlab", "binderhub_url": "https://mybinder.org"}
LAUNCH_BUTTONS = {  # what each host can be opened on
    "github.com": BINDER | {"colab_url": "https://colab.research.google.com"},
    "gitlab.com": BINDER,
}
PAGES = {"github.com": "github.io", "gitlab.com": "gitlab.io"}  # where each host publishes pages


def read_address(text: str) -> str:
    """Return the address of a repository, without ``.git`` or a slash at its end.

    Raises:
        InputError: if it is not https://HOST/OWNER/NAME.
    """
    address = text.removesuffix("/").removesuffix(".git")
    if not re.fullmatch(r"https://[\w-]+(\.[\w-]+)+(/[\w.-]+){2}", address, re.ASCII):
        raise InputError(f"REPOSITORY={text} is not a repository address; give one like https://github.com/OWNER/NAME")
    return address


def site(address: str) -> str | None:
    """Return the address that the host of a repository publishes its pages at, if it does."""
    host, owner, name = address.split("/")[2:]
    if host not in PAGES:
        return None
    domain = f"{owner}.{PAGES[host]}".lower()
    return f"https://{domain}/" if name.lower() == domain else f"https://{domain}/{name}/"


def with_repository(config: dict, address: str) -> dict:
    """Return Jupyter Book's configuration with what needs the repository's address."""
    config = copy.deepcopy(config)
    html, sphinx = config["html"], config["sphinx"]["config"]
    host = address.split("/")[2]
    html["use_repository_button"] = True
    config["repository"] = {"url": address, "branch": NOTEBOOKS if host == "github.com" else BRANCH}  # what is opened
    config["launch_buttons"] = LAUNCH_BUTTONS.get(host, {})

    provider = next((name for name in ("gitlab", "bitbucket") if name in host), "github")  # the theme knows these three
    sphinx["html_theme_options"]["repository_provider"] = provider
    if provider in host and provider != "bitbucket":  # else the theme does not know the addresses
        html["use_issues_button"] = html["use_edit_page_button"] = True
        edit = "-/edit" if provider == "gitlab" else "edit"
        sphinx["html_context"]["edit_page_url_template"] = f"{address}/{edit}/{BRANCH}/{{{{ file_name }}}}"
        sphinx["html_context"]["edit_page_provider_name"] = provider

    if base := site(address):
        html["baseurl"] = base
        sphinx["extensions"].append("sphinxext.opengraph")
        card = '<meta name="twitter:card" content="summary_large_image" />'
        sphinx |= {
            "ogp_site_url": base,
            "ogp_site_name": config["title"],
            "ogp_use_first_image": True,
            "ogp_custom_meta_tags": [card],
        }
    return config


def fill_in(notebook: Path, address: str) -> None:
    """Write the repository's address into the first code cell of a notebook that readers download.

    Raises:
        InputError: if the notebook does not have the line ``REPOSITORY = ""`` just once.
    """
    text = notebook.read_text(encoding="utf-8")
    line = r'"REPOSITORY = \"{}\"'  # as JSON has it
    if text.count(line.format("")) != 1:
        raise InputError(f'book/{notebook.name}: its first code cell should have the line REPOSITORY = ""')
    write_file(notebook, lambda file: file.write(text.replace(line.format(""), line.format(address)).encode()))


def build(address: str | None) -> None:
    """Build the pages in ``_build/html``; what was there before goes, with the pages of chapters that are no more."""
    try:
        check_writable(BUILT)
    except InputError as error:
        raise InputError(
            f"{str(error).split(';')[0]}; copy the project to a folder you can write to, and build there"
        ) from error
    jupyter_book = Path(sys.executable).with_name("jupyter-book")
    if not jupyter_book.exists():
        raise InputError(
            f"there is no {jupyter_book}; install it with: pip install -r requirements.txt, or use make book"
        )
    config = ROOT / "_config.yml"
    if address:
        settings = with_repository(yaml.safe_load(config.read_text(encoding="utf-8")), address)
        config = BUILT / "_config.yml"
        write_file(config, lambda file: file.write(yaml.safe_dump(settings).encode()))
    shutil.rmtree(BUILT / "html", ignore_errors=True)
    options = ["-W", "-n", "--keep-going", "--all", "-q"]
    subprocess.run([jupyter_book, "build", ROOT, "--config", config, *options], check=True)
    if address:
        for notebook in sorted((BUILT / "html" / "_sources" / "book").glob("*.ipynb")):
            fill_in(notebook, address)


def main() -> int:
    """Return the exit status: 0, 1 (the build failed), 2 (bad input)."""
    try:
        build(read_address(sys.argv[1]) if sys.argv[1:] else None)
    except InputError as error:
        print(f"book: error: {error}", file=sys.stderr)
        return 2
    except subprocess.CalledProcessError as error:
        return error.returncode
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
