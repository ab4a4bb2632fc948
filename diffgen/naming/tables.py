"""What the networks' own authors, and with them kohya and ComfyUI, call the layers that diffusers renamed.

Read by `diffgen.adapters` for the layers of a LoRA and by `diffgen.checkpoints` for the weights of a file.

One line a layer: `original = ours`. `*` stands for one part of a name, `**` for any number of them, equal on both
sides. `{a,b} = {c,d}` are two lines. `a + .b` is one original layer that diffusers cut into two, in the order of
their rows, `.b` lying beside `a`; a number before a part says how many times the rows of the others it has. `swap`
means that diffusers exchanged the two halves of the rows (shift and scale, or value and gate); `swap?` that it did so
only in layers that hold exactly a shift and a scale. Layers that a network does not have are passed over.
Sources: the authors' repositories; tests/unit/test_adapters_names.py compares with diffusers' single-file converters.
"""

from __future__ import annotations

_DOUBLE = """
double_blocks.*.img_attn.qkv = transformer_blocks.*.attn.to_q + .to_k + .to_v
double_blocks.*.txt_attn.qkv = transformer_blocks.*.attn.add_q_proj + .add_k_proj + .add_v_proj
double_blocks.*.{img,txt}_attn.proj = transformer_blocks.*.attn.{to_out.0,to_add_out}
double_blocks.*.img_attn.norm.{query,key}_norm = transformer_blocks.*.attn.norm_{q,k}
double_blocks.*.txt_attn.norm.{query,key}_norm = transformer_blocks.*.attn.norm_added_{q,k}
single_blocks.*.norm.{query,key}_norm = single_transformer_blocks.*.attn.norm_{q,k}
{img_in,txt_in,final_layer.linear} = {x_embedder,context_embedder,proj_out}
final_layer.adaLN_modulation.1 = swap norm_out.linear
"""

_FLUX = f"""{_DOUBLE}
double_blocks.*.{{img,txt}}_mod.lin = transformer_blocks.*.{{norm1,norm1_context}}.linear
double_blocks.*.{{img,txt}}_mlp.0 = transformer_blocks.*.{{ff,ff_context}}.net.0.proj
double_blocks.*.{{img,txt}}_mlp.2 = transformer_blocks.*.{{ff,ff_context}}.net.2
single_blocks.*.{{modulation.lin,linear2}} = single_transformer_blocks.*.{{norm.linear,proj_out}}
single_blocks.*.linear1 = single_transformer_blocks.*.attn.to_q + .to_k + .to_v + 4 single_transformer_blocks.*.proj_mlp
time_in.{{in,out}}_layer = time_text_embed.timestep_embedder.linear_{{1,2}}
vector_in.{{in,out}}_layer = time_text_embed.text_embedder.linear_{{1,2}}
guidance_in.{{in,out}}_layer = time_text_embed.guidance_embedder.linear_{{1,2}}
distilled_guidance_layer.layers.*.{{in,out}}_layer = distilled_guidance_layer.layers.*.linear_{{1,2}}
"""

