"""What needs GDAL: JPEG 2000, Sentinel-2 SAFE folders, rasters at URLs, COG.

The only module that imports rasterio, and only inside its functions. GeoTIFF files
themselves are read and written without it.
"""

from __future__ import annotations

import dataclasses
import re
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_swin2sr.errors import FileError, MissingDependencyError, OutputError
from napari_swin2sr.formats.color import (
    ConvertedArray,
    gray_alpha_to_rgba,
    with_table,
)
from napari_swin2sr.formats.detect import JP2_MAGIC, is_url
from napari_swin2sr.formats.geo_tags import GeoTags, read_geo_tags
from napari_swin2sr.image.record import SpatialImage
from napari_swin2sr.tiles.chunks import bounds, forward

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_swin2sr.formats.detect import Location

_SENTINEL_BANDS = {
    10: ("B02", "B03", "B04", "B08"),
    20: ("B05", "B06", "B07", "B8A", "B11", "B12"),
    60: ("B01", "B09", "B10"),
}
_RGB = ("red", "green", "blue")
_BAND_FILE = re.compile(r"_(B\d[\dA])(?:_(\d\d)m)?\.jp2$", re.IGNORECASE)


class RasterArray:
    """Bands of one size, from one file or several, as a lazy (C, Y, X) array.

    `bands` are a file or URL, and the number of the band in it from 1, for each band;
    `level` is that of the overview, 0 being the full size. It pickles as names and
    numbers. GDAL's handles must not be shared, so every thread opens its own.
    """

    def __init__(self, bands: tuple[tuple[str, int], ...], level: int = 0) -> None:
        self.bands, self.level = bands, level
        self._local = threading.local()
        shapes = {self._dataset(name).shape for name, _ in bands}
        if len(shapes) != 1:
            raise FileError(f"{bands[0][0]}: bands of different sizes: {shapes}")
        (plane,) = shapes
        self.shape: tuple[int, ...] = (len(bands), *plane)
        types = {self._dataset(name).dtypes[number - 1] for name, number in bands}
        self.dtype: np.dtype[Any] = np.result_type(*types)
        self.ndim = 3

    def __repr__(self) -> str:
        return f"RasterArray({self.bands[0][0]!r}, shape={self.shape}, {self.dtype})"

    def __reduce__(self) -> tuple[Any, ...]:
        return RasterArray, (self.bands, self.level)

    def __dask_tokenize__(self) -> tuple[object, ...]:
        """Name the pixels by the files' places, sizes and times of change."""
        facts: list[object] = []
        for name, number in self.bands:
            path = Path(name)
            known = path.stat() if path.exists() else None
            size = (known.st_size, known.st_mtime_ns) if known else ()
            facts.append((name, number, *size))
        return (*facts, self.level)

    def __getitem__(self, index: Any) -> NDArray[Any]:
        """Read a region: slices and integers, one per axis, as in NumPy."""
        from rasterio.errors import RasterioIOError
        from rasterio.windows import Window

        region, finish = forward(index, self.shape)
        bands, rows, columns = bounds(region)
        window = Window.from_slices(rows, columns)
        shape = (bands.stop - bands.start, rows.stop - rows.start)
        out = np.empty((*shape, columns.stop - columns.start), self.dtype)
        if out.size:
            for k, (name, number) in enumerate(self.bands[bands]):
                try:
                    out[k] = self._dataset(name).read(number, window=window)
                except RasterioIOError as error:
                    reason = error.__cause__ or error
                    raise FileError(f"{name}: cannot be read: {reason}") from error
        steps = tuple(slice(None, None, part.step) for part in region)
        finished: NDArray[Any] = out[steps][finish]
        return finished

    def _dataset(self, name: str) -> Any:
        opened: dict[str, Any] = self._local.__dict__.setdefault("opened", {})
        if name not in opened:
            rasterio = _rasterio(name)
            if not is_url(name):
                _check_jp2(Path(name))
            is_jp2 = name.split("?")[0].lower().endswith(".jp2") or not is_url(name)
            # Other drivers of GDAL read what the file tells them to, from anywhere.
            options: dict[str, Any] = {"driver": "JP2OpenJPEG" if is_jp2 else "GTiff"}
            options |= {"overview_level": self.level - 1} if self.level else {}
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter(
                        "ignore", rasterio.errors.NotGeoreferencedWarning
                    )
                    opened[name] = rasterio.open(name, **options)
            except rasterio.errors.RasterioIOError as error:
                raise FileError(f"{name}: cannot be read: {error}") from error
        return opened[name]


def _check_jp2(path: Path) -> None:
    """Refuse what only looks like JPEG 2000: GDAL would follow what is in a VRT."""
    head = b""
    if path.is_file():
        with path.open("rb") as file:
            head = file.read(16)
    if not head.startswith(JP2_MAGIC):
        raise FileError(f"{path}: is no JPEG 2000 file: it begins with {head!r}")


def open_raster(location: Location, *, series: int = 0, level: int = 0) -> SpatialImage:
    """Describe a JPEG 2000 file, a SAFE folder (or its MTD_MSIL*.xml) or a GeoTIFF URL.

    `series` of a SAFE folder is 0 for the bands of 10 m, 1 for 20 m, 2 for 60 m.
    """
    place = location.place
    if isinstance(place, Path) and (place.is_dir() or place.name.startswith("MTD")):
        folder = place if place.is_dir() else place.parent
        image = _open_safe(folder, series, level)
    else:
        image = _open_file(str(location), level)
    image.data[(slice(0, 1),) * image.data.ndim]  # what cannot be decoded fails now
    return image


