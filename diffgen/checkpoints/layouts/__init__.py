"""How original files name the weights of each network, by the layout's name in the table of kinds.

A layout is a function of the network's configuration. Where diffusers has the only reading of a layout, its own
conversion function serves, and that layout is read but not written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from diffgen.checkpoints.keys import Layout
from diffgen.checkpoints.layouts import autoencoders, dits, text, unet

LAYOUTS: dict[str, Callable[[Mapping[str, Any]], Layout]] = {
    "unet": unet.unet, "kl": autoencoders.kl, "wan-vae": autoencoders.wan_vae, "open-clip": text.open_clip,
    "flux": dits.flux, "chroma": dits.chroma, "sd3": dits.sd3, "wan": dits.wan, "ltx": dits.ltx,
    "z-image": dits.z_image, "flux2": dits.flux2, "hunyuan-video": dits.hunyuan_video, "mochi": dits.mochi,
    "auraflow": dits.auraflow, "lumina2": dits.lumina2, "pixart": dits.pixart, "sana": dits.sana,
    "qwen-vl": text.qwen_vl, "same": text.same,
}  # fmt: skip