# The authors join some of their parts by "_"; ComfyUI holds HunyuanVideo in Flux's names.
_REFINER = "context_embedder.token_refiner.refiner_blocks.*"
_HUNYUAN_VIDEO = f"""
double_blocks.*.img_attn_qkv = transformer_blocks.*.attn.to_q + .to_k + .to_v
double_blocks.*.txt_attn_qkv = transformer_blocks.*.attn.add_q_proj + .add_k_proj + .add_v_proj
double_blocks.*.{{img,txt}}_attn_proj = transformer_blocks.*.attn.{{to_out.0,to_add_out}}
double_blocks.*.img_attn_{{q,k}}_norm = transformer_blocks.*.attn.norm_{{q,k}}
double_blocks.*.txt_attn_{{q,k}}_norm = transformer_blocks.*.attn.norm_added_{{q,k}}
double_blocks.*.{{img,txt}}_mod.linear = transformer_blocks.*.{{norm1,norm1_context}}.linear
double_blocks.*.{{img,txt}}_mlp.fc1 = transformer_blocks.*.{{ff,ff_context}}.net.0.proj
double_blocks.*.{{img,txt}}_mlp.fc2 = transformer_blocks.*.{{ff,ff_context}}.net.2
single_blocks.*.modulation.linear = single_transformer_blocks.*.norm.linear
single_blocks.*.{{q,k}}_norm = single_transformer_blocks.*.attn.norm_{{q,k}}
img_in.proj = x_embedder.proj
{{time,guidance}}_in.mlp.0 = time_text_embed.{{timestep,guidance}}_embedder.linear_1
{{time,guidance}}_in.mlp.2 = time_text_embed.{{timestep,guidance}}_embedder.linear_2
txt_in.input_embedder = context_embedder.proj_in
txt_in.t_embedder.mlp.{{0,2}} = context_embedder.time_text_embed.timestep_embedder.linear_{{1,2}}
txt_in.c_embedder.linear_{{1,2}} = context_embedder.time_text_embed.text_embedder.linear_{{1,2}}
txt_in.individual_token_refiner.blocks.*.self_attn_qkv = {_REFINER}.attn.to_q + .to_k + .to_v
txt_in.individual_token_refiner.blocks.*.self_attn.qkv = {_REFINER}.attn.to_q + .to_k + .to_v
txt_in.individual_token_refiner.blocks.*.{{self_attn_proj,norm1,norm2}} = {_REFINER}.{{attn.to_out.0,norm1,norm2}}
txt_in.individual_token_refiner.blocks.*.self_attn.proj = {_REFINER}.attn.to_out.0
txt_in.individual_token_refiner.blocks.*.mlp.{{fc1,fc2,0,2}} = {_REFINER}.ff.{{net.0.proj,net.2,net.0.proj,net.2}}
txt_in.individual_token_refiner.blocks.*.adaLN_modulation.1 = {_REFINER}.norm_out.linear
txt_in.t_embedder.{{in,out}}_layer = context_embedder.time_text_embed.timestep_embedder.linear_{{1,2}}
txt_in.c_embedder.{{in,out}}_layer = context_embedder.time_text_embed.text_embedder.linear_{{1,2}}
{_FLUX}"""

_FLUX_2 = f"""{_DOUBLE}
double_blocks.*.img_mlp.{{0,2}} = transformer_blocks.*.ff.linear_{{in,out}}
double_blocks.*.txt_mlp.{{0,2}} = transformer_blocks.*.ff_context.linear_{{in,out}}
single_blocks.*.linear{{1,2}} = single_transformer_blocks.*.attn.{{to_qkv_mlp_proj,to_out}}
time_in.{{in,out}}_layer = time_guidance_embed.timestep_embedder.linear_{{1,2}}
guidance_in.{{in,out}}_layer = time_guidance_embed.guidance_embedder.linear_{{1,2}}
double_stream_modulation_{{img,txt}}.lin = double_stream_modulation_{{img,txt}}.linear
single_stream_modulation.lin = single_stream_modulation.linear
"""

_SD3 = """
joint_blocks.*.x_block.{attn,attn2}.qkv = transformer_blocks.*.{attn,attn2}.to_q + .to_k + .to_v
joint_blocks.*.context_block.attn.qkv = transformer_blocks.*.attn.add_q_proj + .add_k_proj + .add_v_proj
joint_blocks.*.x_block.{attn,attn2}.proj = transformer_blocks.*.{attn,attn2}.to_out.0
joint_blocks.*.x_block.attn.ln_{q,k} = transformer_blocks.*.attn.norm_{q,k}
joint_blocks.*.x_block.attn2.ln_{q,k} = transformer_blocks.*.attn2.norm_{q,k}
joint_blocks.*.context_block.attn.{proj,ln_q,ln_k} = transformer_blocks.*.attn.{to_add_out,norm_added_q,norm_added_k}
joint_blocks.*.x_block.adaLN_modulation.1 = transformer_blocks.*.norm1.linear
joint_blocks.*.context_block.adaLN_modulation.1 = swap? transformer_blocks.*.norm1_context.linear
joint_blocks.*.x_block.mlp.fc{1,2} = transformer_blocks.*.ff.net.{0.proj,2}
joint_blocks.*.context_block.mlp.fc{1,2} = transformer_blocks.*.ff_context.net.{0.proj,2}
x_embedder.proj = pos_embed.proj
{t,y}_embedder.mlp.0 = time_text_embed.{timestep,text}_embedder.linear_1
{t,y}_embedder.mlp.2 = time_text_embed.{timestep,text}_embedder.linear_2
final_layer.linear = proj_out
final_layer.adaLN_modulation.1 = swap norm_out.linear
"""

