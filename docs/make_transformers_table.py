"""Write the table of the classes of transformers beside ours, as a page.

    python docs/make_transformers_table.py

Every public attribute and method that the four classes of transformers have beyond
those of `torch.nn.Module` is listed. One that we lack without a reason below is an
error, so that the table stays complete when transformers grows.
"""

from __future__ import annotations

import fnmatch
import importlib.metadata
from pathlib import Path
from typing import Any

import torch
import transformers

from napari_swin2sr import model

PAGE = Path(__file__).with_name("reference") / "transformers.md"

BETTER = {
    "from_pretrained": "any checkpoint, hub or authors' names; files are checked",
    "save_pretrained": "each file is whole or absent; the weights file alone is enough",
    "preprocess": "every integer type, window and size; scaled floats are refused",
    "forward": "any size, cropped; right for compressed, restoration and 3conv",
    "do_pad": "pads to the window of the model, not always to 8",
    "size_divisor": "read from the model",
    "is_gradient_checkpointing": "stages, without re-entrance",
}

ABSENT = {
    "adapters of PEFT are not loaded here": (
        "*adapter*",
        "*peft*",
    ),
    "for language models": (
        "*token*",
        "*decoder*",
        "*rope*",
        "*position_embeddings",
        "can_generate",
        "generation_config_class",
        "*encoder",
        "get_mtp_config",
        "get_text_config",
        "loss_*",
        "default_theta",
        "is_encoder_decoder",
        "chunk_size_feed_forward",
        "*output_embeddings",
        "*tied_weights*",
        "tie_weights",
        "warn_if_padding*",
        "get_experts*",
        "set_experts*",
        "get_correct_experts*",
        "set_input_embeddings",
        "*require_grads",
        "convert_rope*",
    ),
    "for a network spread over processes; here it is a plain module": (
        "*tp_plan",
        "*pp_plan",
        "*ep_plan",
        "*fsdp*",
        "*distribute*",
        "*parallel*",
        "tp_size",
        "*shard*",
        "*rank",
        "barrier*",
    ),
    "one implementation here; `load_model` chooses the fast way by itself": (
        "*attn_implementation",
        "*kernel*",
        "get_compiled_call",
        "is_backend_compatible",
        "can_record_outputs",
        "backend",
        "disable_grouping",
        "device",
    ),
    "quantized weights are not read": ("dequantize",),
    "code from the hub is never run": (
        "is_remote_code",
        "is_custom_code",
        "register_for_auto_class",
    ),
    "use `gradient_checkpointing_enable`": ("*activation_checkpointing*",),
    "machinery of the library, for its own use": (
        "default_config_fields",
        "dict_dtype_to_str",
        "extra*files",
        "get_config_dict",
        "get_image_processor_dict",
        "ignore_keys*",
        "is_heterogeneous",
        "*per_layer*",
        "base_config_key",
        "sub_configs*",
        "validate*",
        "attribute_map",
        "dummy_inputs",
        "get_init_context",
        "init_weights",
        "initialize_weights",
        "post_init",
        "retrieve_modules_from_names",
        "get_parameter_or_buffer",
        "named_non_persistent_buffers",
        "input_modalities",
        "model_tags",
        "add_model_tags",
        "valid_kwargs",
        "image_seq_length",
        "to_diff_dict",
        "update_from_string",
        "fetch_images",
        "process_image",
        "patch_unembed",
        "smart_apply",
    ),
    "labels of classes; kept if the file has them": (
        "id2label",
        "label2id",
        "num_labels",
        "problem_type",
    ),
    "kept and written back if the file has it": (
        "architectures",
        "dtype",
        "torch_dtype",
        "name_or_path",
        "transformers_version",
    ),
    "spelled `return_dict`": ("use_return_dict",),
    "the network never resizes, crops or normalizes by a mean and deviation": (
        "*resize*",
        "*crop*",
        "*normalize*",
        "image_mean",
        "image_std",
        "resample",
        "size",
        "default_to_square",
    ),
    "use `preprocess`": (
        "pad",
        "rescale",
        "*convert_rgb",
        "convert_to_rgb",
        "return_tensors",
        "*data_format",
    ),
    "older name of `size_divisor`; taken, not kept": ("pad_size",),
    "a transformer without its head is no model here: save the whole": (
        "save_pretrained",
        "push_to_hub",
    ),
}


def instances(library: Any) -> dict[str, Any]:
    """Return one small object of each class."""
    values = {"embed_dim": 12, "depths": [2], "num_heads": [2]}
    config = library.Swin2SRConfig(**values, upsampler="pixelshuffledirect")
    name = "Swin2SRImageProcessorPil"  # the other one needs torchvision
    return {
        "Swin2SRConfig": config,
        "Swin2SRModel": library.Swin2SRModel(config),
        "Swin2SRForImageSuperResolution": library.Swin2SRForImageSuperResolution(
            config
        ),
        "Swin2SRImageProcessor": getattr(library, name)(),
    }


def reason_for_absence(name: str) -> str:
    """Return why we have no such name."""
    for reason, patterns in ABSENT.items():
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
            return reason
    raise KeyError(f"{name} is neither here nor explained")


def rows(theirs: Any, ours: Any) -> dict[tuple[str, str], list[str]]:
    """Return (ours, why) -> the names in transformers, sorted."""
    plain = set(dir(torch.nn.Module())) - {"forward"}
    found: dict[tuple[str, str], list[str]] = {}
    for name in sorted(set(dir(theirs)) - plain):
        if name.startswith("_"):
            continue
        key = ("absent", "")
        if not hasattr(ours, name):
            key = ("absent", reason_for_absence(name))
        elif name in BETTER:
            key = ("better", BETTER[name])
        else:
            key = ("same", "")
        found.setdefault(key, []).append(name)
    order = ["same", "better", "absent"]
    return dict(sorted(found.items(), key=lambda item: order.index(item[0][0])))


def table() -> str:
    """Return the part of the page that is written here."""
    version = importlib.metadata.version("transformers")
    lines = [f"Compared with transformers {version}.", ""]
    theirs, ours = instances(transformers), instances(model)
    for kind, other in theirs.items():
        lines += [
            f"### {kind}",
            "",
            "| in transformers | here | why |",
            "|---|---|---|",
        ]
        for (status, why), names in rows(other, ours[kind]).items():
            listed = ", ".join(f"`{name}`" for name in names)
            lines.append(f"| {listed} | {status} | {why} |")
        lines.append("")
    return "\n".join(lines)


def written(page: str) -> str:
    """Return the page with a new table."""
    start, end = "<!-- table -->\n", "<!-- /table -->"
    head, _, rest = page.partition(start)
    return head + start + table() + end + rest.partition(end)[2]


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text("utf-8")), "utf-8")
