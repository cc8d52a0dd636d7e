"""Converts a single-file checkpoint to a Diffusers folder by copying byte ranges; a fetched folder is verified instead.

REQUIRED INPUTS: MODELS/checkpoints/NAME.safetensors or NAME/ with its receipt, and MODELS/vaes/VAE.safetensors with its
                 receipt if the checkpoint names a VAE. Only changed receipts cause a new conversion.
OUTPUTS:         MODELS/diffusers/NAME/, and NAME.audit.json, which records what was converted, how and why.
"""


rule convert_checkpoint:
    input:
        sources=ancient(get_fetched),
        receipts=get_receipts,
    output:
        model=directory(f"{plan.models_dir}/diffusers/{{checkpoint}}"),
        audit=f"{plan.models_dir}/diffusers/{{checkpoint}}.audit.json",
    log:
        "logs/convert/{checkpoint}.log",
    conda:
        "../../envs/darkroom.yaml"
    params:
        conversion=get_conversion,
        options=get_conversion_options,
        flags=get_conversion_flags,
    message:
        "convert {wildcards.checkpoint} to a Diffusers folder"
    shell:
        "darkroom convert {input.sources[0]:q} {output.model:q} "
        "--dtype {params.options.dtype:q} "
        "--prediction {params.options.prediction:q} "
        "--architecture {params.options.architecture:q} "
        "--receipt {input.receipts[0]:q} "
        "--name {wildcards.checkpoint:q} "
        "--log {log:q} "
        "{params.flags:q}"