_WAN = """
blocks.*.self_attn.{q,k,v,o,norm_q,norm_k} = blocks.*.attn1.{to_q,to_k,to_v,to_out.0,norm_q,norm_k}
blocks.*.cross_attn.{q,k,v,o,norm_q,norm_k} = blocks.*.attn2.{to_q,to_k,to_v,to_out.0,norm_q,norm_k}
blocks.*.cross_attn.{k_img,v_img,norm_k_img} = blocks.*.attn2.{add_k_proj,add_v_proj,norm_added_k}
blocks.*.{norm3,ffn.0,ffn.2,modulation} = blocks.*.{norm2,ffn.net.0.proj,ffn.net.2,scale_shift_table}
head.{head,modulation} = {proj_out,scale_shift_table}
time_embedding.{0,2} = condition_embedder.time_embedder.linear_{1,2}
text_embedding.{0,2} = condition_embedder.text_embedder.linear_{1,2}
time_projection.1 = condition_embedder.time_proj
img_emb.proj.{0,1,3,4} = condition_embedder.image_embedder.{norm1,ff.net.0.proj,ff.net.2,norm2}
"""

_LTX = """
patchify_proj = proj_in
adaln_single.** = time_embed.**
transformer_blocks.*.attn1.{q,k}_norm = transformer_blocks.*.attn1.norm_{q,k}
transformer_blocks.*.attn2.{q,k}_norm = transformer_blocks.*.attn2.norm_{q,k}
"""

_MOCHI = """
blocks.*.attn.qkv_x = transformer_blocks.*.attn1.to_q + .to_k + .to_v
blocks.*.attn.qkv_y = transformer_blocks.*.attn1.add_q_proj + .add_k_proj + .add_v_proj
blocks.*.attn.proj_{x,y} = transformer_blocks.*.attn1.{to_out.0,to_add_out}
blocks.*.attn.{q,k}_norm_x = transformer_blocks.*.attn1.norm_{q,k}
blocks.*.attn.{q,k}_norm_y = transformer_blocks.*.attn1.norm_added_{q,k}
blocks.*.mod_{x,y} = transformer_blocks.*.{norm1,norm1_context}.linear
blocks.*.mod_y = transformer_blocks.*.norm1_context.linear_1
blocks.*.mlp_{x,y}.w1 = swap transformer_blocks.*.{ff,ff_context}.net.0.proj
blocks.*.mlp_{x,y}.w2 = transformer_blocks.*.{ff,ff_context}.net.2
x_embedder.proj = patch_embed.proj
t_embedder.mlp.{0,2} = time_embed.timestep_embedder.linear_{1,2}
t5_y_embedder.{to_kv,to_q,to_out} = time_embed.pooler.{to_kv,to_q,to_out}
t5_yproj = time_embed.caption_proj
final_layer.linear = proj_out
final_layer.mod = swap norm_out.linear
"""

_AURAFLOW = """
double_layers.*.mlpX.{c_fc1,c_fc2,c_proj} = joint_transformer_blocks.*.ff.{linear_1,linear_2,out_projection}
double_layers.*.mlpC.{c_fc1,c_fc2,c_proj} = joint_transformer_blocks.*.ff_context.{linear_1,linear_2,out_projection}
double_layers.*.{modX,modC}.1 = joint_transformer_blocks.*.{norm1,norm1_context}.linear
double_layers.*.attn.{w2q,w2k,w2v,w2o} = joint_transformer_blocks.*.attn.{to_q,to_k,to_v,to_out.0}
double_layers.*.attn.{w1q,w1k,w1v,w1o} = joint_transformer_blocks.*.attn.{add_q_proj,add_k_proj,add_v_proj,to_add_out}
single_layers.*.mlp.{c_fc1,c_fc2,c_proj} = single_transformer_blocks.*.ff.{linear_1,linear_2,out_projection}
single_layers.*.modCX.1 = single_transformer_blocks.*.norm1.linear
single_layers.*.attn.{w1q,w1k,w1v,w1o} = single_transformer_blocks.*.attn.{to_q,to_k,to_v,to_out.0}
t_embedder.mlp.{0,2} = time_step_proj.linear_{1,2}
{cond_seq_linear,final_linear} = {context_embedder,proj_out}
{init_x_linear,positional_encoding} = pos_embed.{proj,pos_embed}
modF.1 = swap norm_out.linear
"""

