"""`ModelHandle`: a model by reference, light enough to travel in every task."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from napari_swin2sr.errors import WeightsError
from napari_swin2sr.weights.catalog import ResolvedModel, resolve_model

if TYPE_CHECKING:
    from os import PathLike

    import numpy as np
    from numpy.typing import NDArray

    from napari_swin2sr.engine.upscaler import Upscaler
    from napari_swin2sr.errors import CancelToken
    from napari_swin2sr.image.box import Box
    from napari_swin2sr.weights.config import Swin2SRConfig


@dataclass(frozen=True, slots=True)
class ModelHandle:
    """A found model and how to run it; weights are loaded on the first call.

    It pickles as a few names and hashes, so that a graph holds no weights, and
    every process that receives it loads the model once.
    """

    resolved: ResolvedModel  # name, file, hash and configuration
    device: str = "auto"  # this and precision as for `Upscaler`, decided where a tile
    precision: str = "auto"  # is computed, which may be another machine

    @classmethod
    def open(
        cls,
        name_or_path: str | PathLike[str],
        device: str = "auto",
        precision: str = "auto",
    ) -> ModelHandle:
        """Find a model, and its configuration, without loading its weights.

        PyTorch is imported only if the configuration has to be inferred from the
        weight file.

        Raises
        ------
        WeightsError
            If the model cannot be found, downloaded, read or trusted.
        """
        resolved = resolve_model(name_or_path)
        if resolved.config is None:
            from napari_swin2sr.weights.checkpoint import read_weights

            config = read_weights(resolved.path)[1]
            resolved = dataclasses.replace(resolved, config=config)
        return cls(resolved, device, precision)

    @property
    def name(self) -> str:
        """What messages and records call the model."""
        return self.resolved.name

    @property
    def sha256(self) -> str:
        """Hash of the weight file."""
        return self.resolved.sha256

    @property
    def config(self) -> Swin2SRConfig:
        """Configuration of the network."""
        assert self.resolved.config is not None
        return self.resolved.config

    @property
    def upscale(self) -> int:
        """Output pixels per input pixel and side."""
        return self.config.upscale

    @property
    def window_size(self) -> int:
        """Side of the attention windows [input px]."""
        return self.config.window_size

    @property
    def tiles_at_once(self) -> int:
        """Tiles that its device here works on at a time, copies included."""
        from napari_swin2sr.engine.cuda_streams import TILES_ON_DEVICE
        from napari_swin2sr.engine.upscaler import choose_device

        return TILES_ON_DEVICE if choose_device(self.device).type == "cuda" else 1

    def load(self) -> Upscaler:
        """Return the loaded model of this process.

        Raises
        ------
        WeightsError
            If this machine has no such model, or another one under its name.
        """
        from napari_swin2sr.engine.upscaler import load_resolved

        return load_resolved(
            self._found_here(), device=self.device, precision=self.precision
        )

    def __call__(
        self,
        tiles: NDArray[np.float32],
        *,
        core: Box | None = None,
        cancel: CancelToken | None = None,
    ) -> NDArray[np.float32]:
        """Super-resolve tiles: see `Upscaler.__call__`."""
        return self.load()(tiles, core=core, cancel=cancel)

    @property
    def has_error(self) -> bool:
        """Whether it can tell how far its results may be off."""
        return self.resolved.error_head is not None

    def with_error(
        self,
        tiles: NDArray[np.float32],
        *,
        core: Box | None = None,
        cancel: CancelToken | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Super-resolve tiles, with errors: see `Upscaler.with_error`."""
        return self.load().with_error(tiles, core=core, cancel=cancel)

    def __dask_tokenize__(self) -> tuple[object, ...]:
        """Identify the numbers that the model gives, not where its file lies."""
        config = tuple(sorted((k, str(v)) for k, v in self.config.to_dict().items()))
        kind = type(self).__name__
        head = self.resolved.error_head
        heads = () if head is None else (head.sha256,)
        return (kind, self.sha256, config, self.device, self.precision, *heads)

    def _found_here(self) -> ResolvedModel:
        """Find the model again if the handle came from another machine."""
        if self.resolved.path.exists():
            return self.resolved
        found = resolve_model(self.name)
        if found.sha256 != self.sha256:
            raise WeightsError(
                self.name,
                f"this machine has other weights (SHA-256 {found.sha256[:12]}, "
                f"expected {self.sha256[:12]})",
                "Install the same model on every machine that computes",
            )
        wanted, head = self.resolved.error_head, found.error_head
        if wanted and (head is None or head.sha256 != wanted.sha256):
            raise WeightsError(
                self.name,
                "this machine has the same weights, but not the error head that "
                f"belongs to them (SHA-256 {wanted.sha256[:12]})",
                "Install the same model on every machine that computes",
            )
        return dataclasses.replace(found, config=self.config)
