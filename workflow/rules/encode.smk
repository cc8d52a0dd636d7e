"""Writes a file in another format beside each finished picture, or a signed one, if the configuration asks for it.

REQUIRED INPUTS: the picture, which is read and stays as it is.
OUTPUTS:         results/SHEET/CHECKPOINT/ID-SEED.SUFFIX with the same metadata: .webp, .jpg, .avif, or .c2pa.png for a signed PNG.
"""


rule encode_picture:
    input:
        picture="results/{sheet}/{checkpoint}/{finished}.png",
    output:
        file=f"results/{{sheet}}/{{checkpoint}}/{{finished}}{plan.encoded.suffix or '.png.none'}",
    log:
        "logs/encode/{sheet}/{checkpoint}/{finished}.log",
    wildcard_constraints:
        finished=r"[a-z0-9][a-z0-9_.-]*",
    localrule: True  # it takes a second at most: not worth a cluster job
    conda:
        "../../envs/darkroom.yaml"
    params:
        settings=get_encode_settings,
        options=get_encode_options,
    message:
        "encode {wildcards.sheet}/{wildcards.checkpoint}/{wildcards.finished}"
    shell:
        "darkroom encode {input.picture:q} " "--output {output.file:q} " "{params.options:q} " "--log {log:q}"
