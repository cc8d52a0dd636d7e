"""Brings each configured checkpoint into the store, with a receipt that says what it is.

REQUIRED INPUTS: the source that the configuration names.
OUTPUTS:         MODELS/checkpoints/NAME.safetensors and NAME.receipt.json (size, SHA256).
"""


rule fetch_checkpoint:
    output:
        checkpoint=f"{plan.models_dir}/checkpoints/{{checkpoint}}.safetensors",
        receipt=f"{plan.models_dir}/checkpoints/{{checkpoint}}.receipt.json",
    log:
        "logs/fetch/{checkpoint}.log",
    conda:
        "../../envs/darkroom.yaml"
    params:
        source=get_source,
        sha256=get_source_sha256,
    message:
        "fetch {wildcards.checkpoint}"
    shell:
        "darkroom fetch {params.source:q} {output.checkpoint:q} "
        "--receipt {output.receipt:q} "
        "--sha256 {params.sha256:q} "
        "--log {log:q}"
