"""Names as people type them in other tools resolve to one pair, and wrong ones get the nearest right ones."""

from __future__ import annotations

import pytest

from diffgen.errors import UsageError
from diffgen.samplers import SAMPLERS
from diffgen.schedules import SCHEDULES
from diffgen.spelling import canonical

# One line a tool's spelling of a sampler, with its schedule where one is fused: collected from the option lists.
A1111 = """
DPM++ 2M = dpmpp_2m | DPM++ SDE = dpmpp_sde | DPM++ 2M SDE = dpmpp_2m_sde | DPM++ 2M SDE Heun = dpmpp_2m_sde
DPM++ 2S a = dpmpp_2s_ancestral | DPM++ 3M SDE = dpmpp_3m_sde | Euler a = euler_ancestral | Euler = euler
LMS = lms | Heun = heun | DPM2 = dpm_2 | DPM2 a = dpm_2_ancestral | Restart = restart | DDIM = ddim | PLMS = plms
UniPC = unipc | LCM = lcm | DDPM = ddpm | DEIS = deis | IPNDM = ipndm | ER SDE = er_sde | SA-Solver = sa_solver
SEEDS 2 = seeds_2 | RES multistep = res_multistep | DPM++ 2M Karras = dpmpp_2m karras | Euler A = euler_ancestral
DPM++ SDE Karras = dpmpp_sde karras | DPM++ 2M SDE Karras = dpmpp_2m_sde karras
DPM++ 2M SDE Exponential = dpmpp_2m_sde exponential | DPM++ 2M SDE Heun Karras = dpmpp_2m_sde karras
DPM++ 2M SDE Heun Exponential = dpmpp_2m_sde exponential | DPM++ 3M SDE Karras = dpmpp_3m_sde karras
DPM++ 3M SDE Exponential = dpmpp_3m_sde exponential | DPM++ 2S a Karras = dpmpp_2s_ancestral karras
LMS Karras = lms karras | DPM2 Karras = dpm_2 karras | DPM2 a Karras = dpm_2_ancestral karras
Euler SGM Uniform = euler sgm_uniform | DPM++ 2M SGM Uniform = dpmpp_2m sgm_uniform | Euler Karras = euler karras
DPM++ 2M Turbo SGM Uniform = ? | DDIM Karras = ddim karras | Euler a Karras = euler_ancestral karras
DPM++ 2M Align Your Steps = dpmpp_2m ays | Euler Beta = euler beta | Euler Simple = euler simple
DPM++ 2M Polyexponential = dpmpp_2m polyexponential | DPM++ 2M KL Optimal = dpmpp_2m kl_optimal
Heun Normal = heun normal | Euler Uniform = euler normal | UniPC SGM Uniform = unipc sgm_uniform | K_EULER_A = euler_ancestral
"""
COMFY = """
euler = euler | euler_ancestral = euler_ancestral | heun = heun | dpm_2 = dpm_2 | dpm_2_ancestral = dpm_2_ancestral
lms = lms | dpmpp_2s_ancestral = dpmpp_2s_ancestral | dpmpp_sde = dpmpp_sde | dpmpp_sde_gpu = dpmpp_sde
dpmpp_2m = dpmpp_2m | dpmpp_2m_sde = dpmpp_2m_sde | dpmpp_2m_sde_gpu = dpmpp_2m_sde
dpmpp_2m_sde_heun = dpmpp_2m_sde | dpmpp_2m_sde_heun_gpu = dpmpp_2m_sde | dpmpp_3m_sde = dpmpp_3m_sde
dpmpp_3m_sde_gpu = dpmpp_3m_sde | ddpm = ddpm | lcm = lcm | ipndm = ipndm | deis = deis
res_multistep = res_multistep | res_multistep_ancestral = res_multistep | er_sde = er_sde | seeds_2 = seeds_2
sa_solver = sa_solver | ddim = ddim | uni_pc = unipc | uni_pc_bh2 = unipc | dpmpp_2m_karras = dpmpp_2m karras
euler_karras = euler karras | dpmpp_2m_sde_karras = dpmpp_2m_sde karras | dpmpp_2m_sde_gpu_karras = dpmpp_2m_sde karras
euler_normal = euler normal | euler_simple = euler simple | euler_sgm_uniform = euler sgm_uniform
euler_beta = euler beta | euler_ancestral_normal = euler_ancestral normal | dpmpp_2m_simple = dpmpp_2m simple
dpmpp_2m_beta = dpmpp_2m beta | dpmpp_2m_sgm_uniform = dpmpp_2m sgm_uniform | dpmpp_sde_karras = dpmpp_sde karras
dpmpp_3m_sde_exponential = dpmpp_3m_sde exponential | uni_pc_simple = unipc simple | uni_pc_bh2_simple = unipc simple
deis_beta = deis beta | res_multistep_bong_tangent = res_multistep bong_tangent | euler_beta57 = euler beta
res_multistep_simple = res_multistep simple | lcm_sgm_uniform = lcm sgm_uniform | ddim_ddim_uniform = ddim ddim_uniform
euler_ancestral_karras = euler_ancestral karras | heun_karras = heun karras | dpm_2_karras = dpm_2 karras
lms_karras = lms karras | euler_linear_quadratic = euler linear_quadratic | euler_kl_optimal = euler kl_optimal
ipndm_simple = ipndm simple | er_sde_simple = er_sde simple | sa_solver_simple = sa_solver simple
"""
DIFFUSERS = """
DDIMScheduler = ddim | DDPMScheduler = ddpm | DEISMultistepScheduler = deis | DPMSolverMultistepScheduler = dpmpp_2m
DPMSolverSinglestepScheduler = dpmpp_2s | DPMSolverSDEScheduler = dpmpp_sde | EDMEulerScheduler = euler
EulerAncestralDiscreteScheduler = euler_ancestral | EulerDiscreteScheduler = euler | HeunDiscreteScheduler = heun
FlowMatchEulerDiscreteScheduler = euler | FlowMatchHeunDiscreteScheduler = heun | FlowMatchLCMScheduler = lcm
IPNDMScheduler = ipndm | KDPM2DiscreteScheduler = dpm_2 | KDPM2AncestralDiscreteScheduler = dpm_2_ancestral
LCMScheduler = lcm | LMSDiscreteScheduler = lms | PNDMScheduler = plms | TCDScheduler = tcd
UniPCMultistepScheduler = unipc | EDMDPMSolverMultistepScheduler = dpmpp_2m | SASolverScheduler = sa_solver
LTXEulerAncestralRFScheduler = euler_ancestral | DPMSolverMultistep = dpmpp_2m | EulerDiscrete = euler
DPM Solver Multistep = dpmpp_2m | Euler Ancestral Discrete = euler_ancestral | UniPC Multistep = unipc
DPM Solver++ = dpmpp_2m | DPMSolver++ 2M = dpmpp_2m | dpmsolver++ = dpmpp_2m | LMSDiscrete = lms | PNDM = plms
"""
INVOKEAI = """
ddim = ddim | ddpm = ddpm | deis = deis | deis_k = deis karras | lms = lms | lms_k = lms karras | pndm = plms
heun = heun | heun_k = heun karras | euler = euler | euler_k = euler karras | euler_a = euler_ancestral
kdpm_2 = dpm_2 | kdpm_2_k = dpm_2 karras | kdpm_2_a = dpm_2_ancestral | kdpm_2_a_k = dpm_2_ancestral karras
dpmpp_2s = dpmpp_2s | dpmpp_2s_k = dpmpp_2s karras | dpmpp_2m_k = dpmpp_2m karras | dpmpp_3m = dpmpp_3m_sde
dpmpp_3m_k = dpmpp_3m_sde karras | dpmpp_2m_sde_k = dpmpp_2m_sde karras | dpmpp_sde_k = dpmpp_sde karras
unipc = unipc | unipc_k = unipc karras | tcd = tcd | er_sde = er_sde
"""
OTHERS = """
k_lms = lms | k_euler = euler | k_euler_a = euler_ancestral | k_euler_ancestral = euler_ancestral | k_heun = heun
k_dpm_2 = dpm_2 | k_dpm_2_a = dpm_2_ancestral | k_dpm_2_ancestral = dpm_2_ancestral | k_dpmpp_2m = dpmpp_2m
k_dpmpp_2s_ancestral = dpmpp_2s_ancestral | k_dpmpp_2s_a = dpmpp_2s_ancestral | k_dpmpp_sde = dpmpp_sde
k_dpmpp_2m_sde = dpmpp_2m_sde | ddim_v3 = ddim | DPM++ 2M Trailing = dpmpp_2m trailing | DPM++ 2M AYS = dpmpp_2m ays
Euler A Trailing = euler_ancestral trailing | Euler A AYS = euler_ancestral ays | DPM++ SDE Trailing = dpmpp_sde trailing
DPM++ SDE AYS = dpmpp_sde ays | UniPC Trailing = unipc trailing | UniPC AYS = unipc ays | DDIM Trailing = ddim trailing
DPM++ SDE Substep = ? | EulerA = euler_ancestral | DPM2A = dpm_2_ancestral | DPM2MKarras = ? | DPM++2M = dpmpp_2m
dpm++2mkarras = dpmpp_2m karras | DPM++ 2M SDE SGM Uniform = dpmpp_2m_sde sgm_uniform | dpm++ 2m = dpmpp_2m
dpm++ sde karras = dpmpp_sde karras | Euler Ancestral = euler_ancestral | UniPC bh1 = ? | uni_pc_bh1 = unipc
DPM-Solver++ 2M = dpmpp_2m | DPM-Solver++ = dpmpp_2m | Euler-a = euler_ancestral | dpm++_2m_karras = dpmpp_2m karras
dpm++_sde_karras = dpmpp_sde karras | dpm++_2m_sde_karras = dpmpp_2m_sde karras | SEEDS2 = seeds_2 | RES = res_multistep
DPM++ 2S Ancestral = dpmpp_2s_ancestral | DPM++ 2S Ancestral Karras = dpmpp_2s_ancestral karras | DPM2 Ancestral = dpm_2_ancestral
dpm2-ancestral = dpm_2_ancestral | dpmpp-2m = dpmpp_2m | dpmpp-2m-sde = dpmpp_2m_sde | euler-ancestral = euler_ancestral
"""


