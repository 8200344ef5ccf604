"""Settings of tiny random models, one for each row of the matrix of architectures (``benchmarks/matrix.py``).

Each row is (model type of transformers, settings on top of BASE, what is special about it).
"""

from __future__ import annotations

from typing import Any

VOCABULARY = 320
ORIGINAL = 32
Settings = dict[str, Any]
BASE: Settings = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,  # sharp attention: a wrong position anywhere changes the next token
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": 1,
}


def rope(kind: str, **more: Any) -> Settings:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **more}}


def yarn(factor: float = 8.0, **more: Any) -> Settings:
    return rope("yarn", factor=factor, **{"original_max_position_embeddings": ORIGINAL, **more})


def longrope(pairs: int, **more: Any) -> Settings:
    """Distinct factors for two windows: 32 tokens and 256."""
    short, long = [1 + 0.05 * i for i in range(pairs)], [1.5 + 0.9 * i for i in range(pairs)]
    known = {"short_factor": short, "long_factor": long, "original_max_position_embeddings": ORIGINAL}
    return rope("longrope", **{**known, "rope_theta": 1000.0, **more})


HEAD: Settings = {"head_dim": 16}
SLIDING: Settings = {"sliding_window": 24}
PAIR: Settings = {"layer_types": ["sliding_attention", "full_attention"] * 2}
EXPERTS: Settings = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LOCAL: Settings = {"num_local_experts": 4, "num_experts_per_tok": 2}
ROUTED: Settings = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "n_group": 2,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "n_shared_experts": 1,
}
LATENT: Settings = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
}
MAMBA: Settings = {
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_n_groups": 1,
    "mamba_d_state": 16,
    "mamba_chunk_size": 16,
}
LINEAR: Settings = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
DELTA: Settings = {"layer_types": ["linear_attention", "full_attention"] * 2, **LINEAR}
INDEXER: Settings = {"index_n_heads": 2, "index_head_dim": 16, "index_topk": 16}

