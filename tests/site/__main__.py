"""Compares the generated pages with the code, writes them (`--write`), joins the fragments of the change log
(`--changelog`), or builds the site: `build PYTHON FOLDER`."""

import sys
from pathlib import Path

from tests.site.build import BuildFailed, build, dead_links, foreign_hosts
from tests.site.changelog import join_fragments
from tests.site.generated import stale_pages, write_pages
from tests.support.paths import ROOT


def build_site(python: str, target: Path) -> None:
    """Build the site, print its folder, and exit with a message if a page refers to another host."""
    try:
        pages = build(python, target)
    except BuildFailed as error:
        sys.exit(str(error))
    if hosts := "\n".join(foreign_hosts(target / "site")):
        sys.exit(f"The site loads files from other hosts:\n{hosts}")
    if dead := "\n".join(dead_links(target / "site")):
        sys.exit(f"The site has links to nothing:\n{dead}")
    print(f"{target / 'site'}: {len(pages)} pages")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["build", python, folder]:
            build_site(python, Path(folder).resolve())
        case ["--write"]:
            write_pages()
        case ["--changelog"]:
            try:
                join_fragments()
            except ValueError as error:
                sys.exit(str(error))
        case _:
            if stale := [path.relative_to(ROOT).as_posix() for path in stale_pages()]:
                sys.exit(
                    f"Pages that differ from the code: {', '.join(stale)}. Write them with: python3 scripts/fix.py"
                )