def read(text: str) -> dict[str, tuple[str, str | None]]:
    found = {}
    for entry in text.replace("\n", "|").split("|"):
        spelling, _, meant = (part.strip() for part in entry.partition("="))
        if meant and meant != "?":  # "?": what diffgen has no counterpart for
            sampler, _, schedule = meant.partition(" ")
            found[spelling] = (sampler, schedule or None)
    return found


SPELLINGS = {**read(A1111), **read(COMFY), **read(DIFFUSERS), **read(INVOKEAI), **read(OTHERS)}


def test_two_hundred_spellings_mean_the_right_pair() -> None:
    assert len(SPELLINGS) >= 200
    for name, pair in SPELLINGS.items():
        for typed in (name, name.lower(), name.upper(), f" {name} "):
            assert canonical(typed)[:2] == pair, typed


def test_spellings_that_fix_a_setting() -> None:
    assert canonical("DPM++ 2M SDE Heun Karras") == ("dpmpp_2m_sde", "karras", {"variant": "heun"})
    assert canonical("uni_pc_bh1") == ("unipc", None, {"variant": "bh1"})
    assert canonical("dpmpp_3m_k") == ("dpmpp_3m_sde", "karras", {"eta": 0.0})
    assert canonical("euler", "beta57") == canonical("euler_beta57") == ("euler", "beta", {"alpha": 0.5, "beta": 0.7})


