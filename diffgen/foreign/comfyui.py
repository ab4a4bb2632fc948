"""ComfyUI's graphs: from the node that saved the picture back to the sampler, its prompts and its model.

A picture carries the graph twice. `prompt` is what ran: {id: {"class_type": ..., "inputs": {name: value or
[id, output]}}}. `workflow` is what the editor showed; `diffgen.foreign.comfyui_workflow` puts it into this form.

Nodes are recognised by what they take, not only by their name, so that custom samplers and loaders are
understood as far as they resemble ComfyUI's own. Source: ComfyUI's documented API and workflow formats.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from diffgen.foreign.names import from_code, schedule_from_code

Node = dict[str, Any]
Graph = dict[str, Node]

_TEXT_INPUTS = (
    "populated_text",
    "text",
    "text_g",
    "text_l",
    "clip_l",
    "t5xxl",
    "prompt",
    "user_prompt",
    "value",
    "string",
)
_NUMBER_INPUTS = ("seed", "noise_seed", "value", "int", "float", "number")
_MODEL_INPUTS = ("ckpt_name", "unet_name", "model_name", "base_ckpt_name")
_SIGMA_NODES = {
    "KarrasScheduler": "karras",
    "ExponentialScheduler": "exponential",
    "PolyexponentialScheduler": "polyexponential",
    "BetaSamplingScheduler": "beta",
    "AlignYourStepsScheduler": "ays",
    "SDTurboScheduler": "simple",
}


def read_graph(graph: Graph) -> tuple[dict[str, Any], list[str]]:
    """(fields of a Recipe, notes) from a `prompt` graph; no fields when it holds no sampler."""
    graph = {str(key): node for key, node in graph.items() if isinstance(node, dict)}
    sampler, count = _last_sampler(graph)
    if sampler is None:
        return {}, ["the ComfyUI graph holds no sampler that could be recognised"]
    notes = []
    if count > 1:
        notes.append(f"the graph holds {count} samplers; the one nearest the saved picture was read")
    fields: dict[str, Any] = {"settings": {}, "extra": {}}
    for branch, name in (("positive", "prompt"), ("negative", "negative")):
        texts = list(dict.fromkeys(_texts(graph, sampler, branch)))
        fields[name] = "\n".join(texts)
        if len(texts) > 1:
            notes.append(f"{len(texts)} texts were joined into the {name}")
    _numbers(graph, sampler, fields)
    _latent(graph, sampler, fields)
    _model(graph, sampler, fields)
    return fields, notes


def _inputs(node: Node) -> dict[str, Any]:
    inputs = node.get("inputs")
    return inputs if isinstance(inputs, dict) else {}


def _source(graph: Graph, value: Any) -> Node | None:
    """The node an input is linked to; None for a plain value or a broken link."""
    if isinstance(value, list) and len(value) == 2 and isinstance(value[0], (str, int)):
        return graph.get(str(value[0]))
    return None


def _upstream(
    graph: Graph, start: Node, through: Callable[[str], bool] = lambda name: True
) -> Iterator[Node]:
    """Nodes that feed `start`, nearest first, each once: cycles end. `through` chooses inputs by name."""
    queue, seen = deque([start]), {id(start)}
    while queue:
        node = queue.popleft()
        yield node
        for name, value in _inputs(node).items():
            # The editor's reroute nodes have one input without a name.
            source = _source(graph, value) if name == "" or through(name) else None
            if source is not None and id(source) not in seen:
                seen.add(id(source))
                queue.append(source)


def _is_sampler(node: Node) -> bool:
    names = _inputs(node).keys()
    return "sampler" in str(node.get("class_type")).lower() and bool(
        names & {"positive", "guider", "latent_image"}
    )


def _last_sampler(graph: Graph) -> tuple[Node | None, int]:
    samplers = [node for node in graph.values() if _is_sampler(node)]
    for kind in ("save", "preview"):
        for node in graph.values():
            if kind in str(node.get("class_type")).lower():
                for found in _upstream(graph, node):
                    if _is_sampler(found):
                        return found, len(samplers)
    return (samplers[-1] if samplers else None), len(samplers)


def _value(graph: Graph, node: Node, name: str, names: tuple[str, ...], kinds: tuple[type, ...]) -> Any:
    """An input's plain value, looked up through primitive, seed and text nodes when it is linked."""
    value = _inputs(node).get(name)
    source = _source(graph, value)
    if source is None:
        return value if isinstance(value, kinds) and not isinstance(value, bool) else None
    for found in _upstream(graph, source):
        for key in names:
            plain = _inputs(found).get(key)
            if isinstance(plain, kinds) and not isinstance(plain, bool):
                return plain
    return None


