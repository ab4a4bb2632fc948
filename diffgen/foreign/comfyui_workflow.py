"""ComfyUI's editor file, `workflow`, turned into the graph form that `diffgen.foreign.comfyui` reads.

The editor stores a node's widget values as a list without names, so their order has to be known for each
kind of node. For custom nodes it is not, and their values are left out.
Source: ComfyUI's documented workflow format.
"""

from __future__ import annotations

from typing import Any

# The widgets of the nodes that matter, in the editor's order; "-" is "control after generate".
_WIDGETS = {
    "KSampler": "seed - steps cfg sampler_name scheduler denoise",
    "KSamplerAdvanced": "add_noise noise_seed - steps cfg sampler_name scheduler start_at_step end_at_step",
    "SamplerCustom": "add_noise noise_seed - cfg",
    "RandomNoise": "noise_seed -",
    "KSamplerSelect": "sampler_name",
    "BasicScheduler": "scheduler steps denoise",
    "KarrasScheduler": "steps sigma_max sigma_min rho",
    "ExponentialScheduler": "steps sigma_max sigma_min",
    "SDTurboScheduler": "steps denoise",
    "AlignYourStepsScheduler": "model_type steps denoise",
    "CFGGuider": "cfg",
    "FluxGuidance": "guidance",
    "CLIPTextEncode": "text",
    "CLIPTextEncodeSDXL": "width height crop_w crop_h target_width target_height text_g text_l",
    "CLIPTextEncodeFlux": "clip_l t5xxl guidance",
    "CLIPSetLastLayer": "stop_at_clip_layer",
    "EmptyLatentImage": "width height batch_size",
    "EmptySD3LatentImage": "width height batch_size",
    "CheckpointLoaderSimple": "ckpt_name",
    "CheckpointLoader": "config_name ckpt_name",
    "UNETLoader": "unet_name weight_dtype",
    "LoraLoader": "lora_name strength_model strength_clip",
    "LoraLoaderModelOnly": "lora_name strength_model",
    "PrimitiveNode": "value",
}


def from_workflow(workflow: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The editor's `workflow` in the form of `prompt`.

    Muted nodes (mode 2) are left out; bypassed ones (mode 4) keep their links and lose their values.
    Links may be lists [id, from, output, to, input, type] or, in newer files, tables.
    """
    sources: dict[Any, list[Any]] = {}
    for link in _list(workflow.get("links")):
        if isinstance(link, list) and len(link) >= 3:
            sources[str(link[0])] = [str(link[1]), link[2]]
        elif isinstance(link, dict):
            sources[str(link.get("id"))] = [str(link.get("origin_id")), link.get("origin_slot")]
    graph: dict[str, dict[str, Any]] = {}
    for node in _list(workflow.get("nodes")):
        if not isinstance(node, dict) or node.get("mode") == 2:
            continue
        kind, values = str(node.get("type")), node.get("widgets_values")
        inputs: dict[str, Any] = dict(values) if isinstance(values, dict) else {}
        if isinstance(values, list):
            # An unknown node's first widget is worth reading when it is a text: most often a prompt.
            unknown = "text" if values and isinstance(values[0], str) else ""
            names = _WIDGETS.get(kind, unknown).split()
            inputs = {name: value for name, value in zip(names, values, strict=False) if name != "-"}
        if node.get("mode") == 4:
            kind, inputs = "bypassed", {}
        for entry in _list(node.get("inputs")):
            if isinstance(entry, dict) and str(entry.get("link")) in sources:
                inputs[str(entry.get("name"))] = sources[str(entry["link"])]
        graph[str(node.get("id"))] = {"class_type": kind, "inputs": inputs}
    return graph


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
