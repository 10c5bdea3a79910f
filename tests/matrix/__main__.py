"""Compares docs/guide/matrix.md with the matrix as the code is now, or writes it there (`--write`)."""

import sys

from tests.matrix.page import PAGE, written_page

if __name__ == "__main__":
    page = written_page()
    if "--write" in sys.argv[1:]:
        PAGE.write_text(page, "utf-8")
    elif page != PAGE.read_text("utf-8"):
        sys.exit("The matrix in docs/guide/matrix.md is not what the code does: python3 scripts/ci.py matrix --write")