def _texts(graph: Graph, sampler: Node, branch: str) -> Iterator[str]:
    """The texts behind one branch of a sampler, following conditioning nodes on that branch only."""
    start = sampler
    guider = _source(graph, _inputs(sampler).get("guider"))
    if guider is not None:
        start = guider

    def through(name: str) -> bool:
        prefix = "cond" if branch == "positive" else "conditioning"
        return name == branch or name.startswith(prefix)

    if start is guider and branch == "negative" and "negative" not in _inputs(start):
        return
    for node in _upstream(graph, start, through):
        if "ZeroOut" in str(node.get("class_type")):
            return
        direct = _inputs(node).get(branch)
        if isinstance(direct, str):
            yield direct
        if node is not start and "encode" in str(node.get("class_type")).lower():
            for name in _TEXT_INPUTS:
                text = _value(graph, node, name, _TEXT_INPUTS, (str,))
                if text is not None:
                    yield text


def _first(graph: Graph, start: Node, names: tuple[str, ...], through: tuple[str, ...], kinds: Any) -> Any:
    """The nearest value under one of `names`, looking only along the inputs in `through`."""
    for node in _upstream(graph, start, lambda name: name in through):
        for name in names:
            value = _value(graph, node, name, _NUMBER_INPUTS if kinds != (str,) else _TEXT_INPUTS, kinds)
            if value is not None:
                return value
    return None


def _numbers(graph: Graph, sampler: Node, fields: dict[str, Any]) -> None:
    number = (int, float)
    fields["seed"] = _first(graph, sampler, ("seed", "noise_seed"), ("noise",), (int,))
    fields["steps"] = _first(graph, sampler, ("steps",), ("sigmas",), (int,))
    fields["guidance"] = _first(graph, sampler, ("cfg",), ("guider",), number)
    strength = _first(graph, sampler, ("denoise",), ("sigmas",), number)
    name = _first(graph, sampler, ("sampler_name",), ("sampler",), (str,))
    schedule = _first(graph, sampler, ("scheduler",), ("sigmas",), (str,))
    if schedule is None:
        kinds = [str(n.get("class_type")) for n in _upstream(graph, sampler, lambda name: name == "sigmas")]
        schedule = next((_SIGMA_NODES[kind] for kind in kinds if kind in _SIGMA_NODES), None)
    if name is not None:
        fields["sampler"] = from_code(name)[0]
    if schedule is not None:
        fields["schedule"] = schedule_from_code(schedule)
    if strength is not None and strength != 1:
        fields["settings"]["strength"] = strength
    for key in ("start_at_step", "end_at_step"):
        if isinstance(_inputs(sampler).get(key), int):
            fields["extra"][key] = _inputs(sampler)[key]
    conditioning = ("positive", "guider", "conditioning")
    embedded = _first(graph, sampler, ("guidance",), conditioning, number)
    if embedded is not None:
        # The model takes this scale as an input; what stands at the sampler is guidance on top of it.
        if fields["guidance"] not in (None, 1):
            fields["settings"]["true_cfg"] = fields["guidance"]
        fields["guidance"] = embedded


def _latent(graph: Graph, sampler: Node, fields: dict[str, Any]) -> None:
    through = ("latent_image", "samples", "latent", "latents", "pixels", "image")
    nodes = list(_upstream(graph, sampler, lambda name: name in through))
    for node in nodes:
        width = _value(graph, node, "width", ("width", *_NUMBER_INPUTS), (int,))
        height = _value(graph, node, "height", ("height", *_NUMBER_INPUTS), (int,))
        if node is not sampler and "latent" in str(node.get("class_type")).lower() and width and height:
            fields["width"], fields["height"] = width, height
            break
    if any(str(node.get("class_type")).startswith("VAEEncode") for node in nodes):
        fields["task"] = "image_to_image"


def _model(graph: Graph, sampler: Node, fields: dict[str, Any]) -> None:
    loras = []
    for node in _upstream(graph, sampler, lambda name: name in ("model", "guider", "clip", "positive")):
        inputs = _inputs(node)
        name = next((inputs[key] for key in _MODEL_INPUTS if isinstance(inputs.get(key), str)), None)
        if name is not None and fields.get("model") is None:
            base = name.replace("\\", "/").rsplit("/", 1)[-1]
            fields["model"] = base.removesuffix(".safetensors").removesuffix(".ckpt").removesuffix(".gguf")
        if isinstance(inputs.get("lora_name"), str):
            loras.append({"name": inputs["lora_name"], "weight": inputs.get("strength_model", 1)})
        if isinstance(inputs.get("stop_at_clip_layer"), int):
            fields["settings"]["clip_skip"] = -inputs["stop_at_clip_layer"]
    if loras:
        fields["extra"]["loras"] = loras
