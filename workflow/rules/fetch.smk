"""Fetches each configured checkpoint, VAE, LoRA, embedding, upscaler, ControlNet and score into the models folder, with a receipt of its identity.

REQUIRED INPUTS: the configured sources: safetensors files, or Diffusers folders for checkpoints. For a remote source
                 its pin, .snakemake/darkroom/pins/SECTION/NAME.json, which holds the wanted SHA256.
OUTPUTS:         MODELS/checkpoints/NAME.safetensors or the folder MODELS/checkpoints/NAME/; NAME.safetensors in
                 MODELS/vaes/, MODELS/loras/, MODELS/embeddings/, MODELS/upscalers/, MODELS/controlnets/ and MODELS/scores/;
                 beside each a NAME.receipt.json (size, SHA256). Later rules depend on the receipts only.
"""


rule fetch_checkpoint:
    input:
        pin=get_pin,
    output:
        fetched=f"{plan.models_dir}/checkpoints/{{checkpoint}}.safetensors",
        receipt=f"{plan.models_dir}/checkpoints/{{checkpoint}}.receipt.json",
    log:
        "logs/fetch/{checkpoint}.log",
    wildcard_constraints:
        checkpoint=one_of(plan.sources.names(folders=False)),
    localrule: True  # a cluster's nodes often have no network
    conda:
        "../../envs/darkroom.yaml"
    params:
        source=get_source,
        sha256=get_source_sha256,
        parameterization=get_parameterization,
        kind=get_kind,
        flags=get_fetch_flags,
    message:
        "fetch {wildcards.checkpoint}"
    shell:
        "darkroom fetch {params.source:q} {output.fetched:q} "
        "--kind {params.kind:q} "
        "--receipt {output.receipt:q} "
        "--log {log:q} "
        "{params.flags:q}"


use rule fetch_checkpoint as fetch_folder with:
    output:
        fetched=directory(f"{plan.models_dir}/checkpoints/{{checkpoint}}"),
        receipt=f"{plan.models_dir}/checkpoints/{{checkpoint}}.receipt.json",
    wildcard_constraints:
        checkpoint=one_of(plan.sources.names(folders=True)),
    localrule: True
    message:
        "fetch {wildcards.checkpoint}, a Diffusers folder"


use rule fetch_checkpoint as fetch_vae with:
    output:
        fetched=f"{plan.models_dir}/vaes/{{vae}}.safetensors",
        receipt=f"{plan.models_dir}/vaes/{{vae}}.receipt.json",
    log:
        "logs/fetch/vaes/{vae}.log",
    localrule: True
    message:
        "fetch the VAE {wildcards.vae}"


use rule fetch_checkpoint as fetch_lora with:
    output:
        fetched=f"{plan.models_dir}/loras/{{lora}}.safetensors",
        receipt=f"{plan.models_dir}/loras/{{lora}}.receipt.json",
    log:
        "logs/fetch/loras/{lora}.log",
    localrule: True
    message:
        "fetch the LoRA {wildcards.lora}"


use rule fetch_checkpoint as fetch_embedding with:
    output:
        fetched=f"{plan.models_dir}/embeddings/{{embedding}}.safetensors",
        receipt=f"{plan.models_dir}/embeddings/{{embedding}}.receipt.json",
    log:
        "logs/fetch/embeddings/{embedding}.log",
    localrule: True
    message:
        "fetch the embedding {wildcards.embedding}"


use rule fetch_checkpoint as fetch_upscaler with:
    output:
        fetched=f"{plan.models_dir}/upscalers/{{upscaler}}.safetensors",
        receipt=f"{plan.models_dir}/upscalers/{{upscaler}}.receipt.json",
    log:
        "logs/fetch/upscalers/{upscaler}.log",
    localrule: True
    message:
        "fetch the upscaler {wildcards.upscaler}"


use rule fetch_checkpoint as fetch_controlnet with:
    output:
        fetched=f"{plan.models_dir}/controlnets/{{controlnet}}.safetensors",
        receipt=f"{plan.models_dir}/controlnets/{{controlnet}}.receipt.json",
    log:
        "logs/fetch/controlnets/{controlnet}.log",
    localrule: True
    message:
        "fetch the ControlNet {wildcards.controlnet}"


use rule fetch_checkpoint as fetch_score with:
    output:
        fetched=f"{plan.models_dir}/scores/{{score}}.safetensors",
        receipt=f"{plan.models_dir}/scores/{{score}}.receipt.json",
    log:
        "logs/fetch/scores/{score}.log",
    localrule: True
    message:
        "fetch the score {wildcards.score}"
