"""Checks the configs and every tensor's name, shape and dtype of a Diffusers folder, and hashes its files.

REQUIRED INPUTS: MODELS/diffusers/NAME/ and its audit. Changes of the receipts, of the conversion's options and of the
                 audit count; a change of the folder alone doesn't, so that a conversion with the same result renders
                 nothing again. The audit isn't ancient: a conversion with other options has to reach the pictures in
                 the same run.
OUTPUTS:         MODELS/verified/NAME.json, the receipt that pictures depend on.
"""


rule verify_model:
    input:
        model=ancient(rules.convert_checkpoint.output.model),
        audit=rules.convert_checkpoint.output.audit,
        receipts=get_receipts,
    output:
        verified=f"{plan.models_dir}/verified/{{checkpoint}}.json",
    log:
        "logs/verify/{checkpoint}.log",
    conda:
        "../../envs/darkroom.yaml"
    params:
        conversion=get_conversion,
        revision=revisions.VERIFY,
    message:
        "verify {wildcards.checkpoint}"
    shell:
        "darkroom verify {input.model:q} " "--receipt {output.verified:q} " "--log {log:q}"
