"""ONNX files: from a traced network, and from one such file in half precision or with 8-bit weights and maps."""

from __future__ import annotations

import json
import logging
import re
import tempfile
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram

from fna.errors import FnaError
from fna.exporting.graph import AXES, INPUT

ROUNDED = ("Conv", "ConvTranspose", "Add", "MaxPool")  # what has 8 bits; sums over levels of a detector would lose most
KEY = "fna"  # of the description in the metadata

Array = np.ndarray[Any, Any]


def need_onnx() -> None:
    """Check that the packages of the extra are there.

    Raises:
        FnaError: one is missing.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise FnaError(
            f"export to ONNX needs the package {error.name}; install the extra: pip install 'fna[export]'"
        ) from error


@contextmanager
def _silence() -> Iterator[None]:
    """Keep exporters from warning about what is meant."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def make_onnx(program: ExportedProgram, outputs: Sequence[str], about: Mapping[str, Any]) -> Any:
    """Return the ONNX model of a traced network.

    Args:
        program: of `graph.trace`.
        outputs: names of what it returns.
        about: what the metadata says (see `description.describe_export`).
    """
    with _silence():
        done = torch.onnx.export(
            program, (), dynamo=True, input_names=[INPUT], output_names=list(outputs), verbose=False
        )
    assert done is not None, "the exporter of programs returns one"
    model: Any = done.model_proto
    _name_axes(model)
    _compute_outputs(model)
    describe(model, about)
    return model


def describe(model: Any, about: Mapping[str, Any]) -> None:
    """Write a description into a model's metadata, in place of any other."""
    kept = [(item.key, item.value) for item in model.metadata_props if item.key != KEY]
    del model.metadata_props[:]
    for key, value in [*kept, (KEY, json.dumps(about))]:
        model.metadata_props.add(key=key, value=value)


def _name_axes(model: Any) -> None:
    """Call free sizes batch, 32*rows and 32*columns, and the number of anchors so; the exporter numbers symbols."""
    names: dict[str, str] = {}
    for dim, name in zip(model.graph.input[0].type.tensor_type.shape.dim, AXES, strict=False):
        if symbol := re.search(r"[a-z]\d+", dim.dim_param):
            names[symbol[0]] = name
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                text = re.sub(r"[a-z]\d+", lambda found: names.get(found[0], found[0]), dim.dim_param)
                dim.dim_param = "anchors" if " + " in text else text


def _compute_outputs(model: Any) -> None:
    """Let a node give each output: that of constant anchors is a constant, which other tools do not take for one."""
    import onnx

    outputs = {value.name for value in model.graph.output}
    for constant in model.graph.initializer:
        if constant.name in outputs:
            name, constant.name = constant.name, f"{constant.name}_constant"
            model.graph.node.append(onnx.helper.make_node("Identity", [constant.name], [name], name=f"node_{name}"))


def in_half(model: Any, about: Mapping[str, Any]) -> Any:
    """Return a model that computes in fp16; what goes in and comes out, normalisation and anchors stay as they are."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    wide = _copy(model)
    for constant in wide.graph.initializer:
        for node in wide.graph.node:
            if node.op_type == "Identity" and constant.name in node.input:  # of `_compute_outputs`: kept in doubles
                array = onnx.numpy_helper.to_array(constant).astype(np.float64)
                constant.CopyFrom(onnx.numpy_helper.from_array(array, constant.name))
                node.op_type = "Cast"
                node.attribute.append(onnx.helper.make_attribute("to", onnx.TensorProto.FLOAT))
    with _silence():
        half = convert_float_to_float16(wide, keep_io_types=True, node_block_list=_exact(model))
    _uncast(half, set(_exact(model)))
    describe(half, about)
    return half


def _uncast(model: Any, exact: Collection[str]) -> None:
    """Let anchors leave a half model as they were made: every output passes through fp16 there."""
    makers = {output: node for node in model.graph.node for output in node.output}
    node = makers.get("anchors")
    if node is None:
        return
    while node.op_type == "Cast" and node.name not in exact:
        model.graph.node.remove(node)
        node = makers[node.input[0]]
    old = node.output[0]
    for reader in model.graph.node:
        reader.input[:] = ["anchors" if name == old else name for name in reader.input]
    node.output[0] = "anchors"


def in_int8(model: Any, about: Mapping[str, Any], images: Sequence[Array]) -> Any:
    """Return a model whose convolutions have 8-bit weights and maps, in ONNX's quantise-dequantise form.

    Args:
        model: in float32.
        about: its description.
        images: that it calibrates on, uint8 (1, height, width, 3).
    """
    import onnx
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        """The images, one after the other."""

        def __init__(self) -> None:
            self.rest = iter(images)

        def get_next(self) -> dict[str, Array] | None:
            """Return the next image; None at the end."""
            image = next(self.rest, None)
            return None if image is None else {INPUT: image}

    with tempfile.TemporaryDirectory() as folder, _silence():
        folded, rounded = Path(folder) / "folded.onnx", Path(folder) / "rounded.onnx"
        _fold(model, folded)
        quantization.quantize_static(
            str(folded),
            str(rounded),
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=list(ROUNDED),
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            nodes_to_exclude=_exact(onnx.load(folded)),
        )
        small = onnx.load(rounded)
    describe(small, about)
    return small


def _fold(model: Any, path: Path) -> None:
    """Write a model with its norms folded into its convolutions."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _copy(model: Any) -> Any:
    twin = type(model)()
    twin.CopyFrom(model)
    return twin


def _exact(model: Any) -> list[str]:
    """Return the nodes that must stay in float32: the normalisation of images, and what makes anchors."""
    makers = {output: node for node in model.graph.node for output in node.output}
    names, open_names = set(), ["anchors"]
    while open_names:  # back from the anchors, but not through the maps whose size they are made for
        node = makers.get(open_names.pop())
        if node is not None and node.op_type != "Shape" and node.name not in names:
            names.add(node.name)
            open_names += node.input
    reached = {INPUT}
    for node in model.graph.node:  # forward from the image, to the first convolution
        if reached.intersection(node.input) and node.op_type not in ("Conv", "Pad"):
            names.add(node.name)
            reached.update(node.output)
    return sorted(names)