_LUMINA_2 = """
*.*.attention.qkv = *.*.attn.to_q + .to_k + .to_v
*.*.attention.{out,q_norm,k_norm} = *.*.attn.{to_out.0,norm_q,norm_k}
*.*.feed_forward.w{1,2,3} = *.*.feed_forward.linear_{1,2,3}
*.*.{adaLN_modulation.1,attention_norm1,attention_norm1,attention_norm2} = *.*.{norm1.linear,norm1.norm,norm1,norm2}
cap_embedder.** = time_caption_embed.caption_embedder.**
t_embedder.mlp.{0,2} = time_caption_embed.timestep_embedder.linear_{1,2}
final_layer.{adaLN_modulation.1,linear} = norm_out.linear_{1,2}
"""

_Z_IMAGE = """
*.*.attention.qkv = *.*.attention.to_q + .to_k + .to_v
*.*.attention.{out,q_norm,k_norm} = *.*.attention.{to_out.0,norm_q,norm_k}
final_layer.** = all_final_layer.2-1.**
x_embedder = all_x_embedder.2-1
"""

# PixArt and Sana, which come from one house.
_TOGETHER = """
blocks.*.attn.qkv = transformer_blocks.*.attn1.to_q + .to_k + .to_v
blocks.*.attn.proj = transformer_blocks.*.attn1.to_out.0
blocks.*.cross_attn.kv_linear = transformer_blocks.*.attn2.to_k + .to_v
blocks.*.cross_attn.{q_linear,proj} = transformer_blocks.*.attn2.{to_q,to_out.0}
blocks.*.mlp.fc{1,2} = transformer_blocks.*.ff.net.{0.proj,2}
blocks.*.mlp.{inverted,depth,point}_conv.conv = transformer_blocks.*.ff.conv_{inverted,depth,point}
blocks.*.scale_shift_table = transformer_blocks.*.scale_shift_table
y_embedder.y_proj.fc{1,2} = caption_projection.linear_{1,2}
final_layer.{linear,scale_shift_table} = {proj_out,scale_shift_table}
"""
_PIXART = f"""{_TOGETHER}
x_embedder.proj = pos_embed.proj
t_embedder.mlp.{{0,2}} = adaln_single.emb.timestep_embedder.linear_{{1,2}}
t_block.1 = adaln_single.linear
csize_embedder.mlp.{{0,2}} = adaln_single.emb.resolution_embedder.linear_{{1,2}}
ar_embedder.mlp.{{0,2}} = adaln_single.emb.aspect_ratio_embedder.linear_{{1,2}}
"""
_SANA = f"""{_TOGETHER}
x_embedder.proj = patch_embed.proj
t_embedder.mlp.{{0,2}} = time_embed.emb.timestep_embedder.linear_{{1,2}}
t_block.1 = time_embed.linear
attention_y_norm = caption_norm
"""

# The motion modules of AnimateDiff, as the authors' motion LoRAs name them.
_MOTION = """
**.temporal_transformer.transformer_blocks.*.attention_blocks.{0,1}.** = **.transformer_blocks.*.attn{1,2}.**
"""

# By the class of the network. What is not named here has the same names everywhere (Qwen-Image, CogVideoX).
LAYOUTS: dict[str, str] = {
    "AuraFlowTransformer2DModel": _AURAFLOW,
    "ChromaTransformer2DModel": _FLUX,
    "Flux2Transformer2DModel": _FLUX_2,
    "FluxTransformer2DModel": _FLUX,
    "HunyuanVideoTransformer3DModel": _HUNYUAN_VIDEO,
    "LTXVideoTransformer3DModel": _LTX,
    "Lumina2Transformer2DModel": _LUMINA_2,
    "MochiTransformer3DModel": _MOCHI,
    "PixArtTransformer2DModel": _PIXART,
    "SD3Transformer2DModel": _SD3,
    "SanaTransformer2DModel": _SANA,
    "UNetMotionModel": _MOTION,
    "WanTransformer3DModel": _WAN,
    "ZImageTransformer2DModel": _Z_IMAGE,
}
