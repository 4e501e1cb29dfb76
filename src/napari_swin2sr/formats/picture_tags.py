"""What photographs say about themselves: EXIF, XMP, IPTC, resolution, gamma, texts.

It is carried to the result, and what would be wrong there is set right: the picture is
upright, has other sides and smaller pixels, and its old thumbnail shows another one.
EXIF is mended in place, so that nothing a camera maker points at moves.
"""

from __future__ import annotations

import logging
import math
import numbers
import re
import struct
import warnings
import zlib
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

logger = logging.getLogger(__name__)

_EXIF_HEAD = b"Exif\0\0"
_BYTES_OF_TYPE = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4}
_BYTES_OF_TYPE |= {12: 8, 13: 4}
_SHORT, _LONG, _RATIONAL = 3, 4, 5
_ORIENTATION, _EXIF_IFD, _INTEROP_IFD = 0x0112, 0x8769, 0xA005
_X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT = 0x011A, 0x011B, 0x0128
_PER_CENTIMETER = 3
_WIDTHS, _HEIGHTS = (0x0100, 0xA002, 0x1001), (0x0101, 0xA003, 0x1002)
_FOCAL_X, _FOCAL_Y = 0xA20E, 0xA20F
_WRONG_NOW = {
    *(0x0111, 0x0117, 0x0144, 0x0145, 0x014A),  # where pixels were stored
    *(0x0201, 0x0202),  # a thumbnail
    *(0x9102, 0x9214, 0xA214),  # compression, place of the subject [px]
}
_OWN_TEXTS = re.compile(r"(exif|tiff|png|thumb|date):|Raw profile type ", re.IGNORECASE)
"""Texts of PNG by which programs repeat EXIF, or describe the old file."""
_SRGB_GAMMA = 0.45455
_MOST_JPEG_BYTES = 65533
"""Bytes of a segment of JPEG, without its marker and length."""


@dataclass(frozen=True, slots=True)
class PictureTags:
    """What a picture says about itself, besides its pixels.

    Attributes
    ----------
    exif : bytes
        As in the file, from the byte order on.
    xmp, iptc : bytes
        XMP packet; IPTC-IIM records.
    texts : tuple of (str, str)
        Keyword and text, as PNG has them; that of JPEG is "Comment".
    dpi : (float, float), optional
        Pixels per inch along x and y.
    gamma, srgb, chromaticities : optional
        What the chunks gAMA, sRGB and cHRM of a PNG say.
    turned : bool
        Whether rows were columns in the file.
    factors : (float, float)
        New pixels per pixel of the file, along x and y.
    """

    exif: bytes = b""
    xmp: bytes = b""
    iptc: bytes = b""
    texts: tuple[tuple[str, str], ...] = ()
    dpi: tuple[float, float] | None = None
    gamma: float | None = None
    srgb: int | None = None
    chromaticities: tuple[float, ...] = ()
    turned: bool = False
    factors: tuple[float, float] = (1.0, 1.0)

    def scaled(self, columns: float, rows: float) -> PictureTags:
        """Return the tags for so many times as many columns and rows."""
        x, y = self.factors
        return replace(self, factors=(x * columns, y * rows))

    @property
    def new_dpi(self) -> tuple[float, float] | None:
        """Pixels per inch now: the picture keeps its size in print."""
        if self.dpi is None:
            return None
        x, y = self.dpi[::-1] if self.turned else self.dpi
        return x * self.factors[0], y * self.factors[1]

    def mended_exif(self, width: int, height: int) -> bytes:
        """Return EXIF that is right for the upright picture of this size."""
        if not self.exif:
            return b""
        try:
            return _mend_exif(self.exif, width, height, self.factors, self.new_dpi)
        except (struct.error, IndexError, KeyError, ValueError) as error:
            logger.warning("its EXIF data are damaged and left out: %s", error)
            return b""

    def mended_xmp(self, width: int, height: int) -> bytes:
        """Return XMP that is right for the upright picture of this size."""
        values = {
            "tiff:Orientation": b"1",
            "tiff:ImageWidth": b"%d" % width,
            "tiff:ImageLength": b"%d" % height,
            "exif:PixelXDimension": b"%d" % width,
            "exif:PixelYDimension": b"%d" % height,
        }
        if self.new_dpi is not None:
            x, y = (b"%d/%d" % _ratio(n) for n in self.new_dpi)
            values |= {"tiff:XResolution": x, "tiff:YResolution": y}
            values["tiff:ResolutionUnit"] = b"2"
        xmp = _THUMBNAILS.sub(b"", self.xmp)
        for name, value in values.items():
            xmp = _xmp_value(name.encode()).sub(rb"\g<1>" + value + rb"\g<3>", xmp)

        def grown(match: re.Match[bytes]) -> bytes:
            along = self.factors[1] if match[1].find(b"Height") > 0 else self.factors[0]
            along = self.factors[1] if match[1].find(b"TopPixels") > 0 else along
            return match[1] + b"%d" % round(int(match[2]) * along) + match[3]

        return _PANORAMA.sub(grown, xmp)