ARCHITECTURES: dict[str, tuple[str, Settings, str]] = {
    # One RoPE over the whole head, or over a part of it
    "llama": ("llama", {}, "RoPE"),
    "llama-linear": ("llama", rope("linear", factor=4.0), "linear scaling"),
    "llama-llama3": (
        "llama",
        rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64),
        "llama3 scaling",
    ),
    "llama-yarn": ("llama", yarn(), "yarn"),
    "llama-dynamic": ("llama", {"max_position_embeddings": 64, **rope("dynamic", factor=4.0)}, "dynamic NTK"),
    "llama-longrope": ("llama", longrope(8), "longrope"),
    "qwen2": ("qwen2", {}, "RoPE, biases"),
    "qwen2-yarn": ("qwen2", yarn(4.0, original_max_position_embeddings=64), "yarn"),
    "qwen2-sliding": (
        "qwen2",
        {"use_sliding_window": True, "max_window_layers": 2, **SLIDING},
        "sliding in some layers",
    ),
    "qwen3": ("qwen3", HEAD, "norm of queries and keys"),
    "mistral": ("mistral", {"sliding_window": None}, "RoPE"),
    "mistral-sliding": ("mistral", SLIDING, "sliding window"),
    "mistral-longrope": ("mistral", {**SLIDING, **longrope(8)}, "sliding window, longrope"),
    "ministral": ("ministral", {**HEAD, **SLIDING, **PAIR}, "sliding window in some layers"),
    "ministral3": (
        "ministral3",
        {**HEAD, **yarn(llama_4_scaling_beta=0.1, mscale=1.0, mscale_all_dim=1.0)},
        "yarn, temperature by position",
    ),
    "phi": ("phi", {"partial_rotary_factor": 0.5}, "partial RoPE"),
    "phi3": ("phi3", {"original_max_position_embeddings": ORIGINAL, **longrope(8)}, "longrope"),
    "phi4-mini": (
        "phi3",
        {
            "original_max_position_embeddings": ORIGINAL,
            "sliding_window": 262144,
            **longrope(6, partial_rotary_factor=0.75),
        },
        "longrope, partial RoPE",
    ),
    "gemma": ("gemma", HEAD, "RoPE"),
    "gemma2": (
        "gemma2",
        {
            **HEAD,
            **SLIDING,
            "query_pre_attn_scalar": 16,
            "final_logit_softcapping": 30.0,
            "attn_logit_softcapping": 50.0,
        },
        "soft caps, sliding window",
    ),
    "gemma3": ("gemma3_text", {**HEAD, **SLIDING, **PAIR, "query_pre_attn_scalar": 16}, "two RoPEs"),
    "gemma3n": (
        "gemma3n_text",
        {
            **HEAD,
            **SLIDING,
            **PAIR,
            "num_kv_shared_layers": 2,
            "vocab_size_per_layer_input": VOCABULARY,
            "hidden_size_per_layer_input": 16,
            "laurel_rank": 8,
            "activation_sparsity_pattern": [0.0] * 4,
        },
        "layers that share a cache",
    ),
    "gemma4": (
        "gemma4_text",
        {
            **HEAD,
            **SLIDING,
            **PAIR,
            "global_head_dim": 32,
            "vocab_size_per_layer_input": VOCABULARY,
            "hidden_size_per_layer_input": 16,
        },
        "two RoPEs, two head sizes",
    ),
    "vaultgemma": ("vaultgemma", {**HEAD, **SLIDING, "query_pre_attn_scalar": 16}, "soft caps"),
    "smollm3": ("smollm3", {}, "layers without RoPE"),
    "olmo": ("olmo", {}, "RoPE"),
    "olmo2": ("olmo2", {}, "RoPE"),
    "olmo3": ("olmo3", SLIDING, "sliding window in some layers"),
    "cohere": ("cohere", {"logit_scale": 1.0}, "interleaved RoPE"),
    "cohere2": (
        "cohere2",
        {**SLIDING, "sliding_window_pattern": 2, "logit_scale": 1.0},
        "sliding window, layers without RoPE",
    ),
    "glm": ("glm", {"head_dim": 16, "partial_rotary_factor": 0.5}, "partial interleaved RoPE"),
    "glm4": ("glm4", {"head_dim": 16, "partial_rotary_factor": 0.5}, "partial interleaved RoPE"),
    "gpt_neox": ("gpt_neox", {"rotary_pct": 0.25}, "partial RoPE"),
    "gptj": ("gptj", {"rotary_dim": 8}, "interleaved RoPE without a rotary module"),
    "codegen": ("codegen", {"rotary_dim": 8}, "interleaved RoPE without a rotary module"),
    "stablelm": ("stablelm", {"partial_rotary_factor": 0.25}, "partial RoPE"),
    "starcoder2": ("starcoder2", SLIDING, "sliding window"),
    "persimmon": ("persimmon", {"partial_rotary_factor": 0.5}, "partial RoPE"),
    "nemotron": ("nemotron", {"partial_rotary_factor": 0.5}, "partial RoPE"),
    "granite": (
        "granite",
        {"logits_scaling": 8.0, "embedding_multiplier": 12.0, "attention_multiplier": 0.1, "residual_multiplier": 0.22},
        "multipliers",
    ),
    "exaone4": ("exaone4", {**SLIDING, "sliding_window_pattern": 2}, "sliding window, layers without RoPE"),
    "ernie4_5": ("ernie4_5", HEAD, "interleaved RoPE"),
    "hunyuan": ("hunyuan_v1_dense", {**HEAD, **rope("dynamic", alpha=1000.0, factor=1.0)}, "NTK by alpha"),
    "helium": ("helium", HEAD, "interleaved RoPE"),
    "seed_oss": ("seed_oss", HEAD, "RoPE"),
    "apertus": (
        "apertus",
        rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64),
        "llama3 scaling",
    ),
    "arcee": ("arcee", yarn(), "yarn"),
    "bitnet": ("bitnet", {}, "RoPE"),
    "diffllama": ("diffllama", {}, "differential attention"),
    "doge": ("doge", {}, "dynamic mask attention"),
    "nanochat": ("nanochat", {}, "RoPE"),
    "falcon": ("falcon", {"new_decoder_architecture": True}, "RoPE"),
    "modernbert-decoder": (
        "modernbert-decoder",
        {
            "local_attention": 24,
            "global_attn_every_n_layers": 2,
            "bos_token_id": 2,
            "cls_token_id": 2,
            "sep_token_id": 0,
        },
        "two RoPEs, sliding window",
    ),
    # Mixtures of experts
    "mixtral": ("mixtral", {**LOCAL, "sliding_window": None}, "experts"),
    "qwen2_moe": ("qwen2_moe", {**EXPERTS, "shared_expert_intermediate_size": 32}, "experts"),
    "qwen3_moe": ("qwen3_moe", {**HEAD, **EXPERTS}, "experts"),
    "phimoe": (
        "phimoe",
        {
            "num_local_experts": 2,
            "num_experts_per_tok": 2,
            "original_max_position_embeddings": ORIGINAL,
            **longrope(8, short_mscale=1.2431, long_mscale=1.2431),
        },
        "experts, longrope with its own temperatures",
    ),
    "olmoe": ("olmoe", EXPERTS, "experts"),
    "granitemoe": ("granitemoe", LOCAL, "experts"),
    "dbrx": (
        "dbrx",
        {
            "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
            "d_model": 64,
            "n_heads": 4,
            "n_layers": 4,
            "max_seq_len": 256,
            "ffn_config": {"ffn_hidden_size": 96, "moe_num_experts": 4, "moe_top_k": 2},
        },
        "experts",
    ),
    "gpt_oss": (
        "gpt_oss",
        {**HEAD, **SLIDING, **LOCAL, **yarn(beta_fast=32.0, beta_slow=1.0, truncate=False, rope_theta=150000.0)},
        "experts, sinks, sliding window, yarn",
    ),
    "glm4_moe": ("glm4_moe", {**HEAD, **ROUTED, "partial_rotary_factor": 0.5}, "experts, partial RoPE"),
    "ernie4_5_moe": ("ernie4_5_moe", {**EXPERTS, "moe_num_experts": 4, "moe_k": 2}, "experts, interleaved RoPE"),
    "minimax_m2": ("minimax_m2", {**HEAD, **LOCAL, "rotary_dim": 8}, "experts, partial RoPE"),
    "dots1": ("dots1", {**HEAD, **ROUTED}, "experts"),
    "hunyuan_moe": (
        "hunyuan_v1_moe",
        {**HEAD, "num_experts": 4, "moe_topk": 2, **rope("dynamic", alpha=1000.0, factor=1.0)},
        "experts, NTK by alpha",
    ),
    "jetmoe": ("jetmoe", {**LOCAL, "kv_channels": 16}, "experts of attention"),
    "llama4": (
        "llama4_text",
        {
            **HEAD,
            "attention_chunk_size": 32,
            "num_local_experts": 2,
            "intermediate_size_mlp": 96,
            "interleave_moe_layer_step": 2,
            "no_rope_layer_interval": 2,
        },
        "attention in chunks, layers without RoPE",
    ),
    "afmoe": ("afmoe", {**HEAD, **SLIDING, **EXPERTS}, "experts, sliding window, layers without RoPE"),
    "mimo_v2_flash": (
        "mimo_v2_flash",
        {**HEAD, **SLIDING, **ROUTED, "v_head_dim": 8},
        "experts, two RoPEs, values narrower than keys",
    ),
    # Latent attention: keys and values of different sizes
    "deepseek_v2": ("deepseek_v2", {**LATENT, **ROUTED, "topk_method": "greedy"}, "latent attention"),
    "deepseek_v3": (
        "deepseek_v3",
        {**LATENT, **ROUTED, **yarn(mscale=1.0, mscale_all_dim=1.0, beta_fast=32, beta_slow=1)},
        "latent attention, yarn",
    ),
    "deepseek_v3-wide": (
        "deepseek_v3",
        {**LATENT, **ROUTED, "v_head_dim": 32},
        "latent attention, values wider than keys",
    ),
    "deepseek_v32": ("deepseek_v32", {**LATENT, **ROUTED, **INDEXER}, "latent attention with an indexer"),
    "glm4_moe_lite": ("glm4_moe_lite", {**LATENT, **ROUTED}, "latent attention"),
    "glm_moe_dsa": ("glm_moe_dsa", {**LATENT, **ROUTED, **INDEXER}, "latent attention with an indexer"),
    "minicpm3": ("minicpm3", LATENT, "latent attention"),
    "longcat_flash": (
        "longcat_flash",
        {
            **LATENT,
            "head_dim": 8,
            "num_layers": 2,
            "n_routed_experts": 4,
            "zero_expert_num": 2,
            "moe_topk": 2,
            "ffn_hidden_size": 96,
            "expert_ffn_hidden_size": 32,
        },
        "latent attention, two caches a layer",
    ),
    "youtu": ("youtu", LATENT, "latent attention"),
    # Recurrent layers, alone or beside attention
    "bamba": ("bamba", {**MAMBA, "attn_layer_indices": [1, 3]}, "Mamba 2 and attention"),
    "falcon_h1": ("falcon_h1", {**HEAD, **MAMBA, "mamba_n_heads": 4, "mamba_d_ssm": 64}, "Mamba 2 beside attention"),
    "granitemoehybrid": (
        "granitemoehybrid",
        {
            **MAMBA,
            **LOCAL,
            "layer_types": ["mamba", "attention"] * 2,
            "shared_intermediate_size": 32,
            "position_embedding_type": "rope",
        },
        "Mamba 2 and attention",
    ),
    "jamba": (
        "jamba",
        {
            "mamba_d_state": 8,
            "mamba_dt_rank": 4,
            "num_experts": 2,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
        },
        "Mamba and attention, no RoPE",
    ),
    "nemotron_h": (
        "nemotron_h",
        {
            **HEAD,
            "layers_block_type": ["mamba", "attention", "moe", "attention"],
            "mamba_num_heads": 8,
            "mamba_head_dim": 16,
            "n_groups": 1,
            "ssm_state_size": 16,
            "chunk_size": 16,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "n_shared_experts": 1,
            "moe_shared_expert_intermediate_size": 32,
        },
        "Mamba 2 and attention, no RoPE",
    ),
    "zamba2": (
        "zamba2",
        {
            "mamba_d_state": 16,
            "mamba_headdim": 16,
            "n_mamba_heads": 8,
            "mamba_ngroups": 1,
            "chunk_size": 16,
            "layers_block_type": ["linear_attention", "hybrid"] * 2,
            "use_mem_rope": True,
        },
        "Mamba 2 and shared attention",
    ),
    "qwen3_next": (
        "qwen3_next",
        {**HEAD, **EXPERTS, **DELTA, "shared_expert_intermediate_size": 32},
        "gated delta net",
    ),
    "qwen3_5": ("qwen3_5_text", {**HEAD, **DELTA}, "gated delta net, RoPE of three axes"),
    "qwen3_5_moe": (
        "qwen3_5_moe_text",
        {**HEAD, **EXPERTS, **DELTA, "shared_expert_intermediate_size": 32},
        "gated delta net, RoPE of three axes",
    ),
    "olmo_hybrid": ("olmo_hybrid", DELTA, "gated delta net"),
    "kimi_linear": (
        "kimi_linear",
        {
            **LATENT,
            **ROUTED,
            "linear_attn_config": {
                "num_heads": 4,
                "head_dim": 16,
                "short_conv_kernel_size": 4,
                "kda_layers": [1, 3],
                "full_attn_layers": [2, 4],
            },
            "num_experts": 4,
        },
        "delta attention and latent attention",
    ),
    "lfm2": (
        "lfm2",
        {
            "block_dim": 64,
            "block_ff_dim": 96,
            "block_multiple_of": 8,
            "full_attn_idxs": [1, 3],
            "layer_types": ["conv", "full_attention"] * 2,
        },
        "convolution and attention",
    ),
    "lfm2_moe": (
        "lfm2_moe",
        {**EXPERTS, "num_dense_layers": 1, "layer_types": ["conv", "full_attention"] * 2},
        "convolution and attention",
    ),
    "minimax": (
        "minimax",
        {**HEAD, **LOCAL, "layer_types": ["linear_attention", "full_attention"] * 2, "block_size": 16},
        "lightning attention",
    ),
    "recurrent_gemma": (
        "recurrent_gemma",
        {**HEAD, "lru_width": 64, "attention_window_size": 24, "num_hidden_layers": 6},
        "recurrent and sliding layers",
    ),
    "mamba": ("mamba", {"state_size": 16}, "Mamba"),
    "mamba2": (
        "mamba2",
        {"state_size": 16, "num_heads": 8, "head_dim": 16, "n_groups": 1, "chunk_size": 16},
        "Mamba 2",
    ),
    "falcon_mamba": ("falcon_mamba", {"state_size": 16}, "Mamba"),
    "rwkv": ("rwkv", {"attention_hidden_size": 64, "context_length": 256}, "recurrent"),
    "xlstm": ("xlstm", {"num_heads": 4, "num_blocks": 4, "qk_dim_factor": 1.0}, "recurrent"),
    "zaya": ("zaya", {**HEAD, **EXPERTS, "num_experts_per_tok": 1, "router_hidden_size": 16}, "convolved attention"),
    # Positions without RoPE
    "gpt2": ("gpt2", {}, "learned positions"),
    "gpt_bigcode": ("gpt_bigcode", {}, "learned positions"),
    "gpt_neo": (
        "gpt_neo",
        {"attention_types": [[["global", "local"], 2]], "window_size": 24},
        "learned positions, sliding",
    ),
    "opt": ("opt", {"ffn_dim": 96, "word_embed_proj_dim": 64}, "learned positions"),
    "biogpt": ("biogpt", {}, "learned positions"),
    "xglm": ("xglm", {"d_model": 64, "ffn_dim": 96, "num_layers": 4, "attention_heads": 4}, "sinusoidal positions"),
    "bloom": ("bloom", {}, "ALiBi"),
    "mpt": ("mpt", {"expansion_ratio": 2, "max_seq_len": 256}, "ALiBi"),
    "falcon-alibi": ("falcon", {"alibi": True, "multi_query": False}, "ALiBi"),
    "cpmant": ("cpmant", {"dim_head": 16, "dim_ff": 96, "prompt_length": 4}, "position buckets, no mask"),
    "openai-gpt": ("openai-gpt", {}, "learned positions, no cache"),
}
