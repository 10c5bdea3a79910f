"""Drawings of terminal output as SVG. `draw` draws one image, or an animation that shows the lines with delays.

They contain no script, web font or other address. Without CSS animations, or with the preference for reduced motion, an
animation shows its last image.
"""

import io
import re
from collections.abc import Mapping, Sequence

from rich.ansi import AnsiDecoder
from rich.console import Console
from rich.terminal_theme import TerminalTheme

COLUMNS = 100
_KNOWN_GLYPHS = str.maketrans({"⏵": "►", "⎿": "└"})
"""Character that few fonts of browsers have, and would be a box → a similar one of the same width that they have."""
_THEME = TerminalTheme(
    (15, 18, 22),
    (230, 233, 238),
    [
        *((22, 25, 31), (255, 138, 128), (92, 203, 144), (229, 180, 84)),
        *((143, 178, 255), (185, 96, 154), (95, 198, 242), (155, 165, 177)),
    ],
)
_FRAME = """\
<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg" role="img" aria-label="Terminal">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
font-size: {char_height}px; line-height: {line_height}px; }}
{styles}
</style>
<defs><clipPath id="{unique_id}-clip-terminal"><rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/>
</clipPath>
{lines}
</defs>
<rect fill="#0f1216" x="0" y="0" width="{width}" height="{height}" rx="8"/>
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""
"""The frame of the picture. rich's own one links a web font."""
_ANIMATION = "@keyframes show {{ from {{ visibility: hidden }} }}\n"
_STILL = "@media (prefers-reduced-motion: reduce) {{ text {{ animation: none !important }} }}\n"


def draw(lines: Sequence[str], label: str, delays: Mapping[int, float] | None = None) -> str:
    """Return the SVG of a terminal with these lines, which may contain colors.

    `label`: description for screen readers. `delays`: number of a line → seconds after which this line and those below
    it appear; None: all at once.
    """
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), color_system="standard")
    decoder = AnsiDecoder()  # as in a terminal, a color lasts beyond the end of a line
    steps: list[int] = []
    seconds = sorted((delays or {}).items())
    for number, line in enumerate(lines):
        text = decoder.decode_line(line.translate(_KNOWN_GLYPHS))
        if line.startswith("$ "):
            text.stylize("bold")
        step = sum(first <= number for first, _ in seconds)
        steps += [step] * max(len(text.wrap(console, COLUMNS)), 1)
        console.print(text, soft_wrap=False, overflow="fold")
    console.print()  # otherwise the border cuts underscores in the last line
    steps.append(len(seconds))
    style = "".join(
        f".s{step} {{{{ animation: show 1ms linear {delay:g}s backwards }}}}\n"
        for step, (_, delay) in enumerate(seconds, start=1)
    )
    frame = _FRAME.replace('aria-label="Terminal"', f'aria-label="{label}"')
    frame = frame.replace("</style>", f"{_ANIMATION}{style}{_STILL}</style>") if style else frame
    drawn = console.export_svg(title="", theme=_THEME, code_format=frame, unique_id="terminal")
    if style:
        drawn = re.sub(
            r'<text class="([^"]+)"([^>]*#terminal-line-(\d+)\))',
            lambda found: f'<text class="{found[1]} s{steps[int(found[3])]}"{found[2]}',
            drawn,
        )
    return re.sub(r"[ \t]+\n", "\n", drawn)