_THUMBNAILS = re.compile(
    rb"<(xmp|xap):Thumbnails\b(?:[^>]*/>|.*?</\1:Thumbnails\s*>)", re.DOTALL
)


def _xmp_value(name: bytes) -> re.Pattern[bytes]:
    """Return what finds a property, written as an attribute or as an element."""
    return re.compile(
        rb"(\b" + name + rb"(?:\s*=\s*[\"']|\s*>\s*))([^<\"']*?)(\s*[<\"'])"
    )


_PANORAMA = _xmp_value(rb"GPano:\w+Pixels")


# -- from pictures --------------------------------------------------------------------


def orientation_of(picture: Any) -> int:
    """Return how the camera was turned, by EXIF or else XMP; 1 if that is damaged."""
    return int(_exif_values(picture.getexif, (_ORIENTATION,)).get(_ORIENTATION, 1))


def _exif_values(load: Callable[[], Any], codes: Iterable[int]) -> dict[int, Any]:
    """Return some values of EXIF that Pillow loads; none where it is damaged."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            found = load()
            values = {code: found.get(code) for code in codes}
        except (SyntaxError, ValueError, TypeError, struct.error, OSError):
            return {}
    return {code: value for code, value in values.items() if value is not None}


def tags_of_picture(picture: Any, orientation: int) -> PictureTags:
    """Collect what a PNG or JPEG that Pillow has opened says about itself."""
    info = picture.info
    profiles = {
        str(key).removeprefix("Raw profile type ").lower(): _raw_profile(value)
        for key, value in info.items()
        if str(key).startswith("Raw profile type ")
    }
    exif = info.get("exif") or profiles.get("exif") or profiles.get("app1") or b""
    xmp = info.get("xmp") or profiles.get("xmp") or b""
    photoshop = info.get("photoshop")
    iptc = _iptc_of(profiles.get("iptc") or profiles.get("8bim") or b"")
    if isinstance(photoshop, dict):
        iptc = photoshop.get(_IPTC_BLOCK, iptc)
    texts = [
        (str(key), str(value))
        for key, value in getattr(picture, "text", {}).items()
        if key != "XML:com.adobe.xmp" and not _OWN_TEXTS.match(key)
    ]
    if isinstance(info.get("comment"), bytes) and info["comment"].strip(b"\0 "):
        texts.append(("Comment", _as_text(info["comment"])))
    return PictureTags(
        exif=bytes(exif).removeprefix(_EXIF_HEAD),
        xmp=xmp.encode() if isinstance(xmp, str) else bytes(xmp),
        iptc=bytes(iptc),
        texts=tuple(texts),
        dpi=_dpi_of(picture),
        gamma=info.get("gamma"),
        srgb=info.get("srgb"),
        chromaticities=tuple(info.get("chromaticity", ())),
        turned=orientation > 4,
    )


def _dpi_of(picture: Any) -> tuple[float, float] | None:
    """Return the resolution that the file states; without one Pillow says 72."""
    info = picture.info
    dpi = info.get("dpi")
    if picture.format == "JPEG" and info.get("jfif_unit", 0) not in (1, 2):
        wanted = (_X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT)
        exif = _exif_values(picture.getexif, wanted)
        per_inch = 2.54 if exif.get(_RESOLUTION_UNIT) == _PER_CENTIMETER else 1.0
        dpi = [exif.get(code) for code in wanted[:2]]
        dpi = [float(n) * per_inch for n in dpi if isinstance(n, numbers.Rational)]
    if dpi is None or len(dpi) != 2 or not all(0 < n < 1e6 for n in dpi):
        return None
    return float(dpi[0]), float(dpi[1])


def _raw_profile(text: Any) -> bytes:
    """Return a block that ImageMagick and ExifTool hide in a text."""
    lines = str(text).split()  # name, count, hex
    try:
        return bytes.fromhex("".join(lines[2:]))
    except ValueError:
        return b""


_IPTC_BLOCK = 0x0404


def _iptc_of(block: bytes) -> bytes:
    """Return the IPTC records among the resources of Photoshop, or as they are."""
    if not block.startswith(b"8BIM"):
        return block if block.startswith(b"\x1c") else b""
    at = 0
    while block[at : at + 4] == b"8BIM" and at + 12 <= len(block):
        number = int.from_bytes(block[at + 4 : at + 6], "big")
        at += 6 + (block[at + 6] + 2) // 2 * 2
        size = int.from_bytes(block[at : at + 4], "big")
        if number == _IPTC_BLOCK:
            return block[at + 4 : at + 4 + size]
        at += 4 + size + size % 2
    return b""


def _as_photoshop(iptc: bytes) -> bytes:
    padding = b"\0" * (len(iptc) % 2)
    head = b"8BIM" + _IPTC_BLOCK.to_bytes(2, "big") + b"\0\0"
    return head + len(iptc).to_bytes(4, "big") + iptc + padding


def _as_text(value: bytes) -> str:
    try:
        return value.decode().rstrip("\0")
    except UnicodeDecodeError:
        return value.decode("latin-1").rstrip("\0")


def tags_of_tiff(tags: Mapping[int, Any], *, has_own_text: bool) -> PictureTags | None:
    """Collect what a TIFF says beside its pixels: XMP, IPTC and a few texts.

    `has_own_text` if the description is one that a program wrote for itself.
    """
    values = {code: tags[code] for code in (_XMP, _IPTC) if code in tags}
    blocks = {
        code: value if isinstance(value, bytes) else bytes(bytearray(value))
        for code, value in values.items()
        if isinstance(value, (bytes, tuple)) and all(0 <= v < 256 for v in value)
    }
    texts = [
        (name, str(tags[code]).strip("\0 "))
        for code, name in TIFF_TEXTS.items()
        if code in tags and not (has_own_text and name == "Description")
    ]
    texts = [(name, text) for name, text in texts if text]
    if not blocks and not texts:
        return None
    return PictureTags(
        xmp=blocks.get(_XMP, b""), iptc=blocks.get(_IPTC, b""), texts=tuple(texts)
    )


_XMP, _IPTC = 700, 33723
TIFF_TEXTS = {
    270: "Description",
    271: "Make",
    272: "Model",
    306: "Creation Time",
    315: "Author",
    33432: "Copyright",
}
"""Tags of TIFF and EXIF -> the keywords of PNG for the same."""


# -- into pictures --------------------------------------------------------------------


def png_chunks(tags: PictureTags, width: int, height: int, has_profile: bool) -> bytes:
    """Return the chunks of a PNG that stand behind its header."""
    chunks = []
    if tags.gamma is not None:
        chunks.append((b"gAMA", round(tags.gamma * 1e5).to_bytes(4, "big")))
    if len(tags.chromaticities) == 8:
        primaries = [round(c * 1e5) for c in tags.chromaticities]
        chunks.append((b"cHRM", struct.pack(">8I", *primaries)))
    if tags.srgb is not None and not has_profile:
        chunks.append((b"sRGB", bytes([tags.srgb])))
    if tags.new_dpi is not None:
        per_meter = [round(n / 0.0254) for n in tags.new_dpi]
        chunks.append((b"pHYs", struct.pack(">IIB", *per_meter, 1)))
    for key, text in tags.texts:
        chunks.append(_text_chunk(key, text))
    if tags.xmp:
        xmp = tags.mended_xmp(width, height)
        chunks.append((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp))
    if tags.iptc:  # as ExifTool and ImageMagick write and read it
        block = _as_photoshop(tags.iptc)
        listing = f"\niptc\n{len(block):8d}\n{block.hex()}\n".encode()
        body = b"Raw profile type iptc\0\0" + zlib.compress(listing)
        chunks.append((b"zTXt", body))
    exif = tags.mended_exif(width, height)
    if exif:
        chunks.append((b"eXIf", exif))
    return b"".join(png_chunk(name, body) for name, body in chunks)


def png_chunk(name: bytes, body: bytes) -> bytes:
    """Return a chunk of a PNG with its length and checksum."""
    check = zlib.crc32(name + body).to_bytes(4, "big")
    return len(body).to_bytes(4, "big") + name + body + check


def _text_chunk(key: str, text: str) -> tuple[bytes, bytes]:
    name = key.encode("latin-1", "replace")[:79]
    try:
        return b"tEXt", name + b"\0" + text.encode("latin-1")
    except UnicodeEncodeError:
        return b"iTXt", name + b"\0\0\0\0\0" + text.encode()


def jpeg_options(tags: PictureTags, width: int, height: int) -> dict[str, Any]:
    """Return what Pillow takes to save them in a JPEG."""
    options: dict[str, Any] = {}
    blocks = {
        "exif": _EXIF_HEAD + tags.mended_exif(width, height),
        "xmp": tags.mended_xmp(width, height),
        "comment": _comment(tags.texts),
    }
    heads = {"exif": 0, "xmp": 29, "comment": 0}
    for name, block in blocks.items():
        if block in (b"", _EXIF_HEAD):
            continue
        if len(block) + heads[name] > _MOST_JPEG_BYTES:
            logger.warning("%d bytes of %s do not fit in a JPEG", len(block), name)
            continue
        options[name] = block
    iptc = b"Photoshop 3.0\0" + _as_photoshop(tags.iptc)
    if tags.iptc and len(iptc) <= _MOST_JPEG_BYTES:
        options["extra"] = b"\xff\xed" + (len(iptc) + 2).to_bytes(2, "big") + iptc
    if tags.new_dpi is not None:
        options["dpi"] = tags.new_dpi
    if tags.gamma is not None and abs(tags.gamma - _SRGB_GAMMA) > 1e-3:
        logger.warning("a JPEG cannot say that its gamma is %.5g", tags.gamma)
    return options


def _comment(texts: tuple[tuple[str, str], ...]) -> bytes:
    for wanted in ("Comment", "Description"):
        for key, text in texts:
            if key == wanted:
                return text.encode()
    return b""


def tiff_tags(
    tags: PictureTags, width: int, height: int, *, with_text: bool
) -> list[tuple[int, str, int, Any, bool]]:
    """Return the tags of a TIFF as tifffile takes them; description if `with_text`."""
    extra: list[tuple[int, str, int, Any, bool]] = []
    if tags.xmp:
        xmp = tags.mended_xmp(width, height)
        extra.append((_XMP, "B", len(xmp), xmp, True))
    if tags.iptc:
        extra.append((_IPTC, "B", len(tags.iptc), tags.iptc, True))
    texts = dict(tags.texts)
    for code, text in _exif_texts(tags.exif).items():
        texts.setdefault(TIFF_TEXTS[code], text)
    for code, name in TIFF_TEXTS.items():
        text = texts.get(name, "").encode("ascii", "replace").decode()
        if text and (with_text or name != "Description"):
            extra.append((code, "s", 0, text, True))
    return extra


def description(tags: PictureTags) -> str:
    """Return what the picture shows, in its own words, or ""."""
    own = dict(tags.texts).get("Description", "")
    return own or _exif_texts(tags.exif).get(270, "")


def _exif_texts(exif: bytes) -> dict[int, str]:
    """Return the texts of EXIF that a TIFF has tags for."""
    from PIL import Image

    def load() -> Any:
        found = Image.Exif()
        found.load(_EXIF_HEAD + exif)
        return found

    texts = _exif_values(load, TIFF_TEXTS) if exif else {}
    return {c: t.strip("\0 ") for c, t in texts.items() if isinstance(t, str) and t}


# -- EXIF -----------------------------------------------------------------------------


def _ratio(value: float) -> tuple[int, int]:
    fraction = Fraction(value).limit_denominator(1000)
    return fraction.numerator, fraction.denominator


def _mend_exif(
    exif: bytes,
    width: int,
    height: int,
    factors: tuple[float, float],
    dpi: tuple[float, float] | None,
) -> bytes:
    """Mend values in place; entries that are wrong now are taken out of their lists."""
    order = {b"II": "<", b"MM": ">"}[exif[:2]]
    data = bytearray(exif)
    first = struct.unpack_from(order + "I", data, 4)[0]
    change: dict[int, Any] = {_ORIENTATION: 1}
    change |= dict.fromkeys(_WIDTHS, width) | dict.fromkeys(_HEIGHTS, height)
    if dpi is not None:
        change |= {_X_RESOLUTION: dpi[0], _Y_RESOLUTION: dpi[1], _RESOLUTION_UNIT: 2}
    after = _mend_list(data, order, first, change, factors)
    if after:  # the list of the thumbnail
        _wipe_thumbnail(data, order, after)
    return bytes(data)


def _mend_list(
    data: bytearray,
    order: str,
    at: int,
    change: Mapping[int, Any],
    factors: tuple[float, float],
) -> int:
    """Mend the entries of one list and those below it; return where the next one is.

    Afterwards there is no next one.
    """
    count = struct.unpack_from(order + "H", data, at)[0]
    entries = []
    for number in range(count):
        entry = bytearray(data[at + 2 + 12 * number : at + 14 + 12 * number])
        tag, kind, n = struct.unpack_from(order + "HHI", entry)
        value = struct.unpack_from(order + "I", entry, 8)[0]
        if tag in _WRONG_NOW:
            continue
        size = n * _BYTES_OF_TYPE.get(kind, 1)
        if size > 4 and value + size > len(data):
            raise ValueError(f"tag {tag} lies outside of them")
        if tag in (_EXIF_IFD, _INTEROP_IFD) and value > at:
            _mend_list(data, order, value, change, factors)
        elif kind == _RATIONAL and n == 1:
            new = change.get(tag)
            if tag in (_FOCAL_X, _FOCAL_Y):
                top, bottom = struct.unpack_from(order + "II", data, value)
                along = factors[0 if tag == _FOCAL_X else 1]
                new = top / bottom * along if bottom else None
            if new is not None and math.isfinite(new):
                struct.pack_into(order + "II", data, value, *_ratio(new))
        elif tag in change and kind in (_SHORT, _LONG) and n == 1:
            wide = kind == _LONG or change[tag] > 65535
            struct.pack_into(order + "HI", entry, 2, _LONG if wide else _SHORT, 1)
            entry[8:] = struct.pack(order + ("I" if wide else "H2x"), change[tag])
        entries.append(entry)
    end = at + 2 + 12 * count
    after = struct.unpack_from(order + "I", data, end)[0] if end + 4 <= len(data) else 0
    struct.pack_into(order + "H", data, at, len(entries))
    body = b"".join(entries)
    data[at + 2 : end + 4] = body + bytes(end + 4 - at - 2 - len(body))
    return int(after)


def _wipe_thumbnail(data: bytearray, order: str, at: int) -> None:
    """Cut the old thumbnail off, or blank it where something follows."""
    count = struct.unpack_from(order + "H", data, at)[0]
    found = {}
    for number in range(count):
        tag, _, _, value = struct.unpack_from(
            order + "HHII", data, at + 2 + 12 * number
        )
        found[tag] = value
    start, size = found.get(0x0201, 0), found.get(0x0202, 0)
    data[start : start + size] = bytes(len(data[start : start + size]))
    if start + size == len(data) and start > at:
        del data[start:]
