"""What a run from file to file is, decided and checked before its first tile."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import platform
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from napari_swin2sr.errors import OutputError
from napari_swin2sr.formats.detect import Kind, is_url, local_path
from napari_swin2sr.formats.ome_zarr import (
    ZARR_FORMAT,
    georeference,
    stored_axes,
    stored_shape,
)
from napari_swin2sr.formats.png_jpeg import check_picture
from napari_swin2sr.formats.tiff_write import check_tiff
from napari_swin2sr.replace import (
    check_replaceable,
    remove_drafts,
    undo_replacement,
)
from napari_swin2sr.runs.fingerprint import identity_of
from napari_swin2sr.runs.lock import as_json, differences
from napari_swin2sr.runs.tile_job import TileJob, existing_store
from napari_swin2sr.upscale import prepare, provenance

if TYPE_CHECKING:
    from napari_swin2sr.image.record import SpatialImage
    from napari_swin2sr.options import UpscaleOptions
    from napari_swin2sr.tiles.lazy import LazyUpscaled

logger = logging.getLogger(__name__)

SMALL_RESULT_BYTES = 2**27
"""Results up to this size are computed in memory and need no tile store."""

FOUND_NOTHING, FOUND_UNFINISHED, FOUND_OTHER = "nothing", "unfinished", "other"

Found: TypeAlias = Mapping[str, Any] | str
"""What a target is now: the fingerprint of a finished result, or one of those words."""

_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Work:
    """A run from file to file; made by `plan`, which checks it.

    Attributes
    ----------
    source, target : as given, `target` with ~ replaced
    kind : format of the target
    lazy : the pixels to compute
    result : the record of the target, its `data` being `lazy`
    fingerprint : what must be the same for tiles of two runs to fit together
    ome_version : "0.4" or "0.5"
    cog : whether a GeoTIFF is to be a cloud optimized one
    """

    source: str | os.PathLike[str]
    target: Path | str
    kind: Kind
    lazy: LazyUpscaled
    result: SpatialImage
    fingerprint: dict[str, Any]
    ome_version: str
    cog: bool

    @classmethod
    def plan(
        cls,
        source: str | os.PathLike[str],
        target: str | os.PathLike[str],
        kind: Kind,
        image: SpatialImage,
        options: UpscaleOptions,
        ome_version: str,
        cog: bool,
    ) -> Work:
        """Plan the run; only the range sample is read.

        Raises
        ------
        InputError, OptionError, WeightsError
            As for `apply`.
        OutputError
            If the target's format cannot hold the result.
        """
        lazy = prepare(image, options)
        result = _with_grid(image) if kind is Kind.ZARR else image
        if options.nodata is not None:
            result = dataclasses.replace(result, nodata=options.nodata)
        result = result.upscaled(lazy, lazy.upscale)
        if "geo" in result.extra:
            finer = result.extra["geo"].finer(lazy.upscale)
            result = dataclasses.replace(result, extra={**result.extra, "geo": finer})
        work = cls(
            source=source,
            target=str(target) if is_url(target) else local_path(target),
            kind=kind,
            lazy=lazy,
            result=result,
            fingerprint=_fingerprint(source, image, lazy)
            | ({"ome_version": ome_version} if kind is Kind.ZARR else {}),
            ome_version=ome_version,
            cog=cog,
        )
        work.check_format()
        work.tell_of_absent_chunks()
        return work

    def check_format(self) -> None:
        """Refuse what the target's format cannot hold."""
        shape, dtype = self.lazy.shape, self.lazy.dtype
        if self.kind is Kind.ZARR:
            if 0 in shape:
                raise OutputError(f"{self.target}: an empty image, {shape}")
            return
        assert isinstance(self.target, Path)
        if self.kind is Kind.PICTURE:
            check_picture(self.lazy.axes, shape, dtype, self.target)
        else:
            check_tiff(self.lazy.axes, shape, dtype, self.target)

    def tell_of_absent_chunks(self) -> None:
        """Log when a local Zarr array has chunks without an object.

        That is how Zarr stores chunks without content; a copy that was broken off
        looks the same.
        """
        array, stored = self.lazy.source, self.fingerprint["source"].get("files")
        if stored is None or not hasattr(array, "metadata"):
            return
        unit = array.shards or array.chunks
        n = math.prod(-(-a // b) for a, b in zip(array.shape, unit, strict=True))
        if stored < n:
            logger.warning(
                "%s: %d of %d chunks are not there and read as %s; fine for an image "
                "with empty parts, but a copy that was broken off looks the same",
                *(self.source, n - stored, n, array.fill_value),
            )

    @property
    def fits_in_memory(self) -> bool:
        """Whether no tile store is needed."""
        return self.kind is not Kind.ZARR and self.lazy.nbytes <= SMALL_RESULT_BYTES

    @property
    def unfinished(self) -> Path:
        """Where tiles are kept until the target can be replaced."""
        assert isinstance(self.target, Path)
        return self.target.with_name(self.target.name + ".unfinished.zarr")

    @property
    def software(self) -> str:
        """Provenance as one line of ASCII."""
        return json.dumps({"napari_swin2sr": {"fingerprint": self.fingerprint}})

    def is_done_already(self, overwrite: bool) -> bool:
        """Tell whether the target is the finished result of this very job.

        Raises
        ------
        OutputError
            If it is something else that must not be replaced.
        """
        if isinstance(self.target, Path):
            undo_replacement(self.target)
            if not os.path.lexists(self.target):
                return False
        found = self.found()
        if found in (FOUND_UNFINISHED, FOUND_NOTHING):
            return False
        if overwrite:
            if isinstance(self.target, str):
                raise OutputError(
                    f"{self.target}: a result at a URL cannot be replaced in one go. "
                    "Delete it or choose another name"
                )
            check_replaceable(self.target, by_file=self.kind is not Kind.ZARR)
            return False
        reason = ""
        if not isinstance(found, str):
            changed = differences(self.fingerprint, found)
            if not changed:
                return True
            reason = f" (made with other settings: {'; '.join(changed)})"
        raise OutputError(
            f"{self.target}: exists already{reason}. Choose another name, or replace "
            "it with --overwrite (overwrite=True)"
        )

    def found(self) -> Found:
        """Tell what the target is now."""
        if self.kind is not Kind.ZARR:
            assert isinstance(self.target, Path)
            found = _fingerprint_of_tiff(self.target)
            return found if isinstance(found, dict) else FOUND_OTHER
        try:
            store = existing_store(self.target)
        except OutputError:
            return FOUND_OTHER
        if store is None:
            return FOUND_NOTHING
        found = store.record.get("fingerprint")
        if not isinstance(found, dict):
            return FOUND_OTHER
        return found if store.is_complete else FOUND_UNFINISHED

    def job(self) -> TileJob:
        """Return the work on tiles that this run needs.

        They are kept in the target itself, if it is an OME-Zarr that nothing finished
        has to make room for, and beside it otherwise.
        """
        place: str | Path = self.target
        if self.kind is not Kind.ZARR or self.found() not in (
            FOUND_NOTHING,
            FOUND_UNFINISHED,
        ):
            place = self.unfinished
        lazy, as_ome = self.lazy, self.kind is Kind.ZARR
        return TileJob(
            place=place,
            lazy=lazy,
            axes=stored_axes(lazy.axes) if as_ome else lazy.axes,
            shape=stored_shape(lazy.axes, lazy.shape) if as_ome else lazy.shape,
            zarr_format=ZARR_FORMAT[self.ome_version] if as_ome else 3,
            fingerprint=self.fingerprint,
            provenance={
                **as_json(provenance(lazy)),
                "pixel_overhead": lazy.plan.pixel_overhead,
                "versions": _versions(),
                "nodata": as_json(self.result.nodata),
                "georeference": as_json(georeference(self.result)),
            },
        )

    def warn_if_source_changed(self) -> bool:
        """Tell whether the source was changed while it was read."""
        image = dataclasses.replace(self.result, data=self.lazy.source)
        try:
            now = as_json(identity_of(self.source, image))
        except OSError:
            now = None
        if now == self.fingerprint["source"]:
            return False
        warnings.warn(
            f"{self.source}: was changed while it was read; the result may mix old and "
            "new pixels and is marked as such",
            stacklevel=2,
        )
        return True

    def tidy_up(self) -> None:
        """Delete what killed runs left beside the target; nobody else may write it."""
        if not isinstance(self.target, Path):
            return
        remove_drafts(self.target)
        remove_drafts(self.unfinished)


def _fingerprint_of_tiff(path: Path) -> Any:
    """Return what an earlier export wrote into the tag Software, or None."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as tif:
            text = tif.pages.first.tags.valueof("Software")
        return json.loads(text)["napari_swin2sr"]["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _versions() -> dict[str, str]:
    """Return the versions of what the numbers may depend on."""
    names = ("numpy", "tifffile", "torch", "zarr")
    found = {name: metadata.version(name) for name in names}
    return {"python": platform.python_version(), **found}


def _fingerprint(
    source: str | os.PathLike[str], image: SpatialImage, lazy: LazyUpscaled
) -> dict[str, Any]:
    """Return what must be the same for tiles of two runs to fit together."""
    made: dict[str, Any] = as_json(
        {
            "format": _FORMAT,
            "source": identity_of(source, image),
            **provenance(lazy),
            "window": lazy.plan.multiple_of,
            "axes": lazy.axes,
            "shape": lazy.shape,
            "dtype": str(lazy.dtype),
            "nodata": lazy.nodata,
        }
    )
    return made


def _with_grid(image: SpatialImage) -> SpatialImage:
    """Give an image without pixel size the grid of its pixels, to be laid over it."""
    size = {"Y": 1.0, "X": 1.0, **image.pixel_size}
    return dataclasses.replace(image, pixel_size=size)
