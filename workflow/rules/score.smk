"""Scores each picture by the models of the configuration's `scores`, if it has any.

REQUIRED INPUTS: the picture, and MODELS/scores/NAME.receipt.json of each score.
OUTPUTS:         results/thumbnails/SHEET/CHECKPOINT/ID-SEED.json with all scores of the picture and its SHA256.
"""


rule score_picture:
    input:
        picture=get_scored_picture,
        receipts=get_score_receipts,
    output:
        scores="results/thumbnails/{sheet}/{checkpoint}/{picture}-{seed}.json",
    log:
        "logs/score/{sheet}/{checkpoint}/{picture}-{seed}.log",
    conda:
        "../../envs/darkroom.yaml"
    threads: 1  # more would change the last digits
    params:
        scores=get_scorers,
        revision=revisions.SCORE,
        folder=get_score_options,
    message:
        "score {wildcards.sheet}/{wildcards.checkpoint}/{wildcards.picture}-{wildcards.seed}"
    shell:
        "darkroom score {input.picture:q} "
        "--scores {params.scores:q} "
        "--folder {params.folder:q} "
        "--output {output.scores:q} "
        "--log {log:q}"
