"""A network as one ONNX file, for any image size, checked with ONNX Runtime."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from napari_swin2sr.errors import InferenceError, MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from napari_swin2sr.model.swin2sr import Swin2SRForImageSuperResolution

OPSET = 18
"""Version of the operators: read by ONNX Runtime since 1.14 (2023)."""

INPUT, OUTPUT = "image", "upscaled"
"""Names of the two tensors."""

TOLERANCE = 1e-5
"""Largest difference between file and network, of the value range."""


@dataclass(frozen=True, slots=True)
class ExportedModel:
    """A network on the CPU in float32, and what is written about it."""

    net: Swin2SRForImageSuperResolution
    name: str
    sha256: str | None
    gray: bool
    license: str | None
    authors: tuple[str, ...]

    @property
    def channels_in(self) -> int:
        """Channels of the input."""
        return 1 if self.gray else self.net.config.num_channels

    @property
    def channels_out(self) -> int:
        """Channels of the result."""
        return 1 if self.gray else self.net.config.num_channels_out

    def upscale(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what the network makes of (N, channels, H, W)."""
        with torch.inference_mode():
            return self.net.upscale_tile(torch.from_numpy(x)).numpy()


class _Tile(nn.Module):
    """The entry for inference as a forward: tensors in and out, nothing optional."""

    def __init__(self, net: Swin2SRForImageSuperResolution) -> None:
        super().__init__()
        self.net: Swin2SRForImageSuperResolution = net

    def forward(self, image: Tensor) -> Tensor:
        return self.net.upscale_tile(image)


def onnx_file(model: ExportedModel) -> bytes:
    """Return the content of the file, which has been run and compared.

    Raises
    ------
    MissingDependencyError
        If the extra `export` is not installed.
    InferenceError
        If ONNX Runtime gives other numbers than the network.
    """
    _check_installed()
    window = model.net.config.window_size
    sides = [window * torch.export.Dim(name, min=1, max=1 << 16) for name in "hw"]
    shapes = ({0: torch.export.Dim("n"), 2: sides[0], 3: sides[1]},)
    # Sides of one window, or equal ones, would be taken for what always holds.
    example = torch.zeros(2, model.channels_in, 2 * window, 3 * window)
    with _quiet(), torch.no_grad():
        traced = torch.export.export(
            _Tile(model.net), (example,), dynamic_shapes=shapes
        )
        program = torch.onnx.export(
            traced,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    _describe(model, proto)
    content: bytes = proto.SerializeToString(deterministic=True)
    _compare(model, content)
    return content


def _check_installed() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            "the export needs onnx, onnxscript and onnxruntime: "
            'pip install "napari-swin2sr[export]"'
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what the exporter tells its own developers."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _metadata(model: ExportedModel) -> dict[str, str]:
    """Return what a program must know to cut an image into tiles."""
    config = model.net.config
    facts = {
        "config": json.dumps(config.to_dict()),
        "exact_halo": str(config.exact_halo),
        "halo": str(config.halo()),
        "model": model.name,
        "upscale": str(config.upscale),
        "value_range": "0,1",
        "window_size": str(config.window_size),
    }
    if model.sha256:
        facts["weights_sha256"] = model.sha256
    return facts


def _describe(model: ExportedModel, proto: Any) -> None:
    """Put in what a program needs, take out paths and traces of this machine."""
    for key, value in _metadata(model).items():
        proto.metadata_props.add(key=key, value=value)
    graph, config = proto.graph, model.net.config
    del graph.value_info[:]  # of tensors in between: each runtime infers them itself
    for part in (*graph.node, *graph.initializer, *graph.input, *graph.output):
        del part.metadata_props[:]
    for tensor, unit in (
        (graph.input[0], config.window_size),
        (graph.output[0], config.window_size * config.upscale),
    ):
        dims = tensor.type.tensor_type.shape.dim
        dims[0].dim_param = "n"
        dims[2].dim_param, dims[3].dim_param = f"{unit}*h", f"{unit}*w"


def example_image(model: ExportedModel, height: int, width: int) -> Any:
    """Return a smooth image with some noise, (1, channels, H, W) float32, 0 to 1."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    waves = [np.sin(x / (5 + c)) * np.cos(y / (7 - c)) for c in range(3)]
    noise = np.random.default_rng(0).normal(0, 0.02, (model.channels_in, height, width))
    image = np.stack([waves[c % 3] for c in range(model.channels_in)]) * 0.4 + 0.5
    return np.clip(image + noise, 0, 1).astype(np.float32)[None]


def _compare(model: ExportedModel, content: bytes) -> None:
    """Run the file at sizes that it was not made from."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        content, options, providers=["CPUExecutionProvider"]
    )
    window = model.net.config.window_size
    for rows, columns in ((1, 1), (5, 4)):
        image = example_image(model, rows * window, columns * window)
        expected = model.upscale(image)
        found = session.run([OUTPUT], {INPUT: image})[0]
        error = float(np.max(np.abs(found - expected)))
        if found.shape != expected.shape or not error <= TOLERANCE * max(
            1.0, float(np.max(np.abs(expected)))
        ):
            raise InferenceError(
                f"ONNX Runtime {onnxruntime.__version__} differs from the network by "
                f"{error:.2g} for an image of {image.shape[2]} x {image.shape[3]} px; "
                "nothing was written. Install another version of onnxruntime"
            )
