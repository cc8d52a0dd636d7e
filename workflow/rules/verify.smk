"""Reads every config and every tensor's header of a Diffusers folder, and hashes its files.

REQUIRED INPUTS: MODELS/diffusers/NAME/ and its audit. What counts as a change are the receipts of the
                 checkpoint and its VAE, how it is converted and what the audit says, so that a folder that is only
                 made again renders nothing again. The audit is not ancient: else a run that converts with other
                 options would end there.
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