def test_apart_and_fused_are_one_recipe() -> None:
    assert canonical("DPM++ 2M Karras") == canonical("dpmpp_2m", "Karras") == canonical("DPM++ 2M", "Automatic")
    assert canonical("Euler a", "Automatic")[1] == "normal"
    assert canonical("DPM++ 2M Karras", "beta")[1] == "beta"
    for shown, name in {"SGM Uniform": "sgm_uniform", "KL Optimal": "kl_optimal", "Align Your Steps": "ays",
                        "Uniform": "normal", "DDIM": "ddim_uniform", "ddim_uniform": "ddim_uniform"}.items():  # fmt: skip
        assert canonical("Euler", shown)[1] == name


def test_our_own_names_mean_themselves() -> None:
    for name in SAMPLERS:
        assert canonical(name) == (name, None, {})
    for name in SCHEDULES:
        assert canonical(None, name)[1] == name


# A slip of the hand, and what was meant.
WRONG = """
eulr = euler | eular = euler | eulre = euler | euller = euler | euler b = euler | euler x = euler | oiler = euler
euler anc = euler_ancestral | euler ancestrall = euler_ancestral | euler_ancestal = euler_ancestral
eulerancestrial = euler_ancestral | euler_ansestral = euler_ancestral | huen = heun | hen = heun | heunn = heun
dpm3 = dpm_2 | dpm_22 = dpm_2 | dpm 2 b = dpm_2 | dpm2 ancestrl = dpm_2_ancestral | dpm_2_ancest = dpm_2_ancestral
dpm++ 2n = dpmpp_2m | dpm++ 2mm = dpmpp_2m | dpmpp2mm = dpmpp_2m | dpmp_2m = dpmpp_2m | dppmpp_2m = dpmpp_2m
dpm+ 2m = dpmpp_2m | dmpp_2m = dpmpp_2m | dpm++ 9m = dpmpp_2m | dpm++ 2m sd = dpmpp_2m_sde | dpmpp_2m_sed = dpmpp_2m_sde
dpm++ 2m sde kar = dpmpp_2m_sde | dpm++ 3m sd = dpmpp_3m_sde | dpmpp_3m_sdee = dpmpp_3m_sde | dpm++ 3msed = dpmpp_3m_sde
dpm++ sd = dpmpp_sde | dpmpp_sdee = dpmpp_sde | dpm++ 2s anc = dpmpp_2s_ancestral | dpmpp_2s_ancest = dpmpp_2s_ancestral
unipcc = unipc | uni-pcx = unipc | unpic = unipc | univpc = unipc | uni_pc_bh3 = unipc | diem = ddim | ddin = ddim
ddmi = ddim | dddim = ddim | ddpmm = ddpm | lmss = lms | llms = lms | plmss = plms | lcmm = lcm | tcdd = tcd
dies = deis | deiss = deis | ipndmm = ipndm | inpdm = ipndm | res_multistp = res_multistep | er_sed = er_sde
seeds_22 = seeds_2 | sa_solverr = sa_solver | restrat = restart
"""


def test_fifty_wrong_names_get_the_three_nearest() -> None:
    wrong = read(WRONG)
    assert len(wrong) >= 50
    for name, (meant, _) in wrong.items():
        with pytest.raises(UsageError) as raised:
            canonical(name)
        told = str(raised.value)
        near = told.split("did you mean ")[1].split("?")[0].replace(" or ", ", ").split(", ")
        assert len(set(near)) == 3 and set(near) <= set(SAMPLERS), told
        assert meant in near, (name, meant, near)
        assert "accepted: ddim, ddpm, deis" in told
    with pytest.raises(UsageError, match="did you mean karras"):
        canonical("euler", "karas")