def check_cloud_optimized(target: Path) -> None:
    """Refuse what only GDAL can write, before it is computed, if it is not there."""
    rasterio = _rasterio(target)
    with rasterio.Env() as env:
        if "COG" not in env.drivers():
            raise OutputError(
                f"{target}: GDAL {rasterio.__gdal_version__} cannot write Cloud "
                "Optimized GeoTIFFs; 3.1 and later can"
            )


def as_cloud_optimized(source: Path, target: Path) -> None:
    """Turn a GeoTIFF into a Cloud Optimized GeoTIFF."""
    rasterio = _rasterio(target)
    from rasterio.shutil import copy

    try:
        copy(source, target, driver="COG", COMPRESS="DEFLATE", BIGTIFF="IF_SAFER")
    except rasterio.errors.RasterioError as error:
        raise OutputError(f"{target}: GDAL cannot write it: {error}") from error


def tags_of_crs(crs: Any, like: Any = None) -> GeoTags:
    """Return the GeoTIFF keys of a coordinate reference system, as GDAL writes them.

    With `like`, an open dataset, also its points, tags and what it says about bands.
    """
    import io

    import tifffile

    rasterio = _rasterio("the coordinate reference system")
    from rasterio.io import MemoryFile

    with MemoryFile() as memory:
        with memory.open(
            driver="GTiff", width=1, height=1, dtype="uint8", crs=crs,
            count=1 if like is None else like.count,
            transform=rasterio.Affine(2, 0, 2, 0, -2, 2),  # any but the identity
        ) as file:  # fmt: skip
            if like is not None:
                _copy_metadata(like, file)
        with tifffile.TiffFile(io.BytesIO(memory.read())) as tif:
            tags = {int(tag.code): tag.value for tag in tif.pages.first.tags}
    geo = read_geo_tags(tags, crs)[1]
    half = 0.5 if geo.is_point else 0.0  # GDAL counts from the corner of pixel 0
    points = () if like is None else like.gcps[0]
    places = tuple(
        (p.col - half, p.row - half, 0.0, p.x, p.y, p.z or 0.0) for p in points
    )
    return dataclasses.replace(geo, ground_points=places)


def _copy_metadata(source: Any, target: Any) -> None:
    target.update_tags(**source.tags())
    target.descriptions, target.units = source.descriptions, source.units
    target.scales, target.offsets = source.scales, source.offsets
    for band in range(1, source.count + 1):
        target.update_tags(band, **source.tags(band))


def _open_file(name: str, level: int) -> SpatialImage:
    rasterio = _rasterio(name)
    array = RasterArray(((name, 1),), level)
    dataset = array._dataset(name)
    if dataset.count > 1:
        bands = tuple((name, k + 1) for k in range(dataset.count))
        array = RasterArray(bands, level)
    colors = [c.name for c in dataset.colorinterp]
    is_color = colors in (["red", "green", "blue"], ["red", "green", "blue", "alpha"])
    names = tuple(d or "" for d in dataset.descriptions)
    if not any(names):
        names = ("red", "green", "blue") if colors[:3] == list(_RGB) else ()
    image = SpatialImage(
        data=array,
        axes="SYX" if is_color else "CYX",
        channel_names=() if is_color else names,
        source=name,
        nodata=dataset.nodata,
        geo_tags=tags_of_crs(dataset.crs or dataset.gcps[1], dataset),
        **_georeference(dataset, rasterio),
    )
    if colors == ["palette"]:
        entries = dataset.colormap(1)
        table = np.zeros((max(entries) + 1, 4), np.uint8)
        table[list(entries)] = list(entries.values())
        is_opaque = (table[list(entries), 3] == 255).all()
        return with_table(image, table[:, :3] if is_opaque else table)
    if colors == ["gray", "alpha"]:
        data = ConvertedArray(array, gray_alpha_to_rgba, 0, 4)
        return dataclasses.replace(image, data=data, axes="SYX")
    return image


def _open_safe(folder: Path, series: int, level: int) -> SpatialImage:
    rasterio = _rasterio(folder)
    sizes = list(_SENTINEL_BANDS)
    if not 0 <= series < len(sizes):
        raise FileError(
            f"{folder}: series {series} is not 0 (10 m), 1 (20 m), 2 (60 m)"
        )
    wanted, found = sizes[series], {}
    for path in sorted(folder.glob("GRANULE/*/IMG_DATA/**/*.jp2")):
        match = _BAND_FILE.search(path.name)
        if match and match[2] in (None, str(wanted)):
            found[match[1].upper()] = path
    names = [band for band in _SENTINEL_BANDS[wanted] if band in found]
    if not names:
        raise FileError(f"{folder}: holds no bands of {wanted} m")
    array = RasterArray(tuple((str(found[name]), 1) for name in names), level)
    dataset = array._dataset(str(found[names[0]]))
    return SpatialImage(
        data=array,
        axes="CYX",
        channel_names=tuple(names),
        source=str(folder),
        nodata=0.0,  # by the product specification
        **_georeference(dataset, rasterio),
    )


def _georeference(dataset: Any, rasterio: Any) -> dict[str, Any]:
    if dataset.crs is None and dataset.transform == rasterio.Affine.identity():
        return {}
    crs = dataset.crs
    authority = crs.to_authority() if crs is not None else None
    text = ":".join(authority) if authority else (crs.to_wkt() if crs else None)
    return {"transform": tuple(dataset.transform)[:6], "crs": text}


def _rasterio(what: object) -> Any:
    try:
        import rasterio
        import rasterio.errors
    except ImportError as error:
        raise MissingDependencyError(
            f'{what}: needs rasterio: pip install "napari-swin2sr[geo]"'
        ) from error
    return rasterio
