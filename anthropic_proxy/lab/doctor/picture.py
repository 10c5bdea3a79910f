"""Images that the doctor sends to models.

`build_picture` returns a PNG with stripes of a few colors, which a model can name only if it received the image.
`build_gif` and `build_webp` return images of one color in other formats.
"""

import struct
import zlib
from collections.abc import Mapping, Sequence

_SIZE = 64
_SAMPLES: Mapping[str, bytes] = {
    "yellow": b"\xff\xff\x00",
    "purple": b"\x80\x00\x80",
    "green": b"\x00\x90\x00",
    "black": b"\x00\x00\x00",
}
"""Name of a color → its RGB value as three bytes."""
USER_COLORS = ("yellow", "purple")
"""Colors of the picture in the user message of a probe."""
TOOL_COLORS = ("green", "black")
"""Colors of the picture in the tool result of a probe. They differ from `USER_COLORS`, so that a reply shows which of
the two pictures the model received."""


def build_picture(colors: Sequence[str]) -> bytes:
    """Return a PNG of 64 x 64 pixels with one vertical stripe of each color, all of the same width."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = (b"\x00" + b"".join(_SAMPLES[color] * (_SIZE // len(colors)) for color in colors)) * _SIZE
    header = struct.pack(">IIBBBBB", _SIZE, _SIZE, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def build_gif() -> bytes:
    """Return a black GIF of 64 x 64 pixels."""
    pixels = (b"\x80" + bytes(64)) * _SIZE + b"\x81"  # a clear code before each row keeps all codes at 8 bits
    blocks = [pixels[start : start + 255] for start in range(0, len(pixels), 255)]
    data = b"".join(bytes([len(block)]) + block for block in blocks)
    screen = struct.pack("<HHBBB", _SIZE, _SIZE, 0xF6, 0, 0) + bytes(128 * 3)
    return b"GIF89a" + screen + b"," + struct.pack("<HHHHB", 0, 0, _SIZE, _SIZE, 0) + b"\x07" + data + b"\x00;"


def build_webp() -> bytes:
    """Return a WebP of 64 x 64 pixels in one color."""
    size = (_SIZE - 1) | (_SIZE - 1) << 14 | 1 << 28
    content = b"\x2f" + struct.pack("<I", size) + bytes.fromhex("071011118888fe07")
    chunk = b"WEBPVP8L" + struct.pack("<I", len(content)) + content + b"\x00" * (len(content) % 2)
    return b"RIFF" + struct.pack("<I", len(chunk)) + chunk
