"""Runs the tests of the pages, draws their pictures in dist/pictures (`--pictures`), or measures them (`--paint`).

Installs Chromium and two fonts first if this user can: as root on Debian by apt. Elsewhere tests are skipped if they
are missing.
"""

import sys

import pytest

from tests.pages import paint, pictures
from tests.pages.browser import FONTS, find_chromium, has_font
from tests.support.debian_packages import install_package

if __name__ == "__main__":
    if find_chromium() is None:
        install_package("chromium")
    for font, package in FONTS.items():
        if not has_font(font):
            install_package(package)
    options = sys.argv[1:]
    if options == ["--pictures"]:
        pictures.main()
    elif options[:1] == ["--paint"]:
        paint.main(*map(int, options[1:2]))
    else:
        sys.exit(pytest.main(["tests/pages", "-rs", *options]))
